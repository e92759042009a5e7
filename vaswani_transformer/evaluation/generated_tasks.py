"""Tasks that need no file: GPT-3's arithmetic and word scrambling from a seed, and a cloze of the embedded novels.

Section 3.9 of Brown et al. (2020). Departure: the words to unscramble are those of the embedded novels, not Norvig's
list, which has no licence to ship it under; names, which start with a capital, are left out.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial

from ..data.document_sources import open_embedded_documents
from .tasks import Question, Task

ARITHMETIC_QUESTIONS, WORD_QUESTIONS, POOL = 2000, 10000, 1000
SIGNS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "+": ("plus", lambda a, b: a + b),
    "-": ("minus", lambda a, b: a - b),
    "*": ("times", lambda a, b: a * b),
}
PAPER = "Brown et al. (2020), Language Models are Few-Shot Learners, arXiv 2005.14165, section 3.9"
UNSCRAMBLE = "Please unscramble the letters into a word, and write that word:"
CHOICES = 4


def generated_tasks() -> list[Task]:
    """Returns all tasks of this module; nothing is made yet."""
    sums = {f"arithmetic_{n}d{letter}": (n, sign) for n in (2, 3, 4, 5) for letter, sign in (("a", "+"), ("s", "-"))}
    kinds = {name: partial(_two_numbers, digits=digits, sign=sign) for name, (digits, sign) in sums.items()}
    kinds["arithmetic_2dm"] = partial(_two_numbers, digits=2, sign="*")
    kinds["arithmetic_1dc"] = partial(_three_numbers, released=False)
    kinds["arithmetic_1dc_released"] = partial(_three_numbers, released=True)
    arithmetic = [
        Task(
            name=name,
            kind="completion",
            queries=partial(_sums, name, draw),
            pool=partial(_sums, name, draw, pool=True),
            source="generated from a seed",
            licence="none needed",
            citation=PAPER,
        )
        for name, draw in kinds.items()
    ]
    return [*arithmetic, *(_word_task(name) for name in SCRAMBLES), _cloze_task()]


def _two_numbers(rng: random.Random, *, digits: int, sign: str) -> tuple[str, int]:
    first, second = rng.randrange(10**digits), rng.randrange(10**digits)
    word, result = SIGNS[sign]
    return f"{first} {word} {second}", result(first, second)


def _three_numbers(rng: random.Random, *, released: bool) -> tuple[str, int]:
    """One-digit numbers: the paper brackets the last two, 6 + (4 * 8); all rows that OpenAI released the first two."""
    a, b, c = (rng.randrange(10) for _ in range(3))
    first, second = (rng.choice("+-*") for _ in range(2))
    if released:
        return f"({a} {first} {b}) {second} {c}", SIGNS[second][1](SIGNS[first][1](a, b), c)
    return f"{a} {first} ({b} {second} {c})", SIGNS[first][1](a, SIGNS[second][1](b, c))


def _sums(name: str, draw: Callable[[random.Random], tuple[str, int]], *, pool: bool = False) -> list[Question]:
    """The questions; a pool of shots has other sums than they have."""
    rng = random.Random(f"{name} pool" if pool else name)
    taken = {question.contexts[0] for question in _sums(name, draw)} if pool else set()
    found: list[Question] = []
    while len(found) < (POOL if pool else ARITHMETIC_QUESTIONS):
        asked, result = draw(rng)
        context = f"Q: What is {asked}?\n\nA:"
        if context not in taken:
            found.append(Question(str(len(found)), (context,), (f" {result}",)))
    return found


def _cycled(word: str, rng: random.Random) -> str:
    start = rng.randrange(1, len(word))
    return word[start:] + word[:start]


def _anagram(word: str, rng: random.Random, *, kept: int) -> str:
    inner = word[kept:-kept]
    letters = list(inner)
    while len(set(inner)) > 1 and "".join(letters) == inner:
        rng.shuffle(letters)
    return word[:kept] + "".join(letters) + word[-kept:]


def _inserted(word: str, rng: random.Random) -> str:
    return "".join(letter + rng.choice(" .,!?/-;:'") for letter in word[:-1]) + word[-1]


def _reversed(word: str, rng: random.Random) -> str:
    return word[::-1]


SCRAMBLES: dict[str, Callable[[str, random.Random], str]] = {
    "cycle_letters": _cycled,
    "anagrams1": partial(_anagram, kept=1),
    "anagrams2": partial(_anagram, kept=2),
    "random_insertion": _inserted,
    "reversed_words": _reversed,
}


def _word_task(name: str) -> Task:
    return Task(
        name=name,
        kind="completion",
        queries=partial(_scrambled, name),
        pool=partial(_scrambled, name, pool=True),
        description=UNSCRAMBLE,
        delimiter="\n",
        source="words of the embedded novels, scrambled from a seed",
        licence="public domain",
        citation=PAPER,
    )


def _scrambled(name: str, *, pool: bool = False) -> list[Question]:
    """Every tenth word is for shots alone."""
    rng = random.Random(f"{name} pool" if pool else name)
    words = [word for number, word in enumerate(novel_words()) if (number % 10 == 9) == pool]
    rng.shuffle(words)
    scrambled = [(SCRAMBLES[name](word, rng), word) for word in words]
    return [Question(str(i), (f"{shown} =",), (f" {word}",)) for i, (shown, word) in enumerate(scrambled)]


@cache
def novel_words() -> tuple[str, ...]:
    """Returns the 10,000 likeliest words of the novels with 5 to 14 letters, the likeliest first."""
    counts = Counter(re.findall(r"(?<![\w'-])[a-z]{5,14}(?![\w'-])", "\n".join(_lines("train"))))
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:WORD_QUESTIONS])


def _lines(split: str) -> Iterator[str]:
    return (piece for _, _, piece in open_embedded_documents("austen", split)[1] if isinstance(piece, str))


def _cloze_task() -> Task:
    return Task(
        name="austen_cloze",
        kind="choice",
        queries=partial(_clozes, "validation"),
        pool=partial(_clozes, "train"),
        delimiter="\n",
        source="sentences of the embedded novels' validation chapters without their last word; shots of the others",
        licence="public domain",
    )


def _clozes(split: str) -> list[Question]:
    """Sentences of 6 to 20 words; the wrong words are about as frequent as the right one."""
    rng = random.Random(f"austen_cloze {split}")
    words = novel_words()
    rank = {word: place for place, word in enumerate(words)}
    sentences = (found for line in _lines(split) for found in re.split(r"(?<=[.!?])\s+", line))
    found: list[Question] = []
    for sentence in sentences:
        match = re.fullmatch(r"([A-Z][^.!?]*) ([a-z]{5,14})\.", sentence)
        if match is None or not 6 <= len(sentence.split()) <= 20 or match[2] not in rank:
            continue
        place = rank[match[2]]
        near = [word for word in words[max(0, place - 25) : place + 26] if word != match[2]]
        choices = [match[2], *rng.sample(near, CHOICES - 1)]
        rng.shuffle(choices)
        texts = tuple(f" {choice}." for choice in choices)
        found.append(Question(str(len(found)), (match[1],), texts, choices.index(match[2])))
    return found
