"""Contextual calibration: the paper's formula, recomputed; which tasks have it; what it does to a biased model."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vaswani_cli import main
from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.evaluation import evaluate_few_shot
from vaswani_transformer.evaluation.calibration import Calibration, bias
from vaswani_transformer.evaluation.public_tasks import PUBLIC
from vaswani_transformer.evaluation.scorers import scorer_of
from vaswani_transformer.evaluation.scoring import Likelihood, Tokens, score_plainly
from vaswani_transformer.evaluation.task_catalogue import find_tasks
from vaswani_transformer.evaluation.tasks import CONTENT, Question, Task

LABELS = (" good", " not so bad")
WORDS = ("the", "cat", "dog", "sat", "ran", "on", "mat", "house", "red", "old")


def asked(count: int = 40) -> list[Question]:
    rng = random.Random(0)
    return [
        Question(str(n), (f"Text: {' '.join(rng.choices(WORDS, k=4))}\nMood:",), LABELS, rng.randrange(2))
        for n in range(count)
    ]


MOOD = Task(name="mood", kind="choice", queries=asked, blank=Question("blank", (f"Text: {CONTENT}\nMood:",), LABELS))
OTHER = Task(name="other", kind="choice", queries=lambda: asked(4))


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniGPT2Tokenizer:
    texts = [question.as_shot for question in asked()]
    return VaswaniGPT2Tokenizer.train([*texts, "N/A [MASK]"] * 2, vocab_size=320)


@pytest.fixture(scope="module")
def model(tokenizer) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    made = VaswaniGPTForCausalLM(
        VaswaniGPTConfig(vocab_size=len(tokenizer), max_position_embeddings=96, bos_token_id=0, eos_token_id=0, **sizes)
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return made


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("draw", ["per_example", "shared"])
def test_each_label_is_divided_by_its_mean_probability_behind_the_same_shots_without_content(
    draw, model, tokenizer, tmp_path
):
    found = evaluate_few_shot(model, tokenizer, [MOOD], shots=(0, 2), draw=draw, calibrate=True, out=tmp_path / "out")
    tokens, contexts = Tokens(model, tokenizer), {q.id: q.contexts[0] for q in asked()}
    for record in records(tmp_path / "out"):
        before = record["prompt"].removesuffix(contexts[record["id"]])
        shares = []
        for text in ("N/A", "[MASK]", ""):
            rows = [tokens(f"{before}Text: {text}\nMood:", label) for label in LABELS]
            parts = np.exp([score.logprob for score in score_plainly(model, rows)])
            shares.append(parts / parts.sum())
        expected = np.mean(shares, axis=0)
        assert np.exp([told["bias"] for told in record["scores"]]) == pytest.approx(expected, abs=1e-4)
        weighed = np.exp([told["logprob"] for told in record["scores"]]) / expected
        assert record["choice"] == int(np.argmax(weighed))
        assert record["correct"] == (record["choice"] == record["gold"])
    assert found["settings"]["calibrate"] is True


def test_the_bias_of_one_question_is_its_own_probabilities_and_never_underflows():
    told = [Likelihood(-2000.0, 2, greedy=False), Likelihood(-2001.0, 2, greedy=False)]
    first = -math.log1p(math.exp(-1))
    assert bias([told]) == pytest.approx([first, first - 1])
    far = [Likelihood(-1.0, 1, greedy=True), Likelihood(-2001.0, 2, greedy=False)]
    assert bias([far, far]) == pytest.approx([0.0, -2000.0])


def test_a_model_that_always_says_one_label_says_both_once_it_is_calibrated(model, tokenizer):
    """A constant is added to the logit of the first token of one label, as the paper's majority label bias."""
    first = tokenizer(LABELS[0])["input_ids"][0]

    def louder(_: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        shift = torch.zeros(logits.shape[-1])
        shift[first] = 30.0
        return logits + shift

    hook = model.get_output_embeddings().register_forward_hook(louder)
    try:
        plain, calibrated = (
            evaluate_few_shot(model, tokenizer, [MOOD], shots=(0,), calibrate=on)["results"]["mood"]["0"]
            for on in (False, True)
        )
    finally:
        hook.remove()
    assert plain["acc"] == pytest.approx(sum(question.gold == 0 for question in asked()) / 40)
    assert calibrated["acc"] != plain["acc"]
    assert calibrated["acc_sum"] == pytest.approx(plain["acc_sum"])


def test_settings_tell_which_tasks_are_calibrated_and_the_others_are_asked_as_ever(model, tokenizer, tmp_path):
    how: dict[str, Any] = {"shots": (1,)}
    plain = evaluate_few_shot(model, tokenizer, [MOOD, OTHER], **how)
    found = evaluate_few_shot(model, tokenizer, [MOOD, OTHER], calibrate=True, out=tmp_path / "out", **how)
    told = {name: task["calibrated"] for name, task in found["settings"]["tasks"].items()}
    assert told == {"mood": True, "other": False}
    assert found["results"]["other"] == plain["results"]["other"]
    assert plain["settings"]["calibrate"] is False
    with pytest.raises(ValueError, match="same settings; got calibrate=False, and True"):
        evaluate_few_shot(model, tokenizer, [MOOD, OTHER], out=tmp_path / "out", resume=True, **how)


def test_no_task_with_fixed_labels_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="fixed labels and `blank`, sst2 for one; got other"):
        evaluate_few_shot(model, tokenizer, [OTHER], calibrate=True)
    with pytest.raises(ValueError, match="needs a task with fixed labels"):
        Calibration(OTHER, scorer_of(model, tokenizer).tokens)


def test_a_question_with_other_labels_is_named(model, tokenizer):
    odd = [*asked(2), Question("q7", ("Text: a\nMood:",), (" good", " bad"))]
    task = Task(name="odd", kind="choice", queries=lambda: odd, blank=MOOD.blank)
    with pytest.raises(ValueError, match=r"same choices in every question; got \[' good', ' bad'\] of question q7"):
        evaluate_few_shot(model, tokenizer, [task], shots=(0,), calibrate=True)


def test_shots_are_dropped_where_a_question_without_content_would_not_fit(model, tokenizer):
    short = [Question(str(n), (f"Text: {word}\nMood:",), LABELS, n % 2) for n, word in enumerate(WORDS)]
    blank = Question("blank", (f"Text: {CONTENT * 20}\nMood:",), LABELS)
    task = Task(name="short", kind="choice", queries=lambda: short, blank=blank)
    plain, calibrated = (
        evaluate_few_shot(model, tokenizer, [task], shots=(5,), calibrate=on)["results"]["short"]["5"]["shots_mean"]
        for on in (False, True)
    )
    assert calibrated < plain


@pytest.mark.parametrize("name", ["boolq", "rte", "cb", "wic", "wsc", "sst2"])
def test_public_tasks_with_fixed_labels_have_a_blank_question_of_the_same_labels(name):
    blank = find_tasks([name])[0].blank
    assert blank is not None
    assert blank.contexts[0].count(CONTENT) >= len(PUBLIC[name].content)
    assert "{" not in blank.contexts[0]


def test_a_blank_question_is_the_question_with_its_content_replaced(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"sentence": "N/A", "label": 1}) + "\n", encoding="utf-8")
    task = find_tasks(["sst2"], data={"sst2": str(path)})[0]
    assert task.blank is not None
    assert task.blank.contexts[0].replace(CONTENT, "N/A") == task.questions[0].contexts[0]
    assert task.blank.choices == task.questions[0].choices


YAML = """
task: mood
output_type: multiple_choice
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
doc_to_text: "Text: {{text}}\\nMood:"
doc_to_choice: [good, bad]
doc_to_target: label
content: [text]
"""


def test_a_task_in_yaml_names_its_content(tmp_path):
    (tmp_path / "mood.yaml").write_text(YAML, encoding="utf-8")
    blank = find_tasks([str(tmp_path / "mood.yaml")])[0].blank
    assert blank == Question("blank", (f"Text: {CONTENT}\nMood:",), (" good", " bad"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("text", r"content must be a list .*mood\.yaml"), ("[tex]", r"'text' is undefined at a row of .*mood\.yaml")],
)
def test_content_that_is_no_list_or_leaves_fields_out_is_refused(content, message, tmp_path):
    (tmp_path / "mood.yaml").write_text(YAML.replace("[text]", content), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        find_tasks([str(tmp_path / "mood.yaml")])


def test_the_verb_calibrates(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"sentence": f"the {word}", "label": n % 2} for n, word in enumerate(WORDS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["evaluate", str(tmp_path / "model"), "--tasks", "sst2", "--data", f"sst2={tmp_path / 'rows.jsonl'}"]
    assert main([*words, "--shots", "0,1", "--calibrate", "--out", str(tmp_path / "out")]) == 0
    assert all("bias" in told for record in records(tmp_path / "out") for told in record["scores"])
