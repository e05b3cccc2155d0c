"""Logs in which a line is one record: nothing that came from outside can begin a line or steer a terminal."""

from __future__ import annotations

import logging
from types import TracebackType

_LINE_OF_TRACEBACK = "  | "


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


def configure_logging(level: str, *, process: str = "") -> None:
    """Log to standard error, in place of what was configured before.

    Args:
        level: Level of the root logger.
        process: Names the process in each line, where several write to one stream.
    """
    name = f"{process} " if process else ""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(f"%(asctime)s %(levelname)s {name}%(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
