"""Bad input of the data: parallel text, documents and batches."""

from typing import Any

import numpy as np
import pytest

from vaswani_transformer import VaswaniBertTokenizer
from vaswani_transformer.data.bert_pretraining import BertPretrainingData
from vaswani_transformer.data.parallel_text import TranslationOptions, read_pairs
from vaswani_transformer.data.token_batches import plan_batches, split_evenly
from vaswani_transformer.data.translation import TranslationData, collate
from vaswani_transformer.recipe import BatchSection

from .scene import Cases, Scene, assert_told

rows = np.array


class Text(Scene):
    """Text that is read, and made into examples."""

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


CASES: Cases[Text] = {
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
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Text(tmp_path, tokenizer))
