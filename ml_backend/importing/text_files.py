"""Text files that a person names."""

from __future__ import annotations

from pathlib import Path

from steerseg.errors import ConfigError


def read_text(path: Path, *, encoding: str = "utf-8") -> str:
    """The content of a file.

    Args:
        path: The file.
        encoding: ``utf-8``, or ``utf-8-sig`` where a byte order mark may stand in front.

    Raises:
        ConfigError: It is not there, cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding=encoding)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text ({error})") from None


def list_problems(title: str, problems: list[str]) -> str:
    """A title and a line for each problem; of very many, the first twenty and how many more there are."""
    more = f"\n- and {len(problems) - 20} more" if len(problems) > 20 else ""
    return title + "".join(f"\n- {problem}" for problem in problems[:20]) + more
