"""Bodies of Label Studio's requests as pydantic models, checked before anything acts on them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from ml_backend.database.json_values import JsonError, parse_json
from ml_backend.label_studio.api.session import is_token
from ml_backend.label_studio.origins import origin_of
from ml_backend.label_studio.task import Draft, Task
from steerseg.errors import SteerSegError

Result = dict[str, Any]
"""One entry of an annotation's ``result``, in Label Studio's JSON."""

_HINT = "Send the request as Label Studio does."
_SECRET_PROJECT_FIELDS = ("token", "task_data_login", "task_data_password")
_EXTRA_PARAMS = 'a JSON object such as {"expression": "..."}'
_EXPECTED = {
    "model_type": "a JSON object",
    "dict_type": "a JSON object",
    "string_type": "text",
    "string_unicode": "text in Unicode",
    "int_type": "a number",
    "list_type": "a list",
    "tuple_type": "a list",
}
"""What was expected, by pydantic's type of an error; the message of any other type says it."""


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


# --- values


def _expected(what: str) -> PydanticCustomError:
    return PydanticCustomError("expected", "{what}", {"what": what})


def _read_text(value: object) -> object:
    """Text; a project's bare number becomes text too."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_project(text: str) -> str:
    number = text.partition(".")[0]
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise _expected("the project's number, such as '12' or '12.1795359785'")
    return text


def _only_objects(value: object) -> list[Any]:
    """The objects of a list; Label Studio may send other things beside them, or no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _or_empty_object(value: object) -> object:
    return value or {}


def _or_empty_list(value: object) -> object:
    return value or []


def _read_hostname(value: object) -> str | None:
    """An address without its last slash; ``None`` for what is none, such as a name without a scheme."""
    if not isinstance(value, str) or not value.lower().startswith(("http://", "https://")):
        return None
    _, host, port = origin_of(value)
    if not host or port == -1 or not re.fullmatch(r"[\x21-\x7e]+", value) or set("@?#\\") & set(value):
        raise _expected("the address of Label Studio, such as http://localhost:8080")
    return value.rstrip("/")


def _read_token(value: object) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return None
    if not is_token(value.strip()):
        raise _expected("a token of Label Studio")
    return value.strip()


def _read_extra_params(value: object) -> dict[str, Any]:
    """Extra parameters of the model connection; Label Studio passes on whatever was typed in."""
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except JsonError:
            raise _expected(_EXTRA_PARAMS) from None
    if not value:
        return {}
    if not isinstance(value, dict):
        raise _expected(_EXTRA_PARAMS)
    return value


_Text = Annotated[str, BeforeValidator(_read_text)]
_Project = Annotated[str, BeforeValidator(_read_text), AfterValidator(_check_project)]
_LenientResults = Annotated[tuple[Result, ...], BeforeValidator(_only_objects)]


# --- bodies


class _Body(BaseModel):
    """A JSON object; keys that it does not name are passed over."""

    model_config = ConfigDict(frozen=True)


class SetupRequest(_Body):
    """``POST /setup``: which project, how it labels, and how to reach its Label Studio.

    ``None`` stands for what the request does not mention; the backend then keeps the value that it knows.
    """

    uid: _Project = Field(alias="project")
    label_config: _Text = Field(alias="schema", repr=False)
    hostname: Annotated[str | None, BeforeValidator(_read_hostname)] = None
    access_token: Annotated[str | None, BeforeValidator(_read_token)] = Field(None, repr=False)
    extra_params: Annotated[dict[str, Any] | None, BeforeValidator(_read_extra_params)] = None

    @property
    def project_id(self) -> int:
        """The project's number."""
        return parse_project_id(self.uid)


class _DraftBody(_Body):
    updated_at: Annotated[str, BeforeValidator(lambda value: str(value or ""))] = ""
    created_username: Annotated[str, BeforeValidator(lambda value: str(value or ""))] = ""
    result: _LenientResults = ()

    @property
    def annotator(self) -> int | None:
        """The person's number in Label Studio, which sends "name email, number" only."""
        number = self.created_username.rpartition(", ")[2]
        return int(number) if re.fullmatch(r"[0-9]{1,18}", number) else None


class _PredictionBody(_Body):
    id: Annotated[int, BeforeValidator(lambda value: value if isinstance(value, int) else 0)] = 0
    result: _LenientResults = ()


class _TaskBody(_Body):
    id: StrictInt
    data: dict[str, Any]
    drafts: Annotated[tuple[_DraftBody, ...], BeforeValidator(_only_objects)] = ()
    predictions: Annotated[tuple[_PredictionBody, ...], BeforeValidator(_only_objects)] = ()

    def to_task(self) -> Task:
        """The task; of its drafts, the one that was saved last is the caller's."""
        latest = max(self.drafts, key=lambda draft: draft.updated_at, default=None)
        return Task(
            id=self.id,
            data=self.data,
            drafts=tuple(item for draft in self.drafts for item in draft.result),
            draft=None if latest is None else Draft(latest.annotator, latest.result),
            predictions=tuple(one.result for one in sorted(self.predictions, key=lambda one: one.id)),
        )


class _ContextBody(_Body):
    result: Annotated[tuple[Result, ...], BeforeValidator(_or_empty_list)] = ()


class _ParametersBody(_Body):
    context: _ContextBody | None = None
    deliver_late: Annotated[bool, BeforeValidator(lambda value: value is not False)] = True


class PredictRequest(_Body):
    """``POST /predict``."""

    task_bodies: tuple[_TaskBody, ...] = Field(alias="tasks", repr=False)
    uid: _Project = Field(alias="project")
    label_config: _Text = Field(repr=False)
    parameters: Annotated[_ParametersBody, BeforeValidator(_or_empty_object)] = Field(
        _ParametersBody(), alias="params", repr=False
    )

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks, in order."""
        return tuple(body.to_task() for body in self.task_bodies)

    @property
    def project_id(self) -> int:
        """The project's number."""
        return parse_project_id(self.uid)

    @property
    def context(self) -> tuple[Result, ...] | None:
        """The results that an interactive call is about; ``None`` for a batch."""
        context = self.parameters.context
        return None if context is None else context.result

    @property
    def deliver_late(self) -> bool:
        """Whether the backend stores predictions that are not ready in time.

        Our own command line says no, since it waits and stores by itself; Label Studio says nothing.
        """
        return self.parameters.deliver_late


class WebhookEvent(_Body):
    """``POST /webhook``, less its secrets.

    Attributes:
        action: What happened.
        project_id: The project, where the event names one.
        payload: The whole body without the project's secrets.
    """

    action: _Text
    project_id: int | None
    payload: dict[str, Any] = Field(repr=False)

    @model_validator(mode="before")
    @classmethod
    def _strip_secrets(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        payload, project_id = dict(body), body.get("project")
        if isinstance(project_id, dict):
            project = project_id
            payload["project"] = {k: v for k, v in project.items() if k not in _SECRET_PROJECT_FIELDS}
            project_id = project.get("id")
        if not isinstance(project_id, int) or isinstance(project_id, bool):
            project_id = None
        return {"action": body.get("action"), "project_id": project_id, "payload": payload}


# --- parsing


def parse_setup(body: object) -> SetupRequest:
    """Read the body of ``/setup``.

    Raises:
        RequestError: It is not an object, or a key is missing or of the wrong kind.
    """
    return _parse(SetupRequest, body, "/setup")


def parse_predict(body: object) -> PredictRequest:
    """Read the body of ``/predict``.

    Raises:
        RequestError: It is not an object, or a key is missing or of the wrong kind.
    """
    return _parse(PredictRequest, body, "/predict")


def parse_webhook(body: object) -> WebhookEvent:
    """Read a webhook and strip its secrets.

    Raises:
        RequestError: It is not an object or names no action.
    """
    return _parse(WebhookEvent, body, "/webhook")


def parse_project_id(text: str) -> int:
    """The number in a project's name: Label Studio writes ``<id>.<time of creation>``.

    Raises:
        RequestError: There is none.
    """
    try:
        return int(_check_project(text).partition(".")[0])
    except PydanticCustomError as error:
        raise RequestError(400, f"the project is {_shorten(text)}; expected {error}", _HINT) from None


_Model = TypeVar("_Model", bound=_Body)


def _parse(model: type[_Model], body: object, route: str) -> _Model:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise RequestError(400, _describe(error.errors(include_url=False), route), _HINT) from None


def _describe(problems: Sequence[ErrorDetails], route: str) -> str:
    """Say what was wrong with a body: all keys that one object lacks, else the first wrong value."""
    missing = [
        problem["loc"]
        for problem in problems
        if problem["type"] == "missing" or (problem["input"] is None and _is_key(problem["loc"]))
    ]
    if missing:
        holder = min(missing, key=len)[:-1]
        names = dict.fromkeys(repr(location[-1]) for location in missing if location[:-1] == holder)
        return f"{_locate(holder, route)} lacks {', '.join(names)}"
    problem = problems[0]
    given = problem["input"]
    shown = _shorten(given) if problem["loc"] == ("project",) and isinstance(given, str) else _kind(given)
    expected = _EXPECTED.get(problem["type"], problem["msg"])
    return f"{_locate(problem['loc'], route)} is {shown}; expected {expected}"


def _is_key(location: Sequence[int | str]) -> bool:
    return bool(location) and isinstance(location[-1], str)


def _locate(location: Sequence[int | str], route: str) -> str:
    """A part of a body as a person finds it: ``'tasks[0].id' in the body of /predict``."""
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in location).removeprefix(".")
    return f"{path!r} in the body of {route}" if path else f"the body of {route}"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")
