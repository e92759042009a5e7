"""`vaswani plan`: parameters of every preset, batches, time and money, the table."""

import json
from typing import Any

import pytest

from vaswani_cli import main
from vaswani_transformer import planning
from vaswani_transformer.models import configuration_bert, configuration_gpt, configuration_transformer
from vaswani_transformer.planning import plan
from vaswani_transformer.recipe import Recipe, load_recipe, recipe_names, recipe_path
from vaswani_transformer.sections import parse_yaml

GB = 10**9
# Of transformers' own models with the published weights, or (GPT-1) of OpenAI's file.
PUBLISHED = {
    "gpt": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}
# Table 2.1 of Brown et al. (2020), and Google's list of small BERTs (in millions, heads left out).
ROUNDED = {
    "gpt3-125m": 125e6,
    "gpt3-350m": 356e6,
    "gpt3-760m": 760e6,
    "gpt3-1.3b": 1.3e9,
    "gpt3-2.7b": 2.7e9,
    "gpt3-6.7b": 6.7e9,
    "gpt3-13b": 13e9,
    "gpt3-175b": 175e9,
    "tiny": 4.4e6,
    "mini": 11.3e6,
    "small": 29.1e6,
    "medium": 41.7e6,
    "base": 110.1e6,
}


def recipe(family: str, preset: str | None = None, *, fields: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """A recipe of a model; toy batches."""
    section = {"family": family} | ({} if preset is None else {"preset": preset}) | (fields or {})
    if family == "transformer":
        data, batch = {"embedded": "debian-en-de", "source": "en", "target": "de"}, {"source_tokens": 64}
        batch["target_tokens"] = 64
    else:
        data, batch = {"files": {"train": ["a.txt"]}, "max_seq_length": 16}, {"sequences": 4}
    values = {"model": section, "tokenizer": {"from": "folder"}, "data": data, "batch": batch, "steps": 10}
    values |= {"optimizer": {"learning_rate": 1e-3}, "schedule": {"name": "constant"}, "output": "run"}
    return Recipe.from_dict(values | changes)


TOY_GPT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 64}


def toy(gpus: int = 1, *, flops: float | None = None, price: float | None = None, **changes: Any) -> planning.Plan:
    fields = changes.pop("fields", TOY_GPT)
    return plan(recipe("gpt", fields=fields, **changes), gpus=gpus, memory=GB, flops_per_gpu=flops, price=price)


@pytest.fixture
def untraced(monkeypatch):
    """Leaves the activations out, which take a second or more."""
    monkeypatch.setattr(planning, "step_memory", lambda *args, **kwargs: 0)


def raw(name: str) -> Any:
    return parse_yaml(recipe_path(name).read_text(encoding="utf-8"), where=name)


def by_the_papers(family: str, config: Any) -> int:
    """Parameters, by the equations of the papers: no module is looked at."""
    if family == "transformer":
        d, f, h, k, v = config.d_model, config.d_ff, config.num_heads, config.d_k, config.d_v
        attention, feed_forward, norm = 2 * d * h * k + 2 * d * h * v, 2 * d * f + f + d, 2 * d
        positions = 2 * config.max_position_embeddings * d if config.position_embedding == "learned" else 0
        encoder = config.num_encoder_layers * (attention + feed_forward + 2 * norm)
        decoder = config.num_decoder_layers * (2 * attention + feed_forward + 3 * norm)
        return config.vocab_size * d + positions + encoder + decoder  # one matrix of embeddings, section 3.4
    d, words = config.hidden_size, config.vocab_size
    layers = config.num_hidden_layers * (12 * d * d + 13 * d)
    if family == "gpt":
        last_norm = 2 * d if config.norm_order == "pre" else 0
        return (words + config.max_position_embeddings) * d + layers + last_norm
    embeddings = (words + config.max_position_embeddings + 2) * d + 2 * d
    heads = 2 * (d * d + d) + 2 * d + words + 2 * d + 2  # pooler and transform; its norm; biases; next sentence
    return embeddings + layers + heads


PRESETS = [
    *(("gpt", name) for name in configuration_gpt.PRESETS),
    *(("bert", name) for name in configuration_bert.PRESETS),
    *(("transformer", name) for name in configuration_transformer.PRESETS),
]


@pytest.mark.parametrize(("family", "preset"), PRESETS)
def test_the_parameters_of_every_preset_are_those_of_the_papers_equations(untraced, family, preset):
    config = planning.FAMILIES[family].config.preset(preset)
    told = plan(recipe(family, preset), gpus=8, memory=80 * GB).parameters
    assert told == by_the_papers(family, config)
    if family == "gpt" and preset in PUBLISHED:
        assert told == PUBLISHED[preset]
    elif family != "transformer" and preset in ROUNDED:
        assert told == pytest.approx(ROUNDED[preset], rel=0.03)


@pytest.mark.parametrize("preset", ["gpt2", "base"])
def test_the_parameters_are_those_of_transformers_own_model(untraced, preset):
    import torch
    from transformers import BertConfig, BertForPreTraining, GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        theirs = GPT2LMHeadModel(GPT2Config()) if preset == "gpt2" else BertForPreTraining(BertConfig())
    told = plan(recipe("gpt" if preset == "gpt2" else "bert", preset), gpus=1, memory=GB).parameters
    assert told == theirs.num_parameters()


@pytest.mark.parametrize("name", [name for name in recipe_names() if "steps" in raw(name)])  # fine-tuning has none
def test_every_shipped_recipe_of_pre_training_is_planned(untraced, name):
    found = plan(load_recipe(name), gpus=8, memory=80 * GB, flops_per_gpu=1e14, price=1.0)
    assert found.hours is not None
    assert found.hours > 0


def test_the_vocabulary_is_that_of_the_tokenizer_to_come(untraced):
    fields = {name: value for name, value in TOY_GPT.items() if name != "vocab_size"}
    small, large = (
        plan(recipe("gpt", fields=fields, tokenizer={"kind": "byte-bpe", "vocab_size": n}), gpus=1, memory=GB)
        for n in (300, 400)
    )
    assert large.parameters - small.parameters == 100 * 32


@pytest.mark.parametrize(("gpus", "share", "accumulation", "rows"), [(1, 6, 3, 2), (2, 3, 3, 1), (4, 2, 2, 1)])
def test_the_gpu_with_most_rows_decides(untraced, gpus, share, accumulation, rows):
    (phase,) = toy(gpus, batch={"sequences": 6, "accumulation": 3}).phases
    assert (phase.tokens, phase.tokens_per_gpu) == (6 * 16, share * 16)
    assert (phase.accumulation, phase.rows, phase.length) == (accumulation, rows, 16)


def test_hours_and_dollars_follow_from_the_speed_of_a_gpu_and_its_price(untraced):
    found = toy(2, flops=1000.0, price=3.0)
    multiplied = 6 * (2 * 12 * 32 * 32 + 64 * 32)  # matrices of both layers, and the tied output
    assert found.flops_per_token == multiplied
    assert found.tokens == 10 * 4 * 16
    assert found.flops == found.tokens * multiplied
    assert found.hours == pytest.approx(found.flops / 2000 / 3600)
    assert found.hours is not None
    assert found.dollars == pytest.approx(found.hours * 2 * 3)


def test_gpus_without_a_row_make_no_run_shorter(untraced):
    assert toy(4, flops=1e3).hours == toy(8, flops=1e3).hours


def test_the_phase_of_the_largest_micro_batches_decides_what_fits():
    shares = [{"share": 0.5, "data": {"max_seq_length": 8}}, {"share": 0.5, "data": {"max_seq_length": 64}}]
    alone, phased = toy(data={"files": {"train": ["a"]}, "max_seq_length": 64}), toy(phases=shares)
    assert [one.updates for one in phased.phases] == [5, 5]
    assert [row.total for row in phased.rows] == [row.total for row in alone.rows]


def test_activations_computed_again_take_less():
    kept, again = (toy(fields=TOY_GPT | {"num_hidden_layers": 8}, gradient_checkpointing=on) for on in (False, True))
    assert all(a.activations < k.activations for a, k in zip(again.rows, kept.rows, strict=True))


def test_a_row_fits_where_its_total_leaves_a_tenth_of_the_memory(untraced):
    total = toy().rows[0].total
    asked = recipe("gpt", fields=TOY_GPT)
    assert plan(asked, gpus=1, memory=total * 10 // 9 + 2).rows[0].fits
    assert not plan(asked, gpus=1, memory=total * 10 // 9 - 2).rows[0].fits


def test_a_model_that_goes_on_from_a_folder_has_the_folders_sizes(untraced, tmp_path):
    planning.FAMILIES["gpt"].config(**TOY_GPT).save_pretrained(tmp_path)
    found = plan(recipe("gpt", fields={"from": str(tmp_path)}), gpus=1, memory=GB)
    assert found.parameters == toy().parameters


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gpus": 0}, "gpus must be at least 1"),
        ({"memory": 0}, "memory must be at least 1"),
        ({"flops_per_gpu": 0.0}, "flops_per_gpu must be above 0"),
        ({"price": 2.0}, "price needs flops_per_gpu"),
    ],
)
def test_a_number_out_of_range_is_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        plan(recipe("gpt", fields=TOY_GPT), **{"gpus": 1, "memory": GB} | changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"fields": TOY_GPT | {"hiden_size": 3}}, "did you mean 'model.hidden_size'"),
        ({"fields": {"preset": "gpt4"}}, "preset must be one of"),
        ({"data": {"files": {"train": ["a"]}, "max_seq_length": 4096}}, "max_position_embeddings"),
        ({"batch": {"source_tokens": 9, "target_tokens": 9}}, "needs sequences"),
    ],
)
def test_a_recipe_that_would_not_train_is_not_planned(changes, told):
    with pytest.raises(ValueError, match=told):
        plan(recipe("gpt", **{"fields": TOY_GPT} | changes), gpus=1, memory=GB)


WORDS = ["plan", "transformer-demo", "--gpus", "2", "--memory", "1.5GB"]


def test_the_command_prints_a_line_for_each_strategy(untraced, capsys):
    assert main([*WORDS, "--flops", "1e12", "--price", "2", "precision=bf16"]) == 0
    told = capsys.readouterr().out
    for name in ("ddp", "zero1", "zero2", "zero3", "zero3_offload"):
        assert f"\n{name} " in told
    assert "parameters" in told
    assert "hours" in told
    assert "dollars" in told


def test_the_command_says_what_to_do_where_nothing_fits(untraced, capsys):
    assert main([*WORDS[:-1], "1GB", "model.d_model=8192"]) == 0
    assert "Nothing fits: set gradient_checkpointing=true" in capsys.readouterr().out


def test_as_json_the_command_prints_every_figure_in_bytes(untraced, capsys):
    assert main([*WORDS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == plan(load_recipe("transformer-demo"), gpus=2, memory=3 * GB // 2).to_dict()


@pytest.mark.parametrize(("text", "size"), [("80GB", 80 * GB), ("24 GiB", 24 * 2**30), ("0.5TB", GB * 500)])
def test_memory_is_read_with_its_unit(text, size):
    from vaswani_cli.plan import memory

    assert memory(text) == size


def test_memory_without_a_unit_is_refused(capsys):
    with pytest.raises(SystemExit):
        main([*WORDS[:-1], "80"])
    assert "as 80GB; got '80'" in capsys.readouterr().err
