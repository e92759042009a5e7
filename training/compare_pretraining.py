"""What pre-training is worth: a BERT fine-tuned on few labels, against random weights of the same shape.

    python training/compare_pretraining.py runs/bert-tiny-books

For SST-2 (1,000 labels), CoLA and RTE, each with three seeds, it fine-tunes the pre-trained model and one of the same
shape from random weights, on the same rows with the same settings, and prints a line of JSON for each task: the
validation metric of both by seed, their means, and the difference in points. The recipes are `bert-sst2`, `bert-cola`
and `bert-rte`; `key=value` behind the folder changes their keys. The data are those of `../shared/data`, which may not
ship.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from vaswani_transformer import VaswaniBertConfig
from vaswani_transformer.finetune import finetune
from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.recipe import load_recipe

# Enough updates for random weights to learn what they can; small models take a larger rate than base (section 3.2).
COMMON = ["optimizer.learning_rate=1e-4", "schedule.warmup_steps=30", "validate.every_steps=null", "epochs=10"]
TASKS = {
    "sst2": ("accuracy", ["data.train_rows=1000"]),
    "cola": ("matthews_correlation", ["data.train_rows=4000", "epochs=5"]),
    "rte": ("accuracy", ["data.max_length=128"]),
}
SHAPE = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
SHAPE = (*SHAPE, "max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id")
SHAPE = (*SHAPE, "initializer_range", "hidden_dropout_prob", "attention_probs_dropout_prob")


def random_shape(model: str) -> dict[str, Any]:
    """The `model` section of random weights in the shape of a saved model."""
    config = AutoConfig.from_pretrained(model)
    assert isinstance(config, VaswaniBertConfig), "pre-trained by `vaswani train`"
    return {"family": "bert", **{name: getattr(config, name) for name in SHAPE}}


def result(recipe: FinetuneRecipe, metric: str) -> float:
    """Fine-tunes, or reads what an earlier call did, and returns the metric in points."""
    done = Path(recipe.output) / "run.json"
    if not done.is_file():
        finetune(recipe)
    return 100.0 * json.loads(done.read_text(encoding="utf-8"))["results"]["validation"][metric]


def compare(task: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both models' metric on a task, for each seed."""
    metric, own = TASKS[task]
    values: dict[str, list[float]] = {"pretrained": [], "random": []}
    for seed in range(1, arguments.seeds + 1):
        for kind, found in values.items():
            output = Path(arguments.out) / f"{task}-{kind}-{seed}"
            keys = [f"output={output}", f"seed={seed}", f"validate.metrics=[{metric}]", *COMMON, *own]
            weights = {"from": arguments.model} if kind == "pretrained" else random_shape(arguments.model)
            keys += [f"model={json.dumps(weights)}", f"tokenizer={json.dumps({'from': arguments.model})}"]
            found.append(
                result(load_recipe(f"bert-{task}", [*keys, *arguments.overrides], kind=FinetuneRecipe), metric)
            )
    means = {kind: statistics.fmean(found) for kind, found in values.items()}
    gain = means["pretrained"] - means["random"]
    return {"task": task, "metric": metric, "by_seed": values, "mean": means, "gain": gain}


def main() -> None:
    """Compares on each task, and writes `comparison.json` beside the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="FOLDER", help="a BERT that `vaswani train` wrote")
    parser.add_argument("--out", metavar="DIR", default="runs/compare-pretraining", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tunings of each (3)")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="some of the tasks")
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="recipe keys to change")
    arguments = parser.parse_intermixed_args()
    lines = []
    for task in arguments.tasks:
        lines.append(compare(task, arguments))
        print(json.dumps(lines[-1]), flush=True)
    (Path(arguments.out) / "comparison.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
