"""Log lines: as text and as JSON, with the id of the request that they are about."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ml_backend.logs import JSON, JsonFormatter, LoggingSetup, current_request_id, request_scope
from ml_backend.models.executor import Executor
from ml_backend.models.workers import ProcessWorker
from tests.support import executor_targets as targets

pytestmark = pytest.mark.timeout(120)


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    about = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("a.logger", logging.WARNING, __file__, 1, message, None, about)


@pytest.fixture
def root() -> Iterator[None]:
    """Has the root logger as it was, at the end."""
    logger = logging.getLogger()
    level, handlers = logger.level, list(logger.handlers)
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


def test_a_record_is_one_json_object_a_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        line = JsonFormatter("models-1").format(record("a \x1b[31m\nline", error))
    assert line.isascii()
    assert line.isprintable()
    fields = json.loads(line)
    assert fields["message"] == "a \x1b[31m\nline"
    assert (fields["level"], fields["process"], fields["logger"]) == ("WARNING", "models-1", "a.logger")
    assert "ValueError: two\nlines" in fields["exception"]
    assert "request" not in fields
    assert fields["time"].endswith("+00:00")


def test_lines_within_a_request_carry_its_id(root: None, capsys: pytest.CaptureFixture[str]) -> None:
    with request_scope("abc"):
        assert json.loads(JsonFormatter("").format(record("x")))["request"] == "abc"
        with request_scope("inner"):
            assert current_request_id() == "inner"
        assert current_request_id() == "abc"
    assert current_request_id() == ""
    LoggingSetup().apply()
    with request_scope("abc"):
        logging.getLogger("a.logger").info("within")
    logging.getLogger("a.logger").info("without")
    within, without = capsys.readouterr().err.splitlines()
    assert within.endswith("INFO a.logger [abc]: within")
    assert without.endswith("INFO a.logger: without")


def test_the_id_reaches_the_lines_of_the_worker(capfd: pytest.CaptureFixture[str]) -> None:
    worker: ProcessWorker[Any, Any] = ProcessWorker(
        targets.commands, logging_setup=LoggingSetup(form=JSON, process="models-0")
    )
    executor: Executor[Any, Any] = Executor([worker])
    try:
        with request_scope("abc"):
            job = executor.submit(("log", "within"))
        job.result()
        executor.submit(("log", "without")).result()
    finally:
        executor.close()
    sys.stderr.flush()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    told = {line["message"]: line for line in lines if line["logger"] == "tests"}
    assert told["within"]["request"] == "abc"
    assert told["within"]["process"] == "models-0"
    assert "request" not in told["without"]
