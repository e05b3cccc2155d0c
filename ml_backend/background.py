"""Work that goes on beside the requests, in turns that no error ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopStatus:
    """How a background loop stands.

    Attributes:
        name: Its name.
        alive: Whether its thread runs.
        failing: Whether its last turn failed.
        errors: How many turns have failed in all.
        error: The last error as text; ``None`` before the first one.
        error_at: When that was.
    """

    name: str
    alive: bool
    failing: bool
    errors: int
    error: str | None
    error_at: datetime | None

    @property
    def problem(self) -> str:
        """What is wrong with it, for a person; empty where it goes on well."""
        if not self.alive:
            return f"the background loop {self.name!r} has ended; start the server again"
        return f"the background loop {self.name!r} fails: {self.error}" if self.failing else ""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; the time in ISO format."""
        return {**asdict(self), "error_at": None if self.error_at is None else self.error_at.isoformat()}


class BackgroundLoop:
    """A thread that takes one turn after another until it is closed. Safe to share between threads.

    Whatever a turn raises is logged and counted, and the next turn follows after a pause.

    Args:
        name: Names the thread, the counter in ``/metrics`` and the entry in ``/health``.
        turn: Does what there is to do. It returns the seconds until the next turn; ``None`` waits for
            :meth:`notify`. A long turn looks at :attr:`closing` and returns early.
        pause: Seconds after a failed turn; not even :meth:`notify` shortens them.
    """

    def __init__(self, name: str, turn: Callable[[], float | None], *, pause: float) -> None:
        self.name = name
        self._turn = turn
        self._pause = pause
        self._changed = threading.Condition()
        self._notified = False
        self._closing = False
        self._failing = False
        self._errors = 0
        self._error: tuple[str, datetime] | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; the first turn comes at once."""
        self._thread.start()

    def notify(self) -> None:
        """Ask for a turn as soon as possible; one that goes on is followed by another. Returns at once."""
        with self._changed:
            self._notified = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Begin no further turn. Returns at once, and may be repeated."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def close(self, timeout: float = 2.0) -> None:
        """Stop, and wait for the turn that goes on. May be repeated.

        Args:
            timeout: Most seconds to wait; the process may end while a turn goes on, for the thread is a daemon.
        """
        self.stop()
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def closing(self) -> bool:
        """Whether no further turn begins."""
        return self._closing

    @property
    def started(self) -> bool:
        """Whether it was begun."""
        return self._thread.ident is not None

    @property
    def status(self) -> LoopStatus:
        """How it stands."""
        with self._changed:
            error, error_at = self._error or (None, None)
            alive = self._thread.is_alive()
            return LoopStatus(self.name, alive, self._failing, self._errors, error, error_at)

    def _run(self) -> None:
        while not self._closing:
            with self._changed:
                self._notified = False
            try:
                wait = self._turn()
            except BaseException as error:  # also what would end a thread without a word
                self._note(error)
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, self._pause)
            else:
                with self._changed:
                    self._failing = False
                    self._changed.wait_for(lambda: self._closing or self._notified, wait)

    def _note(self, error: BaseException) -> None:
        log.error(
            "the background loop %r goes on in %g s after an error", self.name, self._pause, exc_info=error
        )
        with self._changed:
            self._failing = True
            self._errors += 1
            self._error = (f"{type(error).__name__}: {error}", datetime.now(UTC))
