"""Decoded frames as pictures that look as browsers show them: upright, of square pixels, in their colours."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

HD_LINES = 720
"""Frames of at least so many lines are taken for BT.709 where the file does not say, others for BT.601; as Chromium
does."""

_UNTAGGED = 2  # FFmpeg's "unspecified"
_THREADS = 2
"""Threads that convert a picture. FFmpeg takes one a core: on a large server their stacks exceed the memory that a
decoder is given."""
_SQUARE = 0.01
"""Pixels whose sides differ by less are square: scaling would cost more sharpness than it sets right (our choice)."""


class FramePictures:
    """Turns the decoded frames of one stream into upright pictures of the first one's size.

    Args:
        aspect: Width of a pixel over its height; ``None`` or 0 where the file does not say.
        check_size: Called with width and height of what is to be made, before it is; may raise.
        square: Whether pixels are made square; otherwise pictures are as large as the frames are stored.
    """

    def __init__(
        self, aspect: Fraction | None, check_size: Callable[[int, int], None], *, square: bool = True
    ) -> None:
        self._aspect = aspect if square else None
        self._check_size = check_size
        self._size: tuple[int, int] | None = None  # (width, height) before rotation
        self._scaled = self._guessed = False
        self._matrix: tuple[int, ...] | None = None

    @property
    def begun(self) -> bool:
        """Whether a frame has come."""
        return self._size is not None

    @property
    def treatment(self) -> tuple[str, ...]:
        """What makes the pictures differ from the frames as they are stored; empty where nothing does."""
        assert self._size is not None
        scaled = (f"square={self._size[0]}x{self._size[1]}",) if self._scaled else ()
        return (*scaled, "colours=bt709") if self._guessed else scaled

    def begin(self, frame: Any) -> None:
        """Take the size and the rotation of the first frame; later ones change nothing."""
        if self._size is not None:
            return
        self._check_size(frame.width, frame.height)
        self._size = square_size(frame.width, frame.height, self._aspect)
        self._scaled = self._size != (frame.width, frame.height)
        self._check_size(*self._size)
        self._guessed = self._is_untagged_hd(frame)
        self._matrix = _display_matrix(frame)

    def picture(self, frame: Any) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB, scaled to the first frame's size where a stream changes it midway."""
        assert self._size is not None
        if self._is_untagged_hd(frame):
            frame.colorspace = Colorspace.ITU709
        width, height = self._size
        array: NDArray[np.uint8] = frame.to_ndarray(
            format="rgb24", width=width, height=height, threads=_THREADS
        )
        return _upright(array, self._matrix)

    def _is_untagged_hd(self, frame: Any) -> bool:
        assert self._size is not None
        return frame.colorspace == _UNTAGGED and not frame.format.is_rgb and self._size[1] >= HD_LINES


def square_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """The (width, height) at which a picture's pixels are square. No side becomes shorter.

    Args:
        width: As stored, in pixels.
        height: As stored, in pixels.
        aspect: Width of a pixel over its height; ``None`` or 0 where it is not known.
    """
    if not aspect or aspect < 0 or abs(aspect - 1) < _SQUARE:
        return width, height
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def _display_matrix(frame: Any) -> tuple[int, ...] | None:
    data = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    return None if data is None else tuple(np.frombuffer(bytes(data), dtype="=i4").tolist())


def _upright(image: NDArray[np.uint8], matrix: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """Apply a display matrix (rows ``a b u, c d v, x y w``; x' = a x + c y, y' = b x + d y) to an image.

    Quarter turns and mirrorings are exact; another angle goes to the nearest of them.
    """
    if matrix is None:
        return image
    a, b, _, c, d, _ = matrix[:6]
    if not any((a, b, c, d)):
        return image
    if abs(a) + abs(d) >= abs(b) + abs(c):
        flip_x, flip_y = a < 0, d < 0
    else:
        image = image.swapaxes(0, 1)
        flip_x, flip_y = c < 0, b < 0
    return image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
