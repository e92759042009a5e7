"""Documents as token ids, memory-mapped: tokenised once to disk, then read where a sentence is asked for.

Three files of plain numbers: all tokens one after the other, where each sentence starts among them, and where each
document starts among the sentences. A run of sentences is thus one slice, and memory does not grow with the text.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from .document_sources import PlacedPieces
from .text_files import BadLine

logger = logging.getLogger(__name__)

SENTENCES_AT_ONCE, CHARACTERS_AT_ONCE = 2000, 2_000_000  # what is tokenised in one go
TOKENS, SENTENCES, DOCUMENTS, NOTES = "tokens.bin", "sentences.bin", "documents.bin", "notes.json"


class Documents:
    """Token ids of documents of sentences, none of either empty.

    Args:
        folder: where `write_documents` put them.

    Attributes:
        counts: of documents, sentences and tokens, and of what was left out, by reason.
        fingerprint: of the ids, the same on every machine.
        tokens: all ids, one after the other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        notes = json.loads((folder / NOTES).read_text(encoding="utf-8"))
        self.counts: dict[str, int] = notes["counts"]
        self.fingerprint: str = notes["fingerprint"]
        if not self.counts["documents"]:  # nothing to map
            self.tokens, self._sentences, self._documents = (np.zeros(1, dtype=np.int64) for _ in range(3))
            return
        self.tokens = _mapped(folder / TOKENS, notes["dtype"])
        self._sentences, self._documents = _mapped(folder / SENTENCES, "<i8"), _mapped(folder / DOCUMENTS, "<i8")

    def __reduce__(self) -> tuple[Any, ...]:
        return Documents, (self.folder,)  # other processes map the files themselves

    def __len__(self) -> int:
        return len(self._documents) - 1

    def starts(self) -> np.ndarray:
        """Returns where each document starts among the tokens."""
        return self._sentences[self._documents[:-1]]

    def sentences(self, document: int) -> np.ndarray:
        """Returns where the sentences of a document start among the tokens, and where the last one ends."""
        return self._sentences[self._documents[document] : self._documents[document + 1] + 1]


def _mapped(path: Path, dtype: str) -> np.ndarray:
    return np.memmap(path, dtype=dtype, mode="r").view(np.ndarray)  # a memmap's own slices are slow to make


def read_sentences(
    pieces: PlacedPieces, counts: dict[str, int], *, split: Callable[[str], Iterable[str]] | None, skip_bad: bool
) -> Iterator[str | None]:
    """Yields the sentences of documents, and None at the end of each.

    Args:
        pieces: from document_sources.
        counts: takes the number of malformed lines under "malformed".
        split: cuts a line into sentences; None takes a line for one.
        skip_bad: leave malformed lines out and count them.

    Raises:
        ValueError: a malformed line that is not to be left out, with file and line.
    """
    counts["malformed"] = 0
    for place, number, piece in pieces:
        if isinstance(piece, BadLine):
            if not skip_bad:
                way_out = "set data.on_bad_line=skip to leave such lines out and count them"
                raise ValueError(f"{place}:{number}: malformed line: {piece.reason}; {way_out}")
            counts["malformed"] += 1
        elif piece is None or split is None:
            yield piece
        else:
            yield from split(piece)


def write_documents(
    sentences: Iterator[str | None],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    counts: dict[str, int],
    *,
    first_id: int | None = None,
    joint_id: int | None = None,
) -> Documents:
    """Tokenises sentences into a folder, which is there once it is whole; another process may be doing the same.

    Sentences without a token are left out, and so are documents without a sentence ("empty" of the counts).

    Args:
        sentences: from `read_sentences`.
        tokenizer: its special tokens are text where they stand in a sentence.
        folder: where the documents go.
        counts: what is counted while reading; complete once the sentences are all taken.
        first_id: a token to put before each document's first.
        joint_id: a token to put before each further sentence of a document.
    """
    staged = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name, suffix=".partial"))
    try:
        notes = _write(sentences, tokenizer, staged, first_id, joint_id)
        notes["counts"] |= counts
        (staged / NOTES).write_text(json.dumps(notes), encoding="utf-8")
        os.rename(staged, folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Documents(folder)


def _write(
    sentences: Iterator[str | None],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    first_id: int | None,
    joint_id: int | None,
) -> dict[str, Any]:
    counts = dict.fromkeys(("documents", "sentences", "tokens", "empty"), 0)
    dtype, content, written = "<u2" if len(tokenizer) <= 1 << 16 else "<i4", hashlib.sha256(), 0
    with (
        (folder / TOKENS).open("wb") as tokens,
        (folder / SENTENCES).open("wb") as starts,
        (folder / DOCUMENTS).open("wb") as documents,
    ):
        for file in (starts, documents):
            file.write(_number(0))
        while block := _next_block(sentences):
            encoded = iter(_encode([text for text in block if text is not None], tokenizer))
            for text in block:
                if text is None:
                    whole = counts["sentences"] > written
                    counts["documents" if whole else "empty"] += 1
                    written = counts["sentences"]
                    if whole:
                        documents.write(_number(written))
                        content.update(b"document")
                elif ids := next(encoded):
                    before = first_id if counts["sentences"] == written else joint_id
                    if before is not None:
                        ids = [before, *ids]
                    row = np.array(ids, dtype=dtype).tobytes()
                    counts["sentences"] += 1
                    counts["tokens"] += len(ids)
                    tokens.write(row)
                    starts.write(_number(counts["tokens"]))
                    content.update(_number(len(ids)) + row)
    return {"counts": counts, "fingerprint": content.hexdigest(), "dtype": dtype}


def _next_block(sentences: Iterator[str | None]) -> list[str | None]:
    block, characters = [], 0
    for text in islice(sentences, SENTENCES_AT_ONCE):
        block.append(text)
        characters += len(text or "")
        if characters >= CHARACTERS_AT_ONCE:
            break
    return block


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if not texts:
        return []
    settings: dict[str, Any] = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True, **settings)["input_ids"]


def sentence_splitter(language: str) -> Callable[[str], Iterable[str]]:
    """Returns a function that cuts a paragraph into sentences.

    Raises:
        ValueError: the library for it is not installed.
    """
    try:
        from sentencex import segment  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]
    except ImportError as error:
        raise ValueError(
            "data.sentences=split needs the package sentencex: pip install 'vaswani-transformer[sentences]'; "
            "got sentences=split without it"
        ) from error
    return lambda text: (sentence.strip() for sentence in segment(language, text))
