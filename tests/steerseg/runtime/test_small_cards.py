"""What our kernels take of the shared memory of smaller GPUs, compiled for them without one."""

from __future__ import annotations

import pytest

from steerseg.segmenters.fused import ATTENTION_TILES
from tests.support.compiled_kernels import shared_memory
from tests.support.interpreted_kernels import fault_of_interpreter

SMALL_CARD = 99 << 10  # for one program, of 100 KB: GeForce 30 and 40, A10, L4, L40
SMALLEST_CARD = 48 << 10

ROLLOUT = """
from steerseg.attention.rollout import kernel_difference
kernel_difference(torch.device("cpu"), torch.bfloat16, 128, size=200)
"""

# At widths of SAM 2: its smallest and its largest stage, its memories, its mask decoder.
SEGMENTER = """
from steerseg.segmenters import fused_kernels
for width in (96, 1152, 256):
    states, norm = torch.zeros(1, 64, width, dtype=torch.bfloat16), torch.zeros(width)
    fused_kernels.add_and_norm(states, states, norm, norm, 1e-6, torch.bfloat16)
for width in (4, 64, 256):
    pictures, norm = torch.zeros(1, width, 64, 64, dtype=torch.bfloat16), torch.zeros(width)
    fused_kernels.norm_channels(pictures, norm, norm, 1e-6)
channels, one = torch.zeros(1, 256, 64, 64, dtype=torch.bfloat16), torch.zeros(1, 1, 64, 64, dtype=torch.bfloat16)
fused_kernels.convolve_each(channels, torch.zeros(256, 1, 7, 7, dtype=torch.bfloat16), torch.zeros(256))
fused_kernels.halve(one, torch.zeros(4, 1, 3, 3, dtype=torch.bfloat16), torch.zeros(4))
angles = torch.zeros(4096, 128)
fused_kernels.rotate(torch.zeros(1, 4096, 256, dtype=torch.bfloat16), angles, angles, 4096)
"""

# The largest tiles are for large cards only. The trial goes on to the next ones, and to torch where none fits.
ATTENTION = f"""
from steerseg.segmenters.fused import narrow_attention_difference
for tiles in {ATTENTION_TILES[1:]}:
    narrow_attention_difference(torch.device("cpu"), torch.bfloat16, width=256, narrow=64, tiles=tiles)
"""


# At the widths of heads of the families that share keys.
ONE_QUERY = """
from steerseg.lvlm.one_query import largest_difference
for depth in (64, 128, 256):
    largest_difference(torch.device("cpu"), torch.bfloat16, depth)
"""


def test_kernels_of_a_generated_token_fit_into_small_cards() -> None:
    taken = shared_memory(ONE_QUERY, 86)
    assert taken.keys() == {"_attend_part", "_join_parts"}
    assert max(taken.values()) <= SMALL_CARD


# At the widths of heads of SAM 2's encoder and of vision towers, and at those of language models.
LAYERS = """
from steerseg.lvlm import layer_kernels
from steerseg.runtime import window_attention_kernels
for tokens, width in ((16, 72), (64, 80), (64, 96), (64, 128)):
    part = torch.zeros(4, tokens, 1, width, dtype=torch.bfloat16)
    window_attention_kernels.attend_within(part, part, part, 0.1)
for width in (128, 3584, 8192):
    layer_kernels.norm(torch.zeros(1, width, dtype=torch.bfloat16), torch.zeros(width), 1e-6)
inner = torch.zeros(1, 18944, dtype=torch.bfloat16)
layer_kernels.gated(inner, inner)
keys, key = torch.zeros(1, 4, 8, 128, dtype=torch.bfloat16), torch.zeros(1, 4, 1, 128, dtype=torch.bfloat16)
layer_kernels.write_token(keys, keys, key, key, torch.zeros(1, dtype=torch.int64))
"""


def test_kernels_of_windows_and_layers_fit_into_the_smallest_cards() -> None:
    taken = shared_memory(LAYERS, 86)
    assert taken.keys() == {"_attend", "_norm", "_gate", "_write_token"}
    assert max(taken.values()) <= SMALLEST_CARD


def test_kernels_fit_into_small_cards() -> None:
    taken = shared_memory(ROLLOUT + SEGMENTER + ATTENTION, 86)
    rollout = {"_row_statistics", "_sum_columns", "_next_row", "_row_gradients", "_column_gradients"}
    sam2 = {"_add_and_norm", "_norm_channels", "_convolve_each", "_halve", "_rotate", "_attend_part"}
    sam2 |= {"_join_parts"}
    assert taken.keys() == rollout | sam2
    assert max(taken.values()) <= SMALL_CARD
    # On the smallest cards the others fail their trial, and torch does their work.
    too_large = {name for name, size in taken.items() if size > SMALLEST_CARD}
    assert too_large == {"_sum_columns", "_row_gradients", "_column_gradients", "_attend_part"}


@pytest.mark.parametrize(
    ("triton", "numpy", "known"),
    [("3.6.0", "2.5.0", True), ("3.7.0", "2.5.0", False), ("3.6.0", "2.4.1", False)],
)
def test_only_the_known_fault_of_the_interpreter_skips_a_test(triton: str, numpy: str, known: bool) -> None:
    errors = "TypeError: only 0-dimensional arrays can be converted to Python scalars"
    assert (fault_of_interpreter(errors, triton, numpy) is not None) == known
    assert fault_of_interpreter("AssertionError", triton, numpy) is None
