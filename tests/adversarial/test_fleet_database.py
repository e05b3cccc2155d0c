"""A server on PostgreSQL: it stands by, takes over, steps down, and outlives a restart of the database."""

from __future__ import annotations

import logging
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
from ml_backend.settings import Settings
from ml_backend.web.standby import StandbyApp
from tests.support.annotation_samples import annotation, event_body
from tests.support.backend import MakeBackend, recorded
from tests.support.postgresql import Databases, cluster
from tests.support.requests import wait_until

pytestmark = pytest.mark.timeout(300)


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
    first._watch()
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
            assert health(app)["status"] in ("UP", "DEGRADED")
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
