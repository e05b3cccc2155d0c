"""What Label Studio sends, checked and typed before anything acts on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ml_backend.label_studio.task import Draft, Task
from steerseg.errors import SteerSegError

# Parts of a webhook's project that are secrets.
_SECRET_PROJECT_FIELDS = ("token", "task_data_login", "task_data_password")


class RequestError(SteerSegError):
    """A request that cannot be answered, with the HTTP status that says so.

    Args:
        status: An HTTP status of the 4xx or 5xx range.
        message: What was wrong and what was expected.
        hint: What to do.
    """

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message)
        self.status = status
        self.hint = hint


@dataclass(frozen=True)
class SetupRequest:
    """``POST /setup``: which project, how it labels, and how to reach its Label Studio.

    ``None`` stands for what the request does not mention; what is known of it is kept then.
    """

    project_id: int
    uid: str
    label_config: str = field(repr=False)
    hostname: str | None
    access_token: str | None = field(repr=False)
    extra_params: dict[str, Any] | None


@dataclass(frozen=True)
class PredictRequest:
    """``POST /predict``.

    Attributes:
        context: The results that an interactive call is about; ``None`` for a batch.
        deliver_late: Whether the backend is to store what is not ready in time. Our own command line says no,
            since it waits and stores by itself; Label Studio says nothing.
    """

    tasks: tuple[Task, ...]
    project_id: int
    label_config: str = field(repr=False)
    context: tuple[Mapping[str, Any], ...] | None
    deliver_late: bool = True


@dataclass(frozen=True)
class WebhookEvent:
    """``POST /webhook``, less its secrets."""

    action: str
    project_id: int | None
    payload: dict[str, Any] = field(repr=False)


def parse_setup(body: object) -> SetupRequest:
    """Read the body of ``/setup``.

    Raises:
        RequestError: It is not an object, or a key is missing or of the wrong kind.
    """
    fields = _object(body, "the body of /setup")
    _require(fields, ("project", "schema"), "/setup")
    uid = _text(fields, "project", "/setup")
    token = fields.get("access_token")
    return SetupRequest(
        project_id=_project_id(uid),
        uid=uid,
        label_config=_text(fields, "schema", "/setup"),
        hostname=_hostname(fields.get("hostname")),
        access_token=token if isinstance(token, str) and token else None,
        extra_params=_extra_params(fields["extra_params"]) if "extra_params" in fields else None,
    )


def parse_predict(body: object) -> PredictRequest:
    """Read the body of ``/predict``.

    Raises:
        RequestError: It is not an object, or a key is missing or of the wrong kind.
    """
    fields = _object(body, "the body of /predict")
    _require(fields, ("tasks", "project", "label_config"), "/predict")
    tasks = fields["tasks"]
    if not isinstance(tasks, list):
        raise _wrong("tasks", "/predict", "a list of tasks", tasks)
    parameters = _object(fields.get("params") or {}, "'params' of /predict")
    context = parameters.get("context")
    return PredictRequest(
        tasks=tuple(_task(task, index) for index, task in enumerate(tasks)),
        project_id=_project_id(_text(fields, "project", "/predict")),
        label_config=_text(fields, "label_config", "/predict"),
        context=None if context is None else _results(context),
        deliver_late=parameters.get("deliver_late") is not False,
    )


def parse_webhook(body: object) -> WebhookEvent:
    """Read a webhook and strip its secrets.

    Raises:
        RequestError: It is not an object or names no action.
    """
    fields = _object(body, "the body of /webhook")
    _require(fields, ("action",), "/webhook")
    action = _text(fields, "action", "/webhook")
    project = fields.get("project")
    project_id: int | None = None
    if isinstance(project, dict):
        if isinstance(project.get("id"), int):
            project_id = project["id"]
        project = {name: value for name, value in project.items() if name not in _SECRET_PROJECT_FIELDS}
        fields = {**fields, "project": project}
    elif isinstance(project, int):
        project_id = project
    return WebhookEvent(action=action, project_id=project_id, payload=dict(fields))


def parse_project_id(text: str) -> int:
    """The number in a project's name: Label Studio writes ``<id>.<time of creation>``.

    Raises:
        RequestError: There is none.
    """
    return _project_id(text)


def _project_id(text: str) -> int:
    number = text.partition(".")[0]
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise RequestError(
            400,
            f"'project' is {_shown(text)}; expected the project's number, such as '12' or '12.1795359785'",
            "Send the request as Label Studio does.",
        )
    return int(number)


def _task(value: object, index: int) -> Task:
    where = f"tasks[{index}] of /predict"
    fields = _object(value, where)
    _require(fields, ("id", "data"), where)
    number = fields["id"]
    if not isinstance(number, int) or isinstance(number, bool):
        raise _wrong("id", where, "a number", number)
    drafts = fields.get("drafts") or []
    results: list[Mapping[str, Any]] = []
    for draft in drafts if isinstance(drafts, list) else []:
        if isinstance(draft, dict):
            results += [item for item in draft.get("result") or [] if isinstance(item, dict)]
    return Task(
        id=number,
        data=_object(fields["data"], f"'data' of {where}"),
        drafts=tuple(results),
        draft=_latest_draft(drafts),
        predictions=_predictions(fields.get("predictions")),
    )


def _latest_draft(drafts: object) -> Draft | None:
    known = [draft for draft in drafts if isinstance(draft, dict)] if isinstance(drafts, list) else []
    if not known:
        return None
    latest = max(known, key=lambda draft: str(draft.get("updated_at") or ""))
    # Of a person Label Studio tells "name email, number" only.
    number = str(latest.get("created_username") or "").rpartition(", ")[2]
    return Draft(int(number) if number.isascii() and number.isdigit() else None, _results_in(latest))


def _predictions(predictions: object) -> tuple[tuple[Mapping[str, Any], ...], ...]:
    known = [each for each in predictions if isinstance(each, dict)] if isinstance(predictions, list) else []
    known.sort(key=lambda each: each["id"] if isinstance(each.get("id"), int) else 0)
    return tuple(_results_in(each) for each in known)


def _results_in(holder: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    results = holder.get("result")
    return tuple(item for item in results if isinstance(item, dict)) if isinstance(results, list) else ()


def _results(context: object) -> tuple[Mapping[str, Any], ...]:
    results = _object(context, "'context' of /predict").get("result") or []
    if not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
        raise _wrong("result", "'context' of /predict", "a list of results", results)
    return tuple(results)


def _hostname(value: object) -> str | None:
    """An address without its last slash; ``None`` for what is none."""
    if not isinstance(value, str) or urlsplit(value).scheme not in ("http", "https"):
        return None
    return value.rstrip("/")


def _extra_params(value: object) -> dict[str, Any]:
    """Extra parameters of the model connection; Label Studio passes on whatever was typed in."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            raise _wrong(
                "extra_params", "/setup", 'a JSON object such as {"expression": "..."}', value
            ) from None
    if not value:
        return {}
    if not isinstance(value, dict):
        raise _wrong("extra_params", "/setup", 'a JSON object such as {"expression": "..."}', value)
    return value


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RequestError(
            400,
            f"{where} is {_kind(value)}; expected a JSON object",
            "Send the request as Label Studio does.",
        )
    return value


def _require(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    missing = [name for name in names if fields.get(name) is None]
    if missing:
        raise RequestError(
            400,
            f"{where} lacks {', '.join(repr(name) for name in missing)}",
            f"Expected the keys {', '.join(names)}, as Label Studio sends them.",
        )


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # a project's bare number
    if not isinstance(value, str):
        raise _wrong(name, where, "text", value)
    return value


def _wrong(name: str, where: str, expected: str, value: object) -> RequestError:
    return RequestError(
        400,
        f"{name!r} in {where} is {_kind(value)}; expected {expected}",
        "Send the request as Label Studio does.",
    )


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
