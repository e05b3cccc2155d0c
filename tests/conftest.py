"""Small models of the real architectures with random weights, saved in the layouts that real ones have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from steerseg.demo.sam2 import Sam2Size
from steerseg.lvlm import LVLM
from tests.tiny_lvlms import save_tiny_lvlm

__all__ = ["SMALL_SAM2", "save_tiny_lvlm"]

SMALL_SAM2 = Sam2Size(
    image_size=64,
    width=8,
    stages=(1, 1, 2, 1),
    windows=(8, 4, 4, 2),
    global_blocks=(3,),
    channels=32,
    memory_channels=16,
    memory_layers=1,
    memory_frames=3,
    object_pointers=4,
)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from a second thread, and wait long for it on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_lvlm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny-lvlm")
    save_tiny_lvlm(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_lvlm(tiny_lvlm_folder: Path) -> LVLM:
    return LVLM.from_pretrained(str(tiny_lvlm_folder), device=torch.device("cpu"), dtype=torch.float32)
