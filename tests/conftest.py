"""Small models of the real architectures with random weights, saved in the layouts that real ones have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from steerseg.lvlm import LVLM
from tests.support.tiny_lvlms import save_tiny_lvlm
from tests.support.tiny_sam2 import SMALL_SAM2

__all__ = ["SMALL_SAM2", "save_tiny_lvlm"]


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
