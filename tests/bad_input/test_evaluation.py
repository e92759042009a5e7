"""Bad input of scoring: perplexity, answers and acceptability without training, translations."""

from typing import Any

import pytest

from vaswani_transformer.evaluation import translation_scores
from vaswani_transformer.evaluation.causal_lm import load_causal_lm
from vaswani_transformer.evaluation.perplexity import perplexity
from vaswani_transformer.evaluation.zero_shot import acceptability, answers, best_threshold

from .scene import Cases, Scene, assert_told


class Scoring(Scene):
    """Texts and folders of texts to score."""

    def perplexity(self, *texts: str, **options: Any) -> Any:
        return perplexity(*self.causal(), texts or ["a b."], **options)

    def rows_folder(self, content: str) -> str:
        (self.folder / "rows").mkdir()
        self.write("rows/rows.jsonl", content)
        return str(self.folder / "rows")


CASES: Cases[Scoring] = {
    "a data set with a malformed line": (
        lambda s: s.verb("perplexity", "x", s.rows_folder('{"text": "a"}\nnot json\n'), "--split", "train"),
        "every file of a data set must be readable.*got .*, split='train': .*JSON.*: mend the file",
    ),
    "a folder without a model to score": (lambda s: load_causal_lm(s.folder), "has a config.json; got .* without one"),
    "a stride beyond the window": (
        lambda s: s.perplexity(window=4, stride=5),
        "stride must be from 1 to the window.*got stride=5, window=4",
    ),
    "a window beyond the context": (
        lambda s: s.perplexity(window=7),
        "window must be from 1 to the model's context of 6 tokens; got window=7",
    ),
    "a batch of no tokens to score": (lambda s: s.perplexity(batch_tokens=0), "batch_tokens must be.*batch_tokens=0"),
    "an unknown detokeniser": (
        lambda s: s.perplexity(detokenize="ptb"),
        "detokenize must be one of wikitext; got detokenize='ptb'",
    ),
    "an empty text to score": (
        lambda s: s.perplexity(""),
        "must be a token to foretell; got 1 documents, 0 words, 0 tokens",
    ),
    "a folder of data without its split": (
        lambda s: s.verb("perplexity", "x", str(s.folder)),
        "folder of data needs --split.*got .* without it",
    ),
    "nothing to score": (
        lambda s: acceptability(s.gpt("ForCausalLM", vocab_size=257), s.bytes(), [""]),
        "must have a token that others precede; got '' behind ''",
    ),
    "an answer longer than the context": (
        lambda s: answers(s.gpt("ForCausalLM", vocab_size=257), s.bytes(), ["a"], [["a" * 5]]),
        "must fit the model's context of 6; got 6 tokens: ' aaaaa'",
    ),
    "contexts without answers": (
        lambda s: answers(s.gpt("ForCausalLM", vocab_size=257), s.bytes(), ["a", "b"], [["a"]]),
        "every context needs its answers; got 2 contexts, 1 lists",
    ),
    "a batch of no texts to score": (
        lambda s: acceptability(s.gpt("ForCausalLM", vocab_size=257), s.bytes(), ["a"], batch_size=0),
        "batch_size must be at least 1; got batch_size=0",
    ),
    "a threshold without labels": (
        lambda s: best_threshold([0.5, 0.1], [1]),
        "a label for each of its scores; got 2, 1 labels",
    ),
    "as many hypotheses as references": (
        lambda s: translation_scores(["a", "b"], ["a"], target_language="de"),
        "as many lines on each side.*got 2 hypotheses, 1 references",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Scoring(tmp_path, tokenizer))
