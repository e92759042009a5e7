"""Translation data: tokenised once, batched the same for any number of processes, collated for the model."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vaswani_transformer.data import translation
from vaswani_transformer.data.parallel_text import TranslationOptions
from vaswani_transformer.data.tokenizer_cache import tokenizer_fingerprint
from vaswani_transformer.data.translation import TokenTable, TranslationData, collate
from vaswani_transformer.models.tokenization_transformer import VaswaniTransformerTokenizer
from vaswani_transformer.recipe import BatchSection

BATCH = {"source_tokens": 200, "target_tokens": 150}
TOKENIZER = {"kind": "bpe", "vocab_size": 300}


def write_corpus(folder: Path, split: str, size: int) -> dict[str, str]:
    rng = np.random.default_rng(size)
    words = ["man", "hat", "dog", "grass", "white", "fence", "boy", "street"]
    lines = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(size)]
    source, target = folder / f"{split}.en", folder / f"{split}.de"
    source.write_text("\n".join(lines) + "\n")
    target.write_text("\n".join(line.upper() for line in lines) + "\n")
    return {"source": str(source), "target": str(target)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("translation")


@pytest.fixture(scope="module")
def options(folder) -> TranslationOptions:
    sizes = {"train": 400, "validation": 60, "test": 20}
    return TranslationOptions(files={split: write_corpus(folder, split, size) for split, size in sizes.items()})


@pytest.fixture(scope="module")
def data(options, folder) -> TranslationData:
    return TranslationData.prepare(options, TOKENIZER, BATCH, seed=3, cache_dir=str(folder / "cache"))


def prepare(options: TranslationOptions, folder: Path, tokenizer=TOKENIZER, batch=BATCH, seed=3) -> TranslationData:
    return TranslationData.prepare(options, tokenizer, batch, seed=seed, cache_dir=str(folder / "cache"))


def labels_of(parts: list[dict[str, torch.Tensor]]) -> list[list[int]]:
    return sorted([i for i in row.tolist() if i != -100] for part in parts for row in part["labels"])


def test_every_pair_is_seen_once_an_epoch(data):
    for number in range(3):
        assert sorted(np.concatenate(data.epoch(number)).tolist()) == list(range(400))
    assert len(data) == 400


def test_an_epoch_is_a_function_of_seed_and_number_alone(data, options, folder):
    first = [batch.tolist() for batch in data.epoch(1)]
    data.epoch(0)
    assert [batch.tolist() for batch in data.epoch(1)] == first
    assert [batch.tolist() for batch in prepare(options, folder).epoch(1)] == first
    assert [batch.tolist() for batch in data.epoch(2)] != first
    assert [batch.tolist() for batch in prepare(options, folder, seed=4).epoch(1)] != first


def test_batches_keep_the_token_budgets_with_padding_not_counted(data):
    for batch in data.epoch(0):
        part = data.micro_batches(batch, 1)[0]
        assert part["attention_mask"].sum() <= 200
        assert (part["labels"] != -100).sum() <= 150


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_any_number_of_parts_holds_the_same_examples(data, parts):
    for batch in data.epoch(0)[:5]:
        whole, split = data.micro_batches(batch, 1), data.micro_batches(batch, parts)
        assert len(split) == parts
        assert [row for row in labels_of(split) if row] == labels_of(whole)


def test_a_process_gets_the_parts_it_wants(data):
    batch = data.epoch(0)[0]
    every, mine = data.micro_batches(batch, 4), data.micro_batches(batch, 4, wanted=[3, 1])
    assert [part["input_ids"].tolist() for part in mine] == [every[n]["input_ids"].tolist() for n in (3, 1)]


def test_surplus_parts_give_work_that_counts_for_nothing(data):
    parts = data.micro_batches(np.array([5, 9]), 4)
    assert [len(part["input_ids"]) for part in parts] == [1, 1, 1, 1]
    assert [bool((part["labels"] != -100).any()) for part in parts] == [True, True, False, False]
    assert sum(int((part["labels"] != -100).sum()) for part in parts) == data.target_tokens(np.array([5, 9]))


def test_counted_labels_are_the_target_tokens_with_their_end(data):
    batch = data.epoch(0)[0]
    part = data.micro_batches(batch, 1)[0]
    assert data.target_tokens(batch) == int((part["labels"] != -100).sum())
    last = [[i for i in row if i != -100][-1] for row in part["labels"].tolist()]
    assert set(last) == {data.tokenizer.eos_token_id}


def test_a_batch_decodes_to_the_texts_it_was_made_of(data, folder):
    part = data.micro_batches(np.array([7]), 1)[0]
    lines = (folder / "train.en").read_text().splitlines()
    assert data.tokenizer.decode(part["input_ids"][0], skip_special_tokens=True) == lines[7]
    assert data.tokenizer.decode(part["labels"][0], skip_special_tokens=True) == lines[7].upper()


def test_collated_tensors_have_the_names_and_types_the_model_takes(data):
    part = data.micro_batches(data.epoch(0)[0], 1)[0]
    assert sorted(part) == ["attention_mask", "input_ids", "labels"]
    assert {tensor.dtype for tensor in part.values()} == {torch.int64}
    assert torch.equal(part["attention_mask"] == 0, part["input_ids"] == data.tokenizer.pad_token_id)


def test_validation_batches_hold_each_pair_once_and_share_the_budget_with_accumulation(options, folder, data):
    small = prepare(options, folder, batch=BatchSection(source_tokens=200, target_tokens=150, accumulation=3))
    batches = small.validation_batches()
    assert sorted(np.concatenate(batches).tolist()) == list(range(60))
    assert len(batches) > len(data.validation_batches())
    part = small.validation_micro_batch(batches[0])
    assert (part["labels"] != -100).sum() <= 50


def test_texts_are_the_whole_split_whatever_the_token_limit(options, folder):
    short = TranslationOptions(files=options.files, max_tokens=12)
    sources, references = prepare(short, folder).texts("test")
    assert len(sources) == len(references) == 20
    assert references == [line.upper() for line in sources]


def test_long_and_uneven_pairs_are_left_out_and_counted(folder):
    pairs = ["man\tMAN", "man " * 60 + "\tMAN", "man\t" + "HAT " * 9]
    path = folder / "uneven.tsv"
    path.write_text("\n".join(pairs) + "\n")
    options = TranslationOptions(files={"train": str(path)}, max_tokens=50, max_length_ratio=5.0)
    data = prepare(options, folder, VaswaniTransformerTokenizer.train(["man man"], vocab_size=300))
    assert data.counts["train"]["too_many_tokens"] == 1
    assert data.counts["train"]["length_ratio"] == 1
    assert data.counts["train"]["kept"] == len(data) == 1
    assert data.counts["train"]["read"] == 3


def test_a_line_of_a_hundred_thousand_tokens_is_left_out(folder):
    path = folder / "huge.tsv"
    path.write_text("x " * 100_000 + "\tMAN\nman\tMAN\n")
    data = prepare(TranslationOptions(files={"train": str(path)}), folder)
    assert data.counts["train"]["too_many_tokens"] == 1
    assert data.epoch(0)[0].tolist() == [0]


def test_no_pair_short_enough_is_told(options, folder):
    with pytest.raises(ValueError, match=r"at most data\.max_tokens tokens"):
        prepare(TranslationOptions(files=options.files, min_words=3, max_tokens=2), folder)


def test_the_second_preparation_reads_trains_and_tokenises_nothing(options, folder, data, monkeypatch):
    monkeypatch.setattr(translation, "_encode", lambda *_, **__: pytest.fail("tokenised again"))
    monkeypatch.setattr(VaswaniTransformerTokenizer, "train", lambda *_, **__: pytest.fail("trained again"))
    again = prepare(options, folder)
    assert again.fingerprint == data.fingerprint
    batch = data.epoch(0)[0]
    assert labels_of(again.micro_batches(batch, 1)) == labels_of(data.micro_batches(batch, 1))


def test_another_tokenizer_tokenises_anew(options, folder, data):
    other = prepare(options, folder, {"kind": "bpe", "vocab_size": 280})
    assert len(other.tokenizer) == 280
    assert other.fingerprint != data.fingerprint
    assert max(int(part["input_ids"].max()) for part in other.micro_batches(other.epoch(0)[0], 1)) < 280


def test_the_fingerprint_does_not_depend_on_where_the_files_lie(tmp_path, options, data):
    moved = {}
    for split, spec in (options.files or {}).items():
        moved[split] = {side: str(tmp_path / Path(path).name) for side, path in spec.items()}
        for side, path in spec.items():
            Path(moved[split][side]).write_bytes(Path(path).read_bytes())
    assert prepare(TranslationOptions(files=moved), tmp_path).fingerprint == data.fingerprint


def test_options_that_change_the_examples_change_the_fingerprint(options, folder, data):
    assert prepare(TranslationOptions(files=options.files, max_tokens=40), folder).fingerprint != data.fingerprint


def test_without_validation_text_there_are_no_validation_batches(options, folder):
    files = {"train": (options.files or {})["train"]}
    assert prepare(TranslationOptions(files=files), folder).validation_batches() == []


def test_a_tokenizer_is_taken_from_a_folder(options, folder, data, tmp_path):
    data.tokenizer.save_pretrained(tmp_path)
    loaded = prepare(options, folder, {"from": str(tmp_path)})
    assert loaded.fingerprint == data.fingerprint
    assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == tokenizer_fingerprint(data.tokenizer)


def test_data_survive_pickling_for_loader_processes(data):
    copy = pickle.loads(pickle.dumps(data))
    batch = data.epoch(0)[0]
    assert labels_of(copy.micro_batches(batch, 2)) == labels_of(data.micro_batches(batch, 2))


def test_token_tables_view_the_file_and_pickle_without_their_tokens(tmp_path):
    rows = [{"ids": list(range(n % 7 + 1))} for n in range(5000)]
    features = datasets.Features({"ids": datasets.Sequence(datasets.Value("int32"))})
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path)
    stored = datasets.load_from_disk(str(tmp_path))
    assert isinstance(stored, datasets.Dataset)
    table = TokenTable(stored, "ids")
    numbers = np.array([4999, 0, 1234])
    assert [row.tolist() for row in table.rows(numbers)] == [rows[n]["ids"] for n in numbers]
    assert not any(row.flags.owndata for row in table.rows(numbers))
    assert len(pickle.dumps(table)) < 5000
    assert table.lengths.tolist() == [len(row["ids"]) for row in rows]


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ([[5, 300]], [[5]], "0 to 299; got 300 in input_ids"),
        ([[5]], [[-3]], "got -3 in labels"),
        ([[5], []], [[5], [5]], "at least one token"),
    ],
)
def test_token_ids_the_model_cannot_take_are_told(data, source, target, message):
    with pytest.raises(ValueError, match=message):
        collate(
            [np.array(row, int) for row in source], [np.array(row, int) for row in target], tokenizer=data.tokenizer
        )


def test_no_example_is_told(data):
    with pytest.raises(ValueError, match="at least one example"):
        data.micro_batches(np.array([], int), 2)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"source_tokens": 100}, "target_tokens must be a whole number"),
        ({"source_tokens": 0, "target_tokens": 5}, "source_tokens=0"),
        ({"source_tokens": 5, "target_tokens": 5, "accumulation": 1.5}, "accumulation=1.5"),
    ],
)
def test_a_batch_section_without_budgets_is_told(options, folder, batch, message):
    with pytest.raises(ValueError, match=message):
        prepare(options, folder, batch=batch)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        ({}, "needs kind and vocab_size, or from"),
        ({"kind": "bpe"}, "needs kind and vocab_size"),
        ({"from": "/nowhere/at/all"}, "folder or Hub repository; got '/nowhere/at/all'"),
        ({"kind": "bpe", "vocab_size": 100}, "at least 259"),
    ],
)
def test_a_wrong_tokenizer_section_is_told(options, folder, tokenizer, message):
    with pytest.raises(ValueError, match=message):
        prepare(options, folder, tokenizer)


@pytest.mark.parametrize(
    ("special", "message"), [({}, "pad and an eos token"), ({"p": 1}, "must end text with '</s>'")]
)
def test_a_tokenizer_that_training_cannot_rely_on_is_told(options, folder, special, message):
    backend = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    names = {"pad_token": "<pad>", "eos_token": "</s>"} if special else {}
    with pytest.raises(ValueError, match=message):
        prepare(options, folder, PreTrainedTokenizerFast(tokenizer_object=backend, **names))
