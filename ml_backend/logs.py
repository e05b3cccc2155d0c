"""Logs in which a line is one record: nothing that came from outside can begin a line or steer a terminal.

What is done for a request carries the request's id, from the web server to the worker; see :func:`request_scope`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType

TEXT, JSON = "text", "json"
"""Forms of a log: lines for a person, or a JSON object a line."""

_LINE_OF_TRACEBACK = "  | "

_request_id: ContextVar[str] = ContextVar("request_id", default="")


def current_request_id() -> str:
    """The id of the request that this thread works for; empty where it works for none."""
    return _request_id.get()


@contextmanager
def request_scope(request_id: str) -> Iterator[None]:
    """Inside, log lines of this thread carry a request's id.

    Args:
        request_id: The id; empty for work that no request asked for.
    """
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def escape(text: str) -> str:
    """A text with its control characters, and all else that does not print, as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class LineFormatter(logging.Formatter):
    """Formats a record as one line, and the lines of its traceback with a mark before each."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The record's line."""
        return escape(super().formatMessage(record))

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """The traceback."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(_LINE_OF_TRACEBACK + escape(line) for line in lines)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line with a JSON object, for collectors of logs.

    Args:
        process: Names the process in each record.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record: ``time`` (ISO, UTC), ``level``, ``process``, ``logger``, ``message``.

        Where there are any, ``request`` and ``exception`` too.
        """
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process or "server",
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current_request_id():
            fields["request"] = current_request_id()
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


@dataclass(frozen=True)
class LoggingSetup:
    """How a process logs. Picklable: a worker is given the server's.

    Attributes:
        level: Level of the root logger.
        form: :data:`TEXT` or :data:`JSON`.
        process: Names the process in each line, where several write to one stream; empty for the server.
    """

    level: str = "INFO"
    form: str = TEXT
    process: str = ""

    def apply(self) -> None:
        """Log to standard error, in place of what was configured before."""
        handler = logging.StreamHandler()
        if self.form == JSON:
            handler.setFormatter(JsonFormatter(self.process))
        else:
            name = f"{self.process} " if self.process else ""
            handler.addFilter(_add_request)
            handler.setFormatter(
                LineFormatter(f"%(asctime)s %(levelname)s {name}%(name)s%(of_request)s: %(message)s")
            )
        logging.basicConfig(level=self.level, handlers=[handler], force=True)


def _add_request(record: logging.LogRecord) -> bool:
    """Let the format name the request that a record is about."""
    request = current_request_id()
    record.of_request = f" [{request}]" if request else ""
    return True
