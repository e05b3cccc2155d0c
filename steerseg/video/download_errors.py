"""The errors of downloads."""

from __future__ import annotations

from steerseg.errors import VideoError


class DownloadError(VideoError):
    """A download failed.

    Attributes:
        status: The HTTP status that the server answered with, where that was the reason.
        url: The address that answered so, after redirects; it may hold secrets, so it is never shown.
    """

    def __init__(self, message: str, status: int | None = None, url: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.url = url


class DownloadTimeoutError(DownloadError):
    """The server did not answer, or the content did not arrive, in time."""


class NoAnswerError(DownloadTimeoutError):
    """The server was silent for longer than one wait for the network may take."""


class DownloadTooLargeError(DownloadError):
    """The content is larger than allowed."""


class AddressRefusedError(DownloadError):
    """An address on the way may not be asked.

    Attributes:
        host: The host that has it.
    """

    def __init__(self, message: str, host: str) -> None:
        super().__init__(message)
        self.host = host


class UncheckedAddressError(AddressRefusedError):
    """A host is reached through a proxy, so its address cannot be checked, and nobody has named the host."""
