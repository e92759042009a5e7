"""Bad input, the whole package over, gives a ValueError (FileNotFoundError for a missing file) with rule and value."""

import argparse
import importlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import GPT2Config

import vaswani_transformer
from vaswani_cli import verb_parser
from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniBertTokenizer,
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerTokenizer,
)
from vaswani_transformer.averaging import average_checkpoints
from vaswani_transformer.checkpoints import last_checkpoints, read_state, save_checkpoint
from vaswani_transformer.convert import (
    convert,
    export_to_ctranslate2,
    export_to_gguf,
    export_to_onnx,
    export_to_transformers,
)
from vaswani_transformer.convert.to_ctranslate2 import token_names
from vaswani_transformer.convert.to_transformers import plain_model
from vaswani_transformer.convert.two_sides import one_of, tokens_by_id
from vaswani_transformer.data.bert_pretraining import BertPretrainingData
from vaswani_transformer.data.gpt_inputs import add_special_tokens, transformed
from vaswani_transformer.data.parallel_text import TranslationOptions, read_pairs
from vaswani_transformer.data.token_batches import plan_batches, split_evenly
from vaswani_transformer.data.translation import TranslationData, collate
from vaswani_transformer.evaluation import translate, translation_scores
from vaswani_transformer.evaluation.causal_lm import load_causal_lm
from vaswani_transformer.evaluation.completion import new_tokens_of, prompt_ids, search_options
from vaswani_transformer.evaluation.ctranslate2_model import CTranslate2Transformer
from vaswani_transformer.evaluation.devices import device_named
from vaswani_transformer.evaluation.perplexity import perplexity
from vaswani_transformer.evaluation.zero_shot import acceptability, answers, best_threshold
from vaswani_transformer.families import build_model, family_of
from vaswani_transformer.finetune import finetune, load_data
from vaswani_transformer.finetune_recipe import FinetuneRecipe
from vaswani_transformer.number_watch import NumberWatch
from vaswani_transformer.optim import EMA, build_optimizer, learning_rate
from vaswani_transformer.progress import Progress
from vaswani_transformer.publishing.publish import publish
from vaswani_transformer.recipe import BatchSection, OptimizerSection, Recipe, ScheduleSection, load_recipe
from vaswani_transformer.run_log import RunLog
from vaswani_transformer.train import train

SIZES = {"d_model": 16, "d_ff": 16, "num_heads": 2, "num_encoder_layers": 1, "num_decoder_layers": 1}


BERT_SIZES = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}

HEAD = "VaswaniTransformerForConditionalGeneration"

GPT_SIZES = {"n_embd": 16, "n_head": 2, "n_layer": 1}


class Scene:
    """What the rows below act on; each is made when a row asks for it."""

    def __init__(self, folder: Path, tokenizer: VaswaniTransformerTokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer

    def config(self, **changes: Any) -> VaswaniTransformerConfig:
        return VaswaniTransformerConfig(**{"vocab_size": 300, **SIZES, **changes})

    def model(self, **changes: Any) -> VaswaniTransformerForConditionalGeneration:
        return VaswaniTransformerForConditionalGeneration(self.config(**changes)).eval()

    def bert(self, head: str = "Model", **changes: Any) -> Any:
        config = VaswaniBertConfig(**{"vocab_size": 30, "max_position_embeddings": 6, **BERT_SIZES, **changes})
        return getattr(vaswani_transformer, f"VaswaniBert{head}")(config).eval()

    def gpt(self, head: str = "Model", **changes: Any) -> Any:
        config = VaswaniGPTConfig(**{"vocab_size": 30, "n_positions": 6, **GPT_SIZES, **changes})
        return getattr(vaswani_transformer, f"VaswaniGPT{head}")(config).eval()

    def causal(self, **changes: Any) -> tuple[Any, VaswaniGPT2Tokenizer]:
        tokenizer = VaswaniGPT2Tokenizer.train(["a b."], vocab_size=257)
        return self.gpt("ForCausalLM", vocab_size=257, **changes), tokenizer

    def without_start(self) -> tuple[Any, VaswaniGPT2Tokenizer]:
        model, tokenizer = self.causal()
        tokenizer.bos_token = tokenizer.eos_token = None
        return model, tokenizer

    def perplexity(self, *texts: str, **options: Any) -> Any:
        return perplexity(*self.causal(), texts or ["a b."], **options)

    def verb(self, *words: str) -> Any:
        parsed = verb_parser(words[0]).parse_intermixed_args(list(words[1:]))
        return importlib.import_module(f"vaswani_cli.{words[0]}").run(parsed)

    def folder_of(self, model: Any) -> str:
        model.save_pretrained(self.folder / "any")
        return str(self.folder / "any")

    def rows_folder(self, content: str) -> str:
        (self.folder / "rows").mkdir()
        self.write("rows/rows.jsonl", content)
        return str(self.folder / "rows")

    def export(self, model: Any) -> Any:
        return export_to_transformers(self.folder_of(model), self.folder / "out")

    def source(self, files: dict[str, Any]) -> Path:
        folder = self.folder / "source"
        folder.mkdir()
        for name, content in files.items():
            if name.endswith(".pt"):
                torch.save(content, folder / name)
            else:
                (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        return folder

    def convert(self, format: str, files: dict[str, Any]) -> Any:
        return convert(self.source(files), format=format, out=self.folder / "out")

    def fairseq(self, rows: int = 8, dictionaries: tuple[str, ...] = ("en", "de"), **settings: Any) -> Any:
        weights = {f"{side}.embed_tokens.weight": torch.zeros(rows, 4) for side in ("encoder", "decoder")}
        told = argparse.Namespace(**{"arch": "transformer", "source_lang": "en", "target_lang": "de", **settings})
        files = {f"dict.{language}.txt": "a 3\nb 2\nc 1\n" for language in dictionaries}
        return self.convert("fairseq", {"model.pt": {"model": weights, "args": told}, **files})

    def marian(self, **fields: Any) -> Any:
        weights = {"model.shared.weight": torch.zeros(8, 4)}
        folder = self.source({"config.json": {"model_type": "marian", **fields}, "any.pt": weights})
        (folder / "any.pt").rename(folder / "pytorch_model.bin")
        return convert(folder, format="marian", out=self.folder / "out")

    def cut_short(self) -> Any:
        path = self.source({"model.pt": {"model": torch.zeros(100)}}) / "model.pt"
        path.write_bytes(path.read_bytes()[:-200])
        return convert(path, format="fairseq", out=self.folder / "out")

    def archive(self, name: str) -> Any:
        with zipfile.ZipFile(self.folder / "source.zip", "w") as archive:
            archive.writestr(name, b"")
        return convert(self.folder / "source.zip", format="fairseq", out=self.folder / "out")

    def to_ctranslate2(self, model: Any, **options: Any) -> Any:
        pytest.importorskip("ctranslate2", reason="needs CTranslate2, of the extra `ctranslate2`")
        return export_to_ctranslate2(self.folder_of(model), self.folder / "out", **options)

    def ctranslate2_model(self) -> Any:
        pytest.importorskip("ctranslate2", reason="needs CTranslate2, of the extra `ctranslate2`")
        return CTranslate2Transformer(self.saved())

    def google_bert(
        self, index_bytes: int | None = None, data_bytes: int | None = None, *, data: bool = True, **settings: Any
    ) -> Any:
        """One whose settings are changed, whose files are cut, whose numbers are missing."""
        folder = shutil.copytree(Path(__file__).parent / "fixtures" / "google_bert", self.folder / "google")
        told = json.loads((folder / "bert_config.json").read_text()) | settings
        (folder / "bert_config.json").write_text(json.dumps({key: value for key, value in told.items() if value}))
        for end, length in (("index", index_bytes), ("data-00000-of-00001", data_bytes)):
            path = folder / f"bert_model.ckpt.{end}"
            path.write_bytes(path.read_bytes()[:length])
        if not data:
            path.unlink()
        return convert(folder, format="google-bert", out=self.folder / "out")

    def with_larger_vocabulary(self) -> Any:
        plain_model(self.gpt("ForCausalLM", norm_order="pre", vocab_size=257)).save_pretrained(self.folder / "theirs")
        tokenizer = self.bytes()
        tokenizer.add_tokens(["more"])
        tokenizer.save_pretrained(self.folder / "theirs")
        return convert(self.folder / "theirs", format="gpt2", out=self.folder / "out")

    def publish(self, folder: str, repo: str = "me/model", *, token: str | None = None) -> Any:
        with patch("vaswani_transformer.publishing.hub.get_token", return_value=token):
            return publish(folder, repo)

    def damaged(self, name: str, content: bytes | None) -> str:
        """A saved model in shards with one file changed, or taken away."""
        self.model().save_pretrained(self.folder / "damaged", max_shard_size="20KB")
        (self.folder / "damaged" / name).unlink()
        if content is not None:
            self.write(f"damaged/{name}", content)
        return str(self.folder / "damaged")

    def saved(self, **changes: Any) -> str:
        self.model(**changes).save_pretrained(self.folder / "model")
        return str(self.folder / "model")

    def write(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def aligned(self, source: str = "a\nb\n", target: str = "A\nB\n") -> dict[str, str]:
        return {"source": self.write("text.en", source), "target": self.write("text.de", target)}

    def recipe(self, **changes: Any) -> Recipe:
        values = {
            "model": {"family": "transformer", **SIZES},
            "tokenizer": {"kind": "bpe", "vocab_size": 300},
            "data": {"files": {"train": self.aligned()}, "source": "en", "target": "de"},
            "batch": {"source_tokens": 50, "target_tokens": 50},
            "steps": 1,
            "output": str(self.folder / "run"),
        }
        return Recipe.from_dict({key: value for key, value in (values | changes).items() if value is not None})

    def read(self, files: Any, **options: Any) -> Any:
        return read_pairs(TranslationOptions(files={"train": files}, **options), "train", cache_dir=str(self.folder))

    def prepare(self, tokenizer: Any, **batch: int) -> TranslationData:
        options = TranslationOptions(files={"train": self.aligned()})
        batch = {"source_tokens": 50, "target_tokens": 50} | batch
        return TranslationData.prepare(options, tokenizer, batch, seed=1, cache_dir=str(self.folder))

    def documents(self, text: str = "a b.\n\nb a.\n", *, name: str = "text.txt", **options: Any) -> BertPretrainingData:
        options = {"files": {"train": self.write(name, text)}} | options
        tokenizer = VaswaniBertTokenizer.train(["a b."], vocab_size=20)
        made = BertPretrainingData.Options.from_dict(options)
        return BertPretrainingData.prepare(made, tokenizer, {"sequences": 2}, seed=1, cache_dir=str(self.folder))

    def labelled(
        self, text: str = "a b\t0\nb a\t1\n", *, name: str = "rows.tsv", family: str = "bert", **data: Any
    ) -> Any:
        files = {"train": self.write(name, text)}
        section = {"task": "classification", "files": files, "columns": {"text": 0, "label": 1}, "max_length": 6}
        return load_data({key: value for key, value in (section | data).items() if value is not None}, family)

    def features(self, *args: Any, **data: Any) -> Any:
        found = self.labelled(*args, **data)
        return found.module.features(found.train, VaswaniBertTokenizer.train(["a b."], vocab_size=20))

    def bytes(self) -> VaswaniGPT2Tokenizer:
        return VaswaniGPT2Tokenizer.train(["a"], vocab_size=257)

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

    def build(self, section: dict[str, Any]) -> Any:
        return build_model(family_of(section), section, self.tokenizer)


ids = torch.tensor
rows = np.array


def feed_nan(folder: Path) -> bool:
    watch = NumberWatch(skip=False, at_once=True, scaled=False, keep=lambda update, found: str(folder))
    return watch.passes(Progress(steps=1), torch.tensor([np.nan, 1.0]), None)


def gpt2_config() -> Any:
    return GPT2Config(**cast(Any, GPT_SIZES))


def weighted_later(model: Any) -> Any:
    model.config.lm_loss_weight = 0.5
    return model


def schedule(**values: Any) -> float:
    step = values.pop("step", 1)
    return learning_rate(ScheduleSection(**values), OptimizerSection(), d_model=16, step=step, steps=10)


# What is wrong, how to do it, and what the message must hold: the rule, then the value.
CASES: dict[str, tuple[Callable[[Scene], Any], str]] = {
    # The configuration.
    "d_model no multiple of num_heads": (
        lambda s: s.config(num_heads=3),
        "multiple of num_heads.*d_model=16.*num_heads=3",
    ),
    "a negative size": (lambda s: s.config(d_ff=-4), "d_ff must be a positive integer.*d_ff=-4"),
    "a size of zero": (lambda s: s.config(num_encoder_layers=0), "num_encoder_layers must be a positive.*=0"),
    "a size that is no integer": (lambda s: s.config(num_heads=2.0), r"num_heads must be a positive integer.*2\.0"),
    "an empty vocabulary": (lambda s: s.config(vocab_size=0), "vocab_size must be a positive integer.*vocab_size=0"),
    "odd d_model with sinusoids": (lambda s: s.config(d_model=15, d_k=4), "even for sinusoidal.*d_model=15"),
    "dropout of one": (lambda s: s.config(dropout=1.0), r"dropout must be a number in \[0, 1\).*dropout=1\.0"),
    "negative dropout": (lambda s: s.config(attention_dropout=-0.1), r"attention_dropout must.*\[0, 1\).*-0\.1"),
    "label smoothing of one": (lambda s: s.config(label_smoothing=1.0), r"label_smoothing.*\[0, 1\).*1\.0"),
    "an unknown activation": (lambda s: s.config(activation="rely"), "activation must be.*'rely'.*mean 'relu'"),
    "an unknown norm order": (lambda s: s.config(norm_order="pots"), "norm_order must be one of post, pre.*'pots'"),
    "an unknown position embedding": (
        lambda s: s.config(position_embedding="rope"),
        "one of sinusoidal, learned.*'rope'",
    ),
    "an unknown way of tying": (lambda s: s.config(tie_embeddings="both"), "one of all, decoder, none.*'both'"),
    "a switch that is no switch": (lambda s: s.config(final_norm="no"), "final_norm must be true or false.*'no'"),
    "a misspelt field": (lambda s: s.config(num_head=4), "unknown field.*'num_head'; did you mean 'num_heads'"),
    "a pad id outside the vocabulary": (lambda s: s.config(pad_token_id=300), r"in \[0, vocab_size=300\).*=300"),
    "a negative epsilon": (lambda s: s.config(layer_norm_eps=-1.0), r"layer_norm_eps must be above 0.*-1\.0"),
    "an unknown preset": (lambda s: VaswaniTransformerConfig.preset("bigg"), "preset must be one of base, big.*'bigg'"),
    # The model.
    "a source id outside the vocabulary": (
        lambda s: s.model()(input_ids=ids([[5, 300]]), labels=ids([[1]])),
        r"token ids must be in \[0, vocab_size=300\); got 300 at \(0, 1\)",
    ),
    "a negative source id": (lambda s: s.model()(input_ids=ids([[-1]]), labels=ids([[1]])), "got -1 at"),
    "a label outside the vocabulary": (
        lambda s: s.model()(input_ids=ids([[5, 1]]), labels=ids([[4, 999, -100]])),
        r"must be in \[0, vocab_size=300\); got 999",
    ),
    "an empty source": (
        lambda s: s.model()(input_ids=torch.zeros((2, 0), dtype=torch.long), labels=ids([[1], [1]])),
        r"at least one position.*\(2, 0\)",
    ),
    "neither ids nor embeddings": (lambda s: s.model()(labels=ids([[1]])), "either token ids or embeddings"),
    "learned positions overrun": (
        lambda s: s.model(position_embedding="learned", max_position_embeddings=2)(ids([[5, 6, 1]]), labels=ids([[1]])),
        "max_position_embeddings=2.*reaches 3",
    ),
    # BERT.
    "hidden_size no multiple of num_attention_heads": (
        lambda s: s.bert(num_attention_heads=3),
        "multiple of num_attention_heads.*hidden_size=16.*num_attention_heads=3",
    ),
    "a BERT of no layers": (lambda s: s.bert(num_hidden_layers=0), "num_hidden_layers must be a positive integer.*=0"),
    "a BERT size that is no integer": (lambda s: s.bert(vocab_size=30.0), r"vocab_size must be a positive.*30\.0"),
    "BERT's dropout of one": (
        lambda s: s.bert(classifier_dropout=1.0),
        r"classifier_dropout must be a number in \[0, 1\); got .*=1\.0",
    ),
    "BERT's unknown activation": (lambda s: s.bert(hidden_act="gelu_tan"), "hidden_act must be.*'gelu_tan'.*did you"),
    "BERT's misspelt field": (
        lambda s: s.bert(hidden_dropout=0.0),
        "unknown field.*'hidden_dropout'; did you mean 'hidden_dropout_prob'",
    ),
    "BERT's pad id outside the vocabulary": (lambda s: s.bert(pad_token_id=30), r"in \[0, vocab_size=30\).*=30"),
    "BERT as a decoder": (lambda s: s.bert(is_decoder=True), "is_decoder must be false"),
    "BERT with relative positions": (
        lambda s: s.bert(position_embedding_type="relative_key"),
        "position_embedding_type must be 'absolute'.*'relative_key'",
    ),
    "a BERT of another model": (lambda s: s.bert(model_type="gpt2"), "model_type must be vaswani-bert or bert.*'gpt2'"),
    "an unknown kind of problem": (lambda s: s.bert(problem_type="ranking"), "problem_type must be one of.*'ranking'"),
    "an unknown BERT preset": (lambda s: VaswaniBertConfig.preset("bass"), "one of tiny, mini.*'bass'.*'base'"),
    "a word outside BERT's vocabulary": (
        lambda s: s.bert()(ids([[5, 30]])),
        r"token ids must be in \[0, vocab_size=30\); got 30 at \(0, 1\)",
    ),
    "a text longer than BERT's position table": (
        lambda s: s.bert()(torch.ones(1, 7, dtype=torch.long)),
        "a text must fit max_position_embeddings=6; got 7 tokens",
    ),
    "a position outside BERT's table": (
        lambda s: s.bert()(ids([[5, 6]]), position_ids=ids([[0, 9]])),
        r"position_ids must be in \[0, max_position_embeddings=6\); got 9",
    ),
    "a segment outside BERT's table": (
        lambda s: s.bert()(ids([[5, 6]]), token_type_ids=ids([[0, 2]])),
        r"token_type_ids must be in \[0, type_vocab_size=2\); got 2",
    ),
    "both ids and embeddings for BERT": (
        lambda s: s.bert()(ids([[5]]), inputs_embeds=torch.zeros(1, 1, 16)),
        "either token ids or embeddings",
    ),
    "no position for BERT": (lambda s: s.bert()(torch.zeros(2, 0).long()), r"at least one position.*\(2, 0\)"),
    "a mask of another length": (
        lambda s: s.bert()(ids([[5, 6]]), attention_mask=ids([[1]])),
        r"attention_mask must have the batch's shape \(1, 2\); got \(1, 1\)",
    ),
    "sequences that do not fill the batch": (
        lambda s: s.bert()(ids([[5, 6, 7]]), cu_seq_lens_q=ids([0, 2])),
        r"cu_seq_lens_q must rise from 0 to the batch's 3 tokens; got \[0, 2\]",
    ),
    "packed sequences and padding told twice": (
        lambda s: s.bert()(ids([[5, 6, 7]]), attention_mask=ids([[1, 1, 0]]), cu_seq_lens_q=ids([0, 2, 3])),
        "without padding; got zeros in attention_mask",
    ),
    "a masked word outside the vocabulary": (
        lambda s: s.bert("ForMaskedLM")(ids([[5, 6]]), labels=ids([[-100, 31]])),
        r"labels must be in \[0, vocab_size=30\); got 31",
    ),
    "masked words of another length": (
        lambda s: s.bert("ForPreTraining")(ids([[5, 6]]), labels=ids([[4]])),
        r"labels must have the batch's shape \(1, 2\); got \(1, 1\)",
    ),
    "a next-sentence label of two": (
        lambda s: s.bert("ForPreTraining")(ids([[5, 6]]), next_sentence_label=ids([2])),
        r"next_sentence_label must be in \[0, labels=2\) or -100 for none; got 2",
    ),
    "a class that is not there": (
        lambda s: s.bert("ForSequenceClassification", num_labels=3)(ids([[5, 6]]), labels=ids([3])),
        r"labels must be in \[0, num_labels=3\) or -100 for none; got 3",
    ),
    "more labels than texts": (
        lambda s: s.bert("ForSequenceClassification", num_labels=3)(ids([[5, 6]]), labels=ids([1, 1])),
        r"labels must be one for each row of logits; got shapes \(2,\), \(1, 3\)",
    ),
    "a probability above one": (
        lambda s: s.bert("ForSequenceClassification", num_labels=2)(ids([[5]]), labels=torch.tensor([[0.0, 7.0]])),
        r"labels must be in \[0, 1\] for multi_label_classification; got \[0\.0, 7\.0\]",
    ),
    "a token's class that is not there": (
        lambda s: s.bert("ForTokenClassification", num_labels=3)(ids([[5, 6]]), labels=ids([[0, -1]])),
        r"labels must be in \[0, num_labels=3\) or -100 for none; got -1",
    ),
    "an answer behind the text": (
        lambda s: s.bert("ForQuestionAnswering")(ids([[5, 6]]), start_positions=ids([0]), end_positions=ids([2])),
        r"end_positions must be in \[0, length=2\) or -100 for none; got 2",
    ),
    "an answer in the padding": (
        lambda s: s.bert("ForQuestionAnswering")(
            ids([[5, 0]]), ids([[1, 0]]), start_positions=ids([1]), end_positions=ids([1])
        ),
        r"start_positions must be a token of the text or -100 for none; got padding in \[1\]",
    ),
    "one choice where several are asked for": (
        lambda s: s.bert("ForMultipleChoice")(ids([[5, 6]])),
        r"ids \[B, choices, S\] or their embeddings; got shape \(1, 2\)",
    ),
    # Fine-tuning.
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
    # GPT.
    "a head count that does not divide GPT's width": (
        lambda s: s.gpt(n_head=3),
        "multiple of num_attention_heads.*hidden_size=16.*num_attention_heads=3",
    ),
    "a GPT of no layers": (lambda s: s.gpt(n_layer=0), "num_hidden_layers must be a positive integer.*=0"),
    "GPT's dropout of one": (lambda s: s.gpt(resid_pdrop=1.0), r"hidden_dropout must be a number in \[0, 1\).*=1\.0"),
    "GPT's unknown activation": (lambda s: s.gpt(afn="gelo"), "hidden_act must be.*'gelo'.*did you"),
    "GPT's misspelt field": (lambda s: s.gpt(n_embed=16), "unknown field.*'n_embed'; did you mean 'n_embd'"),
    "a field of GPT by two names": (
        lambda s: s.gpt(hidden_size=24),
        "hidden_size must be given once; got 24, and 16 by another name",
    ),
    "an unknown order of norms": (
        lambda s: s.gpt(norm_order="middle"),
        "norm_order must be one of post, pre.*'middle'",
    ),
    "an unknown GPT preset": (lambda s: VaswaniGPTConfig.preset("gpt3-13"), "one of gpt, gpt2.*'gpt3-13'.*'gpt3-13b'"),
    "bands without a width": (
        lambda s: s.gpt(layer_types=["sliding_attention"]),
        "sliding_window must say how wide.*got None",
    ),
    "more kinds of layers than layers": (
        lambda s: s.gpt(layer_types=["full_attention"] * 2),
        "a type for each layer; got 2 types, num_hidden_layers=1",
    ),
    "an unknown kind of layer": (lambda s: s.gpt(layer_types=["banded"]), "must be of full_attention.*got 'banded'"),
    "GPT's end of text outside the vocabulary": (lambda s: s.gpt(eos_token_id=30), r"in \[0, vocab_size=30\).*=30"),
    "a GPT of another model": (lambda s: s.gpt(model_type="bert"), "must be vaswani-gpt, gpt2 or openai-gpt.*'bert'"),
    "a switch of GPT-2 that is not ours": (
        lambda s: s.gpt(scale_attn_by_inverse_layer_idx=True),
        "scale_attn_by_inverse_layer_idx must be False.*got True",
    ),
    "a GPT saved under OpenAI's names without its configuration": (
        lambda s: s.gpt("ForCausalLM").save_pretrained(s.folder / "any", save_original_format=True),
        "save_original_format must be False.*got True.*vaswani export",
    ),
    "a context that overflows GPT's position table": (
        lambda s: s.gpt()(torch.ones(1, 7, dtype=torch.long)),
        "must fit max_position_embeddings=6; got a text that reaches 7 tokens",
    ),
    "a generation that overflows GPT's position table": (
        lambda s: s.gpt("ForCausalLM").generate(ids([[5, 6, 7]]), max_new_tokens=9, do_sample=False, pad_token_id=0),
        "must fit max_position_embeddings=6; got a text that reaches 7 tokens",
    ),
    "a prompt of no tokens": (
        lambda s: s.gpt("ForCausalLM")(torch.zeros(1, 0).long()),
        r"at least one token.*\(1, 0\).*bos_token_id",
    ),
    "a word outside GPT's vocabulary": (lambda s: s.gpt()(ids([[5, 30]])), r"in \[0, vocab_size=30\); got 30 at"),
    "a label outside GPT's vocabulary": (
        lambda s: s.gpt("ForCausalLM")(ids([[5, 6]]), labels=ids([[5, 31]])),
        r"labels must be in \[0, vocab_size=30\); got 31",
    ),
    "labels of GPT of another length": (
        lambda s: s.gpt("ForCausalLM")(ids([[5, 6]]), labels=ids([[5]])),
        r"labels must have the batch's shape \(1, 2\); got \(1, 1\)",
    ),
    "a cache of another model": (
        lambda s: s.gpt()(ids([[5]]), past_key_values=s.gpt(n_head=4)(ids([[5, 6]]), use_cache=True).past_key_values),
        r"of this model and this batch.*2 heads of 8; got .*\(1, 4, 2, 4\)",
    ),
    "a cache that is none": (
        lambda s: s.gpt()(ids([[5]]), past_key_values=((1, 2),)),
        "must be a Cache of a decoder.*got tuple",
    ),
    "a cache of another batch": (
        lambda s: s.gpt()(ids([[5], [6]]), past_key_values=s.gpt()(ids([[5]]), use_cache=True).past_key_values),
        "this batch.*rows=2",
    ),
    "a mask that leaves out the cache": (
        lambda s: s.gpt()(
            ids([[5]]),
            attention_mask=ids([[1]]),
            past_key_values=s.gpt()(ids([[5]]), use_cache=True).past_key_values,
        ),
        r"cover the 2 tokens in the cache and the batch; got shape \(1, 1\)",
    ),
    "texts to classify whose ends nothing tells": (
        lambda s: s.gpt("ForSequenceClassification")(ids([[5, 6], [7, 8]])),
        "where each text ends; got a batch of 2.*pass attention_mask, or set config.pad_token_id",
    ),
    "one choice where GPT needs several": (
        lambda s: s.gpt("ForMultipleChoice")(ids([[5, 6]])),
        r"ids \[B, choices, T\] or their embeddings; got shape \(1, 2\)",
    ),
    "a choice that is not there for GPT": (
        lambda s: s.gpt("ForMultipleChoice", pad_token_id=0)(ids([[[5], [6]]]), labels=ids([2])),
        r"labels must be in \[0, choices=2\) or -100 for none; got 2",
    ),
    # GPT's fine-tuning.
    "a negative weight of the language model's loss": (
        lambda s: s.gpt(lm_loss_weight=-0.5),
        r"lm_loss_weight must be a number of 0 .*or more; got -0\.5",
    ),
    "both orders that are neither true nor false": (
        lambda s: s.gpt(both_orders="yes"),
        "both_orders must be true or false; got both_orders='yes'",
    ),
    "a weight of the language model's loss that is no number": (
        lambda s: s.gpt(lm_loss_weight="half"),
        "lm_loss_weight must be a number of 0 .*got 'half'",
    ),
    "a weight of a loss that BERT does not have": (
        lambda s: s.finetuning(model={"from": str(s.folder / "bert"), "lm_loss_weight": 0.5}),
        "unknown recipe key 'model.lm_loss_weight'",
    ),
    "a configuration of transformers' GPT-2": (
        lambda s: vaswani_transformer.VaswaniGPTForCausalLM(gpt2_config()),
        r"VaswaniGPTForCausalLM takes a VaswaniGPTConfig; got GPT2Config: .*from_dict\(config.to_dict\(\)\)",
    ),
    "a configuration of transformers' GPT-2 beside a folder": (
        lambda s: vaswani_transformer.VaswaniGPTForCausalLM.from_pretrained(
            s.folder_of(s.gpt("ForCausalLM")), config=gpt2_config()
        ),
        "VaswaniGPTForCausalLM takes a VaswaniGPTConfig; got GPT2Config",
    ),
    "a weight of the language model's loss on a model without an output matrix": (
        lambda s: weighted_later(s.gpt("ForSequenceClassification", num_labels=3))(ids([[5, 6]]), labels=ids([1])),
        r"lm_loss_weight must be set before the model is built.*got lm_loss_weight=0\.5 in a model built with 0",
    ),
    "packed documents that end before the batch does": (
        lambda s: s.gpt()(ids([[5, 6, 7], [5, 6, 7]]), cu_seq_lens_q=torch.tensor([0, 3])),
        r"cu_seq_lens_q must rise from 0 to the batch's 6 tokens; got \[0, 3\]",
    ),
    "packed documents that end after the batch does": (
        lambda s: s.gpt()(ids([[5, 6, 7, 8, 9, 3]]), cu_seq_lens_q=torch.tensor([0, 3, 9])),
        r"cu_seq_lens_q must rise .*6 tokens; got \[0, 3, 9\]",
    ),
    "a language model's loss of embeddings": (
        lambda s: s.gpt("ForSequenceClassification", lm_loss_weight=0.5)(
            inputs_embeds=torch.zeros(1, 2, 16), labels=ids([1])
        ),
        r"lm_loss_weight=0\.5 needs input_ids.*got inputs_embeds",
    ),
    "three orders of a pair": (
        lambda s: s.gpt("ForSequenceClassification")(torch.ones(1, 3, 2).long()),
        r"\[B, T\], or \[B, 2, T\] for pairs in both orders; got shape \(1, 3, 2\)",
    ),
    "a class that is not there for GPT": (
        lambda s: s.gpt("ForSequenceClassification", num_labels=3, lm_loss_weight=0.5)(ids([[5, 6]]), labels=ids([3])),
        r"labels must be in \[0, num_labels=3\) or -100 for none; got 3",
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
    "nothing to score": (
        lambda s: acceptability(s.gpt("ForCausalLM", vocab_size=257), s.bytes(), [""]),
        "must have a token that others precede; got '' behind ''",
    ),
    "an answer longer than the context": (
        lambda s: answers(s.gpt("ForCausalLM", vocab_size=257), s.bytes(), ["a"], [["a" * 5]]),
        "must fit the model's context of 6; got 6 tokens: ' aaaaa'",
    ),
    "contexts without answers": (
        lambda s: answers(s.gpt("ForCausalLM", vocab_size=257), s.bytes(), ["a", "b"], [["a"]]),
        "every context needs its answers; got 2 contexts, 1 lists",
    ),
    "a batch of no texts to score": (
        lambda s: acceptability(s.gpt("ForCausalLM", vocab_size=257), s.bytes(), ["a"], batch_size=0),
        "batch_size must be at least 1; got batch_size=0",
    ),
    "a threshold without labels": (
        lambda s: best_threshold([0.5, 0.1], [1]),
        "a label for each of its scores; got 2, 1 labels",
    ),
    "a byte-level vocabulary smaller than the bytes": (
        lambda s: VaswaniGPT2Tokenizer.train(["a"], vocab_size=256),
        "vocab_size must be a whole number of at least 257; got vocab_size=256",
    ),
    # Tokenizer and model together.
    "a tokenizer larger than the model it translates with": (
        lambda s: translate(s.model(vocab_size=10), s.tokenizer, ["a"]),
        r"not have more tokens than the model; got \d+ tokens, vocab_size=10",
    ),
    "a tokenizer larger than the model it trains": (
        lambda s: s.build({"from": s.saved(vocab_size=10)}),
        r"must hold every token of the tokenizer; got vocab_size=10, \d+ tokens",
    ),
    "a tokenizer larger than the recipe's vocabulary": (
        lambda s: s.build({"family": "transformer", **SIZES, "vocab_size": 10}),
        r"must hold every token of the tokenizer; got vocab_size=10, \d+ tokens",
    ),
    "a tokenizer of other special tokens": (
        lambda s: s.build({"from": s.saved(eos_token_id=7)}),
        "agree on eos_token_id; got 7 in the model, 1",
    ),
    "a new tokenizer for an old model": (
        lambda s: s.recipe(model={"from": "some/model"}),
        "knows one vocabulary.*some/model.*bpe",
    ),
    "an unknown kind of tokenizer": (
        lambda s: VaswaniTransformerTokenizer.train(["a"], vocab_size=300, kind="unigram"),
        "kind.*bpe.*wordpiece.*unigram",
    ),
    "a vocabulary smaller than the bytes": (
        lambda s: VaswaniTransformerTokenizer.train(["a"], vocab_size=100),
        "vocab_size.*259.*100",
    ),
    "a model that is not there": (
        lambda s: s.build({"from": "no/such-model"}),
        "model.from must name.*'no/such-model'",
    ),
    "a family that does not fit the model": (
        lambda s: s.build({"family": "bert", "from": s.saved()}),
        "the recipe's family.*vaswani-transformer.*family='bert'",
    ),
    "fields that do not fit the weights": (
        lambda s: s.build({"from": s.saved(), "d_ff": 48}),
        "fields must fit the weights.*'d_ff': 48",
    ),
    # The recipe.
    "an unknown recipe key": (lambda s: s.recipe(stepz=3), "unknown recipe key 'stepz'; did you mean 'steps'"),
    "an unknown key of a section": (
        lambda s: s.recipe(optimizer={"learning_rat": 1.0}),
        "unknown recipe key 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'",
    ),
    "an unknown key of data": (
        lambda s: train(s.recipe(data={"embeded": "debian-en-de"})),
        "unknown recipe key 'data.embeded'; did you mean 'data.embedded'",
    ),
    "an unknown model field of a recipe": (
        lambda s: train(s.recipe(model={"family": "transformer", **SIZES, "layers": 3})),
        "unknown recipe key 'model.layers'",
    ),
    "a recipe value of the wrong type": (lambda s: s.recipe(steps="ten"), "steps must be a whole number; got 'ten'"),
    "no steps": (lambda s: s.recipe(steps=0), "steps must be at least 1; got steps=0"),
    "a batch without tokens": (
        lambda s: s.recipe(batch={"source_tokens": 0, "target_tokens": 9}),
        "source_tokens must be at least 1; got source_tokens=0",
    ),
    "a beta of one": (
        lambda s: s.recipe(optimizer={"betas": [0.9, 1.0]}),
        r"betas.*\[0, 1\); got betas=\[0\.9, 1\.0\]",
    ),
    "more checkpoints averaged than kept": (
        lambda s: s.recipe(average_last=9, save={"every_steps": 1, "keep": 5}),
        "average_last must not exceed save.keep.*average_last=9, save.keep=5",
    ),
    "two ways to the final model": (
        lambda s: s.recipe(average_last=2, save={"every_steps": 1}, ema_decay=0.9),
        "set one; got ema_decay=0.9, average_last=2",
    ),
    "patience without validation": (
        lambda s: s.recipe(validate={"patience": 3}),
        "needs validate.every_steps.*patience=3",
    ),
    "a schedule without its peak": (
        lambda s: s.recipe(schedule={"name": "cosine"}),
        "cosine needs optimizer.learning_rate.*learning_rate=None",
    ),
    "an unknown family": (
        lambda s: s.recipe(model={"family": "transfomer"}),
        "unknown model.family 'transfomer'; did you mean 'transformer'",
    ),
    "an unknown recipe": (
        lambda s: load_recipe("transformer-dem"),
        "unknown recipe 'transformer-dem'.*'transformer-demo'",
    ),
    "a recipe file that is missing": (lambda s: load_recipe("no/such.yaml"), "no recipe file at no/such.yaml"),
    "an override without a value": (lambda s: load_recipe("transformer-demo", ["steps"]), "key=value.*got 'steps'"),
    "validation without text": (
        lambda s: train(s.recipe(validate={"every_steps": 5})),
        "validate.every_steps=5 needs validation text; got none",
    ),
    # The text.
    "a missing file": (lambda s: s.read({"source": "no.en", "target": "no.de"}), "no.en"),
    "a missing file of rows": (lambda s: s.read("no/such.tsv"), "no/such.tsv"),
    "parallel files of different length": (
        lambda s: s.read(s.aligned("a\nb\nc\n", "A\nB\n")),
        r"as many lines as each other; got 3 in .*text\.en and 2 in .*text\.de",
    ),
    "bad UTF-8": (
        lambda s: s.read({"source": s.write("x.en", b"ok\n\xff\xfe\n"), "target": s.write("x.de", "A\nB\n")}),
        r"x\.en:2: malformed line.*UTF-8.*on_bad_line=skip",
    ),
    "rows with a column too many": (lambda s: s.read(s.write("x.tsv", "a\tb\tc\n")), r"2 columns; got 3 in .*x\.tsv:1"),
    "no text at all": (lambda s: s.read(s.aligned("", "")), "at least one usable pair; got 0 pairs"),
    "two places to read from": (
        lambda s: TranslationOptions(name="wmt/wmt14", embedded="debian-en-de"),
        "exactly one of name, files and embedded; got name, embedded",
    ),
    "an unknown embedded corpus": (
        lambda s: read_pairs(TranslationOptions(embedded="debian-en-fr"), "train", cache_dir=str(s.folder)),
        "data.embedded must be one of debian-en-de; got 'debian-en-fr'",
    ),
    "an unknown split": (
        lambda s: read_pairs(TranslationOptions(embedded="debian-en-de"), "dev", cache_dir=str(s.folder)),
        "split must be one of train, validation, test; got split='dev'",
    ),
    "the same language twice": (
        lambda s: TranslationOptions(embedded="debian-en-de", source="en", target="en"),
        "must differ; got 'en' twice",
    ),
    # The documents of BERT's pre-training.
    "an unknown masking option": (
        lambda s: s.documents(whole_word_masking=True),
        "unknown recipe key 'data.whole_word_masking'; did you mean 'data.whole_word_mask'",
    ),
    "a masked share of one": (
        lambda s: s.documents(masked_lm_prob=1.0),
        r"masked_lm_prob must lie between 0 and 1; got .*1\.0",
    ),
    "no masks at all": (
        lambda s: s.documents(max_predictions_per_seq=0),
        "max_predictions_per_seq must be at least 1; got max_predictions_per_seq=0",
    ),
    "whole words of a tokenizer without pieces": (
        lambda s: BertPretrainingData.prepare(
            BertPretrainingData.Options(files={"train": s.write("a.txt", "a\n\nb\n")}, whole_word_mask=True),
            VaswaniBertTokenizer({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "a": 5}),
            {"sequences": 2},
            seed=1,
        ),
        "whole_word_mask needs a tokenizer that marks pieces.*got a VaswaniBertTokenizer without one",
    ),
    "documents without a sentence": (
        lambda s: s.documents('{"text": " "}\n{"text": ""}\n', name="a.jsonl"),
        "train text must hold at least one document with a sentence; got none, left_out={'empty': 2",
    ),
    "an empty corpus": (lambda s: s.documents(""), "at least one document with a sentence; got none"),
    "one document where another is needed": (
        lambda s: s.documents("a b.\nb a.\n"),
        "at least two documents for next_sentence.*got 1 document",
    ),
    "a sequence too short for a pair": (
        lambda s: s.documents(max_seq_length=4),
        "max_seq_length must be at least 5; got max_seq_length=4",
    ),
    "a malformed line of documents": (
        lambda s: s.documents('{"text": "a"}\n{"text": "b"\n', name="a.jsonl"),
        r"a\.jsonl:2: malformed line: no JSON",
    ),
    "a document without the text field": (
        lambda s: s.documents('{"text": "a"}\n{"body": "b"}\n', name="a.jsonl"),
        r"a\.jsonl:2: malformed line: nothing where text is due in column 'text' \(columns: body\)",
    ),
    "short pairs where there are none": (
        lambda s: s.documents(next_sentence=False, short_seq_prob=0.1),
        "short_seq_prob goes with next_sentence=true only.*got short_seq_prob=0.1",
    ),
    "documents in a table": (lambda s: s.documents(name="a.tsv"), r"must be text, \.jsonl or \.parquet; got .*a\.tsv"),
    "documents without training text": (
        lambda s: s.documents(files={"validation": "a.txt"}),
        "data.files must name train; got validation",
    ),
    "a translation batch for documents": (
        lambda s: BertPretrainingData.prepare(
            BertPretrainingData.Options(files={"train": s.write("a.txt", "a\n\nb\n")}),
            VaswaniBertTokenizer.train(["a b."], vocab_size=20),
            BatchSection(source_tokens=9, target_tokens=9),
            seed=1,
            cache_dir=str(s.folder),
        ),
        "batch.sequences must be a whole number of at least 1; got sequences=None",
    ),
    "sequences beside tokens in a batch": (
        lambda s: s.recipe(batch={"source_tokens": 9, "target_tokens": 9, "sequences": 2}),
        r"or sequences \(bert, gpt\); got source_tokens and target_tokens and sequences",
    ),
    "a batch of nothing": (lambda s: s.recipe(batch={"accumulation": 2}), "got none of them"),
    # The batches.
    "a collated id outside the vocabulary": (
        lambda s: collate([rows([3, 1])], [rows([5000, 1])], tokenizer=s.tokenizer),
        r"in the tokenizer's vocabulary, 0 to \d+; got 5000 in labels",
    ),
    "an empty sequence in a batch": (
        lambda s: collate([rows([], dtype=np.int64)], [rows([1])], tokenizer=s.tokenizer),
        "at least one token; got an empty one",
    ),
    "a batch budget of zero": (
        lambda s: s.prepare(s.tokenizer, source_tokens=0),
        "source_tokens must.*source_tokens=0",
    ),
    "lengths of different number": (
        lambda s: plan_batches(rows([1, 2]), rows([1]), source_tokens=9, target_tokens=9, rng=None),
        "two lengths; got 2 and 1",
    ),
    "no parts": (lambda s: split_evenly(rows([0]), rows([1]), rows([1]), 0), "parts must be at least 1; got parts=0"),
    # Writing with a causal language model, scoring it, exporting.
    "an empty prompt, and nothing to start from": (
        lambda s: prompt_ids(*s.without_start(), "", new_tokens=1),
        "prompt must have at least one token; got ''.*neither model nor tokenizer has a bos or eos.*give it a word",
    ),
    "a prompt and new tokens beyond the context": (
        lambda s: prompt_ids(*s.causal(), "a b.", new_tokens=3),
        "must fit the model's context of 6; got a prompt of 4 and max_new_tokens=3: shorten",
    ),
    "no new tokens": (lambda s: new_tokens_of(s.causal()[0], -1), "max_new_tokens must be at least 1; got .*=-1"),
    "a temperature of zero": (
        lambda s: search_options(s.causal()[0], temperature=0.0),
        r"temperature must be from 1e-06 to 1000000\.0; got temperature=0\.0: a greedy search",
    ),
    "a temperature that no logit survives": (
        lambda s: search_options(s.causal()[0], temperature=1e-45),
        r"temperature must be from 1e-06 .*got temperature=1e-45",
    ),
    "an endless temperature": (
        lambda s: search_options(s.causal()[0], temperature=float("inf")),
        r"temperature must be .*to 1000000\.0; got temperature=inf",
    ),
    "a seed that torch does not take": (
        lambda s: s.verb("generate", "x", "a", "--seed", str(2**70)),
        f"--seed must be from .*got --seed {2**70}",
    ),
    "an unknown device": (
        lambda s: load_causal_lm(s.folder_of(s.gpt("ForCausalLM")), device="foo"),
        "device must be one that is here.*got device='foo': .*leave it out",
    ),
    "a device without memory": (lambda s: device_named("meta"), "device must be one that is here.*got device='meta'"),
    "a GPU that is not here": (lambda s: device_named("cuda:99"), "device must be one .*got device='cuda:99'"),
    "an unknown device to translate on": (
        lambda s: s.verb("translate", s.saved(), s.write("text", "a\n"), "--device", "foo"),
        "device must be one that is here.*got device='foo'",
    ),
    "a data set with a malformed line": (
        lambda s: s.verb("perplexity", "x", s.rows_folder('{"text": "a"}\nnot json\n'), "--split", "train"),
        "every file of a data set must be readable.*got .*, split='train': .*JSON.*: mend the file",
    ),
    "a top_p of zero": (lambda s: search_options(s.causal()[0], top_p=0.0), r"top_p must be above 0.*got top_p=0\.0"),
    "a negative top_k": (lambda s: search_options(s.causal()[0], top_k=-1), "top_k must be 0 .*got top_k=-1"),
    "a temperature for a beam search": (
        lambda s: search_options(s.causal()[0], beams=2, temperature=1.0),
        r"greedy and beams draw no tokens.*got temperature=1\.0",
    ),
    "beams and a greedy search": (
        lambda s: search_options(s.causal()[0], beams=2, greedy=True),
        "beams must.*not go with greedy; got beams=2, greedy=True",
    ),
    "prompts and a file of prompts": (lambda s: s.verb("generate", "x", "a", "--file", "y"), "got both, 'a' first"),
    "an encoder to write with": (
        lambda s: load_causal_lm(s.folder_of(s.bert("ForMaskedLM"))),
        "must be a causal language model.*got model_type 'vaswani-bert' in",
    ),
    "an encoder of transformers to write with": (
        lambda s: load_causal_lm(s.folder_of(plain_model(s.bert("ForMaskedLM")))),
        "must be a causal language model.*got model_type 'bert' in",
    ),
    "a folder without a model to score": (lambda s: load_causal_lm(s.folder), "has a config.json; got .* without one"),
    "a stride beyond the window": (
        lambda s: s.perplexity(window=4, stride=5),
        "stride must be from 1 to the window.*got stride=5, window=4",
    ),
    "a window beyond the context": (
        lambda s: s.perplexity(window=7),
        "window must be from 1 to the model's context of 6 tokens; got window=7",
    ),
    "a batch of no tokens to score": (lambda s: s.perplexity(batch_tokens=0), "batch_tokens must be.*batch_tokens=0"),
    "an unknown detokeniser": (
        lambda s: s.perplexity(detokenize="ptb"),
        "detokenize must be one of wikitext; got detokenize='ptb'",
    ),
    "an empty text to score": (
        lambda s: s.perplexity(""),
        "must be a token to foretell; got 1 documents, 0 words, 0 tokens",
    ),
    "a folder of data without its split": (
        lambda s: s.verb("perplexity", "x", str(s.folder)),
        "folder of data needs --split.*got .* without it",
    ),
    "an unknown export format": (
        lambda s: s.verb("export", "x", "--to", "transformer", "--out", "y"),
        "unknown export format 'transformer'; did you mean 'transformers'",
    ),
    "banded layers to export": (
        lambda s: s.export(s.gpt(norm_order="pre", layer_types=["sliding_attention"], sliding_window=3)),
        r"gpt2 has no banded layers; got layer_types=\['sliding_attention'\], sliding_window=3",
    ),
    "a classifier of pairs in both orders to export": (
        lambda s: s.export(s.gpt("ForSequenceClassification", both_orders=True)),
        "openai-gpt reads no pair in both orders; got both_orders=True: the folder .*trust_remote_code=True",
    ),
    "an activation that transformers' GPT-1 has not": (
        lambda s: s.export(s.gpt(hidden_act="tanh")),
        "openai-gpt has the hidden_act gelu_pytorch_tanh.*got hidden_act='tanh'",
    ),
    "an inner width that transformers' GPT-1 has not": (
        lambda s: s.export(s.gpt(intermediate_size=20)),
        "openai-gpt has an intermediate_size of four times.*got intermediate_size=20, hidden_size=16",
    ),
    "a head that transformers has not": (
        lambda s: s.export(s.gpt("ForMultipleChoice", norm_order="pre")),
        "gpt2 must have the head; got ForMultipleChoice",
    ),
    "settings that transformers' Marian has not": (
        lambda s: s.export(s.model(norm_order="pre", position_offset=2)),
        "Marian.*norm_order='post', got 'pre'; position_offset=0, got 2: .*trust_remote_code=True",
    ),
    "heads wider than transformers' Marian has": (
        lambda s: s.export(s.model(d_k=16)),
        "d_k and d_v of at most d_model / num_heads.*got d_k=16, d_v=16, d_model=16, num_heads=2",
    ),
    "an epsilon far from transformers' Marian's": (
        lambda s: s.export(s.model(layer_norm_eps=0.01)),
        r"must have layer_norm_eps=1e-05, got 0\.01: .*moves logits by",
    ),
    "a Transformer without its output head to export": (
        lambda s: s.export(s.model().model),
        "marian must have an output head; got VaswaniTransformerModel",
    ),
    "a model that a GGUF file cannot hold": (
        lambda s: export_to_gguf(s.folder_of(s.gpt(hidden_act="relu")), s.folder / "out"),
        r"GGUF's gpt2 must have the output head .*got VaswaniGPTModel; norm_order='pre' .*'post'.*got 'relu'",
    ),
    "a GGUF file without a tokenizer": (
        lambda s: export_to_gguf(s.folder_of(s.gpt("ForCausalLM", norm_order="pre")), s.folder / "out"),
        "a GGUF file holds its tokenizer; got .* without one",
    ),
    "a translation model without its head as ONNX": (
        lambda s: export_to_onnx(s.folder_of(s.model().model), s.folder / "out"),
        "as ONNX must have its head; got VaswaniTransformerModel",
    ),
    "a model of transformers to export": (
        lambda s: s.export(plain_model(s.gpt())),
        "must be of this package.*got model_type",
    ),
    "banded layers to export to CTranslate2": (
        lambda s: s.to_ctranslate2(s.gpt("ForCausalLM", layer_types=["sliding_attention"], sliding_window=3)),
        r"no banded layers.*got layer_types=\['sliding_attention'\], sliding_window=3",
    ),
    "an activation that CTranslate2 has not": (
        lambda s: s.to_ctranslate2(s.bert(hidden_act="mish")),
        "CTranslate2 has the activations relu, .*got hidden_act='mish'",
    ),
    "a head that CTranslate2 has not": (
        lambda s: s.to_ctranslate2(s.gpt("ForSequenceClassification")),
        "writes with a VaswaniGPTForCausalLM; got VaswaniGPTForSequenceClassification",
    ),
    "a model of transformers to export to CTranslate2": (
        lambda s: s.to_ctranslate2(plain_model(s.gpt())),
        "must be of this package.*got model_type 'openai-gpt'",
    ),
    "an unknown quantization": (
        lambda s: s.to_ctranslate2(s.gpt("ForCausalLM"), quantization="int4"),
        "quantization must be one of float32, int8, float16; got 'int4'",
    ),
    "a vocabulary larger than the exported model": (
        lambda s: token_names(s.tokenizer, 4),
        "must not have more tokens than the model; got .* vocab_size=4",
    ),
    "a folder that CTranslate2 cannot translate with": (
        lambda s: s.ctranslate2_model(),
        "`vaswani export --to ctranslate2` wrote of a translation model; got .* without model.bin",
    ),
    "scores of a model that does not translate": (
        lambda s: s.verb("export", s.folder_of(s.bert()), "--to", "ctranslate2", "--out", "y", "--data", "z"),
        "--data scores translations; got model_type 'vaswani-bert'.*leave it out",
    ),
    "an export into a folder in use": (
        lambda s: export_to_transformers(s.saved(), s.folder),
        "must be new or empty; got",
    ),
    # Publishing.
    "a repository's name that the Hub refuses": (
        lambda s: s.publish(s.saved(), "me/my--model"),
        "a name that the Hub allows, NAME or NAMESPACE/NAME; got 'me/my--model': Cannot have --",
    ),
    "a path for a repository": (
        lambda s: s.publish(s.saved(), "me/models/one"),
        "a name that the Hub allows, NAME or NAMESPACE/NAME; got 'me/models/one'",
    ),
    "a folder to publish that is not there": (
        lambda s: s.publish("no/such"),
        "must be the folder of a model; got 'no/such'",
    ),
    "a folder to publish without a model": (
        lambda s: s.publish(str(s.folder)),
        "has a config.json; got .* without one",
    ),
    "a folder to publish that does not name its model's class": (
        lambda s: s.publish(str(Path(s.write("config.json", s.config().to_json_string())).parent)),
        r"must name the class of the weights in architectures; got \[\] in",
    ),
    "a folder to publish without weights": (
        lambda s: s.publish(str(Path(s.write("config.json", s.config(architectures=[HEAD]).to_json_string())).parent)),
        "must hold weights as model.safetensors, or in shards; got .* with config.json: load the model",
    ),
    "a folder to publish with shards that nothing lists": (
        lambda s: s.publish(s.damaged("model.safetensors.index.json", None)),
        "must hold weights as model.safetensors, or in shards; got .*: load the model and save it",
    ),
    "a shard that is missing": (
        lambda s: s.publish(s.damaged("model-00001-of-00002.safetensors", None)),
        "every shard that .* names must be there; got .* without model-00001-of-00002.safetensors",
    ),
    "a shard that is cut": (
        lambda s: s.publish(s.damaged("model-00001-of-00002.safetensors", b"\x40\0\0\0\0\0\0\0{}")),
        "every file of weights must be whole; got .*model-00001-of-00002.safetensors",
    ),
    "a model of transformers to publish": (
        lambda s: s.publish(s.folder_of(plain_model(s.gpt()))),
        "must be a model of this package.*got model_type 'openai-gpt'",
    ),
    "an unknown format to publish": (
        lambda s: s.verb("publish", s.saved(), "me/model", "--export", "onx", "--dry-run"),
        "unknown format to publish 'onx'",
    ),
    "no token": (
        lambda s: s.publish(s.saved()),
        "needs a token that may write; got none: .*`hf auth login` or in HF_TOKEN. Nothing was sent",
    ),
    "no network": (
        lambda s: s.publish(s.saved(), token="hf_any"),  # the suite runs with HF_HUB_OFFLINE=1
        "needs the network; got HF_HUB_OFFLINE=1: unset it. Nothing was sent; give the same command again",
    ),
    "an unknown answer to a loss that is not finite": (
        lambda s: s.recipe(on_nonfinite="ignore"),
        "on_nonfinite must be one of stop, skip; got 'ignore'",
    ),
    "fewer than no restarts": (
        lambda s: s.verb("train", "transformer-demo", "--max-restarts", "-1"),
        "--max-restarts must be 0 or more; got -1",
    ),
    "a loss that is not finite": (
        lambda s: feed_nan(s.folder),
        r"loss must stay finite; got nan at step 1, whose batch is in .*on_nonfinite=skip",
    ),
    # Other libraries' models.
    "a format nobody knows": (lambda s: s.convert("fairsec", {}), "unknown format 'fairsec'; did you mean 'fairseq'"),
    "a source that is nowhere": (
        lambda s: convert(s.folder / "none", format="fsmt", out=s.folder / "out"),
        "the source must be a file or a folder; got .*none, which is not there",
    ),
    "a folder of another format": (
        lambda s: s.convert("marian", {"config.json": {"model_type": "bert"}}),
        "--from marian reads a folder of MarianMTModel; got model_type='bert'",
    ),
    "a checkpoint cut short": (lambda s: s.cut_short(), r"a whole file of torch.*; got .*model\.pt: "),
    "a checkpoint that would run something": (
        lambda s: s.convert("fairseq", {"model.pt": {"model": s}}),
        r"tensors and plain values alone; got .*model\.pt: it names \S*Scene, which could be run",
    ),
    "an archive that leads out of its folder": (
        lambda s: s.archive("../model.pt"),
        r"an archive's files must stay in its folder; got '\.\./model\.pt'",
    ),
    "a dictionary that is not the weights'": (
        lambda s: s.fairseq(rows=20),
        "a row for every token, and no more; got 20 rows in the source matrix, 7 tokens",
    ),
    "no dictionary of one side": (
        lambda s: s.fairseq(dictionaries=("en",)),
        r"dictionaries beside its weights; got no dict\.de\.txt, but dict\.en\.txt",
    ),
    "an architecture of fairseq that is no Transformer": (
        lambda s: s.fairseq(arch="fconv"),
        "--from fairseq reads its Transformer; got arch='fconv'",
    ),
    "a setting of fairseq that our model has not": (
        lambda s: s.fairseq(layernorm_embedding=True),
        "without layernorm_embedding; got layernorm_embedding=True: our model has no such setting",
    ),
    "a vocabulary with a hole": (
        lambda s: tokens_by_id({"a": 0, "b": 2}, Path("vocab-src.json")),
        r"a vocabulary's ids must be 0 to 1, each once; got 'b': 2 in vocab-src\.json",
    ),
    "a configuration of another type": (
        lambda s: s.convert("marian", {"config.json": {"model_type": "marian", "d_model": "wide"}}),
        r"a configuration must have fields of their types; got .*config\.json: .*d_model",
    ),
    "more positions than any model has": (
        lambda s: s.convert("fsmt", {"config.json": {"model_type": "fsmt", "max_position_embeddings": 10**12}}),
        r"max_position_embeddings must be in \[1, 131072\]; got 1000000000000",
    ),
    "a vocabulary larger than its matrix": (
        lambda s: s.marian(vocab_size=10**12),
        r"must have one vocabulary; got vocab_size=1000000000000, model\.shared\.weight=8",
    ),
    "two numbers of heads": (
        lambda s: one_of("number of heads", encoder=8, decoder=4),
        "encoder and decoder must have one number of heads; got encoder=8, decoder=4",
    ),
    "a checkpoint of OpenNMT-py without its settings": (
        lambda s: s.convert("opennmt-py", {"any.pt": {"model": {}, "generator": {}}}),
        r"with model, generator, vocab and opt; got .*any\.pt without",
    ),
    "a torch.nn.Transformer without its settings": (
        lambda s: s.convert("torch", {"model.pt": {}}),
        r"must have a file config\.json; got .* without one",
    ),
    "a misspelt setting of a torch.nn.Transformer": (
        lambda s: s.convert("torch", {"config.json": {"nheads": 4}}),
        r"unknown setting of config\.json 'nheads'; did you mean 'nhead'",
    ),
    "a number of heads that nothing tells": (
        lambda s: s.convert("torch", {"config.json": {"pad_token_id": 1}}),
        "the source must tell nhead, which no weight does",
    ),
    "a folder of another model of transformers": (
        lambda s: s.convert("gpt2", {"config.json": {"model_type": "openai-gpt"}}),
        r"of the format named, model_type 'gpt2' .*; got 'openai-gpt' in .*: it is of --from openai-gpt",
    ),
    "a file where transformers has a folder": (
        lambda s: convert(s.write("model.safetensors", b""), format="bert", out=s.folder / "out"),
        r"must be a folder that transformers wrote; got the file .*model\.safetensors",
    ),
    "a model without its weights": (
        lambda s: s.convert("bert", {"config.json": {"model_type": "bert"}}),
        "must hold model.safetensors or pytorch_model.bin, .*; got .* without any: weights of TensorFlow",
    ),
    "a model without one of its parts": (
        lambda s: s.convert(
            "gpt2",
            {
                "config.json": {"model_type": "gpt2"},
                "model.safetensors.index.json": {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors"}},
            },
        ),
        r"must have all 1 files that .*; got .* without model-00001-of-00002\.safetensors: is the download complete",
    ),
    "a part of a model that lies elsewhere": (
        lambda s: s.convert(
            "gpt2",
            {
                "config.json": {"model_type": "gpt2"},
                "model.safetensors.index.json": {"weight_map": {"wte.weight": "../secret"}},
            },
        ),
        r"parts of a model must lie beside their index; got '\.\./secret'",
    ),
    "a head that ours has not": (
        lambda s: s.convert(
            "openai-gpt",
            {
                "config.json": {"model_type": "openai-gpt", "architectures": ["OpenAIGPTForRanking"]},
            },
        ),
        "architectures must name one of OpenAIGPTModel, .*; got 'OpenAIGPTForRanking'",
    ),
    "a vocabulary that the weights do not hold": (
        lambda s: s.with_larger_vocabulary(),
        "a row for every token; got vocab_size=257, 258 tokens: is this the vocabulary the model was trained with",
    ),
    "a setting of Google's BERT that is missing": (
        lambda s: s.google_bert(type_vocab_size=None),
        r"bert_config\.json must say all of vocab_size, .*; got none of type_vocab_size",
    ),
    "an activation that Google's BERT has not": (
        lambda s: s.google_bert(hidden_act="swish"),
        "hidden_act must be one of Google's, gelu, relu, .*; got 'swish'",
    ),
    "Google's BERT without its settings": (
        lambda s: s.convert("google-bert", {"bert_model.ckpt.index": ""}),
        r"must have a file bert_config\.json; got .* without one",
    ),
    "Google's BERT without a checkpoint": (
        lambda s: s.convert("google-bert", {}),
        r"the \.index file of one checkpoint of TensorFlow; got none in",
    ),
    "an index of TensorFlow cut short": (
        lambda s: s.google_bert(index_bytes=600),
        r"must be a whole \.index file of TensorFlow's; got .*bert_model\.ckpt\.index: other last bytes",
    ),
    "a checkpoint of TensorFlow without its numbers": (
        lambda s: s.google_bert(data=False),
        "every file that its index names; got none called bert_model.ckpt.data-00000-of-00001: is the download",
    ),
    "numbers of TensorFlow cut short": (
        lambda s: s.google_bert(data_bytes=6000),
        "a checkpoint's files must be whole; got .*data-00000-of-00001 of 6000 bytes, .* ends at",
    ),
    "GPT-1 without a file": (
        lambda s: s.convert("gpt1", {"params_shapes.json": [[2, 64], [3, 64], *[[64]] * 12]}),
        r"the folder must hold params_0\.npy and those that follow; got .* without \[0\]",
    ),
    "GPT-1 with shapes of something else": (
        lambda s: s.convert("gpt1", {"params_shapes.json": [[2, 64], [3, 64]]}),
        "must list 2 tables and 12 shapes a layer; got 2 in",
    ),
    "a checkpoint that is not nanoGPT's": (
        lambda s: s.convert("nanogpt", {"ckpt.pt": {"state": {}}}),
        r"nanoGPT has model and model_args; got .*ckpt\.pt without: is it of this format",
    ),
    "a setting of nanoGPT that is missing": (
        lambda s: s.convert("nanogpt", {"ckpt.pt": {"model": {}, "model_args": {"n_layer": 2}}}),
        "model_args must say n_layer, .*; got none of n_head, n_embd, block_size, vocab_size, bias in",
    ),
    "nanoGPT without a checkpoint": (
        lambda s: s.convert("nanogpt", {"model.pt": {}}),
        r"the folder must hold nanoGPT's ckpt\.pt; got .* without it",
    ),
    # Optimiser, checkpoints, log, scores.
    "an unknown optimiser": (
        lambda s: build_optimizer(s.model(), OptimizerSection(name="sgd")),  # type: ignore[arg-type]
        r"one of \['adam', 'adamw', 'lamb'\]; got optimizer.name='sgd'",
    ),
    "an update numbered zero": (lambda s: schedule(step=0), "step must be 1 or more.*got step=0"),
    "no warm-up for noam": (lambda s: schedule(warmup_steps=0), "warmup_steps must be at least 1; got .*=0"),
    "a decay of one": (lambda s: EMA(s.model(), 1.0), r"ema_decay must be in \[0, 1\); got ema_decay=1\.0"),
    "no checkpoint kept": (
        lambda s: save_checkpoint(s.folder, 1, write=lambda path: None, keep=0),
        "save.keep must be 1 or more.*got keep=0",
    ),
    "nothing to average": (lambda s: average_checkpoints([], s.folder), r"at least one checkpoint; got paths=\[\]"),
    "a run without checkpoints": (
        lambda s: last_checkpoints(s.folder, 2),
        "at least one complete checkpoint.*got folder=",
    ),
    "a checkpoint without its state": (lambda s: read_state(s.folder), r"readable state\.json; got "),
    "a log that is never written": (
        lambda s: RunLog(s.folder, total_steps=1, enabled=False, log_every=0),
        "log_every and steps must be 1 or more; got log_every=0",
    ),
    "as many hypotheses as references": (
        lambda s: translation_scores(["a", "b"], ["a"], target_language="de"),
        "as many lines on each side.*got 2 hypotheses, 1 references",
    ),
    "a batch of no tokens to translate": (
        lambda s: translate(s.model(), s.tokenizer, ["a"], batch_tokens=0),
        "batch_tokens must be at least 1; got batch_tokens=0",
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTransformerTokenizer.train(["a hat", "a dog", "A HAT", "A DOG"], vocab_size=270)


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    act, told = CASES[what]
    with pytest.raises((ValueError, OSError), match=f"(?s){told}") as error:
        act(Scene(tmp_path, tokenizer))
    assert type(error.value) is {"no network": OSError}.get(what, ValueError) or "missing" in what


def test_the_table_of_bad_input_is_as_long_as_promised():
    assert len(CASES) >= 170
