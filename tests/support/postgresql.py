"""A PostgreSQL server for tests, on a free port of the loopback address, with databases made of a template."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import create_engine

from ml_backend.database.address import ServerAddress
from ml_backend.database.database import Database
from tests.support.requirements import missing

_numbers = itertools.count()


def find_pg_ctl() -> Path | None:
    """The newest ``pg_ctl`` of Debian's, or that on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1]
    on_path = shutil.which("pg_ctl")
    return None if on_path is None else Path(on_path).resolve()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """A PostgreSQL server; run by an unprivileged user where this process is root's.

    Args:
        pg_ctl: Its program.
        safe: Whether it survives a power cut; without, it is quicker.
    """

    def __init__(self, pg_ctl: Path, *, safe: bool = False) -> None:
        self._bin = pg_ctl.parent
        self.folder = Path(tempfile.mkdtemp(prefix="steerseg-postgresql-"))
        self.port = _free_port()
        self._user: int | None = None
        self._group: int | None = None
        if os.geteuid() == 0:
            entry = next(pwd.getpwnam(name) for name in ("postgres", "nobody") if _known(name))
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
            self._user, self._group = entry.pw_uid, entry.pw_gid
        self._run(
            "initdb", "-D", self._data, "-U", "steerseg", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"
        )
        with (self.folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"port = {self.port}\nlisten_addresses = '127.0.0.1'\n")
            file.write(f"unix_socket_directories = '{self.folder}'\nmax_connections = 200\n")
            if not safe:
                file.write("fsync = off\nfull_page_writes = off\nwal_level = minimal\nmax_wal_senders = 0\n")
                file.write("autovacuum = off\nshared_buffers = 32MB\n")
        self.start()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-l", str(self.folder / "log"), "-w", "-t", "60", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "-t", "60", "stop")

    def close(self) -> None:
        """Stop it, and remove all that it had."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def address(self, database: str = "postgres") -> ServerAddress:
        return ServerAddress.parse(f"postgresql+psycopg://steerseg@127.0.0.1:{self.port}/{database}")

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._bin / program), *arguments],
            check=True,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"LC_ALL": "C", "PATH": os.environ.get("PATH", "")},
            user=self._user,
            group=self._group,
            extra_groups=None if self._user is None else [],
        )


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


class Databases:
    """Makes databases on one server, each with today's tables.

    Args:
        address: A database of the server, whose user may make others.
    """

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        # One connection for all: that of each statement would take longer than most of them.
        self._engine = create_engine(
            address.url, isolation_level="AUTOCOMMIT", pool_size=1, pool_pre_ping=True
        )
        self._made: list[str] = []
        self._prefix = f"steerseg_{os.getpid()}"
        self._template = f"{self._prefix}_template"
        self._execute(f"CREATE DATABASE {self._template}")
        Database(self.named(self._template)).close()

    def named(self, name: str) -> ServerAddress:
        return ServerAddress(self._address.url.set(database=name))

    def make(self, *, empty: bool = False) -> ServerAddress:
        """A new database; without tables where it is to be empty."""
        name = f"{self._prefix}_{next(_numbers)}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {'template0' if empty else self._template}")
        self._made.append(name)
        return self.named(name)

    def drop(self) -> None:
        """Remove those that were made since the last time."""
        while self._made:
            self._execute(f"DROP DATABASE IF EXISTS {self._made.pop()} WITH (FORCE)")

    def close(self) -> None:
        self.drop()
        self._execute(f"DROP DATABASE IF EXISTS {self._template} WITH (FORCE)")
        self._engine.dispose()

    def _execute(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)


@contextlib.contextmanager
def cluster(*, safe: bool = False) -> Iterator[Cluster]:
    """A server of its own, for tests that stop it."""
    pg_ctl = find_pg_ctl()
    if pg_ctl is None:
        missing("no PostgreSQL: install it (Debian: apt-get install postgresql)")
    made = Cluster(pg_ctl, safe=safe)
    try:
        yield made
    finally:
        made.close()
