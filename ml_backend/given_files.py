"""Text files that a person names on the command line."""

from __future__ import annotations

from pathlib import Path

from steerseg.errors import ConfigError


def read_text(path: Path, *, encoding: str = "utf-8") -> str:
    """The content of a file.

    Raises:
        ConfigError: It is not there, cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding=encoding)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read as UTF-8 text ({error})") from None
