"""Bad input of fine-tuning: labelled rows, tasks and recipes."""

import json
from typing import Any

import pytest

from vaswani_transformer import VaswaniBertTokenizer
from vaswani_transformer.data.gpt_inputs import add_special_tokens, transformed
from vaswani_transformer.finetune import finetune, load_data
from vaswani_transformer.finetune_recipe import FinetuneRecipe

from .scene import BERT_SIZES, Cases, Scene, assert_told


class FineTuning(Scene):
    """Rows and recipes of BERT and GPT."""

    def labelled(
        self, text: str = "a b\t0\nb a\t1\n", *, name: str = "rows.tsv", family: str = "bert", **data: Any
    ) -> Any:
        files = {"train": self.write(name, text)}
        section = {"task": "classification", "files": files, "columns": {"text": 0, "label": 1}, "max_length": 6}
        return load_data({key: value for key, value in (section | data).items() if value is not None}, family)

    def features(self, *args: Any, **data: Any) -> Any:
        found = self.labelled(*args, **data)
        return found.module.features(found.train, VaswaniBertTokenizer.train(["a b."], vocab_size=20))

    def gpt_features(self, *args: Any, **data: Any) -> Any:
        found, tokenizer = self.labelled(*args, family="gpt", **data), self.bytes()
        add_special_tokens(tokenizer, self.gpt(vocab_size=257))
        return found.module.features(found.train, tokenizer)

    def gpt_finetuning(self, **changes: Any) -> Any:
        self.gpt(vocab_size=257).save_pretrained(self.folder / "gpt")
        self.bytes().save_pretrained(self.folder / "gpt")
        return self.finetuning(model={"from": str(self.folder / "gpt")}, **changes)

    def question(self, **changes: Any) -> Any:
        row = {"id": "q", "question": "a", "context": "a b a", "answers": [{"text": "b", "answer_start": 2}]} | changes
        data = {"task": "question-answering", "columns": None, "question_length": 2}
        return self.features(json.dumps(row), name="rows.jsonl", **data)

    def finetuning(self, text: str = "a b\t0\nb a\t1\n", *, data: dict[str, Any] | None = None, **changes: Any) -> Any:
        self.bert(vocab_size=20).save_pretrained(self.folder / "bert")
        VaswaniBertTokenizer.train(["a b."], vocab_size=20).save_pretrained(self.folder / "bert")
        rows = {"task": "classification", "files": {"train": self.write("rows.tsv", text)}, "max_length": 6}
        values = {
            "model": {"from": str(self.folder / "bert")},
            "data": rows | {"columns": {"text": 0, "label": 1}} | (data or {}),
            "batch": {"sequences": 2},
            "optimizer": {"name": "adamw", "learning_rate": 0.1},
            "schedule": {"name": "constant", "warmup_steps": 0},
            "steps": 1,
            "output": str(self.folder / "run"),
        }
        recipe = {key: value for key, value in (values | changes).items() if value is not None}
        return finetune(FinetuneRecipe.from_dict(recipe))


CASES: Cases[FineTuning] = {
    "an unknown task": (
        lambda s: s.labelled(task="ranking"),
        "unknown data.task of bert 'ranking'.*known: classification",
    ),
    "a key of another task": (lambda s: s.labelled(stride=4), "unknown recipe key 'data.stride'"),
    "a role that is not the task's": (
        lambda s: s.labelled(columns={"text": 0, "label": 1, "pear": 2}),
        "unknown recipe key 'data.columns.pear'; did you mean 'data.columns.pair'",
    ),
    "a role without a column": (
        lambda s: s.labelled(columns={"text": 0}),
        r"data.columns must say where label stands; got columns=\{'text': 0\}",
    ),
    "a column that the file does not have": (
        lambda s: s.labelled(columns={"text": 0, "label": 2}),
        r"a row must have the column 2; got columns 0, 1 at .*rows\.tsv:1",
    ),
    "a name that is not in the first line": (
        lambda s: s.labelled("sentence\tlabel\na\t0\n", columns={"text": "text", "label": "label"}),
        r"a row must have the column 'text'; got columns sentence, label at .*rows\.tsv:2",
    ),
    "labelled rows without rows": (lambda s: s.labelled("\n"), "at least one row; got none for train"),
    "a label that has no name": (
        lambda s: s.features("a\t0\nb\t3\n", labels=["0", "1"]),
        "a label must be one of 0, 1, or an id below 2; got '3'",
    ),
    "one class alone": (lambda s: s.labelled("a\t0\nb\t0\n"), r"two or more different names; got \['0'\]"),
    "a value that is no number": (
        lambda s: s.features("a\thigh\n", task="regression"),
        "the label of a regression must be a number; got 'high'",
    ),
    "as many labels as words": (
        lambda s: s.features(
            json.dumps({"t": ["a", "b"], "l": ["O"]}) + "\n" + json.dumps({"t": ["a"], "l": ["B"]}),
            name="rows.jsonl",
            task="token-labels",
            columns={"tokens": "t", "labels": "l"},
        ),
        r"two lists of one length, 1 or more; got \['a', 'b'\], \['O'\]",
    ),
    "an answer outside its text": (
        lambda s: s.question(answers=[{"text": "b", "answer_start": 9}]),
        "an answer must lie inside its text of 5 characters; got 'b' at 9 for id='q'",
    ),
    "an answer that stands elsewhere": (
        lambda s: s.question(answers=[{"text": "b", "answer_start": 0}]),
        "an answer must stand at its answer_start; got 'b' where the text has 'a', id='q'",
    ),
    "answers without a place": (lambda s: s.question(answers=["b"]), "a text and an answer_start each; got .*id='q'"),
    "no room for text beside the question": (
        lambda s: s.labelled("{}", name="r.jsonl", task="question-answering", columns=None, max_length=60),
        "must leave room for text beside the question.*max_length=60, question_length=64",
    ),
    "a choice that is not there": (
        lambda s: s.features(
            json.dumps({"q": "a", "c": ["a", "b"], "n": 2}),
            name="rows.jsonl",
            task="multiple-choice",
            columns={"text": "q", "choices": "c", "label": "n"},
        ),
        "label must be one of the choices' 0, 1; got 2",
    ),
    "whole sentences of pairs": (
        lambda s: s.labelled("a\tb\t0\n", columns={"text": 0, "pair": 1, "label": 2}, hold_out=1, whole_sentences=2),
        "whole_sentences goes with data.hold_out and single texts",
    ),
    "more rows held out than there are": (
        lambda s: s.labelled(hold_out=2),
        "data.hold_out must leave rows to draw from; got data.hold_out=2 of 1 rows",
    ),
    "rows longer than the position table": (
        lambda s: s.finetuning(data={"max_length": 7}),
        "data.max_length must not exceed the model's max_position_embeddings=6; got max_length=7",
    ),
    "more labels than the checkpoint's classifier": (
        lambda s: (
            s.bert("ForSequenceClassification", vocab_size=20, num_labels=2).save_pretrained(s.folder / "two"),
            s.finetuning(
                "a\t0\nb\t1\na b\t2\n",
                model={"from": str(s.folder / "two")},
                tokenizer={"from": str(s.folder / "bert")},
            ),
        ),
        "the model's fields must fit the weights in",
    ),
    "a translation model to fine-tune": (
        lambda s: s.finetuning(model={"from": s.saved()}),
        r"model.from must be a BERT or a GPT \(vaswani-bert, .*openai-gpt\); got 'vaswani-transformer'",
    ),
    "a metric of another task": (
        lambda s: s.finetuning(validate={"metrics": ["pearson"]}),
        "unknown metric in validate.metrics of classification 'pearson'",
    ),
    "validations without rows": (
        lambda s: s.finetuning(validate={"every_steps": 1}),
        "validate.every_steps=1 needs validation rows; got none",
    ),
    "a batch that does not split": (
        lambda s: s.finetuning(batch={"sequences": 3, "accumulation": 2}),
        "batch.sequences must be a multiple of .*got sequences=3, accumulation=2",
    ),
    "both steps and epochs": (lambda s: s.finetuning(epochs=1.0), r"one of steps and epochs; got steps=1, epochs=1\.0"),
    "a fine-tuning that saves by the clock": (
        lambda s: s.finetuning(save={"every_minutes": 1.0}),
        r"fine-tuning saves by updates; got save.every_minutes=1\.0",
    ),
    "random weights without a tokenizer": (
        lambda s: s.finetuning(model={"family": "bert", **BERT_SIZES}),
        "`from` alone, which random weights need; got tokenizer={}",
    ),
    # GPT's.
    "a weight of a loss that BERT does not have": (
        lambda s: s.finetuning(model={"from": str(s.folder / "bert"), "lm_loss_weight": 0.5}),
        "unknown recipe key 'model.lm_loss_weight'",
    ),
    "a tokenizer without a delimiter": (
        lambda s: transformed(s.bytes(), ["a"], ["a"], max_length=9),
        "three different tokens, start, delimiter and extract; got .*sep_token=None.*add_special_tokens",
    ),
    "no room beside the three tokens": (
        lambda s: s.gpt_features("a\tb\t0\nb\ta\t1\n", columns={"text": 0, "pair": 1, "label": 2}, max_length=5),
        "must leave a token of each text beside start, delimiter and extract, 6 in all; got max_length=5",
    ),
    "choices of different number": (
        lambda s: s.gpt_features(
            "\n".join(json.dumps({"q": "a", "c": choices, "n": 0}) for choices in (["a", "b"], ["a", "b", "c"])),
            name="rows.jsonl",
            task="multiple-choice",
            columns={"text": "q", "choices": "c", "label": "n"},
        ),
        r"every row must have as many choices as the first, 2; got \['a', 'b', 'c'\]",
    ),
    "both orders of single texts": (
        lambda s: s.labelled(family="gpt", both_orders=True),
        "data.both_orders goes with pairs of texts; got columns=.* without pair",
    ),
    "a task that GPT does not have here": (
        lambda s: s.labelled("{}", name="r.jsonl", family="gpt", task="question-answering", columns=None),
        "unknown data.task of gpt 'question-answering'.*known: classification",
    ),
    "rows longer than GPT's position table": (
        lambda s: s.gpt_finetuning(data={"max_length": 7}),
        "data.max_length must not exceed the model's max_position_embeddings=6; got max_length=7",
    ),
    "a family that is not fine-tuned": (
        lambda s: s.finetuning(model={"family": "transformer"}),
        "the families bert and gpt; got model.family='transformer'",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, FineTuning(tmp_path, tokenizer))
