"""Small models of the real architectures with random weights, saved in the layouts that real ones have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from steerseg.lvlm import LVLM
from tests.support.databases import each_database, postgresql, postgresql_on_request
from tests.support.requirements import missing
from tests.support.tiny_lvlms import save_tiny_lvlm
from tests.support.tiny_sam2 import SMALL_SAM2

if TYPE_CHECKING:
    from playwright.sync_api import Browser

__all__ = ["SMALL_SAM2", "each_database", "postgresql", "postgresql_on_request", "save_tiny_lvlm"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--on-postgresql", action="store_true", help="run tests on PostgreSQL that run on SQLite otherwise"
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window; one for all tests, since Playwright runs once in a process."""
    from playwright.sync_api import expect, sync_playwright

    from tests.support.label_studio import WAIT, launch

    expect.set_options(timeout=WAIT)

    with sync_playwright() as playwright:
        chromium = launch(playwright)
        if chromium is None:
            missing("no Chromium: install it (Debian: apt-get install chromium), or set CHROMIUM to its path")
        yield chromium
        chromium.close()


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
