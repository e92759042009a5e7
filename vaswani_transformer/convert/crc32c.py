"""CRC-32C, as TensorFlow's files have it, of many bytes at once.

A remainder is linear in the bytes: a row is cut into lanes of one length whose remainders are found side by side, then
pairs of them are joined, the first moved by the length of the second, until one is left.
"""

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78  # Castagnoli's, low bits first
LONGEST_LANE = 12  # 2^12 bytes


def masked(data: bytes | bytearray) -> int:
    """Returns the checksum of bytes, turned and shifted as LevelDB and TensorFlow store it."""
    row = np.frombuffer(data, np.uint8)
    power = min(LONGEST_LANE, len(row).bit_length() // 2 + 1)
    lanes = max(1, (len(row) + 2**power - 1) >> power)
    padded = np.zeros(lanes << power, np.uint8)
    padded[len(padded) - len(row) :] = row  # zeros in front leave a remainder of 0
    found = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.view("<u2").reshape(lanes, -1).T):
        found = found >> 16 ^ _table()[(found ^ column).astype(np.uint16)]
    while len(found) > 1:
        found = found if len(found) % 2 == 0 else np.concatenate((np.zeros(1, np.uint32), found))
        found, power = _moved(found[::2], power) ^ found[1::2], power + 1
    start = np.full(1, 2**32 - 1, np.uint32)
    for power in range(len(row).bit_length()):
        start = _moved(start, power) if len(row) >> power & 1 else start
    crc = int(found[0]) ^ int(start[0]) ^ (2**32 - 1)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & (2**32 - 1)


def _stepped(remainders: np.ndarray, bits: int) -> np.ndarray:
    """What remainders become when zero bits follow."""
    for _ in range(bits):
        remainders = remainders >> 1 ^ np.where(remainders & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    return remainders


@functools.cache
def _table() -> np.ndarray:
    """The remainder of any two bytes."""
    return _stepped(np.arange(2**16, dtype=np.uint32), 16)


@functools.cache
def _move(power: int) -> np.ndarray:
    """[32] what each bit of a remainder becomes when 2^power zero bytes follow."""
    if power:
        return _moved(_move(power - 1), power - 1)
    return _stepped(np.uint32(1) << np.arange(32, dtype=np.uint32), 8)


def _moved(remainders: np.ndarray, power: int) -> np.ndarray:
    made = np.zeros_like(remainders)
    for bit, value in enumerate(_move(power)):
        made ^= np.where(remainders >> np.uint32(bit) & 1, value, np.uint32(0))
    return made
