"""Label Studio's run lengths, against the decoder of its own kit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter.brush import decode_rle, encode_rle, mask2rle
from numpy.typing import NDArray

from ml_backend.label_studio.brush import declared_values, decode_brush


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, st.integers(1, 300), elements=st.sampled_from([0, 1, 128, 255])))
def test_any_values_come_back(values: NDArray[np.uint8]) -> None:
    rle = encode_rle(values)
    assert declared_values(rle) == len(values)
    assert decode_brush(rle).tolist() == values.tolist() == decode_rle(rle).tolist()


def test_a_picture_is_read_as_label_studio_reads_it() -> None:
    mask = np.zeros((90, 160), np.uint8)
    mask[20:60, 30:90] = 255
    mask[40, ::3] = 128
    rle = mask2rle(mask)
    assert (decode_brush(rle) == decode_rle(rle)).all()


@pytest.mark.parametrize("rle", [[0, 0, 0, 9], [0, 0, 0, 9, 56, 0, 0, 0], [0, 0, 0, 9, 0xFF, 0xFF, 0xFF]])
def test_what_ends_early_or_has_other_words_is_refused(rle: list[int]) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        decode_brush(rle)
