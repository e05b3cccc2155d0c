from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ray_cluster import LocalCluster


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--ray-kills", type=int, default=3, help="actors and nodes of a Ray cluster that are killed"
    )
    parser.addoption(
        "--ray-head-kills", type=int, default=1, help="how often the head of a Ray cluster is killed"
    )


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """A head and two nodes with a worker each; one for all tests, since it takes seconds to start."""
    made = LocalCluster(2)
    yield made
    made.close()
