"""Bad input of conversion: other libraries' models that are cut, changed, or not what they are said to be."""

import argparse
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from vaswani_transformer.convert import convert
from vaswani_transformer.convert.to_transformers import plain_model
from vaswani_transformer.convert.two_sides import one_of, tokens_by_id

from .scene import Cases, Scene, assert_told


class Sources(Scene):
    """Files as other libraries write them."""

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

    def google_bert(
        self, index_bytes: int | None = None, data_bytes: int | None = None, *, data: bool = True, **settings: Any
    ) -> Any:
        """One whose settings are changed, whose files are cut, whose numbers are missing."""
        folder = shutil.copytree(Path(__file__).parents[1] / "fixtures" / "google_bert", self.folder / "google")
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


CASES: Cases[Sources] = {
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
        r"tensors and plain values alone; got .*model\.pt: it names \S*Sources, which could be run",
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
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Sources(tmp_path, tokenizer))
