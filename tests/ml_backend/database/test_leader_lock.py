"""One server at a time works with a PostgreSQL database, whatever breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ml_backend.database.address import ServerAddress
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.events import EventStore
from ml_backend.database.leader_lock import LeaderLock
from tests.support.postgresql import Databases


@pytest.fixture
def address(postgresql: Databases) -> Iterator[ServerAddress]:
    yield postgresql.make()
    postgresql.drop()


def break_connection(lock: LeaderLock, address: ServerAddress) -> None:
    """End the connection of a lock from the server's side, as a network does that fails."""
    database = Database(address)
    with database.reading() as session:
        session.connection().exec_driver_sql(
            "SELECT pg_terminate_backend(%(pid)s, 10000)", {"pid": lock._session}
        )
    database.close()


def test_one_has_it_at_a_time_and_each_time_is_a_new_term(address: ServerAddress) -> None:
    first, second = LeaderLock(address), LeaderLock(address)
    assert first.acquire()
    assert first.held()
    assert not second.acquire()
    assert (first.term, second.term) == (1, None)
    first.release()
    first.release()
    assert second.acquire()
    assert second.term == 2
    assert not first.held()
    second.release()


def test_of_many_that_try_at_once_one_gets_it(address: ServerAddress) -> None:
    locks = [LeaderLock(address) for _ in range(6)]
    barrier = threading.Barrier(len(locks))

    def try_it(lock: LeaderLock) -> bool:
        barrier.wait()
        return lock.acquire()

    with ThreadPoolExecutor(len(locks)) as pool:
        assert sum(pool.map(try_it, locks)) == 1
    for lock in locks:
        lock.release()


def test_a_broken_connection_costs_nothing_where_nobody_else_was_there(address: ServerAddress) -> None:
    lock = LeaderLock(address)
    assert lock.acquire()
    database = Database(address, term=lock.term)
    break_connection(lock, address)
    assert lock.held()
    assert lock.term == 1
    EventStore(database).add("X", None, {})
    other = LeaderLock(address)
    assert not other.acquire(), "it was taken again"
    database.close()
    lock.release()
    other.release()


def test_whoever_lost_it_writes_nothing_any_more_and_hears_of_it(address: ServerAddress) -> None:
    old, new = LeaderLock(address), LeaderLock(address)
    assert old.acquire()
    database = Database(address, term=old.term)
    EventStore(database).add("X", None, {})
    break_connection(old, address)
    assert new.acquire()
    # It has not looked at its lock since, and its other connections are well.
    with pytest.raises(StoreError, match="another server has taken over"):
        EventStore(database).add("X", None, {})
    assert EventStore(database).count() == 1, "reading goes on"
    assert not old.held()
    assert old.term is None
    assert not old.acquire()
    follower = Database(address, term=new.term)
    EventStore(follower).add("X", None, {})
    beside = Database(address)
    EventStore(beside).add("X", None, {})  # the command line, beside the server
    for one in (database, follower, beside):
        one.close()
    old.release()
    new.release()


def test_a_lock_that_was_another_ones_meanwhile_is_lost_though_it_is_free(address: ServerAddress) -> None:
    old, new = LeaderLock(address), LeaderLock(address)
    assert old.acquire()
    break_connection(old, address)
    assert new.acquire()
    new.release()
    assert not old.held()
    assert old.acquire()
    assert old.term == 3
    old.release()


def test_a_transaction_under_way_ends_before_the_next_term_begins(address: ServerAddress) -> None:
    old, new = LeaderLock(address), LeaderLock(address)
    assert old.acquire()
    database = Database(address, term=old.term)
    began, may_end = threading.Event(), threading.Event()
    order: list[str] = []

    def write() -> None:
        with database.writing() as session:
            session.connection().exec_driver_sql("INSERT INTO deleted_tasks VALUES (7)")
            began.set()
            may_end.wait()
            order.append("written")

    def take_over() -> None:
        assert new.acquire()
        order.append("taken over")

    writer, successor = threading.Thread(target=write), threading.Thread(target=take_over)
    writer.start()
    began.wait()
    break_connection(old, address)
    successor.start()
    may_end.set()
    writer.join()
    successor.join()
    assert order == ["written", "taken over"]
    with database.reading() as session:
        assert session.connection().exec_driver_sql("SELECT id FROM deleted_tasks").all() == [(7,)]
    database.close()
    old.release()
    new.release()


def test_a_connection_that_the_server_has_not_missed_yet_is_ended(address: ServerAddress) -> None:
    """The network forgot the connection, and PostgreSQL still believes in it: its lock must not outlive it."""
    lock = LeaderLock(address)
    assert lock.acquire()
    forgotten, lock._connection = lock._connection, None
    assert lock.held(), "nobody else has begun a term"
    assert lock.held(), "and the lock is taken again"
    other = LeaderLock(address)
    assert not other.acquire()
    assert forgotten is not None
    forgotten.close()
    lock.release()
    assert other.acquire()
    other.release()
