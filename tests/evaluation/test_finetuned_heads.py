"""Fine-tuned heads asked the questions of few-shot tasks: inputs are those of fine-tuning, classes go by name."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from vaswani_cli import main
from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniBertForMaskedLM,
    VaswaniBertForTokenClassification,
    VaswaniBertTokenizer,
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniGPTForSequenceClassification,
)
from vaswani_transformer.data.gpt_inputs import add_special_tokens
from vaswani_transformer.evaluation.finetuned_heads import evaluate_head, head_named, load_head, recipe_of
from vaswani_transformer.evaluation.tasks import Question, Task
from vaswani_transformer.finetune import finetune, load_data
from vaswani_transformer.finetune_recipe import FinetuneRecipe

WORDS = ("the", "cat", "dog", "sat", "ran", "on", "mat", "house", "red", "old", "new", "saw", "was", "good", "bad")
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
COUNT = 12


def text(rng: random.Random, least: int = 2, most: int = 6) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(task: str) -> list[dict[str, Any]]:
    rng = random.Random(task)
    texts = [{"sentence1": text(rng), "sentence2": text(rng, 9, 30)} for _ in range(COUNT)]
    if task == "sst2":
        return [{"sentence": row["sentence1"], "label": i % 2} for i, row in enumerate(texts)]
    if task == "rte":
        return [row | {"label": ("entailment", "not_entailment")[i % 2]} for i, row in enumerate(texts)]
    if task == "hellaswag":
        return [{"ctx": text(rng), "endings": [text(rng) for _ in range(3)], "label": i % 3} for i in range(COUNT)]
    choices = [[{"label": letter, "text": text(rng, 1, 3)} for letter in "ABCD"] for _ in range(COUNT)]
    return [
        {"question": {"stem": text(rng), "choices": given}, "answerKey": "ABCD"[i % 4]}
        for i, given in enumerate(choices)
    ]


STEM = {"text": "question.stem", "choices": "question.choices", "label": "answerKey"}
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {
    "sst2": ("bert", {"task": "classification", "columns": {"text": "sentence", "label": "label"}}),
    "rte": (
        "gpt",
        {"task": "classification", "columns": {"text": "sentence1", "pair": "sentence2", "label": "label"}},
    ),
    "hellaswag": (
        "bert",
        {"task": "multiple-choice", "columns": {"text": "ctx", "choices": "endings", "label": "label"}},
    ),
    "commonsense_qa": ("gpt", {"task": "multiple-choice", "columns": STEM}),
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> dict[str, str]:
    """Folders of language models that were trained on nothing."""
    path = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    tokenizer: Any = VaswaniBertTokenizer.train([" ".join(WORDS)] * 4, vocab_size=60)
    positions: dict[str, Any] = {"max_position_embeddings": 48}
    config = VaswaniBertConfig(vocab_size=len(tokenizer), intermediate_size=48, **SIZES, **positions)
    VaswaniBertForMaskedLM(config).save_pretrained(path / "bert")
    tokenizer.save_pretrained(path / "bert")
    tokenizer = VaswaniGPT2Tokenizer.train([f"{word} {word}\nQuestion: Answer" for word in WORDS], vocab_size=330)
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    causal = VaswaniGPTForCausalLM(
        VaswaniGPTConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **SIZES, **ends)
    )
    causal.save_pretrained(path / "gpt")
    tokenizer.save_pretrained(path / "gpt")
    return {name: str(path / name) for name in ("bert", "gpt")}


@pytest.fixture(scope="module")
def tuned(pretrained, tmp_path_factory) -> dict[str, tuple[str, FinetuneRecipe]]:
    """What `vaswani finetune` makes of a recipe of each task; its rows are those of the task's own file."""
    found = {}
    for name, (family, section) in RECIPES.items():
        path = tmp_path_factory.mktemp(name)
        data = {**section, "max_length": 24, "files": {"train": written(path / "rows.jsonl", rows_of(name))}}
        values: dict[str, Any] = {
            "model": {"from": pretrained[family]},
            "data": data,
            "batch": {"sequences": 4},
            "optimizer": {"name": "adamw", "learning_rate": 0.03, "betas": [0.9, 0.999]},
            "schedule": {"name": "linear", "warmup_steps": 1},
            "steps": 6,
            "validate": {"metrics": []},
            "output": str(path / "run"),
        }
        recipe = FinetuneRecipe.from_dict(values)
        finetune(recipe)
        AcceleratorState._reset_state(reset_partial_state=True)
        found[name] = (str(path / "run"), recipe)
    return found


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def logprobs(out: Path) -> list[list[float]]:
    return [[told["logprob"] for told in record["scores"]] for record in records(out)]


def by_trainers_inputs(folder: str, recipe: FinetuneRecipe, family: str) -> list[list[float]]:
    """Log-probabilities of the training rows, batched as the fine-tuning batches them."""
    model, tokenizer = load_head(folder, device="cpu")
    data = load_data(recipe.data, family)
    inputs = data.module.collator(tokenizer)(data.module.features(data.train, tokenizer))
    inputs = {name: values for name, values in inputs.items() if name != "labels"}
    with torch.no_grad():
        return model(**inputs).logits.log_softmax(-1).tolist()


def near(found: list[list[float]], expected: list[list[float]]) -> bool:
    return torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_a_fine_tuned_model_is_asked_with_the_inputs_of_its_fine_tuning(name, tuned, tmp_path):
    folder, recipe = tuned[name]
    out = tmp_path / "out"
    model, tokenizer = load_head(folder, device="cpu")
    data = {name: recipe.data["files"]["train"]}
    found = evaluate_head(model, tokenizer, [name], recipe=recipe_of(folder), data=data, batch_tokens=70, out=out)
    expected = by_trainers_inputs(folder, recipe, RECIPES[name][0])
    assert near(logprobs(out), expected)
    gold = [record["gold"] for record in records(out)]
    right = [max(range(len(row)), key=row.__getitem__) == g for row, g in zip(expected, gold, strict=True)]
    assert found["results"][name]["0"]["acc"] == pytest.approx(sum(right) / COUNT)
    assert len({round(row[0], 3) for row in expected}) > 1


def test_figures_of_a_head_have_no_scores_by_length(tuned, tmp_path):
    folder, recipe = tuned["sst2"]
    files = {"sst2": recipe.data["files"]["train"]}
    found = evaluate_head(*load_head(folder, device="cpu"), ["sst2"], recipe=recipe.data, data=files)
    figures = found["results"]["sst2"]["0"]
    assert {name for name in figures if name.startswith("acc_")} == {
        "acc_stderr", "acc_interval", "acc_seeds", "acc_seeds_std"
    }  # fmt: skip
    assert (figures["chance"], figures["questions"]) == (0.5, COUNT)
    assert found["settings"]["head"]["inputs"]["sst2"]["columns"] == {"text": ["sentence"]}


def test_a_recipes_column_is_found_in_another_published_form(tuned, tmp_path):
    folder, recipe = tuned["commonsense_qa"]
    model, tokenizer = load_head(folder, device="cpu")
    outs = []
    for form in ("files", "hub"):
        rows = rows_of("commonsense_qa")
        if form == "hub":
            rows = [
                {
                    "question": row["question"]["stem"],
                    "choices": {key: [c[key] for c in row["question"]["choices"]] for key in ("label", "text")},
                    "answerKey": row["answerKey"],
                }
                for row in rows
            ]
        data = {"commonsense_qa": written(tmp_path / f"{form}.jsonl", rows)}
        evaluate_head(model, tokenizer, ["commonsense_qa"], recipe=recipe.data, data=data, out=tmp_path / form)
        outs.append(logprobs(tmp_path / form))
    assert outs[0] == outs[1]


@pytest.fixture(scope="module")
def stock(pretrained) -> tuple[Any, Any]:
    """A classifier of transformers' own with capital labels, the positive one first."""
    vocab = AutoTokenizer.from_pretrained(pretrained["bert"]).get_vocab()
    tokenizer = BertTokenizer(vocab=vocab, model_max_length=24)
    torch.manual_seed(1)
    config = BertConfig(vocab_size=len(vocab), intermediate_size=48, **SIZES, id2label={0: "POSITIVE", 1: "NEGATIVE"})
    model = BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, tokenizer


def test_the_classes_of_a_head_of_transformers_go_by_their_names_whatever_their_order(stock: tuple[Any, Any], tmp_path):
    model, tokenizer = stock
    rows = rows_of("sst2")
    evaluate_head(*stock, ["sst2"], data={"sst2": written(tmp_path / "a.jsonl", rows)}, out=tmp_path / "out")
    for record, found, row in zip(records(tmp_path / "out"), logprobs(tmp_path / "out"), rows, strict=True):
        with torch.no_grad():
            positive, negative = model(**tokenizer(row["sentence"], return_tensors="pt")).logits.log_softmax(-1)[0]
        assert found == pytest.approx([float(negative), float(positive)], abs=1e-4)
        assert record["correct"] == (bool(positive > negative) == row["label"])


def test_a_gpt2_classifier_of_transformers_is_asked_too(pretrained, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(pretrained["gpt"])
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(2)
    sizes: dict[str, Any] = {"n_positions": 48, "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    labels = {0: "not_entailment", 1: "entailment"}
    model: Any = GPT2ForSequenceClassification(
        GPT2Config(**sizes, id2label=labels, pad_token_id=tokenizer.pad_token_id)
    )
    model.save_pretrained(tmp_path / "head")
    tokenizer.save_pretrained(tmp_path / "head")
    rows = rows_of("rte")
    files = {"rte": written(tmp_path / "rows.jsonl", rows)}
    evaluate_head(*load_head(tmp_path / "head", device="cpu"), ["rte"], data=files, out=tmp_path / "out")
    model.eval()
    for found, row in zip(logprobs(tmp_path / "out"), rows, strict=True):
        pair = tokenizer(row["sentence1"], row["sentence2"], return_tensors="pt", truncation=True, max_length=48)
        with torch.no_grad():
            expected = model(input_ids=pair["input_ids"]).logits.log_softmax(-1)[0].tolist()
        assert found == pytest.approx(expected[::-1], abs=1e-4)


def test_a_gpt_without_a_recipe_that_reads_pairs_in_both_orders_is_asked_so(pretrained, tmp_path):
    tokenizer, labels = AutoTokenizer.from_pretrained(pretrained["gpt"]), {0: "entailment", 1: "not_entailment"}
    torch.manual_seed(3)
    more: dict[str, Any] = {"both_orders": True, "id2label": labels}
    model: Any = VaswaniGPTForSequenceClassification.from_pretrained(pretrained["gpt"], **more).eval()
    add_special_tokens(tokenizer, model)
    rows = rows_of("rte")
    files = {"rte": written(tmp_path / "rows.jsonl", rows)}
    evaluate_head(model, tokenizer, ["rte"], data=files, out=tmp_path / "out")
    for found, row in zip(logprobs(tmp_path / "out"), rows, strict=True):
        one, other = row["sentence1"], row["sentence2"]
        pair = tokenizer([one, other], [other, one], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(pair["input_ids"][None], attention_mask=pair["attention_mask"][None]).logits
        assert found == pytest.approx(logits.log_softmax(-1)[0].tolist(), abs=1e-4)


def test_classes_that_are_not_the_tasks_labels_are_refused_with_both(stock: tuple[Any, Any], tmp_path):
    files = {"rte": written(tmp_path / "a.jsonl", rows_of("rte"))}
    with pytest.raises(
        ValueError, match=r"got the classes POSITIVE, NEGATIVE, and rte has True or entailment, False or"
    ):
        evaluate_head(*stock, ["rte"], data=files)


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("sst2", "hellaswag", "sst2 can be asked of a head ForSequenceClassification, or a language model; got a head"),
        ("hellaswag", "sst2", "hellaswag can be asked of a head ForMultipleChoice, or a language model"),
        ("arithmetic_2da", "sst2", "arithmetic_2da can be asked of a language model alone; got a head ForSeq"),
    ],
)
def test_a_task_for_another_head_is_refused_with_those_it_takes(name, head, message, tuned, tmp_path):
    files = {} if name == "arithmetic_2da" else {name: written(tmp_path / "rows.jsonl", rows_of(name))}
    folder, recipe = tuned[head]
    with pytest.raises(ValueError, match=message):
        evaluate_head(*load_head(folder, device="cpu"), [name], recipe=recipe.data, data=files)


def test_questions_that_are_made_of_no_rows_are_a_language_models(stock: tuple[Any, Any]):
    made = Task(name="made", kind="choice", queries=lambda: [Question("0", ("a",), (" negative", " positive"))])
    with pytest.raises(ValueError, match="made can be asked of a language model alone"):
        evaluate_head(*stock, [made])


OWN = (
    "task: own\noutput_type: multiple_choice\ndoc_to_text: words\ndoc_to_choice: [negative, positive]\n"
    "doc_to_target: {target}\ntest_split: test\ndataset_kwargs: {{data_files: {{test: rows.jsonl}}}}\n"
)


def own(path: Path, target: str = "right") -> str:
    written(path / "rows.jsonl", [{"words": row["sentence"], "right": row["label"]} for row in rows_of("sst2")])
    (path / "own.yaml").write_text(OWN.format(target=target), encoding="utf-8")
    return str(path / "own.yaml")


def test_a_task_in_yaml_is_read_by_the_recipes_columns(tuned, tmp_path):
    folder, recipe = tuned["sst2"]
    section = recipe.data | {"columns": {"text": "words", "label": "right"}}
    evaluate_head(*load_head(folder, device="cpu"), [own(tmp_path)], recipe=section, out=tmp_path / "out")
    assert near(logprobs(tmp_path / "out"), by_trainers_inputs(folder, recipe, "bert"))


def test_what_a_head_without_a_recipe_reads_of_a_task_in_yaml_is_not_guessed(stock: tuple[Any, Any], tmp_path):
    with pytest.raises(ValueError, match=r"what a head reads of own must stand in .* run\.json"):
        evaluate_head(*stock, [own(tmp_path)])


def test_a_recipe_that_calls_another_answer_right_than_the_task_is_refused(tuned, tmp_path):
    folder, recipe = tuned["sst2"]
    section = recipe.data | {"columns": {"text": "words", "label": "right"}}
    task = own(tmp_path, target='"{{1 - right}}"')
    with pytest.raises(ValueError, match=r"got right=0, by the recipe choice 0 and by own choice 1, at .*rows.jsonl:1"):
        evaluate_head(*load_head(folder, device="cpu"), [task], recipe=section)


def test_a_field_that_the_recipe_reads_and_a_row_has_not_is_told_with_its_place(tuned, tmp_path):
    folder, recipe = tuned["sst2"]
    section = recipe.data | {"columns": {"text": "review", "label": "label"}}
    files = {"sst2": written(tmp_path / "rows.jsonl", rows_of("sst2"))}
    with pytest.raises(ValueError, match=r"must have the field 'review'; got the fields sentence, label at .*:1"):
        evaluate_head(*load_head(folder, device="cpu"), ["sst2"], recipe=section, data=files)


def test_a_head_of_words_is_refused_with_those_that_can_be_asked(tmp_path):
    config = VaswaniBertConfig(vocab_size=30, intermediate_size=48, **SIZES)
    VaswaniBertForTokenClassification(config).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"head of ForSequenceClassification, ForMultipleChoice; got VaswaniBertForTok"
    ):
        head_named(tmp_path)


def test_a_head_of_values_is_refused(stock: tuple[Any, Any]):
    model, tokenizer = stock
    model.config.problem_type = "regression"
    try:
        with pytest.raises(ValueError, match=r"of one class a text; got Bert.* problem_type='regression'"):
            evaluate_head(model, tokenizer, ["sst2"])
    finally:
        model.config.problem_type = None


def test_a_language_model_has_no_head(pretrained):
    assert [head_named(folder) for folder in pretrained.values()] == [None, None]


def test_the_verb_shows_a_head_beside_the_shots_in_table_and_json(tuned, pretrained, tmp_path, capsys):
    folder, recipe = tuned["sst2"]
    out = tmp_path / "out"
    words = ["evaluate", pretrained["gpt"], "--tasks", "sst2", "--data", f"sst2={recipe.data['files']['train']}"]
    assert main([*words, "--shots", "0,1", "--finetuned", folder, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    kept = json.loads((out / "results.json").read_text(encoding="utf-8"))
    figures = kept["finetuned"]["results"]["sst2"]["0"]
    assert lines[0].split()[-2:] == ["1-shot", "fine-tuned"]
    assert lines[1].split()[-3] == f"{100 * figures['acc']:.1f}"
    assert "fine-tuned: VaswaniBertForSequenceClassification, without a prompt" in lines
    assert set(kept) == {"results", "settings", "finetuned"}
    assert near(logprobs(out / "finetuned"), by_trainers_inputs(folder, recipe, "bert"))
    assert main([*words, "--shots", "0,1", "--finetuned", folder, "--out", str(out), "--resume"]) == 0
    assert json.loads((out / "results.json").read_text(encoding="utf-8"))["finetuned"] == kept["finetuned"]
