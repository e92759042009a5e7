"""Documents to rows of a causal language model."""

import json
import tempfile
from collections import Counter
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vaswani_transformer import VaswaniGPTTokenizer
from vaswani_transformer.data.causal import CausalData, CausalOptions, joint_token, text_blocks
from vaswani_transformer.data.documents import write_documents
from vaswani_transformer.data.translation import IGNORED

TEXTS = ["one two\n\nthree four five six", "seven", "eight nine ten eleven twelve\n  thirteen", "fourteen fifteen"]


def byte_tokenizer(eos: str | None = "<|endoftext|>") -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a few merges."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(  # pyright: ignore[reportCallIssue]
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[eos] if eos else [],
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos)


TOKENIZER, PLAIN = byte_tokenizer(), byte_tokenizer(eos=None)


def prepare(
    folder: Path, *, texts=TEXTS, tokenizer: Any = TOKENIZER, batch=None, seed: int = 1, **options: Any
) -> CausalData:
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    files = {"train": str(path), "validation": str(path)}
    made = CausalOptions(**({"files": files, "max_seq_length": 7} | options))
    return CausalData.prepare(made, tokenizer, batch or {"sequences": 3}, seed=seed, cache_dir=str(folder / "cache"))


def stream(tokenizer=TOKENIZER, texts=TEXTS) -> list[int]:
    first = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [token for text in texts for token in first + tokenizer(text, add_special_tokens=False)["input_ids"]]


def batches(data: CausalData, epoch: int) -> list[dict[str, torch.Tensor]]:
    return [data.micro_batches(indices, 1)[0] for indices in data.epoch(epoch)]


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_an_epoch_foretells_every_token_but_the_first_once(tmp_path, epoch):
    found: Counter[tuple[int, int]] = Counter()
    for batch in batches(prepare(tmp_path), epoch):
        for ids, labels in zip(batch["input_ids"].tolist(), batch["shift_labels"].tolist(), strict=True):
            found.update((a, b) for a, b in zip(ids, labels, strict=True) if b != IGNORED)
    tokens = stream()
    assert found == Counter(pairwise(tokens))


def test_rows_begin_at_other_places_in_every_epoch(tmp_path):
    data = prepare(tmp_path)
    first = [{tuple(row) for batch in batches(data, epoch) for row in batch["input_ids"].tolist()} for epoch in (0, 3)]
    assert first[0] != first[1]


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(tmp_path):
    rows = [[batch["input_ids"].tolist() for batch in batches(prepare(tmp_path, seed=seed), 2)] for seed in (1, 1, 2)]
    assert rows[0] == rows[1] != rows[2]


def test_positions_start_again_at_each_document(tmp_path):
    eos = TOKENIZER.eos_token_id
    for batch in batches(prepare(tmp_path), 1):
        for ids, positions, labels in zip(
            batch["input_ids"].tolist(), batch["position_ids"].tolist(), batch["shift_labels"].tolist(), strict=True
        ):
            real = [label != IGNORED for label in labels]
            for place in range(sum(real)):
                begins = place == 0 or ids[place] == eos
                assert positions[place] == (0 if begins else positions[place - 1] + 1)


def test_joined_documents_have_no_positions_of_their_own(tmp_path):
    assert "position_ids" not in batches(prepare(tmp_path, separate_documents=False), 0)[0]


@pytest.mark.parametrize(("separate", "lost"), [(True, len(TEXTS) - 1), (False, 0)])
def test_without_an_end_of_text_token_the_first_token_of_a_separate_document_is_not_foretold(tmp_path, separate, lost):
    data = prepare(tmp_path, tokenizer=PLAIN, separate_documents=separate)
    labels = sum(int(batch["shift_labels"].ne(IGNORED).sum()) for batch in batches(data, 2))
    assert labels == len(stream(PLAIN)) - 1 - lost
    assert labels == sum(data.target_tokens(indices) for indices in data.epoch(2))


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_parts_of_a_batch_hold_together_what_the_batch_does(tmp_path, parts):
    data = prepare(tmp_path, batch={"sequences": 4})
    for indices in data.epoch(1):
        pieces = data.micro_batches(indices, parts)
        labels = [piece["shift_labels"][piece["shift_labels"] != IGNORED].tolist() for piece in pieces]
        whole = data.micro_batches(indices, 1)[0]["shift_labels"]
        assert list(chain(*labels)) == whole[whole != IGNORED].tolist()
        assert sum(map(len, labels)) == data.target_tokens(indices)
        assert [piece["input_ids"].tolist() for piece in data.micro_batches(indices, parts, wanted=[parts - 1])] == [
            pieces[-1]["input_ids"].tolist()
        ]


def test_validation_foretells_every_token_but_the_first_once_and_in_order(tmp_path):
    data, found = prepare(tmp_path), []
    for indices in data.validation_batches():
        labels = data.validation_micro_batch(indices)["shift_labels"]
        found += labels[labels != IGNORED].tolist()
    assert found == stream()[1:]


def test_a_text_file_is_one_document_with_its_blank_lines(tmp_path):
    text = "a b\n\n\nc d\n  e\n"
    (tmp_path / "a.txt").write_text(text)
    data = prepare(tmp_path, files={"train": str(tmp_path / "a.txt")}, max_seq_length=100)
    ids = batches(data, 0)[0]["input_ids"][0].tolist()
    assert data.counts["train"]["documents"] == 1
    assert TOKENIZER.decode(ids[1:]) == text[:-1]


@given(st.text(alphabet="ab .\n", max_size=60), st.integers(1, 12))
def test_a_document_cut_into_blocks_has_the_tokens_of_the_whole(text, size):
    lines = [*text.split("\n"), None]
    blocks = list(text_blocks(iter(lines), size))
    assert blocks.pop() is None
    assert "".join(filter(None, blocks)) == text
    pieces = [TOKENIZER(block, add_special_tokens=False)["input_ids"] for block in blocks]
    assert list(chain(*pieces)) == TOKENIZER(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def tokenizer_of_2018(tmp_path_factory) -> VaswaniGPTTokenizer:
    folder = tmp_path_factory.mktemp("2018")
    tokens = ["<unk>", "\n</w>", *(f"{letter}{end}" for letter in "ab." for end in ("", "</w>"))]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return VaswaniGPTTokenizer.from_pretrained(folder)


@given(st.text(alphabet="ab .\n", max_size=60), st.integers(1, 12))
def test_a_document_cut_into_blocks_keeps_the_line_breaks_of_2018(tokenizer_of_2018, text, size):
    blocks = text_blocks(iter([*text.split("\n"), None]), size)
    with tempfile.TemporaryDirectory() as folder:
        joint = joint_token(tokenizer_of_2018)
        documents = write_documents(blocks, tokenizer_of_2018, Path(folder) / "d", {}, joint_id=joint)
        found = documents.tokens.tolist() if documents.counts["tokens"] else []
        assert found == tokenizer_of_2018(text)["input_ids"]


def test_text_of_one_token_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least two tokens; got 1"):
        prepare(tmp_path, texts=["a"], tokenizer=PLAIN)


def test_rows_of_two_epochs_do_not_mix_in_a_batch(tmp_path):
    data = prepare(tmp_path)
    mixed = np.concatenate([data.epoch(0)[0][:1], data.epoch(1)[0][:1]])
    with pytest.raises(ValueError, match="rows of one epoch"):
        data.micro_batches(mixed, 1)


def test_an_end_of_text_token_written_out_in_a_document_is_text(tmp_path):
    data = prepare(tmp_path, texts=["a <|endoftext|> b", "c"], max_seq_length=100)
    assert batches(data, 0)[0]["input_ids"].tolist()[0].count(TOKENIZER.eos_token_id) == 2


def test_a_recipe_may_ask_for_the_rules_of_2018_for_an_openai_vocabulary(tmp_path):
    tokens = ["<unk>", "do</w>", "n't</w>", "d", "o</w>", "n", "'", "n'", "t</w>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nd o</w>\nn '\nn' t</w>\n")
    data = prepare(tmp_path, texts=["Don't"], tokenizer={"kind": "gpt1", "from": str(tmp_path)})
    assert isinstance(data.tokenizer, VaswaniGPTTokenizer)
    assert batches(data, 0)[0]["input_ids"].tolist() == [[1, 2]]
