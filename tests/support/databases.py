"""Store tests run on both databases: ``pytestmark = EACH_DATABASE`` in a module; ``@ONLY_SQLITE`` for its own matters.

On PostgreSQL, each file that a test opens as a database stands for a database of the session's server.

``--on-postgresql`` runs every other test there too: of the longer modules, only those marked ``@EACH_DATABASE`` do by
themselves.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from ml_backend.database.address import Address, ServerAddress
from ml_backend.database.kinds import Kind, kind_of
from tests.support.postgresql import Cluster, Databases, find_pg_ctl
from tests.support.requirements import missing

EACH_DATABASE = pytest.mark.usefixtures("each_database")
ONLY_SQLITE = pytest.mark.parametrize("each_database", ["sqlite"], indirect=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Databases]:
    """Databases of a PostgreSQL server: that of ``STEERSEG_TEST_POSTGRESQL_URL``, or one for this session alone."""
    given, pg_ctl = os.environ.get("STEERSEG_TEST_POSTGRESQL_URL"), find_pg_ctl()
    if given is None and pg_ctl is None:
        missing(
            "no PostgreSQL: install it (Debian: apt-get install postgresql), or set STEERSEG_TEST_POSTGRESQL_URL"
        )
    if find_spec("psycopg") is None:
        missing("no psycopg: pip install 'psycopg[binary]'")
    cluster = None if given is not None or pg_ctl is None else Cluster(pg_ctl)
    databases = Databases(ServerAddress.parse(given) if cluster is None else cluster.address())
    yield databases
    databases.close()
    if cluster is not None:
        cluster.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def each_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the database that a test runs on."""
    if request.param == "sqlite":
        yield request.param
        return
    with _on_postgresql(request.getfixturevalue("postgresql")):
        yield request.param


@pytest.fixture(autouse=True)
def postgresql_on_request(request: pytest.FixtureRequest) -> Iterator[None]:
    """Has a test that is not for both databases run on PostgreSQL, where ``--on-postgresql`` asks for it."""
    if "each_database" in request.fixturenames or not request.config.getoption(
        "on_postgresql", default=False
    ):
        yield
        return
    with _on_postgresql(request.getfixturevalue("postgresql")):
        yield


@contextlib.contextmanager
def _on_postgresql(databases: Databases) -> Iterator[None]:
    made: dict[Path, ServerAddress] = {}

    def standing_for(address: Address) -> Kind:
        if isinstance(address, Path):
            path = address.absolute()
            if path not in made:
                made[path] = databases.make()
            return kind_of(made[path])
        return kind_of(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ml_backend.database.database.kind_of", standing_for)
        yield
    databases.drop()
