"""Label Studio's run lengths of brush regions, read with little more memory than the picture itself takes.

The format is that of ``@thi.ng/rle-pack``: 32 bits of the number of values, 5 bits of their size, four times 4 bits of
sizes of run lengths; then runs, each either of one value repeated or of values one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = 8  # bits of a value; Label Studio writes no others


class _Bits:
    """Reads numbers from the bits of a string of bytes, the highest bit first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def read(self, size: int) -> int:
        """The next number.

        Args:
            size: Its bits.

        Raises:
            ValueError: There are no more.
        """
        first, end = self._position, self._position + size
        if end > 8 * len(self._data):
            raise ValueError("its run lengths end too early")
        self._position = end
        last = (end + 7) // 8
        value = int.from_bytes(self._data[first // 8 : last], "big")
        return value >> (8 * last - end) & ((1 << size) - 1)

    def read_bytes(self, count: int) -> NDArray[np.uint8]:
        """The next bytes, which may begin within one.

        Raises:
            ValueError: There are not so many.
        """
        first, shift = divmod(self._position, 8)
        if self._position + 8 * count > 8 * len(self._data):
            raise ValueError("its run lengths end too early")
        self._position += 8 * count
        taken = np.frombuffer(self._data, np.uint8, count, first)
        if not shift:
            return taken
        following = np.frombuffer(self._data, np.uint8, count, first + 1)
        return ((taken << shift) | (following >> (8 - shift))).astype(np.uint8)


def declared_values(rle: Sequence[int]) -> int:
    """The number of values that run lengths say they hold."""
    return int.from_bytes(bytes(rle[:4]), "big")


def decode_brush(rle: Sequence[int]) -> NDArray[np.uint8]:
    """The values of run lengths: for a picture of (H, W), four times H times W.

    Args:
        rle: Bytes as Label Studio writes them, as numbers.

    Raises:
        ValueError: They cannot be read.
        TypeError: They are no numbers.
    """
    bits = _Bits(bytes(rle))
    values = np.zeros(bits.read(32), dtype=np.uint8)
    word = bits.read(5) + 1
    if word != _WORD:
        raise ValueError(f"its run lengths hold values of {word} bits, expected {_WORD}")
    sizes = [bits.read(4) + 1 for _ in range(4)]
    done = 0
    while done < len(values):
        repeated = bits.read(1)
        end = min(len(values), done + 1 + bits.read(sizes[bits.read(2)]))
        values[done:end] = bits.read(_WORD) if repeated else bits.read_bytes(end - done)
        done = end
    return values
