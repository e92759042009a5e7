"""What pre-training is worth: a BERT or a GPT fine-tuned on few labels, against random weights of the same shape.

    python training/compare_pretraining.py runs/bert-tiny-books

For each task, each with three seeds, it fine-tunes the pre-trained model and one of the same shape from random weights,
on the same rows with the same settings, and prints a line of JSON: the validation metric of both by seed, their means,
the difference in points and its standard error. A GPT is fine-tuned twice so, with the auxiliary loss of the language
model and without it, a line each. The recipes are `bert-sst2`, `gpt-sst2` and so on; `key=value` behind the folder
changes their keys. The data are those of `../shared/data`, which may not ship.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from vaswani_transformer import VaswaniBertConfig, VaswaniGPTConfig
from vaswani_transformer.finetune import finetune
from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.recipe import load_recipe

# Enough updates for random weights to learn what they can; small models take a larger rate than large ones.
COMMON = {
    "bert": ["optimizer.learning_rate=1e-4", "schedule.warmup_steps=30", "epochs=10"],
    "gpt": ["optimizer.learning_rate=3e-4", "schedule.warmup_steps=10", "epochs=3"],
}
TASKS = {
    "bert": {
        "sst2": ("accuracy", ["data.train_rows=1000"]),
        "cola": ("matthews_correlation", ["data.train_rows=4000", "epochs=5"]),
        "rte": ("accuracy", ["data.max_length=128"]),
    },
    # Two or three minutes each on one core, with four layers of 256.
    "gpt": {
        "sst2": ("accuracy", ["data.train_rows=6000", "data.max_length=48", "epochs=2"]),
        "cola": ("matthews_correlation", ["data.train_rows=7000", "data.max_length=32", "epochs=4"]),
        "stsb": ("pearson", ["data.train_rows=2000", "data.max_length=64"]),
        "rte": ("accuracy", ["data.train_rows=800", "data.max_length=128"]),
        "mrpc": ("f1", ["data.train_rows=400", "data.max_length=96"]),
        "commonsenseqa": ("accuracy", ["data.train_rows=500", "data.hold_out=600", "data.max_length=64"]),
    },
}
LM_WEIGHTS: dict[str, list[Any]] = {"bert": [None], "gpt": [0.5, 0.0]}
SHAPES = {
    "bert": (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
        *("max_position_embeddings", "type_vocab_size", "layer_norm_eps", "pad_token_id", "initializer_range"),
        *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    ),
    "gpt": (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
        *("max_position_embeddings", "norm_order", "layer_types", "sliding_window", "layer_norm_eps", "eos_token_id"),
        *("initializer_range", "hidden_dropout", "embedding_dropout", "attention_dropout", "classifier_dropout"),
        "tie_word_embeddings",
    ),
}


def family_of(model: str) -> str:
    """The family of a saved model of ours."""
    config = AutoConfig.from_pretrained(model)
    for name, kind in (("bert", VaswaniBertConfig), ("gpt", VaswaniGPTConfig)):
        if isinstance(config, kind):
            return name
    raise ValueError(
        f"a comparison takes a BERT or a GPT that `vaswani train` wrote; got {config.model_type!r} in {model}"
    )


def model_section(model: str, family: str, kind: str, lm_weight: float | None) -> dict[str, Any]:
    """The `model` section of a pre-trained model, or of random weights in its shape."""
    config = AutoConfig.from_pretrained(model)
    random = {"family": family, **{name: getattr(config, name) for name in SHAPES[family]}}
    section = {"from": model} if kind == "pretrained" else random
    return section if lm_weight is None else {**section, "lm_loss_weight": lm_weight}


def result(recipe: FinetuneRecipe, metric: str) -> float:
    """Fine-tunes, or reads what an earlier call did, and returns the metric in points."""
    done = Path(recipe.output) / "run.json"
    if not done.is_file():
        finetune(recipe)
    return 100.0 * json.loads(done.read_text(encoding="utf-8"))["results"]["validation"][metric]


def compare(task: str, family: str, lm_weight: float | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both models' metric on a task, for each seed."""
    metric, own = TASKS[family][task]
    name = task if lm_weight is None else f"{task}-lm{lm_weight:g}"
    values: dict[str, list[float]] = {"pretrained": [], "random": []}
    for seed in range(1, arguments.seeds + 1):
        for kind, found in values.items():
            output = Path(arguments.out) / f"{name}-{kind}-{seed}"
            keys = [f"output={output}", f"seed={seed}", f"validate={{metrics: [{metric}]}}", *COMMON[family], *own]
            weights = model_section(arguments.model, family, kind, lm_weight)
            keys += [f"model={json.dumps(weights)}", f"tokenizer={json.dumps({'from': arguments.model})}"]
            recipe = load_recipe(f"{family}-{task}", [*keys, *arguments.overrides], kind=FinetuneRecipe)
            found.append(result(recipe, metric))
    means = {kind: statistics.fmean(found) for kind, found in values.items()}
    told = {"task": task, "metric": metric, **({} if lm_weight is None else {"lm_loss_weight": lm_weight})}
    gain = means["pretrained"] - means["random"]
    return {**told, "by_seed": values, "mean": means, "gain": gain, "standard_error": standard_error(*values.values())}


def standard_error(one: list[float], other: list[float]) -> float | None:
    """Of the difference of two means of independent runs; None for one run each."""
    if len(one) < 2:
        return None
    return math.sqrt(statistics.variance(one) / len(one) + statistics.variance(other) / len(other))


def main() -> None:
    """Compares on each task, and writes `comparison.json` beside the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="FOLDER", help="a BERT or a GPT that `vaswani train` wrote")
    parser.add_argument("--out", metavar="DIR", default="runs/compare-pretraining", help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, help="fine-tunings of each (3)")
    parser.add_argument(
        "--tasks", metavar="TASK,TASK", help=f"some of the family's tasks, of {', '.join(TASKS['gpt'])}"
    )
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="recipe keys to change")
    arguments = parser.parse_intermixed_args()
    family = family_of(arguments.model)
    tasks = arguments.tasks.split(",") if arguments.tasks else list(TASKS[family])
    if unknown := [task for task in tasks if task not in TASKS[family]]:
        parser.error(f"--tasks must be of {', '.join(TASKS[family])} for a {family}; got {', '.join(unknown)}")
    lines = []
    for task in tasks:
        for lm_weight in LM_WEIGHTS[family]:
            lines.append(compare(task, family, lm_weight, arguments))
            print(json.dumps(lines[-1]), flush=True)
    (Path(arguments.out) / "comparison.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
