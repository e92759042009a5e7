import shlex

import pytest

from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.publishing.run_command import command_of
from vaswani_transformer.recipe import Recipe, load_recipe, recipe_path


def command(recipe: str, *overrides: str) -> str | None:
    kind = FinetuneRecipe if "task:" in recipe_path(recipe).read_text(encoding="utf-8") else Recipe
    return command_of(load_recipe(recipe, overrides, kind=kind).to_dict(), name="mine")


@pytest.mark.parametrize("recipe", ["transformer-demo", "bert-tiny-books", "gpt3-125m"])
def test_a_shipped_recipe_is_told_by_its_name(recipe):
    assert command(recipe, "output=/home/alice/runs/x") == f"vaswani train {recipe} --out runs/mine"


def test_a_key_that_was_changed_is_told():
    assert command("gpt-demo", "minutes=3", "optimizer.learning_rate=1e-3", "precision=bf16") == (
        "vaswani train gpt-demo minutes=3.0 optimizer.learning_rate=0.001 precision=bf16 --out runs/mine"
    )


def test_the_told_command_makes_the_recipe_it_was_told_of():
    changed = ["data.train_rows=1000", "data.labels=['no', \"it's\"]", "model={family: bert, preset: tiny}"]
    changed += ["tokenizer.from=bert-base-uncased", "epochs=null", "steps=7"]
    told = shlex.split(command("bert-sst2", *changed) or "")
    assert told[:3] == ["vaswani", "finetune", "bert-sst2"]
    again = load_recipe("bert-sst2", [word for word in told[3:] if "=" in word], kind=FinetuneRecipe)
    assert again == load_recipe("bert-sst2", changed, kind=FinetuneRecipe)


def test_a_place_on_this_machine_is_told_by_its_last_name():
    assert command("bert-cola", "model.from=/home/alice/bert") == (
        "vaswani finetune bert-cola model.from=bert --out runs/mine"
    )


def test_a_recipe_far_from_every_shipped_one_has_no_command():
    recipe = load_recipe("transformer-demo").to_dict()
    recipe["model"] = {"family": "transformer", **{f"key{number}": number for number in range(30)}}
    assert command_of(recipe, name="mine") is None


def test_a_recipe_of_another_version_has_no_command():
    assert command_of({**load_recipe("gpt-demo").to_dict(), "of_later": 1}, name="mine") is None
