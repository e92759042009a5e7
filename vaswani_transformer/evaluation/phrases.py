"""Translation by prompt: the pairs of languages of GPT-3's section 3.3, asked as lm-eval asks them.

Departure: lm-eval's words "English phrase:" stand for the paper's "Q: What is the French translation of ... A:".
"""

from .task_rows import Row
from .tasks import Question

LANGUAGES = {"en": "English", "fr": "French", "de": "German", "ro": "Romanian"}
LONGEST_PHRASE = 256  # tokens
PAIRS = {  # task -> data set and its configuration, from, to
    f"{year}-{source}-{target}": (f"wmt/{year}", config, source, target)
    for year, config in (("wmt14", "fr-en"), ("wmt16", "de-en"), ("wmt16", "ro-en"))
    for source, target in (config.split("-"), config.split("-")[::-1])
}


def phrase(row: Row, name: str, *, source: str, target: str) -> Question:
    """Returns the question that asks for a row's translation.

    Args:
        row: {"translation": {"en": ..., "fr": ...}}, as on the Hub, or both languages by themselves.
        name: its number.
        source: code of the language to translate from.
        target: of the language to translate into.
    """
    inside = "" if source in row.values else "translation."
    context = f"{LANGUAGES[source]} phrase: {row.text(inside + source)}\n{LANGUAGES[target]} phrase:"
    return Question(name, (context,), (f" {row.text(inside + target)}",))
