"""Masks that are compared and looked into as they are encoded, whatever size they claim."""

from __future__ import annotations

import numpy as np
import pytest

from steerseg.masks import decode_rle, empty_rle, encode_rle, iou, is_foreground, rle_iou


@pytest.mark.parametrize("seed", range(4))
def test_encoded_masks_say_what_decoded_ones_do(seed: int) -> None:
    chance = np.random.default_rng(seed)
    one, other = (chance.random((7, 11)) > 0.6 for _ in range(2))
    assert rle_iou(encode_rle(one), encode_rle(other)) == pytest.approx(iou(one, other))
    encoded = encode_rle(one)
    found = [[is_foreground(encoded, row, column) for column in range(11)] for row in range(7)]
    assert (np.array(found) == decode_rle(encoded)).all()


def test_masks_of_two_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="overlap"):
        rle_iou(empty_rle(4, 6), empty_rle(6, 4))


def test_two_empty_masks_are_equal() -> None:
    nothing = empty_rle(40_000, 40_000)  # which decoded would take 1.6 GB
    assert rle_iou(nothing, nothing) == 1.0
    assert not is_foreground(nothing, 39_999, 39_999)
