"""What pre-training is worth: the runs that are compared, and the numbers that are told."""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from vaswani_transformer import VaswaniBertConfig, VaswaniGPTConfig
from vaswani_transformer.finetune_recipe import FinetuneRecipe

FOLDER = Path(__file__).resolve().parent.parent / "training"
METRICS = {("pretrained", 0.5): 70.0, ("random", 0.5): 60.0, ("pretrained", 0.0): 68.0, ("random", 0.0): 61.0}


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    import compare_pretraining  # pyright: ignore[reportMissingImports]

    yield compare_pretraining
    sys.modules.pop("compare_pretraining")


def fake_finetune(made: list[FinetuneRecipe]) -> Any:
    """In place of a fine-tuning: it takes the recipe in and writes a metric."""

    def finetune(recipe: FinetuneRecipe) -> None:
        made.append(recipe)
        (metric,) = recipe.validate.metrics
        kind = "pretrained" if "from" in recipe.model else "random"
        value = METRICS[kind, recipe.model.get("lm_loss_weight", 0.5)] + recipe.seed
        Path(recipe.output).mkdir(parents=True)
        results = {"results": {"validation": {metric: value / 100}}}
        (Path(recipe.output) / "run.json").write_text(json.dumps(results))

    return finetune


def lines_of(comparison: Any, config: Any, folder: Path, monkeypatch: Any, capsys: Any, *more: str) -> tuple[Any, Any]:
    config.save_pretrained(folder / "model")
    made: list[FinetuneRecipe] = []
    monkeypatch.setattr(comparison, "finetune", fake_finetune(made))
    arguments = [str(folder / "model"), "--out", str(folder / "runs"), *more]
    monkeypatch.setattr(sys, "argv", ["compare_pretraining.py", *arguments])
    comparison.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert json.loads((folder / "runs" / "comparison.json").read_text()) == lines
    return lines, made


def test_a_gpt_is_compared_with_and_without_the_language_models_loss(comparison, tmp_path, monkeypatch, capsys) -> None:
    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "norm_order": "pre"}
    config = VaswaniGPTConfig(vocab_size=50, max_position_embeddings=128, eos_token_id=3, **sizes)
    tasks = list(comparison.TASKS["gpt"])
    lines, made = lines_of(comparison, config, tmp_path, monkeypatch, capsys)
    assert [(line["task"], line["lm_loss_weight"]) for line in lines] == [(t, w) for t in tasks for w in (0.5, 0.0)]
    assert [(line["gain"], line["mean"]["pretrained"]) for line in lines[:2]] == [(10.0, 72.0), (7.0, 70.0)]
    assert lines[0]["standard_error"] == pytest.approx((2 * statistics.variance([1, 2, 3]) / 3) ** 0.5)
    assert len(made) == len(tasks) * 2 * 2 * 3
    shapes = [
        VaswaniGPTConfig(**{n: v for n, v in r.model.items() if n != "family"}) for r in made if "from" not in r.model
    ]
    for shape in shapes:
        expected = config.to_dict() | {"lm_loss_weight": shape.lm_loss_weight, "architectures": None}
        assert {name: shape.to_dict()[name] for name in sizes} == {name: expected[name] for name in sizes}
        assert (shape.vocab_size, shape.eos_token_id, shape.layer_types) == (50, 3, config.layer_types)
    rows = {(r.data["task"], r.seed, json.dumps(r.data, sort_keys=True)) for r in made}
    assert len(rows) == len(tasks) * 3  # both kinds and both weights read the same


def test_a_bert_is_compared_once_a_task(comparison, tmp_path, monkeypatch, capsys) -> None:
    config = VaswaniBertConfig(vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    lines, made = lines_of(comparison, config, tmp_path, monkeypatch, capsys, "--tasks", "cola", "--seeds", "1")
    assert [(line["task"], line["gain"], line["standard_error"]) for line in lines] == [("cola", 10.0, None)]
    assert "lm_loss_weight" not in lines[0]
    assert len(made) == 2


def test_what_an_earlier_call_did_is_read(comparison, tmp_path, monkeypatch, capsys) -> None:
    config = VaswaniGPTConfig(vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
    first, _ = lines_of(comparison, config, tmp_path, monkeypatch, capsys, "--tasks", "rte")
    again, made = lines_of(comparison, config, tmp_path, monkeypatch, capsys, "--tasks", "rte")
    assert (again, made) == (first, [])


def test_another_model_is_refused(comparison, tmp_path) -> None:
    from transformers import GPT2Config

    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="takes a BERT or a GPT that `vaswani train` wrote; got 'gpt2'"):
        comparison.family_of(str(tmp_path))
