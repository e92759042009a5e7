"""The public sets of GPT-3's paper and a few since, asked as lm-eval asks them unless a task's note says otherwise.

Departures from the paper: the prompts are not those of its appendix G, and LAMBADA's shots are other questions of the
test set, where the paper draws them from the development set.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .blimp_subsets import SUBSETS
from .head_columns import HEADS
from .phrases import LONGEST_PHRASE, PAIRS, phrase
from .task_rows import Row, file_rows, hub_rows, questions_of
from .tasks import CONTENT, Question, Task

Convert = Callable[[Row, str], Question]
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class PublicTask:
    """Where a public set is and how its rows become questions.

    Args:
        convert: a row and its number to a question.
        hub: its name, configuration, split of the questions and split of the shots on the Hub.
        kind: as `Task`'s.
        more: the rest of `Task`'s fields.
        content: of a task with fixed labels, its fields that hold a question's content.
    """

    convert: Convert
    hub: tuple[str, str | None, str, str]
    kind: str = "choice"
    more: dict[str, Any] = field(default_factory=dict)
    content: tuple[str, ...] = ()


def public_task(name: str, paths: Sequence[str] = ()) -> Task:
    """Returns a task of `PUBLIC`; its rows are read on first use.

    Args:
        name: the task's.
        paths: a local file of questions, then one of shots; the questions' own where there is no second. The Hub's
            data set where there is none.
    """
    known = PUBLIC[name]
    benchmark = None
    if paths:
        rows: list[Callable[[], Iterator[Row]]] = [partial(file_rows, path) for path in paths]
        source = " and shots of ".join(Path(path).name for path in paths)
    else:
        place, config, asked, drawn = known.hub
        benchmark = place, config or "default"
        rows = [partial(hub_rows, place, config, split) for split in dict.fromkeys((asked, drawn))]
        source = f"{place} ({config or 'default'}, {asked}) and shots of {drawn}"
    made = [partial(_made, read, known.convert) for read in rows]
    pool = made[1] if len(made) > 1 else None
    blank = known.convert(blank_row(known.content), "blank") if known.content else None
    told: dict[str, Any] = {"source": source, "benchmark": benchmark, "head": HEADS.get(name)}
    return Task(name=name, kind=known.kind, queries=made[0], pool=pool, blank=blank, **told, **known.more)


def blank_row(content: Sequence[str]) -> Row:
    """Returns a row without content, the first label its answer.

    Args:
        content: the fields that hold content.
    """
    return Row("a row without content", {"label": 0, "span2_index": 0, **dict.fromkeys(content, CONTENT)})


def _made(read: Callable[[], Iterator[Row]], convert: Convert) -> list[Question]:
    return questions_of(read(), convert)


def _choice(name: str, context: str, choices: Sequence[str], gold: int) -> Question:
    return Question(name, (context,), tuple(f" {choice}" for choice in choices), gold)


def _hellaswag(row: Row, name: str) -> Question:
    """The file form of OpenAI's and Zellers' halves has one context, with the activity in front."""
    if "activity_label" in row.values:
        end = str(row["ctx_b"])  # often empty
        context = f"{row.text('activity_label')}: {row.text('ctx_a')} {end[:1].upper()}{end[1:].lower()}"
    else:
        context = row.text("ctx")
    endings = row.texts("endings")
    return _choice(name, _plain(context), [_plain(x) for x in endings], row.number("label", below=len(endings)))


def _plain(text: str) -> str:
    """WikiHow's marks out of a text."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _last_word(row: Row, name: str, *, cloze: bool) -> Question:
    words = row.text("text").rstrip().rpartition(" ")
    if not words[0]:
        raise ValueError(f"the field 'text' must have two words or more; got {words[2]!r} at {row.place}")
    return Question(name, (f"{words[0]} ____. ->" if cloze else words[0],), (f" {words[2]}",))


def _blimp(row: Row, name: str) -> Question:
    return Question(name, ("",), (row.text("sentence_good"), row.text("sentence_bad")))


def _labelled_choices(row: Row, choices: str) -> tuple[list[str], list[str]]:
    """Texts and labels, {"text": [...], "label": [...]} on the Hub, a list of both in the published files."""
    found = row[choices]
    if isinstance(found, list) and all(isinstance(x, dict) and {"text", "label"} <= set(x) for x in found):
        texts, labels = [x["text"] for x in found], [x["label"] for x in found]
    else:
        texts, labels = row.texts(f"{choices}.text"), row.texts(f"{choices}.label")
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts) or len(texts) != len(labels):
        raise ValueError(f"the field {choices!r} must have a text and a label a choice; got {found!r} at {row.place}")
    return texts, labels


def _stem(row: Row) -> tuple[str, list[str], int]:
    """A question, its choices and the right one: ARC, OpenBookQA, CommonsenseQA, in their three published forms."""
    if "Question Stem" in row.values:
        parts = re.split(r"\s*\(([A-J])\)\s*", row.text("Choices"))[1:]
        return row.text("Question Stem"), parts[1::2], row.letter("Answer Key", parts[::2])
    nested = isinstance(row.values.get("question"), dict)
    stem = "question.stem" if nested else "question_stem" if "question_stem" in row.values else "question"
    texts, labels = _labelled_choices(row, "question.choices" if nested else "choices")
    return row.text(stem), texts, row.letter("answerKey", labels)


def _arc(row: Row, name: str) -> Question:
    stem, choices, gold = _stem(row)
    return _choice(name, f"Question: {stem}\nAnswer:", choices, gold)


def _openbookqa(row: Row, name: str) -> Question:
    return _choice(name, *_stem(row))


def _lettered(name: str, question: str, choices: Sequence[str], gold: int) -> Question:
    listed = "".join(f"{LETTERS[i]}. {choice}\n" for i, choice in enumerate(choices))
    return _choice(name, f"{question}\n{listed}Answer:", LETTERS[: len(choices)], gold)


def _commonsense_qa(row: Row, name: str) -> Question:
    stem, choices, gold = _stem(row)
    return _lettered(name, f"Question: {stem.strip()}", choices, gold)


def _mmlu(row: Row, name: str) -> Question:
    choices = row.texts("choices")
    return _lettered(name, row.text("question").strip(), choices, row.number("answer", below=len(choices)))


def _piqa(row: Row, name: str) -> Question:
    context = f"Question: {row.text('goal')}\nAnswer:"
    return _choice(name, context, [row.text("sol1"), row.text("sol2")], row.number("label", below=2))


def _winogrande(row: Row, name: str) -> Question:
    """Partial scoring: what stands behind the blank, with each option in its place."""
    before, blank, behind = row.text("sentence").partition("_")
    if not blank:
        raise ValueError(f"the field 'sentence' must have a blank, _; got {before!r} at {row.place}")
    contexts = (before + row.text("option1"), before + row.text("option2"))
    return Question(name, contexts, (f" {behind.strip()}",) * 2, row.number("answer", below=2, first=1))


def _boolq(row: Row, name: str) -> Question:
    context = f"{row.text('passage')}\nQuestion: {row.text('question')}?\nAnswer:"
    gold = row.letter("label" if "label" in row.values else "answer", (False, True))  # 0 and 1 are equal to them
    return _choice(name, context, ("no", "yes"), gold)


def _label(row: Row, names: Sequence[str]) -> int:
    """A class as its number or its name."""
    label = row["label"]
    return row.letter("label", names) if label in names else row.number("label", below=len(names))


def _entailment(
    row: Row, name: str, *, fields: Sequence[str], labels: Sequence[str], choices: Sequence[str]
) -> Question:
    premise, hypothesis = (row.text(next((f for f in pair.split("|") if f in row.values), pair)) for pair in fields)
    if len(choices) == 2:
        context = f"{premise}\nQuestion: {hypothesis} True or False?\nAnswer:"
    else:
        context = f"{premise}\nQuestion: {hypothesis}. True, False, or Neither?\nAnswer:"
    return _choice(name, context, choices, _label(row, labels))


def _copa(row: Row, name: str) -> Question:
    word = ("because", "therefore")[row.letter("question", ("cause", "effect"))]
    choices = [row.text(key) for key in ("choice1", "choice2")]
    lowered = [choice[0].lower() + choice[1:] for choice in choices]
    return _choice(name, f"{row.text('premise').strip()[:-1]} {word}", lowered, row.number("label", below=2))


def _wic(row: Row, name: str) -> Question:
    context = (
        f"Sentence 1: {row.text('sentence1')}\nSentence 2: {row.text('sentence2')}\nQuestion: Is the word "
        f"'{row.text('word')}' used in the same way in the two sentences above?\nAnswer:"
    )
    return _choice(name, context, ("no", "yes"), row.letter("label", (False, True)))


def _wsc(row: Row, name: str) -> Question:
    """The pronoun between stars. Departure from lm-eval: quotation marks keep the spaces around them."""
    inside = "target." if "target" in row.values else ""  # the published files, and the Hub's rows
    noun, pronoun = (row.text(f"{inside}span{number}_text") for number in (1, 2))
    words = row.text("text").split()
    text, number = " ".join(words), row.number(f"{inside}span2_index", below=len(words))
    found = [match.start() for match in re.finditer(rf"(?<!\w){re.escape(pronoun)}(?!\w)", text)]
    if not found:
        raise ValueError(f"the pronoun must be in the text; got {pronoun!r} and {text!r} at {row.place}")
    behind = len(" ".join(words[:number])) + 1
    place = min(found, key=lambda at: abs(at - behind))  # some rows count words in another way
    passage = f"{text[:place]}*{pronoun}*{text[place + len(pronoun) :]}"
    passage = re.sub(r" (n't|[)'.,])", r"\1", passage).replace("( ", "(")
    context = (
        f'Passage: {passage}\nQuestion: In the passage above, does the pronoun "*{pronoun}*" refer to "*{noun}*"?\n'
        "Answer:"
    )
    return _choice(name, context, ("no", "yes"), row.letter("label", (False, True)))


def _storycloze(row: Row, name: str) -> Question:
    """Four sentences and two ends, by the fields of the Hub or of the published files."""
    published = "InputSentence1" in row.values
    field = "InputSentence" if published else "input_sentence_"
    quiz = "RandomFifthSentenceQuiz" if published else "sentence_quiz"
    gold = row.number("AnswerRightEnding" if published else "answer_right_ending", below=2, first=1)
    context = " ".join(row.text(f"{field}{number}") for number in range(1, 5))
    return _choice(name, context, [row.text(f"{quiz}{number}") for number in (1, 2)], gold)


def _sst2(row: Row, name: str) -> Question:
    context = f"{row.text('sentence')}\nQuestion: Is this sentence positive or negative?\nAnswer:"
    return _choice(name, context, ("negative", "positive"), row.number("label", below=2))


def _closed_book(row: Row, name: str, *, answers: str) -> Question:
    found = row[answers]
    texts = [found] if isinstance(found, str) else row.texts(answers)
    return Question(name, (f"Question: {row.text('question')}\nAnswer:",), tuple(f" {text}" for text in texts))


PAIR, SPANS = ("sentence1", "sentence2"), ("text", "span1_text", "span2_text")
CLOSED_BOOK = {"metrics": ("em", "f1")}
ANSWER = {"score": "unconditional", "unconditional": "Answer:"}
RTE = {
    "fields": ("sentence1|premise", "sentence2|hypothesis"),
    "labels": ("entailment", "not_entailment"),
    "choices": ("True", "False"),
}
CB = {
    "fields": ("premise", "hypothesis"),
    "labels": ("entailment", "contradiction", "neutral"),
    "choices": ("True", "False", "Neither"),
}
GLUE, SUPERGLUE = "nyu-mll/glue", "aps/super_glue"
LAMBADA, STORYCLOZE = "EleutherAI/lambada_openai", "LSDSem/story_cloze"

PUBLIC: dict[str, PublicTask] = {
    "hellaswag": PublicTask(_hellaswag, ("Rowan/hellaswag", None, "validation", "train")),
    "lambada_openai": PublicTask(partial(_last_word, cloze=False), (LAMBADA, "default", "test", "test"), "last_word"),
    "lambada_openai_cloze_yaml": PublicTask(
        partial(_last_word, cloze=True), (LAMBADA, "default", "test", "test"), "last_word"
    ),
    "blimp": PublicTask(_blimp, ("nyu-mll/blimp", "adjunct_island", "train", "train"), more={"score": "sum"}),
    "arc_easy": PublicTask(_arc, ("allenai/ai2_arc", "ARC-Easy", "test", "train"), more=ANSWER),
    "arc_challenge": PublicTask(_arc, ("allenai/ai2_arc", "ARC-Challenge", "test", "train"), more=ANSWER),
    "openbookqa": PublicTask(_openbookqa, ("allenai/openbookqa", "main", "test", "train"), more=ANSWER),
    "commonsense_qa": PublicTask(_commonsense_qa, ("tau/commonsense_qa", None, "validation", "train")),
    "mmlu": PublicTask(_mmlu, ("cais/mmlu", "all", "test", "dev")),
    "piqa": PublicTask(_piqa, ("baber/piqa", None, "validation", "train")),
    "winogrande": PublicTask(_winogrande, ("allenai/winogrande", "winogrande_xl", "validation", "train")),
    "boolq": PublicTask(_boolq, (SUPERGLUE, "boolq", "validation", "train"), content=("passage", "question")),
    "rte": PublicTask(partial(_entailment, **RTE), (GLUE, "rte", "validation", "train"), content=PAIR),
    "cb": PublicTask(partial(_entailment, **CB), (SUPERGLUE, "cb", "validation", "train"), content=CB["fields"]),
    "copa": PublicTask(_copa, (SUPERGLUE, "copa", "validation", "train")),
    "wic": PublicTask(_wic, (SUPERGLUE, "wic", "validation", "train"), content=(*PAIR, "word")),
    "wsc": PublicTask(_wsc, (SUPERGLUE, "wsc.fixed", "validation", "train"), content=SPANS),
    "storycloze_2016": PublicTask(_storycloze, (STORYCLOZE, "2016", "test", "validation")),
    "storycloze_2018": PublicTask(_storycloze, (STORYCLOZE, "2018", "validation", "validation")),  # test has no labels
    "sst2": PublicTask(_sst2, (GLUE, "sst2", "validation", "train"), content=("sentence",)),
    "triviaqa": PublicTask(
        partial(_closed_book, answers="answer.aliases"),
        ("mandarjoshi/trivia_qa", "rc.nocontext", "validation", "train"),
        "completion",
        CLOSED_BOOK,
    ),
    "nq_open": PublicTask(
        partial(_closed_book, answers="answer"), ("google-research-datasets/nq_open", None, "validation", "train"),
        "completion",
        CLOSED_BOOK,
    ),
    "webqs": PublicTask(
        partial(_closed_book, answers="answers"), ("stanfordnlp/web_questions", None, "test", "train"), "completion",
        CLOSED_BOOK,
    ),
}  # fmt: skip

PUBLIC |= {
    f"blimp_{subset}": PublicTask(_blimp, ("nyu-mll/blimp", subset, "train", "train"), more={"score": "sum"})
    for subset in SUBSETS
}
PUBLIC |= {
    name: PublicTask(
        partial(phrase, source=source, target=target),
        (place, config, "test", "validation"),
        "completion",
        more={"longest_answer": LONGEST_PHRASE, "metrics": ("bleu",)},
    )
    for name, (place, config, source, target) in PAIRS.items()
}
