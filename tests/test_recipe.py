"""Recipes: what is read, what is refused, and in which words."""

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from vaswani_transformer.data.bert_options import BertPretrainingOptions
from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.models import VaswaniBertConfig, VaswaniGPTConfig
from vaswani_transformer.phases import phases_of
from vaswani_transformer.recipe import Recipe, load_recipe, recipe_names, recipe_path, recipe_summaries
from vaswani_transformer.sections import read_section

MINIMAL: dict[str, Any] = {
    "model": {"family": "transformer"},
    "tokenizer": {"kind": "bpe", "vocab_size": 100},
    "data": {"embedded": "debian-en-de"},
    "batch": {"source_tokens": 10, "target_tokens": 10},
    "steps": 5,
    "output": "runs/x",
}


def changed(**keys: Any) -> dict[str, Any]:
    """The minimal recipe with top-level keys replaced; None removes."""
    values = copy.deepcopy(MINIMAL) | keys
    return {key: value for key, value in values.items() if value is not None}


def kind_of(name: str) -> Any:
    """The dataclass that a shipped recipe is read as: one with a `data.task` is for `vaswani finetune`."""
    data = yaml.safe_load(recipe_path(name).read_text(encoding="utf-8"))["data"]
    return FinetuneRecipe if "task" in data else Recipe


FINETUNING = [name for name in recipe_names() if kind_of(name) is FinetuneRecipe]


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads(name):
    assert load_recipe(name, kind=kind_of(name)).output == f"runs/{name}"


@pytest.mark.parametrize("name", recipe_names())
def test_every_key_of_a_shipped_recipe_carries_a_comment(name):
    lines = recipe_path(name).read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if re.match(r"\s*[\w]+:\s+\S", line) and " # " not in line]
    assert bare == []


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_tells_in_its_first_line_what_it_is(name):
    assert recipe_path(name).read_text(encoding="utf-8").startswith("# ")
    assert len(recipe_summaries()[name]) > 20


def test_the_recipes_of_the_paper_hold_the_papers_numbers():
    for name in recipe_names():
        if "wmt14" not in name:
            continue
        recipe, big = load_recipe(name), "-big-" in name
        assert recipe.steps == (300_000 if big else 100_000)
        assert (recipe.batch.source_tokens, recipe.batch.target_tokens) == (25_000, 25_000)
        assert (recipe.optimizer.name, recipe.optimizer.betas, recipe.optimizer.eps) == ("adam", [0.9, 0.98], 1e-9)
        assert (recipe.schedule.name, recipe.schedule.warmup_steps, recipe.schedule.scale) == ("noam", 4000, 1.0)
        assert (recipe.save.every_minutes, recipe.save.keep) == (10.0, 20)
        assert recipe.average_last == (20 if big else 5)
        assert recipe.tokenizer["kind"] == ("wordpiece" if name.endswith("fr") else "bpe")
        assert recipe.tokenizer["vocab_size"] == (32_000 if name.endswith("fr") else 37_000)


def test_every_recipe_named_by_its_issue_ships():
    pairs = {f"transformer-{size}-wmt14-en-{pair}" for size in ("base", "big") for pair in ("de", "fr")}
    tasks = {"sst2", "cola", "rte", "mrpc", "stsb", "ner", "squad", "commonsenseqa"}
    tuned = {f"gpt-{task}" for task in tasks - {"ner", "squad"}}
    assert set(FINETUNING) == {f"bert-{task}" for task in tasks} | tuned
    berts = {"bert-base-pretraining", "bert-large-pretraining", "bert-tiny-books", "bert-demo"}
    gpts = {"gpt1-bookcorpus", "gpt2-124m-openwebtext", "gpt3-125m", "gpt-small-books", "gpt-demo"}
    assert pairs | berts | gpts | {"transformer-tiny-multi30k-en-de", "transformer-demo"} <= set(recipe_names())


def test_bert_bases_recipe_holds_the_papers_numbers():
    recipe = load_recipe("bert-base-pretraining")
    assert (recipe.model["preset"], recipe.batch.sequences, recipe.steps) == ("base", 256, 1_000_000)
    assert [(phase.start, phase.end) for phase in phases_of(recipe, recipe.steps)] == [
        (0, 900_000),
        (900_000, 1_000_000),
    ]
    assert [one.data["max_seq_length"] for one in recipe.by_phase()] == [128, 512]
    assert [one.data["name"] for one in recipe.by_phase()] == ["wikimedia/wikipedia"] * 2
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.learning_rate, optimizer.betas, optimizer.weight_decay) == (1e-4, [0.9, 0.999], 0.01)
    assert not optimizer.bias_correction
    assert (schedule.name, schedule.warmup_steps, schedule.power) == ("linear", 10_000, 1.0)


def test_bert_larges_recipe_holds_the_numbers_of_the_lamb_run():
    recipe = load_recipe("bert-large-pretraining")
    phases = phases_of(recipe, recipe.steps)
    assert [phase.end - phase.start for phase in phases] == [phase.schedule_steps for phase in phases] == [7038, 1563]
    assert all(phase.starts_schedule for phase in phases)
    told = [(one.batch.sequences, one.optimizer.learning_rate, one.schedule.warmup_steps) for one in recipe.by_phase()]
    assert told == [(65_536, 6e-3, 2001), (32_768, 4e-3, 200)]
    assert {(one.optimizer.name, one.schedule.power) for one in recipe.by_phase()} == {("lamb", 0.5)}


def test_the_recipes_of_the_gpts_hold_their_papers_numbers():
    found = {}
    for name in ("gpt1-bookcorpus", "gpt2-124m-openwebtext", "gpt3-125m"):
        recipe = load_recipe(name)
        tokens = recipe.batch.sequences * recipe.data["max_seq_length"]
        rate, betas = recipe.optimizer.learning_rate, recipe.optimizer.betas
        assert (recipe.optimizer.name, recipe.schedule.name) == ("adamw", "cosine")
        found[name] = (recipe.model["preset"], tokens, rate, betas, recipe.schedule.minimum_ratio)
        assert recipe.data["max_seq_length"] == VaswaniGPTConfig.preset(recipe.model["preset"]).max_position_embeddings
    assert found == {
        "gpt1-bookcorpus": ("gpt", 32_768, 2.5e-4, [0.9, 0.999], 0.0),
        "gpt2-124m-openwebtext": ("gpt2", 491_520, 6e-4, [0.9, 0.95], 0.1),
        "gpt3-125m": ("gpt3-125m", 524_288, 6e-4, [0.9, 0.95], 0.1),
    }
    assert load_recipe("gpt3-125m").steps * 524_288 == pytest.approx(300e9, rel=1e-5)
    assert load_recipe("gpt3-125m").schedule.warmup_steps * 524_288 == pytest.approx(375e6, rel=1e-3)


@pytest.mark.parametrize("name", [name for name in FINETUNING if name.startswith("gpt")])
def test_gpts_fine_tuning_recipes_hold_the_papers_numbers(name):
    recipe = load_recipe(name, kind=FinetuneRecipe)
    optimizer = recipe.optimizer
    assert (recipe.epochs, recipe.batch.sequences, recipe.model["lm_loss_weight"]) == (3, 32, 0.5)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.betas) == (6.25e-5, 0.01, [0.9, 0.999])
    assert recipe.model["classifier_dropout"] == 0.1
    assert recipe.data.get("both_orders", False) is (name in ("gpt-mrpc", "gpt-stsb"))


@pytest.mark.parametrize("name", sorted({name for name in recipe_names() if name.startswith("bert")} - set(FINETUNING)))
def test_the_data_and_the_model_of_a_bert_recipe_fit_each_other_in_every_phase(name):
    for one in load_recipe(name).by_phase():
        options = BertPretrainingOptions.from_dict(one.data)
        fields = {key: value for key, value in one.model.items() if key not in ("family", "preset")}
        config = VaswaniBertConfig.preset(one.model.get("preset", "base"), **fields)
        assert options.max_seq_length <= config.max_position_embeddings


def test_the_folder_that_bert_tiny_books_names_is_there(shared_data):
    folder = Path(load_recipe("bert-tiny-books").data["name"])
    assert list((shared_data / folder.relative_to("../shared/data")).glob("*.jsonl.xz"))


@pytest.mark.parametrize("name", [name for name in recipe_names() if "multi30k" in name])
def test_the_files_a_local_recipe_names_are_there(name, shared_data):
    for split in load_recipe(name).data["files"].values():
        for path in split.values():
            assert (shared_data / Path(path).relative_to("../shared/data")).is_file()


@pytest.mark.parametrize("name", FINETUNING)
def test_a_fine_tuning_recipe_reads_the_rows_that_it_names(name, shared_data, repository, monkeypatch):
    from vaswani_transformer.finetune import load_data

    monkeypatch.chdir(repository)
    recipe = load_recipe(name, kind=FinetuneRecipe)
    data = load_data(recipe.data, name.partition("-")[0])
    assert len(data.train) > 1000
    assert len(data.validation) == recipe.data.get("hold_out", 10_000)


def test_a_recipe_survives_the_way_to_plain_values_and_back():
    for name in recipe_names():
        recipe = load_recipe(name, kind=kind_of(name))
        assert type(recipe).from_dict(recipe.to_dict()) == recipe
        assert yaml.safe_load(yaml.safe_dump(recipe.to_dict())) == recipe.to_dict()


def test_a_recipe_of_the_users_is_read_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL), encoding="utf-8-sig")
    assert load_recipe(path).steps == 5


def test_overrides_set_dotted_keys_and_the_later_one_wins():
    words = ["steps=7", "steps=8", "model.d_model=64", "validate.limit=3", "save={every_steps: 2}", "average_last=1"]
    recipe = load_recipe("transformer-demo", words)
    assert (recipe.steps, recipe.model["d_model"], recipe.validate.limit) == (8, 64, 3)
    assert (recipe.save.every_steps, recipe.save.keep) == (2, 5)


def test_an_override_makes_the_section_it_names(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL), encoding="utf-8")
    assert load_recipe(path, ["optimizer.eps=1e-8"]).optimizer.eps == 1e-8


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-9", 1e-9),
        ("1.5E3", 1500.0),
        ("10", 10),
        ("-3", -3),
        ("010", 10.0),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("null", None),
        ("", None),
        ("[0.9, .98]", [0.9, 0.98]),
        ("a=b", "a=b"),
    ],
)
def test_values_are_read_by_the_rules_of_yaml_1_2(text, value):
    read = load_recipe("transformer-demo", [f"model.field={text}"]).model["field"]
    assert read == value
    assert isinstance(read, bool) == isinstance(value, bool)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (changed(stepz=1), "'stepz'; did you mean 'steps'"),
        (changed(batch={"source_tokens": 1, "target_token": 1}), "did you mean 'batch.target_tokens'"),
        (changed(optimizer={"beta": [0.9, 0.98]}), "did you mean 'optimizer.betas'"),
        (changed(tokenizer={"kind": "bpe", "vocabsize": 5}), "did you mean 'tokenizer.vocab_size'"),
        (changed(model={"family": "transfomer"}), "did you mean 'transformer'"),
        (changed(model={"preset": "base"}), "model needs family"),
        (changed(model={"family": "gpt", "preset": "base", "from": "x"}), "preset or from, not both"),
        (changed(model={"from": 3}), "model.from must be text"),
        (changed(tokenizer={"kind": "char", "vocab_size": 5}), "tokenizer.kind must be bpe, wordpiece or byte-bpe"),
        (changed(tokenizer={"kind": "bpe"}), "tokenizer.vocab_size must be a whole number"),
        (changed(tokenizer={"from": "x", "kind": "bpe"}), "tokenizer.from must be text and stand alone"),
        (changed(tokenizer=None), "tokenizer.kind must be"),
        (changed(steps=None), "steps is required and missing"),
        (changed(batch={"source_tokens": 1}), "batch.target_tokens is required and missing"),
        (changed(steps="ten"), "steps must be a whole number; got 'ten'"),
        (changed(steps=1.5), "steps must be a whole number; got 1.5"),
        (changed(seed=True), "seed must be a whole number; got True"),
        (changed(compile=1), "compile must be true or false; got 1"),
        (changed(precision="fp8"), "precision must be one of fp32, bf16, fp16; got 'fp8'"),
        (changed(model=["transformer"]), "model must be a mapping"),
        (changed(batch=25000), "batch must be a mapping"),
        (changed(optimizer={"betas": [0.9, "x"]}), "optimizer.betas[1] must be a number"),
        (changed(optimizer={"betas": [0.9]}), "optimizer.betas must be two numbers"),
        (changed(optimizer={"betas": [0.9, 1.0]}), "optimizer.betas must be two numbers"),
        (changed(optimizer={"eps": 0.0}), "optimizer.eps must be above 0"),
        (changed(schedule={"name": "step"}), "schedule.name must be one of noam"),
        (changed(optimizer={"name": "lamb"}), "set optimizer.bias_correction=false"),
        (changed(schedule={"name": "cosine"}), "needs optimizer.learning_rate"),
        (changed(schedule={"warmup_steps": 0}), "schedule.warmup_steps must be at least 1"),
        (changed(steps=0), "steps must be at least 1; got steps=0"),
        (changed(batch={"source_tokens": 0, "target_tokens": 1}), "source_tokens must be at least 1"),
        (changed(ema_decay=1.0), "ema_decay must lie between 0 and 1"),
        (changed(average_last=9), "average_last must not exceed save.keep"),
        (changed(average_last=2), "average_last above 1 needs save.every_steps or save.every_minutes"),
        (changed(validate={"metrics": ["loss", "blue"]}), "validate.metrics[1] must be one of loss, bleu"),
        (changed(validate={"best": "bleu"}), "validate.best must be one of validate.metrics"),
        (changed(validate={"patience": 2}), "validate.patience needs validate.every_steps"),
        (changed(output=" "), "output must name a folder"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_its_keys_name(values, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        Recipe.from_dict(values)


def test_a_model_to_continue_brings_its_tokenizer():
    assert Recipe.from_dict(changed(model={"from": "some/model"}, tokenizer=None)).tokenizer == {}


@pytest.mark.parametrize("override", ["steps", "=3", "steps.=3", ".steps=3", ""])
def test_an_override_without_key_and_value_is_refused(override):
    with pytest.raises(ValueError, match="must read key=value"):
        load_recipe("transformer-demo", [override])


def test_an_override_below_a_plain_value_is_refused():
    with pytest.raises(ValueError, match="steps holds a value, not a section"):
        load_recipe("transformer-demo", ["steps.more=3"])


def test_an_unknown_name_is_told_with_the_nearest_right_one():
    with pytest.raises(ValueError, match="did you mean 'transformer-demo'"):
        load_recipe("transformer-dmo")


def test_a_missing_file_is_told_by_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml"):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("steps: [1", "must be valid YAML"),
        ("steps: 1\nsteps: 2\n", "'steps' stands twice"),
        ("- steps\n", "must be a mapping of keys; got list"),
        ("", "must be a mapping of keys; got NoneType"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_by_its_name(tmp_path, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        load_recipe(path)
    assert "mine.yaml" in str(error.value)


@dataclass
class Options:
    """Stands for a data module's options."""

    path: str | list[str]
    sizes: dict[str, int] | None = None
    mode: Literal["stop", "skip"] = "stop"
    ratio: float | None = None


def test_a_data_modules_options_are_read_with_the_same_checks():
    read = read_section(Options, {"path": ["a", "b"], "sizes": {"x": 1}, "ratio": 2}, "data")
    assert read == Options(path=["a", "b"], sizes={"x": 1}, ratio=2.0)
    for values, told in [
        ({"path": 1}, "data.path must be text or a list, each text; got 1"),
        ({"path": "a", "sizes": {"x": "y"}}, "data.sizes.x must be a whole number"),
        ({"path": "a", "rato": 1}, "did you mean 'data.ratio'"),
        ({"path": "a", "mode": "go"}, "data.mode must be one of stop, skip"),
    ]:
        with pytest.raises(ValueError, match=re.escape(told)):
            read_section(Options, values, "data")


@pytest.mark.parametrize(
    ("name", "kind", "verb"), [("bert-sst2", Recipe, "finetune"), ("gpt-demo", FinetuneRecipe, "train")]
)
def test_a_recipe_of_the_other_verb_is_named_so(name, kind, verb) -> None:
    with pytest.raises(ValueError, match=f"data.task is for `vaswani {verb}`"):
        load_recipe(name, kind=kind)
