"""What can go wrong between the backend and Label Studio's API."""

from __future__ import annotations

from steerseg.errors import SteerSegError


class LabelStudioError(SteerSegError):
    """Label Studio refused a request or cannot be reached.

    Attributes:
        status: The HTTP status, or ``None`` where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LabelStudioUnreachableError(LabelStudioError):
    """No answer: wrong address, not started, or too slow."""


class LabelStudioAuthError(LabelStudioError):
    """The token is not accepted, or its account lacks the permission (401, 403)."""


class LabelStudioNotFoundError(LabelStudioError):
    """The object does not exist, or this account cannot see it (404)."""


class UntrustedAddressError(LabelStudioError):
    """Somebody without credentials named an address of Label Studio, which would be asked from here."""


class LabelStudioInvalidError(LabelStudioError):
    """Label Studio itself refuses the content of a request (400, as JSON)."""


class BackendRefusedError(LabelStudioError):
    """Label Studio would not connect the backend.

    Attributes:
        backend_id: A half-made connection that the refusal left behind, if any.
    """

    def __init__(self, message: str, status: int | None, backend_id: int | None) -> None:
        super().__init__(message, status)
        self.backend_id = backend_id
