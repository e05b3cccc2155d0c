"""One mapping from errors to HTTP, for the API and for the pages."""

from __future__ import annotations

import pytest
from werkzeug.exceptions import NotFound, RequestEntityTooLarge

from ml_backend.database.errors import DamagedValueError, StoreError, ValueRefusedError
from ml_backend.predictions.deliveries import QueueFullError
from ml_backend.requests import RequestError
from ml_backend.web.errors import describe, status_of
from steerseg.errors import Cancelled, ConfigError, ExpressionError, VideoError
from tests.support.backend import Backend

ERRORS = [
    (RequestError(409, "it changed", "Load it again."), 409),
    (ConfigError("no control"), 422),
    (VideoError("no frame"), 422),
    (ExpressionError("too long"), 422),
    (StoreError("the disk is full"), 503),
    (ValueRefusedError("a number beyond 64 bits"), 422),
    (DamagedValueError("it holds a damaged correction"), 500),
    (Cancelled("the server is stopping"), 503),
    (QueueFullError("the queue is full"), 503),
    (OverflowError("secret"), 500),
    (NotFound(), 404),
    (RequestEntityTooLarge(), 413),
]


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_an_error_has_one_status(error: Exception, status: int) -> None:
    problem = describe(error)
    assert status_of(error) == problem.status == status
    assert problem.message
    assert "secret" not in problem.message


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_api_and_pages_answer_with_the_same_status(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(backend.service, "jobs", fail)
    monkeypatch.setattr(backend.service, "overview", fail)
    answer, page = backend.client.get("/jobs"), backend.client.get("/")
    assert answer.status_code == page.status_code == status
    assert list(answer.get_json()) == ["error", "hint"]
    assert answer.get_json()["error"] == describe(error).message
    assert answer.headers.get("Retry-After") == ("10" if status == 503 else None)
    assert page.mimetype == "text/html"
    assert str(status) in page.get_data(as_text=True)
