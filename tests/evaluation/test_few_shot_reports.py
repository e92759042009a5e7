"""What follows from few-shot results: the picture, entries of a model card, a fine-tuned model in the same table."""

import json
import random
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

from vaswani_cli import main
from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.evaluation.few_shot_reports import draw_accuracy, model_index

WORDS = ("the", "cat", "dog", "sat", "ran", "on", "mat", "house", "red", "old", "new", "saw", "was", "good", "bad")


def figures(acc: float, **more: Any) -> dict[str, Any]:
    return {"questions": 8, "acc": acc, "acc_stderr": 0.1, **more}


def results(*shots: int) -> dict[str, Any]:
    settings = {"model": "runs/gpt-demo", "model_type": "vaswani-gpt", "draw": "shared", "seeds": 2}
    by_task = {
        "pick": {str(number): figures(0.1 * number, chance=0.25) for number in shots},
        "last": {str(number): figures(0.2, perplexity=9.5, acc_stderr=None) for number in shots},
    }
    return {"results": by_task, "settings": settings}


def test_the_entries_of_a_model_card_are_read_back_by_the_hubs_own_code():
    index = yaml.safe_load(model_index(results(0, 5)))["model-index"]
    name, entries = model_index_to_eval_results(index)
    assert name == "gpt-demo"
    found = {(e.dataset_name, e.metric_name): (e.metric_type, e.metric_value, e.metric_args) for e in entries}
    told = {"shots": 5, "draw": "shared", "seeds": 2, "questions": 8}
    assert found["pick", "accuracy, 5-shot"] == ("accuracy", 0.5, told | {"stderr": 0.1})
    assert found["last", "perplexity, 5-shot"][:2] == ("perplexity", 9.5)
    assert len(found) == 2 + 2 * 2


def test_accuracy_over_shots_is_drawn(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="draws: needs matplotlib, of the extra `viz`")
    from matplotlib.axes import Axes

    lines: list[Any] = []
    drawn = Axes.errorbar
    monkeypatch.setattr(Axes, "errorbar", lambda self, *a, **k: lines.append((a, k)) or drawn(self, *a, **k))
    path = tmp_path / "shots.png"
    assert draw_accuracy(results(0, 1, 5), path, finetuned=results(0))
    assert path.read_bytes().startswith(b"\x89PNG")
    (shots, values), more = lines[0]
    assert (shots, list(values), list(more["yerr"])) == ((0, 1, 5), [0, 10, 50], [10, 10, 10])
    assert [kept["label"] for _, kept in lines] == ["pick", "last"]


def test_one_number_of_shots_makes_no_picture(tmp_path):
    assert not draw_accuracy(results(0), tmp_path / "shots.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_package_to_install_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level("INFO", logger="vaswani_transformer"):
        assert not draw_accuracy(results(0, 1), tmp_path / "shots.png")
    assert "vaswani-transformer[viz]" in caplog.text


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[str]:
    """Two models of other weights."""
    rng, path = random.Random(0), tmp_path_factory.mktemp("models")
    texts = [" ".join(rng.choice(WORDS) for _ in range(20)) for _ in range(50)]
    tokenizer = VaswaniGPT2Tokenizer.train(texts, vocab_size=300)
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = VaswaniGPTForCausalLM(VaswaniGPTConfig(vocab_size=len(tokenizer), **sizes, **ends))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(path / str(seed))
        tokenizer.save_pretrained(path / str(seed))
    return [str(path / str(seed)) for seed in (1, 2)]


def test_a_fine_tuned_model_is_a_column_of_its_answers_without_shots(folders, tmp_path, capsys):
    rng = random.Random(3)
    rows = [
        {"ctx": " ".join(rng.choices(WORDS, k=4)), "endings": [" ".join(rng.choices(WORDS, k=3)) for _ in range(3)]}
        for _ in range(12)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row | {"label": i % 3}) + "\n" for i, row in enumerate(rows)), encoding="utf-8")
    words = ["--tasks", "hellaswag", "--data", f"hellaswag={data}", "--shots"]
    first, second = folders
    assert main(["evaluate", second, *words, "0", "--out", str(tmp_path / "alone")]) == 0
    alone = capsys.readouterr().out.splitlines()
    out = tmp_path / "both"
    assert main(["evaluate", first, *words, "0,2", "--finetuned", second, "--out", str(out)]) == 0
    both = capsys.readouterr().out.splitlines()
    assert both[0].split() == ["task", "questions", "chance", "0-shot", "2-shot", "fine-tuned"]
    assert both[1].split()[-3:] == alone[1].split()[-3:]
    kept = [folder / "questions.jsonl" for folder in (tmp_path / "alone", out / "finetuned")]
    assert kept[0].read_text() == kept[1].read_text()
    assert {path.name for path in out.iterdir()} >= {"results.json", "model-index.yaml", "finetuned"}
    assert (out / "shots.png").exists() == (find_spec("matplotlib") is not None)
    assert not (tmp_path / "alone" / "shots.png").exists()
