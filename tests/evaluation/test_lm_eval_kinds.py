"""BERT and the original Transformer inside lm-eval: log-likelihoods are `evaluate_few_shot`'s, refusals say why."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from vaswani_transformer import VaswaniBertConfig, VaswaniBertForMaskedLM, VaswaniBertTokenizer
from vaswani_transformer.evaluation import evaluate_few_shot
from vaswani_transformer.evaluation.encoder_decoder_scoring import PairTokens, score_pairs_plainly, write_targets
from vaswani_transformer.evaluation.fitted_texts import fitted, pieces
from vaswani_transformer.evaluation.masked_scoring import MaskedTokens, score_masked_plainly
from vaswani_transformer.evaluation.tasks import Question, Task

NEEDED = "asks through lm-eval: needs the package lm-eval, of the extra `lm-eval`"
WORDS = ("the", "cat", "dog", "sat", "running", "on", "mat", "house", "red", "older", "new", "saw", "was", "good")
CONTEXT = 96


def text(rng: random.Random, least: int = 1, most: int = 5) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def questions() -> list[Question]:
    rng = random.Random(0)
    return [Question(str(i), (text(rng),), tuple(f" {text(rng)}" for _ in range(3)), i % 3) for i in range(8)]


PICK = Task(name="pick", kind="choice", queries=questions, delimiter="\n")


@pytest.fixture(scope="module")
def bert_tokenizer() -> VaswaniBertTokenizer:
    return VaswaniBertTokenizer.train([" ".join(WORDS), "answer : runner old"] * 4, vocab_size=80)


@pytest.fixture(scope="module")
def bert(bert_tokenizer) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 48, "max_position_embeddings": CONTEXT}
    made = VaswaniBertForMaskedLM(VaswaniBertConfig(vocab_size=len(bert_tokenizer), **sizes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return made


def ours(model: Any, tokenizer: Any, **more: Any) -> Any:
    pytest.importorskip("lm_eval", reason=NEEDED)
    from vaswani_transformer.evaluation.lm_eval_model import VaswaniLM

    return VaswaniLM(model, tokenizer=tokenizer, batch_tokens=300, **more)


def instances(kind: str, arguments: list[Any]) -> list[Any]:
    pytest.importorskip("lm_eval", reason=NEEDED)
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


def scores(model: Any, requests: list[tuple[str, str]]) -> list[float]:
    return [score for score, _ in model.loglikelihood(instances("loglikelihood", requests), disable_tqdm=True)]


@pytest.mark.parametrize("kind", ["word_l2r", "original", "encoder_decoder"])
def test_log_likelihoods_are_those_of_our_own_evaluation_of_the_same_prompts(
    kind, bert, bert_tokenizer, model, tokenizer, tmp_path
):
    masked = kind != "encoder_decoder"
    asked, ids = (bert, bert_tokenizer) if masked else (model, tokenizer)
    pll: dict[str, Any] = {"pll": kind} if masked else {}
    evaluate_few_shot(asked, ids, [PICK], shots=(0, 2), out=tmp_path / "out", **pll)
    lines = (tmp_path / "out" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    choices = {question.id: question.choices for question in PICK.questions}
    requests = [(record["prompt"], choice) for record in records for choice in choices[record["id"]]]
    expected = [told["logprob"] for record in records for told in record["scores"]]
    assert scores(ours(asked, ids, **pll), requests) == pytest.approx(expected, abs=1e-4)


def test_the_choices_of_a_question_are_scored_together(bert, bert_tokenizer, monkeypatch):
    asked, sizes = ours(bert, bert_tokenizer), []
    scorer = asked.scorer
    monkeypatch.setattr(asked, "scorer", lambda groups: sizes.extend(map(len, groups)) or scorer(groups))
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    requests = [
        Instance("loglikelihood", {}, (q.contexts[0], choice), number, metadata=("toy", int(q.id), 1))
        for q in questions()
        for number, choice in enumerate(q.choices)
    ]
    asked.loglikelihood(requests, disable_tqdm=True)
    assert sizes == [3] * 8


def test_a_context_too_long_for_bert_is_cut_to_its_last_words_and_told(bert, bert_tokenizer, caplog):
    rng = random.Random(1)
    long = text(rng, 200, 200)
    found = scores(ours(bert, bert_tokenizer), [(long, " the cat"), ("the dog", " the cat")])
    tokens = MaskedTokens(bert_tokenizer)
    kept = next(
        rest for first in range(200) if tokens(rest := " ".join(long.split()[first:]), " the cat").read <= CONTEXT
    )
    (expected,) = score_masked_plainly(bert, [tokens(kept, " the cat")], mask=bert_tokenizer.mask_token_id)
    assert found[0] == pytest.approx(expected.logprob, abs=1e-4)
    assert "1 of 2 requests are longer than 96 tokens: cut" in caplog.text


def test_a_source_too_long_for_the_transformer_is_cut_to_its_last_words(model, tokenizer):
    rng = random.Random(2)
    long, tokens = text(rng, 60, 60), PairTokens(tokenizer)
    found = scores(ours(model, tokenizer, max_length=20), [(long, " the cat")])
    kept = next(rest for first in range(60) if tokens(rest := " ".join(long.split()[first:]), " the cat").read <= 20)
    (expected,) = score_pairs_plainly(model, [tokens(kept, " the cat")])
    assert found == pytest.approx([expected.logprob], abs=1e-4)


def test_a_continuation_that_does_not_fit_alone_is_told(bert_tokenizer):
    with pytest.raises(ValueError, match=r"must fit the model's 8 tokens; got \d+: ' the cat"):
        fitted(MaskedTokens(bert_tokenizer), "red", " the cat sat on the mat" * 3, most=8)


def test_the_pieces_of_a_text_fit_and_have_each_of_its_tokens_once(bert_tokenizer):
    whole, tokens = text(random.Random(3), 90, 90), MaskedTokens(bert_tokenizer)
    found = pieces(tokens, f"  {whole}\n", most=12)
    assert max(piece.read for piece in found) <= 12
    assert len(found) < 90 / 2
    inside = [piece.ids[hidden[0]] for piece in found for hidden in piece.hidden]
    assert inside == bert_tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert pieces(tokens, " \n", most=12) == []


def test_berts_whole_text_has_its_pseudo_log_likelihood(bert, bert_tokenizer):
    rng = random.Random(4)
    texts = [text(rng, size, size) for size in (3, 20)]
    requests = instances("loglikelihood_rolling", [(whole,) for whole in texts] + [("",)])
    found = ours(bert, bert_tokenizer, pll="original").loglikelihood_rolling(requests, disable_tqdm=True)
    rows = [MaskedTokens(bert_tokenizer, pll="original")("", whole) for whole in texts]
    expected = score_masked_plainly(bert, rows, mask=bert_tokenizer.mask_token_id)
    assert found == pytest.approx([*(score.logprob for score in expected), 0.0], abs=1e-4)


def test_the_transformer_writes_targets_up_to_a_stop(model, tokenizer):
    rng = random.Random(5)
    sources = [text(rng, 3, 9) for _ in range(5)]
    ids = [tokenizer(source)["input_ids"] for source in sources]
    whole = write_targets(model, tokenizer, ids, new_tokens=9, batch_tokens=300, do_sample=False, num_beams=1)
    stop = whole[0][1:3]
    requests = instances("generate_until", [(source, {"until": [stop], "max_gen_toks": 9}) for source in sources])
    found = ours(model, tokenizer).generate_until(requests, disable_tqdm=True)
    assert found == [written.split(stop)[0] for written in whole]
    assert found != whole


def test_no_room_for_new_tokens_of_a_target_is_told(model, tokenizer):
    requests = instances("generate_until", [("the cat", {"until": ["\n"]})])
    with pytest.raises(ValueError, match="max_gen_toks=256 of 20"):
        ours(model, tokenizer, max_length=20).generate_until(requests, disable_tqdm=True)


def test_bert_is_not_asked_to_write(bert, bert_tokenizer):
    with pytest.raises(ValueError, match=r"masked language model writes no text; got generate_until"):
        ours(bert, bert_tokenizer).generate_until(instances("generate_until", [("the cat", {"until": ["\n"]})]))


def test_the_transformer_is_not_asked_for_a_text_alone(model, tokenizer):
    with pytest.raises(ValueError, match="got loglikelihood_rolling of an encoder-decoder"):
        ours(model, tokenizer).loglikelihood_rolling(instances("loglikelihood_rolling", [("the cat",)]))


def test_the_pll_of_a_model_without_one_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="pll is of a masked language model; got pll='original'"):
        ours(model, tokenizer, pll="original")


def write_task(path: Path) -> None:
    """A task of lm-eval's form with its rows."""
    rng = random.Random(7)
    rows = [{"text": text(rng), "choices": [text(rng) for _ in range(3)], "right": i % 3} for i in range(6)]
    data = path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "task": "toy",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{right}}",
    }
    (path / "tasks").mkdir()
    (path / "tasks" / "toy.yaml").write_text(json.dumps(task), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("masked", [True, False], ids=["bert", "transformer"])
def test_lm_eval_asks_a_task_of_a_folder_by_its_name(
    masked, bert, bert_tokenizer, model, tokenizer, tmp_path, monkeypatch
):
    """Its own loop, told as on the command line; scores are the plain ones of the prompts it made."""
    lm_eval = pytest.importorskip("lm_eval", reason=NEEDED)
    pytest.importorskip("vaswani_transformer.evaluation.lm_eval_model", reason=NEEDED)
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    asked, ids = (bert, bert_tokenizer) if masked else (model, tokenizer)
    for part in (asked, ids):
        part.save_pretrained(tmp_path / "model")
    write_task(tmp_path)
    found = lm_eval.simple_evaluate(
        model="vaswani",
        model_args=f"pretrained={tmp_path / 'model'}" + (",pll=original" if masked else ""),
        tasks=["toy"],
        num_fewshot=1,
        device="cpu",
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
    )
    samples = found["samples"]["toy"]
    assert len(samples) == 6
    for sample in samples:
        pairs = [tuple(given) for given in sample["arguments"]]
        if masked:
            texts = [MaskedTokens(ids, pll="original")(*pair) for pair in pairs]
            expected = score_masked_plainly(asked, texts, mask=ids.mask_token_id)
        else:
            expected = score_pairs_plainly(asked, [PairTokens(ids)(*pair) for pair in pairs])
        told = [answer[0][0] for answer in sample["resps"]]
        assert told == pytest.approx([score.logprob for score in expected], abs=1e-4)
