"""The benchmarks' own parts: fair turns, the JSON line, and a peer that really computes the same function."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniBertForPreTraining,
    VaswaniBertForSequenceClassification,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerTokenizer,
)

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in (
        "bert",
        "bert_pretraining",
        "gpt",
        "fewshot",
        "gpt_generation",
        "gpt_training",
        "marian",
        "pairs",
        "translation",
        "updates",
    ):
        sys.modules.pop(name, None)


def test_a_claim_is_one_json_line_with_the_median_ratio_and_its_interval(benchmark, capsys):
    benchmark("pairs").report("speed", [4.0, 6.0, 8.0], [2.0, 2.0, 2.0], unit="real tokens/s", peer="a peer")
    line = json.loads(capsys.readouterr().out)
    assert {"claim", "ratio", "ours", "theirs", "unit", "peer"} <= line.keys()
    assert line["ratio"] == 3.0
    assert line["interval"][0] <= line["ratio"] <= line["interval"][1]


def test_where_less_is_better_the_ratio_is_theirs_over_ours(benchmark, capsys):
    benchmark("pairs").report("memory", [2.0], [6.0], unit="MiB", peer="a peer", less_is_better=True)
    line = json.loads(capsys.readouterr().out)
    assert (line["ratio"], line["ours"], line["theirs"]) == (3.0, 2.0, 6.0)


def test_both_sides_take_turns_and_the_first_turn_is_not_counted(benchmark):
    turns: list[tuple[str, int]] = []
    ours, theirs = benchmark("pairs").rates(
        lambda pair: turns.append(("ours", pair)) or 1.0, lambda pair: turns.append(("theirs", pair)) or 1.0, pairs=3
    )
    assert len(ours) == len(theirs) == 3
    assert [pair for _, pair in turns] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [side for side, _ in turns[2:]] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_the_marian_peer_computes_the_same_function(benchmark):
    torch.manual_seed(0)
    config = VaswaniTransformerConfig(
        vocab_size=40, d_model=16, d_ff=32, num_heads=4, num_encoder_layers=2, num_decoder_layers=2
    )
    ours = VaswaniTransformerForConditionalGeneration(config).eval()
    theirs = benchmark("translation").as_marian(ours)
    source, target = torch.randint(3, 40, (3, 7)), torch.randint(3, 40, (3, 5))
    target[:, 0] = config.pad_token_id
    with torch.no_grad():
        expected = ours(source, decoder_input_ids=target).logits
        found = theirs(source, decoder_input_ids=target).logits
    # LayerNorm's epsilon is 1e-6 here and 1e-5 there; the pad word is an output of neither in a search.
    torch.testing.assert_close(found[..., 1:], expected[..., 1:], atol=1e-4, rtol=1e-4)


def test_the_exported_model_races_on_the_peers_batches_and_tells_its_bleu(benchmark, capsys, monkeypatch, tmp_path):
    pytest.importorskip("ctranslate2", reason="needs CTranslate2, of the extra `ctranslate2`")
    script = benchmark("translation")
    texts = {"source": ["a hat", "the dog"], "target": ["ein Hut", "der Hund"]}
    monkeypatch.setattr(script, "read_pairs", lambda options, split: texts)
    tokenizer = VaswaniTransformerTokenizer.train([*texts["source"], *texts["target"]], vocab_size=260)
    tokenizer.save_pretrained(tmp_path)
    sizes: dict[str, Any] = {
        "d_model": 16,
        "d_ff": 32,
        "num_heads": 4,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
    }
    config = VaswaniTransformerConfig(vocab_size=260, **sizes)
    VaswaniTransformerForConditionalGeneration(config).save_pretrained(tmp_path)
    monkeypatch.setattr(script, "LIMIT", 3)
    script.run_claims(tmp_path, ["ctranslate2-int8"], quick=True)
    line = json.loads(capsys.readouterr().out)
    assert (line["claim"], line["pairs"]) == ("ctranslate2-int8", 10)
    assert set(line["tokens"]) == {"ours", "theirs"}
    assert set(line["bleu"]) == {"ours", "ctranslate2, reranked", "ctranslate2, its defaults"}


BERT_TOY: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
BERT_TOY |= {"num_attention_heads": 4, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_the_bert_peer_takes_the_same_updates_on_the_batch_padded_for_it(benchmark):
    bert, script = benchmark("bert"), benchmark("bert_pretraining")
    torch.manual_seed(0)
    ours = VaswaniBertForPreTraining(VaswaniBertConfig(**BERT_TOY))
    updates = benchmark("updates")
    steppers = [updates.Stepper(ours), updates.Stepper(bert.bert_like(ours))]
    ids, mask = torch.randint(1, 40, (3, 9)), torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [1] * 7 + [0] * 2])
    batch = {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    batch["labels"] = ids.masked_fill((torch.rand(3, 9) < 0.5) | (mask == 0), -100)
    batch |= {"next_sentence_label": torch.tensor([0, 1, 1]), "num_sequences_in_batch": torch.tensor(3)}
    padded = script.for_peer(batch)
    assert padded["input_ids"].shape == padded["labels"].shape == (3, script.LENGTH)
    assert bert.real_tokens(padded) == bert.real_tokens(batch) == 21
    for _ in range(2):
        losses = [s.model(**given).loss.item() for s, given in zip(steppers, (batch, padded), strict=True)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-4)
        for stepper, given in zip(steppers, (batch, padded), strict=True):
            stepper.update(given)


def test_the_bert_peer_of_a_classifier_gives_its_logits(benchmark):
    torch.manual_seed(0)
    ours = VaswaniBertForSequenceClassification(VaswaniBertConfig(**BERT_TOY)).eval()
    ids = torch.randint(1, 40, (3, 9))
    torch.testing.assert_close(benchmark("bert").bert_like(ours)(ids).logits, ours(ids).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "openai-gpt"])
def test_the_gpt_peers_compute_the_same_function(benchmark, tmp_path, kind):
    fields = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 12, "vocab_size": 40}
    script = benchmark("gpt")
    script.SHAPE.clear()
    ours, theirs = script.both(kind, str(tmp_path), **fields)
    ids = torch.randint(40, (2, 12))
    torch.testing.assert_close(ours.eval()(ids).logits, theirs.eval()(ids).logits, rtol=0, atol=1e-5)


def test_the_few_shot_benchmark_asks_the_same_new_questions_every_time(benchmark):
    fewshot = benchmark("fewshot")
    first, again, other = (fewshot.task(name, 3) for name in ("a", "a", "b"))
    assert first.questions == again.questions
    assert not {question.contexts for question in first.questions} & {question.contexts for question in other.questions}
    assert {len(question.choices) for question in first.questions} == {4}
    assert len(first.shots) >= 5
