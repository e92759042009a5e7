"""BERT's pre-training data as the training loop uses them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from vaswani_transformer.data import documents as documents_module
from vaswani_transformer.data.bert_pretraining import EPOCH_SHIFT, BertPretrainingData
from vaswani_transformer.data.token_batches import EpochBatches
from vaswani_transformer.models.tokenization_bert import VaswaniBertTokenizer
from vaswani_transformer.recipe import BatchSection

from .corpora import counting_text, counting_tokenizer

TEXT, HELD_OUT = counting_text(60), counting_text(20, seed=1)
BATCH = {"sequences": 16}


def write(path: Path, text: list[list[str]]) -> str:
    path.write_text("\n\n".join("\n".join(document) for document in text) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pretraining")


@pytest.fixture(scope="module")
def files(folder) -> dict[str, str]:
    return {"train": write(folder / "train.txt", TEXT), "validation": write(folder / "validation.txt", HELD_OUT)}


def prepare(files, folder: Path, *, tokenizer=None, batch=BATCH, seed=3, **options) -> BertPretrainingData:
    made = BertPretrainingData.Options(**({"files": files, "max_seq_length": 32} | options))
    tokenizer = tokenizer or counting_tokenizer(TEXT)
    return BertPretrainingData.prepare(made, tokenizer, batch, seed=seed, cache_dir=str(folder / "cache"))


@pytest.fixture(scope="module")
def data(files, folder) -> BertPretrainingData:
    return prepare(files, folder)


def rows(parts: list[dict[str, torch.Tensor]]) -> list[tuple]:
    """All that is in the sequences, whatever part they are in."""
    found = []
    for part in parts:
        for number, real in enumerate(part["attention_mask"].bool()):
            names = ("input_ids", "token_type_ids", "labels")
            row = tuple(tuple(part[name][number][real].tolist()) for name in names)
            found.append((*row, int(part["next_sentence_label"][number]) if "next_sentence_label" in part else None))
    return sorted(found)


def test_every_example_of_an_epoch_is_seen_once(data):
    for number in range(2):
        seen = np.concatenate(list(data.epoch(number)))
        assert sorted((seen & ((1 << EPOCH_SHIFT) - 1)).tolist()) == list(range(len(seen)))
        assert set(seen >> EPOCH_SHIFT) == {number}
    assert len(data) == len(np.concatenate(list(data.epoch(0)))) == data.counts["train"]["examples"] > 100


def test_a_batch_of_the_world_holds_the_sequences_asked_for(data):
    sizes = [len(batch) for batch in data.epoch(0)]
    assert set(sizes[:-1]) == {16}
    assert 1 <= sizes[-1] <= 16
    assert data.epoch(0)[-1].tolist() == list(data.epoch(0))[-1].tolist()
    with pytest.raises(IndexError):
        data.epoch(0)[len(sizes)]


def test_an_epoch_is_a_function_of_seed_and_number_alone(data, files, folder):
    def content(made, number):
        return [rows(made.micro_batches(batch, 1)) for batch in made.epoch(number)]

    first = content(data, 1)
    assert content(prepare(files, folder), 1) == first
    assert content(data, 0) != first
    assert content(prepare(files, folder, seed=4), 1) != first


def test_two_preparations_elsewhere_and_with_other_workers_make_the_same_examples(data, files, tmp_path):
    again = prepare(files, tmp_path, num_proc=2)
    assert again.fingerprint == data.fingerprint
    for one, other in zip(data.epoch(0), again.epoch(0), strict=True):
        assert one.tolist() == other.tolist()
        assert rows(data.micro_batches(one, 1)) == rows(again.micro_batches(other, 1))


def test_batches_of_the_epoch_before_stay_as_they_were(data):
    batch = data.epoch(0)[0]
    before = rows(data.micro_batches(batch, 1))
    data.epoch(1)
    assert rows(data.micro_batches(batch, 1)) == before
    with pytest.raises(ValueError, match=r"of one epoch; got epochs \[0, 1\]"):
        data.micro_batches(np.array([3, 3 + (1 << EPOCH_SHIFT)]), 1)


def test_target_tokens_are_the_labels_and_real_tokens_what_is_attended_to(data):
    for batch in data.epoch(0):
        part = data.micro_batches(batch, 1)[0]
        assert data.target_tokens(batch) == int((part["labels"] != -100).sum())
        assert data.real_tokens(batch) == int(part["attention_mask"].sum())


def test_labels_are_what_the_text_has_and_the_segments_part_at_the_separator(data):
    tokenizer = data.tokenizer
    for batch in data.epoch(0)[:3]:
        part = data.micro_batches(batch, 1)[0]
        whole = torch.where(part["labels"] == -100, part["input_ids"], part["labels"])
        for ids, mask, segments, label in zip(
            whole, part["attention_mask"], part["token_type_ids"], part["next_sentence_label"], strict=True
        ):
            ids, segments = ids[mask.bool()].tolist(), segments[mask.bool()].tolist()
            middle = ids.index(tokenizer.sep_token_id)
            assert ids[0] == tokenizer.cls_token_id
            assert ids[-1] == tokenizer.sep_token_id
            assert segments == [0] * (middle + 1) + [1] * (len(ids) - middle - 1)
            first, second = ids[1:middle], ids[middle + 1 : -1]
            for text in (first, second):  # the corpus counts
                assert text == list(range(text[0], text[0] + len(text)))
            if not label:
                assert second[0] > first[-1]


def test_collated_tensors_have_the_names_and_types_the_model_takes(data):
    part = data.micro_batches(data.epoch(0)[0], 1)[0]
    names = ["attention_mask", "input_ids", "labels", "next_sentence_label", "num_sequences_in_batch", "token_type_ids"]
    assert sorted(part) == names
    assert {tensor.dtype for tensor in part.values()} == {torch.int64}
    assert torch.equal(part["attention_mask"] == 0, part["input_ids"] == data.tokenizer.pad_token_id)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_any_number_of_parts_holds_the_same_examples_and_tells_their_number(data, parts):
    for batch in list(data.epoch(0))[:3]:
        split = data.micro_batches(batch, parts)
        assert len(split) == parts
        assert rows(split) == rows(data.micro_batches(batch, 1))
        assert {int(part["num_sequences_in_batch"]) for part in split} == {len(batch)}


def test_a_process_gets_the_parts_it_wants(data):
    batch = data.epoch(0)[0]
    every, mine = data.micro_batches(batch, 4), data.micro_batches(batch, 4, wanted=[3, 1])
    assert [part["input_ids"].tolist() for part in mine] == [every[n]["input_ids"].tolist() for n in (3, 1)]


def test_surplus_parts_give_work_that_counts_for_nothing(data):
    batch = data.epoch(0)[0][:2]
    parts = data.micro_batches(batch, 4)
    assert [len(part["input_ids"]) for part in parts] == [1, 1, 1, 1]
    assert [bool((part["labels"] != -100).any()) for part in parts] == [True, True, False, False]
    assert [int(part["next_sentence_label"][0]) == -100 for part in parts] == [False, False, True, True]
    assert sum(int((part["labels"] != -100).sum()) for part in parts) == data.target_tokens(batch)


def test_the_loops_own_batches_are_made_in_loader_processes(data):
    batches = EpochBatches(data, data.epoch(0), 2, range(0, 2, 2))
    loader = torch.utils.data.DataLoader(batches, batch_size=None, sampler=range(3), num_workers=1)
    for number, (micro_batches, target, real) in enumerate(loader):
        here, here_target, here_real = batches[number]
        assert rows(micro_batches) == rows(here)
        assert (target, real) == (here_target, here_real)


def test_data_survive_pickling(data):
    batch = data.epoch(0)[0]
    content = pickle.dumps(data)
    assert rows(pickle.loads(content).micro_batches(batch, 2)) == rows(data.micro_batches(batch, 2))


def test_static_duplicates_come_again_in_another_order(files, folder):
    made = prepare(files, folder, dupe_factor=2)
    epochs = [[row for batch in made.epoch(n) for row in rows(made.micro_batches(batch, 1))] for n in range(3)]
    assert sorted(epochs[0]) == sorted(epochs[2])
    assert epochs[0] != epochs[2]
    assert sorted(epochs[0]) != sorted(epochs[1])


def test_plans_of_past_epochs_do_not_pile_up_on_disk(files, tmp_path):
    made = prepare({"train": files["train"]}, tmp_path)
    for number in range(6):
        made.epoch(number)
    assert len(list((tmp_path / "cache").glob("examples-*"))) == 3  # of the first and the last two
    assert rows(made.micro_batches(made.epoch(1)[0], 1))  # made again


def test_without_next_sentence_there_are_runs_and_no_label_of_pairs(files, folder):
    made = prepare(files, folder, next_sentence=False)
    part = made.micro_batches(made.epoch(0)[0], 1)[0]
    assert sorted(part) == ["attention_mask", "input_ids", "labels", "token_type_ids"]
    assert int(part["token_type_ids"].sum()) == 0
    sep_id = made.tokenizer.sep_token_id
    assert isinstance(sep_id, int)
    assert int(part["input_ids"].eq(sep_id).sum()) == len(part["input_ids"])
    tokens = sum(made.real_tokens(batch) - 2 * len(batch) for batch in made.epoch(0))
    assert tokens == made.counts["train"]["tokens"]


def test_validation_holds_each_example_once_in_order_of_length_and_is_the_same_for_every_seed(files, folder):
    made, other = (
        prepare(files, folder, seed=seed, batch=BatchSection(sequences=16, accumulation=4)) for seed in (1, 2)
    )
    batches = made.validation_batches()
    assert sorted(np.concatenate(batches).tolist()) == list(range(made.counts["validation"]["examples"]))
    assert {len(batch) for batch in batches[:-1]} == {4}
    parts = [made.validation_micro_batch(batch) for batch in batches]
    assert rows(parts) == rows([other.validation_micro_batch(batch) for batch in other.validation_batches()])
    lengths = [int(n) for part in parts for n in part["attention_mask"].sum(1)]
    assert lengths == sorted(lengths)


def test_validations_denominator_makes_the_loops_sum_the_mean_of_both_losses(data):
    parts = [data.validation_micro_batch(batch) for batch in data.validation_batches()]
    masked = sum(int((part["labels"] != -100).sum()) for part in parts)
    sequences = sum(len(part["labels"]) for part in parts)
    # Each pair costs 2 nats here: the loop adds the quotients up and divides them by the masked tokens.
    total = sum(2.0 * len(part["labels"]) / float(part["num_sequences_in_batch"]) for part in parts)
    assert total / masked == pytest.approx(2.0)
    assert sequences == data.counts["validation"]["examples"]


def test_without_validation_text_there_are_no_validation_batches(files, folder):
    assert prepare({"train": files["train"]}, folder).validation_batches() == []


def test_the_second_preparation_trains_and_tokenises_nothing(files, tmp_path, monkeypatch):
    section = {"kind": "wordpiece", "vocab_size": 200}
    first = prepare(files, tmp_path, tokenizer=section)
    assert type(first.tokenizer) is VaswaniBertTokenizer
    assert len(first.tokenizer) <= 200
    monkeypatch.setattr(documents_module, "_encode", lambda *_: pytest.fail("tokenised again"))
    monkeypatch.setattr(VaswaniBertTokenizer, "train", lambda *_, **__: pytest.fail("trained again"))
    assert prepare(files, tmp_path, tokenizer=section).fingerprint == first.fingerprint


def test_a_tokenizer_is_taken_from_a_folder(files, folder, data, tmp_path):
    data.tokenizer.save_pretrained(tmp_path)
    assert prepare(files, folder, tokenizer={"from": str(tmp_path)}).fingerprint == data.fingerprint


@pytest.mark.parametrize("options", [{"max_seq_length": 40}, {"masked_lm_prob": 0.2}, {"whole_word_mask": True}])
def test_options_that_change_the_examples_change_the_fingerprint(files, folder, data, options):
    tokenizer = counting_tokenizer(TEXT)
    if "whole_word_mask" in options:
        tokenizer = VaswaniBertTokenizer(tokenizer.get_vocab() | {"##x": len(tokenizer)})
        plain = prepare(files, folder, tokenizer=tokenizer).fingerprint
        assert prepare(files, folder, tokenizer=tokenizer, **options).fingerprint != plain
    else:
        assert prepare(files, folder, **options).fingerprint != data.fingerprint


@pytest.mark.parametrize(("options", "most"), [({"max_seq_length": 128}, 20), ({"max_seq_length": 512}, 77)])
def test_the_most_masks_follow_from_the_length_unless_they_are_given(options, most):
    assert BertPretrainingData.Options(files={"train": "a"}, **options).predictions == most
    assert BertPretrainingData.Options(files={"train": "a"}, max_predictions_per_seq=7, **options).predictions == 7
