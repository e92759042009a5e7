"""Where the public sets' rows have what a fine-tuned head reads, in each of their published forms.

A recipe of `vaswani finetune` says itself where its texts stand; these are for heads without one, and know a recipe's
columns again in another published form of the same set.
"""

from .tasks import Head

NO_YES = (("False",), ("True",))
STEM = Head({"text": ("question.stem", "question_stem", "question"), "choices": ("question.choices", "choices")})

HEADS: dict[str, Head] = {
    "sst2": Head({"text": ("sentence",)}),
    "rte": Head(
        {"text": ("sentence1", "premise"), "pair": ("sentence2", "hypothesis")}, (("entailment",), ("not_entailment",))
    ),
    "cb": Head({"text": ("premise",), "pair": ("hypothesis",)}, (("entailment",), ("contradiction",), ("neutral",))),
    "boolq": Head({"text": ("question",), "pair": ("passage",)}, NO_YES),
    "wic": Head({"text": ("sentence1",), "pair": ("sentence2",)}, NO_YES),
    "wsc": Head({}, NO_YES),  # a text, a pronoun and a noun: a recipe must say which a head reads
    "hellaswag": Head({"text": ("ctx",), "choices": ("endings",)}),
    "piqa": Head({"text": ("goal",), "choices": (["sol1", "sol2"],)}),
    "copa": Head({"text": ("premise",), "start": ("question",), "choices": (["choice1", "choice2"],)}),
    "winogrande": Head({"text": ("sentence",), "choices": (["option1", "option2"],)}),
    "mmlu": Head({"text": ("question",), "choices": ("choices",)}),
    **dict.fromkeys(("commonsense_qa", "arc_easy", "arc_challenge", "openbookqa"), STEM),
}
