"""Few-shot evaluation of BERT and of the original Transformer from end to end, and which model is scored how."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from vaswani_cli import main
from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniBertForMaskedLM,
    VaswaniBertForPreTraining,
    VaswaniBertForSequenceClassification,
    VaswaniBertTokenizer,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
)
from vaswani_transformer.evaluation import evaluate_few_shot
from vaswani_transformer.evaluation.encoder_decoder_scoring import PairTokens, score_pairs_plainly
from vaswani_transformer.evaluation.free_text import Writer
from vaswani_transformer.evaluation.masked_scoring import MaskedTokens, score_masked_plainly
from vaswani_transformer.evaluation.scorers import kind_of, load_scored_model
from vaswani_transformer.evaluation.tasks import Question, Task

WORDS = ("the", "cat", "dog", "sat", "running", "on", "mat", "house", "red", "older", "new", "saw", "was", "good")
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def questions(name: str, choices: int = 3) -> list[Question]:
    rng = random.Random(name)

    def text(most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))

    return [
        Question(str(i), (text(5),), tuple(f" {text(3)}" for _ in range(choices)), rng.randrange(choices))
        for i in range(8)
    ]


PICK = Task(name="pick", kind="choice", queries=lambda: questions("pick"), delimiter="\n")
BARE = Task(
    name="bare", kind="choice", queries=lambda: questions("bare"), score="unconditional", unconditional="Answer:"
)
LAST = Task(name="last", kind="last_word", queries=lambda: questions("last", 1))
WRITTEN = Task(name="written", kind="completion", queries=lambda: questions("written", 1), delimiter="\n")


@pytest.fixture(scope="module")
def bert_tokenizer() -> VaswaniBertTokenizer:
    return VaswaniBertTokenizer.train([" ".join(WORDS), "answer : runner old"] * 4, vocab_size=80)


def bert_config(tokenizer: Any, **more: Any) -> VaswaniBertConfig:
    return VaswaniBertConfig(
        vocab_size=len(tokenizer), **SIZES, intermediate_size=48, max_position_embeddings=96, **more
    )


@pytest.fixture(scope="module")
def bert(bert_tokenizer) -> Any:
    torch.manual_seed(0)
    made = VaswaniBertForMaskedLM(bert_config(bert_tokenizer)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def bert_folder(bert, bert_tokenizer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    bert.save_pretrained(path)
    bert_tokenizer.save_pretrained(path)
    return path


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def logprobs(record: dict[str, Any], name: str = "logprob") -> list[float]:
    return [told[name] for told in record["scores"]]


@pytest.mark.parametrize("pll", ["word_l2r", "original"])
def test_berts_scores_are_the_pseudo_log_likelihoods_of_the_logged_prompt_alone(pll, bert, bert_tokenizer, tmp_path):
    found = evaluate_few_shot(
        bert, bert_tokenizer, [PICK, BARE, LAST], shots=(0, 2), pll=pll, batch_tokens=200, out=tmp_path / "out"
    )
    assert (found["settings"]["scorer"], found["settings"]["pll"]) == ("masked", pll)
    tokens, mask = MaskedTokens(bert_tokenizer, pll=pll), bert_tokenizer.mask_token_id
    choices = {(task.name, q.id): q.choices for task in (PICK, BARE, LAST) for q in task.questions}
    kept = records(tmp_path / "out")
    assert len(kept) == 3 * 8 * 2

    def expected(context: str, record: dict[str, Any]) -> Any:
        texts = [tokens(context, choice) for choice in choices[record["task"], record["id"]]]
        return pytest.approx([s.logprob for s in score_masked_plainly(bert, texts, mask=mask)], abs=1e-4)

    for record in kept:
        assert logprobs(record) == expected(record["prompt"], record)
        if record["task"] == "bare":
            assert logprobs(record, "unconditional") == expected("Answer:", record)


@pytest.mark.parametrize("masked", [True, False], ids=["bert", "transformer"])
def test_the_tail_of_a_cloze_stands_in_shots_and_behind_the_choice_of_bert_alone(
    masked, bert, bert_tokenizer, model, tokenizer, tmp_path
):
    path = tmp_path / "cloze.yaml"
    rows = [{"word": word, "gold": number % 2} for number, word in enumerate(WORDS[:6])]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    path.write_text(
        'task: cloze\noutput_type: multiple_choice\ndoc_to_text: "{{word}} was"\ndoc_to_choice: [old, red]\n'
        'doc_to_tail: " on {{word}}."\ndoc_to_target: gold\ntest_split: test\nfewshot_delimiter: "\\n"\n'
        "dataset_kwargs: {data_files: {test: rows.jsonl}}\n",
        encoding="utf-8",
    )
    asked, ids = (bert, bert_tokenizer) if masked else (model, tokenizer)
    evaluate_few_shot(asked, ids, [str(path)], shots=(1,), out=tmp_path / "out")
    for record in records(tmp_path / "out"):
        word, shot = (WORDS[int(name)] for name in (record["id"], record["shot_ids"][0]))
        label = ("old", "red")[int(record["shot_ids"][0]) % 2]
        assert record["prompt"] == f"{shot} was {label} on {shot}.\n{word} was"
        assert record["tail"] == f" on {word}."
        if masked:
            texts = [MaskedTokens(ids)(record["prompt"], f" {x}", record["tail"]) for x in ("old", "red")]
            expected = score_masked_plainly(bert, texts, mask=ids.mask_token_id)
        else:
            expected = score_pairs_plainly(model, [PairTokens(ids)(record["prompt"], x) for x in ("old", "red")])
        assert logprobs(record) == pytest.approx([score.logprob for score in expected], abs=1e-4)


def test_the_transformers_scores_are_those_of_targets_behind_the_logged_prompt(model, tokenizer, tmp_path):
    out = tmp_path / "out"
    found = evaluate_few_shot(model, tokenizer, [PICK, BARE, LAST], shots=(0, 2), batch_tokens=300, out=out)
    assert (found["settings"]["scorer"], found["settings"]["pll"]) == ("encoder_decoder", None)
    tokens = PairTokens(tokenizer)
    choices = {(task.name, q.id): q.choices for task in (PICK, BARE, LAST) for q in task.questions}
    for record in records(out):
        pairs = [tokens(record["prompt"], choice) for choice in choices[record["task"], record["id"]]]
        expected = [score.logprob for score in score_pairs_plainly(model, pairs)]
        assert logprobs(record) == pytest.approx(expected, abs=1e-4)
        assert [told["tokens"] for told in record["scores"]] == [len(pair.target) for pair in pairs]


def test_an_encoder_decoder_writes_its_answer_as_a_target_of_the_prompt(model, tokenizer, tmp_path):
    out = tmp_path / "out"
    evaluate_few_shot(model, tokenizer, [WRITTEN], shots=(0, 1), batch_tokens=100, out=out)
    assert any(record["text"] for record in records(out))
    for record in records(out):
        ids = tokenizer(record["prompt"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            new = model.generate(ids, max_new_tokens=20, do_sample=False, num_beams=1)[0]
        whole = tokenizer.decode(new, skip_special_tokens=True).lstrip(" ").partition("\n")[0]
        assert whole.startswith(record["text"])


def test_shots_that_do_not_fit_berts_positions_are_dropped_and_counted(bert, bert_tokenizer):
    many = [Question(f"{name}{q.id}", q.contexts, q.choices, q.gold) for name in "abc" for q in questions(name)]
    task = Task(name="long", kind="choice", queries=lambda: many, delimiter="\n")
    found = evaluate_few_shot(bert, bert_tokenizer, [task], shots=(20,))["results"]["long"]["20"]
    assert found["shots_dropped"] > 0


def test_a_masked_model_is_not_asked_to_write(bert, bert_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"writes no text.* got written"):
        evaluate_few_shot(bert, bert_tokenizer, [PICK, WRITTEN], shots=(0,), out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_unknown_pll_is_refused(bert, bert_tokenizer):
    with pytest.raises(ValueError, match="pll must be one of word_l2r, original; got pll='l2r'"):
        evaluate_few_shot(bert, bert_tokenizer, [PICK], shots=(0,), pll="l2r")


def test_a_model_says_how_it_is_scored(bert, model, marian, bert_tokenizer):
    gpt = VaswaniGPTForCausalLM(VaswaniGPTConfig(vocab_size=50, **SIZES, max_position_embeddings=16))
    assert [kind_of(x) for x in (gpt, bert, model, marian)] == [
        "causal",
        "masked",
        "encoder_decoder",
        "encoder_decoder",
    ]


def test_an_encoder_that_sees_what_it_foretells_is_refused(bert_tokenizer):
    stock = BertConfig(vocab_size=80, **SIZES, intermediate_size=48)
    for made in (
        BertLMHeadModel(stock),
        VaswaniBertForPreTraining(bert_config(bert_tokenizer)),
        VaswaniBertForSequenceClassification(bert_config(bert_tokenizer)),
    ):
        with pytest.raises(ValueError, match=f"masked-word head.*got {type(made).__name__}.*AutoModelForMaskedLM"):
            kind_of(made)


def test_a_folder_is_loaded_as_what_it_is(bert_folder, folder):
    assert type(load_scored_model(bert_folder)[0]) is VaswaniBertForMaskedLM
    assert type(load_scored_model(folder)[0]).__name__ == "VaswaniTransformerForConditionalGeneration"


def test_a_pre_trained_bert_is_loaded_with_its_masked_word_head(bert_tokenizer, tmp_path):
    made = VaswaniBertForPreTraining(bert_config(bert_tokenizer))
    made.save_pretrained(tmp_path)
    bert_tokenizer.save_pretrained(tmp_path)
    found = load_scored_model(tmp_path)[0]
    assert torch.equal(found.cls.predictions.transform.dense.weight, made.cls.predictions.transform.dense.weight)


def test_a_folder_without_the_weights_of_the_head_is_refused(bert_tokenizer, tmp_path):
    VaswaniBertForSequenceClassification(bert_config(bert_tokenizer)).save_pretrained(tmp_path)
    bert_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"must have the weights of its language model; got .* without cls\.predictions"
    ):
        load_scored_model(tmp_path)


def test_a_name_that_is_no_model_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"has a config\.json"):
        load_scored_model(tmp_path)


def test_the_verb_scores_bert_and_says_how(bert_folder, tmp_path, capsys):
    words = ["evaluate", str(bert_folder), "--tasks", "austen_cloze", "--shots", "0", "--limit", "2"]
    assert main([*words, "--pll", "original", "--out", str(tmp_path / "out")]) == 0
    assert "scorer: masked, pll original" in capsys.readouterr().out
    settings = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["scorer"], settings["pll"]) == ("masked", "original")
    assert main(["evaluate", str(bert_folder), "--tasks", "arithmetic_2da", "--shots", "0"]) == 2
    assert "writes no text" in capsys.readouterr().err


def test_the_verb_scores_the_transformer_and_says_how(folder, capsys):
    words = ["evaluate", str(folder), "--tasks", "austen_cloze,arithmetic_2da", "--shots", "0,1", "--limit", "2"]
    assert main(words) == 0
    assert "scorer: encoder_decoder" in capsys.readouterr().out


def test_beams_are_not_an_encoder_decoders(model, tokenizer):
    with pytest.raises(ValueError, match="written greedily; got beams=4"):
        Writer(model, tokenizer, beams=4, batch_tokens=100)
