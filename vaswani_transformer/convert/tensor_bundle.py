"""TensorFlow's checkpoints without TensorFlow: NAME.index, and the numbers in NAME.data-00000-of-00001 beside it.

The index is a table of LevelDB's format, uncompressed: blocks of sorted keys, each after the prefix that it shares with
the one before it, found by one more block that a footer points at. A key is a weight's name, its value a message of
protocol buffers (tensor_bundle.proto of TensorFlow) that says where the numbers are. Checksums are compared, of the
blocks and of the numbers; every size is held against the files before memory is taken.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .crc32c import masked

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER, TRAILER = 48, 5  # bytes: behind all blocks; behind each, its kind of compression and its checksum
DTYPES = {1: torch.float32, 2: torch.float64, 14: torch.bfloat16, 19: torch.float16}  # of types.proto
BIG_ENDIAN = 1
LONGEST_NAME = 1000  # bytes: shared prefixes would make long ones of a few
MOST_PARTS = 100_000  # the five digits in the files' names


@dataclass(frozen=True)
class Entry:
    """Where a tensor's numbers are.

    Args:
        file: it.
        offset: of the first byte.
        size: bytes.
        dtype: TensorFlow's number for the type.
        shape: the tensor's.
        checksum: of the bytes.
        sliced: whether they are in parts, under names of their own.
    """

    file: Path
    offset: int
    size: int
    dtype: int
    shape: tuple[int, ...]
    checksum: int
    sliced: bool


def read_index(index: str | Path) -> dict[str, Entry]:
    """Returns what a checkpoint holds by name, nothing of it read yet.

    Args:
        index: NAME.index.

    Raises:
        ValueError: a file that is truncated, altered, compressed or no index.
    """
    index = Path(index)
    data = index.read_bytes()
    try:
        if data[-8:] != MAGIC or len(data) < FOOTER:
            raise ValueError("other last bytes than those of an index")
        more, place = _handle(data, len(data) - FOOTER)
        _block(data, *more)  # of names of filters, which there are none of
        blocks = [_handle(handle, 0)[0] for _, handle in _pairs(_block(data, *_handle(data, place)[0]))]
        if sum(size for _, size in blocks) > len(data):
            raise ValueError("blocks that lie in one another")
        return _entries(index, dict(pair for block in blocks for pair in _pairs(_block(data, *block))))
    except (ValueError, IndexError) as error:
        raise ValueError(
            f"a checkpoint's index must be a whole .index file of TensorFlow's; got {index}: {error or 'cut short'}"
        ) from error


def read_tensors(entries: Mapping[str, Entry]) -> dict[str, Tensor]:
    """Returns tensors, in the precision they have.

    Args:
        entries: of one checkpoint, of its floating-point numbers.

    Raises:
        ValueError: a file that is missing, too short or altered, other types, tensors in parts, more than the files
            hold.
    """
    files = {entry.file for entry in entries.values()}
    if absent := sorted(file.name for file in files if not file.is_file()):
        raise ValueError(
            f"a checkpoint must have every file that its index names; got none called {absent[0]}: is the download "
            "complete?"
        )
    lengths = {file: file.stat().st_size for file in files}
    for name, entry in entries.items():
        _check(name, entry, lengths[entry.file])
    if (asked := sum(entry.size for entry in entries.values())) > sum(lengths.values()):
        raise ValueError(f"a checkpoint must hold what it claims; got {asked} bytes in {sum(lengths.values())}")
    return {name: _read(name, entry) for name, entry in entries.items()}


def _check(name: str, entry: Entry, length: int) -> None:
    if entry.sliced:
        raise ValueError(f"weights must be whole; got {name} in slices: save it from one process")
    if entry.dtype not in DTYPES:
        raise ValueError(f"weights must be floating-point numbers; got {name} of TensorFlow's type {entry.dtype}")
    claimed = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
    if min(entry.shape, default=1) < 1 or claimed != entry.size:
        raise ValueError(f"a weight must have the bytes of its shape; got {entry.size} for {name} {entry.shape}")
    if entry.offset + entry.size > length:
        raise ValueError(
            f"a checkpoint's files must be whole; got {entry.file} of {length} bytes, {name} ends at "
            f"{entry.offset + entry.size}"
        )


def _read(name: str, entry: Entry) -> Tensor:
    data = bytearray(entry.size)
    with entry.file.open("rb") as file:
        file.seek(entry.offset)
        file.readinto(data)
    if masked(data) != entry.checksum:
        raise ValueError(
            f"a weight must have the checksum of its index; got another for {name}: {entry.file} was altered"
        )
    return torch.frombuffer(data, dtype=DTYPES[entry.dtype]).reshape(entry.shape)


def _entries(index: Path, found: Mapping[bytes, bytes]) -> dict[str, Entry]:
    """The messages of an index, read; the one without a name is of the whole."""
    header = _fields(found.get(b"", b""))
    parts = _number(header, 1)
    if _number(header, 2) == BIG_ENDIAN:
        raise ValueError("numbers with their high bytes first")
    entries = {}
    for key, value in found.items():
        if key == b"":
            continue
        fields = _fields(value)
        part = _number(fields, 3)
        if not part < parts <= MOST_PARTS:
            raise ValueError(f"part {part} of {parts} files")
        dims = [_fields(_bytes(dim)) for shape in fields.get(2, []) for dim in _fields(_bytes(shape)).get(2, [])]
        entries[key.decode(errors="replace")] = Entry(
            file=index.with_name(f"{index.name.removesuffix('.index')}.data-{part:05d}-of-{parts:05d}"),
            offset=_number(fields, 4),
            size=_number(fields, 5),
            dtype=_number(fields, 1),
            shape=tuple(_number(dim, 1) for dim in dims),
            checksum=int.from_bytes(b"".join(_bytes(value) for value in fields.get(6, [])[-1:]), "little"),
            sliced=7 in fields,
        )
    return entries


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number in bytes of seven bits, the low ones first, and the place behind it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), place
    raise ValueError("a number of more than 64 bits")


def _handle(data: bytes, place: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and the place behind them."""
    offset, place = _varint(data, place)
    size, place = _varint(data, place)
    return (offset, size), place


def _block(data: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + TRAILER > len(data) - FOOTER:
        raise ValueError(f"a block that ends at {end}, of {len(data)} bytes in all")
    if data[end]:
        raise ValueError(
            "compressed blocks: save the checkpoint by any TensorFlow again, which leaves them as they are"
        )
    if masked(data[offset : end + 1]) != int.from_bytes(data[end + 1 : end + TRAILER], "little"):
        raise ValueError(f"another checksum at byte {end + 1}: the file was altered")
    return data[offset:end]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; behind them is a list of the places where whole keys are, four bytes each."""
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise ValueError("a list longer than its block")
    key, place = b"", 0
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > len(key) or place + own + length > end or shared + own > LONGEST_NAME:
            raise ValueError("a name or a value longer than it may be")
        key = key[:shared] + block[place : place + own]
        yield key, block[place + own : place + own + length]
        place += own + length


def _fields(message: bytes) -> dict[int, list[int | bytes]]:
    """The fields of a message of protocol buffers by their numbers."""
    found: dict[int, list[int | bytes]] = {}
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind, value = tag & 7, b""
        if kind == 0:
            value, place = _varint(message, place)
        elif kind in (1, 2, 5):
            length, place = _varint(message, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            if place + length > len(message):
                raise ValueError("a field longer than its message")
            value, place = message[place : place + length], place + length
        else:
            raise ValueError(f"a field of kind {kind}")
        found.setdefault(tag >> 3, []).append(value)
    return found


def _number(fields: Mapping[int, list[int | bytes]], number: int) -> int:
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int) or value >= 2**63:
        raise ValueError(f"a field {number} that is no number of 0 or more")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where a message is due")
    return value
