"""The benchmarks' own parts: fair turns, the JSON line, and a peer that really computes the same function."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from vaswani_transformer import VaswaniTransformerConfig, VaswaniTransformerForConditionalGeneration

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in ("marian", "pairs", "translation", "transformer_training"):
        sys.modules.pop(name, None)


def test_a_claim_is_one_json_line_with_the_median_ratio_and_its_interval(benchmark, capsys):
    benchmark("pairs").report("speed", [4.0, 6.0, 8.0], [2.0, 2.0, 2.0], unit="real tokens/s", peer="a peer")
    line = json.loads(capsys.readouterr().out)
    assert {"claim", "ratio", "ours", "theirs", "unit", "peer"} <= line.keys()
    assert line["ratio"] == 3.0
    assert line["interval"][0] <= line["ratio"] <= line["interval"][1]


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
