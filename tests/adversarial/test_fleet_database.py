"""A server on PostgreSQL: it stands by, takes over, steps down, and outlives a restart of the database."""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from ml_backend.database.address import ServerAddress
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.events import EventStore
from ml_backend.database.leader_lock import LeaderLock
from ml_backend.database.postgresql import connect_alone
from ml_backend.settings import Settings
from ml_backend.web.standby import StandbyApp
from tests.support.annotation_samples import annotation, event_body
from tests.support.backend import MakeBackend, recorded
from tests.support.networks import Cable
from tests.support.postgresql import Databases, cluster
from tests.support.requests import wait_until

pytestmark = pytest.mark.timeout(300)

END_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture
def address(postgresql: Databases) -> Iterator[ServerAddress]:
    yield postgresql.make()
    postgresql.drop()


def settings_for(address: ServerAddress, tmp_path: Path) -> dict[str, Any]:
    return {"data_dir": tmp_path / "data", "database_url": address.url.render_as_string(hide_password=False)}


def app_of(make_backend: MakeBackend, given: dict[str, Any]) -> StandbyApp:
    def build(term: int | None) -> Any:
        service = make_backend(**given, term=term).service
        service.start()
        return service

    return StandbyApp(Settings(**given), build)


def health(app: StandbyApp) -> dict[str, Any]:
    found: dict[str, Any] = Client(app).get("/health").get_json()
    return found


def webhook(app: StandbyApp, number: int) -> Any:
    return Client(app).post("/webhook", json=event_body("ANNOTATION_CREATED", annotation([], number)))


def test_a_server_that_lost_the_database_steps_down_and_stands_by(
    make_backend: MakeBackend, tmp_path: Path, address: ServerAddress
) -> None:
    given = settings_for(address, tmp_path)
    first, second = app_of(make_backend, given), app_of(make_backend, given)
    first.start()
    assert (health(first)["status"], health(first)["database"]) == ("UP", "postgresql")
    assert Client(first).post("/setup", json=recorded("setup")).status_code == 200
    second.start()
    assert (health(second)["status"], health(second)["database"]) == ("STANDBY", "postgresql")
    assert webhook(second, 1).status_code == 503
    assert webhook(first, 1).status_code == 201
    # The network of the first one fails for a moment: PostgreSQL ends its connection, and another server is quicker.
    lock = first._lock
    assert isinstance(lock, LeaderLock)
    first._loop.stop()  # it does not look meanwhile
    beside = Database(address)
    with beside.reading() as session:
        session.connection().exec_driver_sql(f"SELECT pg_terminate_backend({lock._session}, 10000)")
    wait_until(lambda: health(second)["status"] == "UP")
    refused = webhook(first, 2)
    assert refused.status_code == 503, "no two servers write"
    assert "another server has taken over" in refused.get_json()["error"]
    assert refused.headers["Retry-After"]
    assert first._service is not None
    first._watch(first._service)
    assert health(first)["status"] == "STANDBY"
    assert webhook(second, 3).status_code == 201
    assert EventStore(beside).count() == 2
    beside.close()
    second.close()
    first.close()


def test_a_server_outlives_a_restart_of_its_database(
    make_backend: MakeBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with cluster(safe=True) as server:
        databases = Databases(server.address())
        given = settings_for(databases.make(), tmp_path)
        app = app_of(make_backend, given)
        app.start()
        assert Client(app).post("/setup", json=recorded("setup")).status_code == 200
        assert webhook(app, 1).status_code == 201
        for number, mode in enumerate(("fast", "immediate"), 2):
            server.stop(mode)
            refused = webhook(app, 100)
            assert refused.status_code == 503
            assert "cannot be reached; check that the server runs" in refused.get_json()["error"]
            assert refused.headers["Retry-After"]
            assert Client(app).get("/jobs").status_code == 503
            # A loop that fails may be quicker to say so than the one that looks after the database.
            wait_until(lambda: "goes on when it is there again" in "".join(health(app)["problems"]))
            assert health(app)["status"] == "DEGRADED"
            server.start()
            wait_until(lambda number=number: webhook(app, number).status_code == 201)
            assert app._service is not None, "its models stayed loaded"
        service = app._service
        assert service is not None
        wait_until(lambda: not service.health().problems)  # the loops go on
        wait_until(lambda: EventStore(service.database).unprocessed() == [])
        lock = app._lock
        assert lock.held()
        assert lock.term == 1
        app.close()
        databases.close()
    assert "goes on when it is there again" in caplog.text


def through(cable: Cable, address: ServerAddress) -> ServerAddress:
    return ServerAddress(address.url.set(port=cable.port))


class Annotators:
    """People who submit all the time, each submission as a webhook of Label Studio's.

    Attributes:
        acknowledged: Numbers of the annotations whose event was acknowledged.
        refused: Of those whose event was not; no other answer counts.
    """

    def __init__(self, app: StandbyApp, people: int = 3) -> None:
        self.acknowledged: list[int] = []
        self.refused: list[int] = []
        self._numbers = itertools.count(1)
        self._app = app
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._submit) for _ in range(people)]
        for thread in self._threads:
            thread.start()

    def _submit(self) -> None:
        while not self._ended.is_set():
            number = next(self._numbers)
            status = webhook(self._app, number).status_code
            {201: self.acknowledged, 503: self.refused}[status].append(number)
            self._ended.wait(0.01)

    def went_on(self, more: int = 5) -> None:
        """Wait until so many further events were acknowledged."""
        before = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) >= before + more)

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def test_a_network_that_drops_costs_no_acknowledged_event_and_doubles_none(
    make_backend: MakeBackend, tmp_path: Path, postgresql: Databases, address: ServerAddress
) -> None:
    port = address.url.port
    assert port is not None
    with Cable(port) as cable:
        app = app_of(make_backend, settings_for(through(cable, address), tmp_path))
        app.start()
        assert Client(app).post("/setup", json=recorded("setup")).status_code == 200
        service = app._service
        assert service is not None
        annotators = Annotators(app)
        for _ in range(3):
            annotators.went_on()
            cable.cut()
            wait_until(lambda: "cannot be reached" in "".join(health(app)["problems"]))
            assert health(app)["status"] == "DEGRADED"
            refused = webhook(app, 10_000)
            assert refused.status_code == 503
            assert refused.headers["Retry-After"]
            cable.mend()
            annotators.went_on()
            wait_until(lambda: not service.database.problem)
        beside = connect_alone(address)
        for _ in range(3):  # every connection is ended, whatever it is in the middle of
            with beside.connect() as connection:
                connection.exec_driver_sql(END_ALL)
            annotators.went_on()
        annotators.end()
        service.ingestor.catch_up()  # its loop does so too, within half a minute
        assert EventStore(service.database).unprocessed() == []
        assert app._lock.held()
        assert app._lock.term == 1
        with beside.connect() as connection:
            rows = connection.exec_driver_sql("SELECT payload FROM events WHERE action LIKE 'ANNOTATION%%'")
            stored = [json.loads(payload)["annotation"]["id"] for (payload,) in rows]
            known = [number for (number,) in connection.exec_driver_sql("SELECT id FROM annotations")]
        assert annotators.refused, "the network was missed"
        assert set(annotators.acknowledged) <= set(stored) <= {*annotators.acknowledged, *annotators.refused}
        assert len(stored) == len(set(stored)) == len(known)
        app.close()


def test_of_two_servers_that_which_lost_the_network_gives_the_database_up(
    make_backend: MakeBackend, tmp_path: Path, postgresql: Databases, address: ServerAddress
) -> None:
    port = address.url.port
    assert port is not None
    with Cable(port) as cable:
        first = app_of(make_backend, settings_for(through(cable, address), tmp_path))
        second = app_of(make_backend, settings_for(address, tmp_path))
        first.start()
        second.start()
        assert webhook(first, 1).status_code == 201
        cable.cut()
        wait_until(lambda: health(second)["status"] == "UP")
        assert webhook(first, 2).status_code == 503
        assert webhook(second, 3).status_code == 201
        wait_until(lambda: health(first)["status"] == "DEGRADED")
        cable.mend()
        wait_until(lambda: health(first)["status"] == "STANDBY")
        assert (first._lock.term, second._lock.term) == (None, 2)
        assert webhook(first, 4).status_code == 503
        assert webhook(second, 5).status_code == 201
        beside = Database(address)
        assert EventStore(beside).count() == 3
        beside.close()
        first.close()
        second.close()


def test_a_password_shows_nowhere(
    postgresql: Databases, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "pass-word-7b"
    there = postgresql.make().url
    postgresql.drop()
    wrong = ServerAddress(there.set(username="nobody_of_that_name", password=secret))
    settings = Settings(data_dir=tmp_path, database_url=wrong.url.render_as_string(hide_password=False))
    shown = [repr(settings), str(settings), repr(settings.database), str(settings.database)]
    with caplog.at_level(logging.DEBUG), pytest.raises(StoreError) as refused:
        Database(settings.database)
    shown += [str(refused.value), repr(refused.value), caplog.text, str(refused.value.__cause__)]
    with pytest.raises(StoreError) as refused:
        LeaderLock(wrong).acquire()
    shown.append(str(refused.value))
    monkeypatch.setenv("STEERSEG_DATABASE_URL", f"mysql://me:{secret}@host/db")
    with pytest.raises(ValueError, match="expected an address such as postgresql") as unusable:
        Settings(data_dir=tmp_path)
    shown.append(str(unusable.value.errors(include_input=False)))  # type: ignore[attr-defined]
    assert not [text for text in shown if secret in text]
