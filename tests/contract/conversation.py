"""What Label Studio and its annotators send, step by step: every recorded request, and what follows from answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.contract.backend import Backend

RECORDED = Path(__file__).parents[1] / "fixtures" / "label-studio-1.23.2"
HOST = "http://127.0.0.1:1"  # nobody listens there

VIDEO, FRAMES = 1, 2  # the recorded projects

_STATUS = '<TextArea name="status" toName="{side}" maxSubmissions="0"/></View>'
_PROMPTS = (
    '<RectangleLabels name="around" toName="frames" smart="true"><Label value="object"/></RectangleLabels>'
    '<Choices name="which" toName="frames"><Choice value="object"/><Choice value="other"/></Choices>'
    '<Choices name="verdict" toName="frames"><Choice value="Accept"/><Choice value="Reject"/>'
    '<Choice value="Not visible" alias="not visible"/></Choices>' + _STATUS.format(side="frames")
)

Past = Mapping[str, Any]
"""The answers so far by the names of their steps."""

Answers = dict[str, tuple[int, Any]]
"""Status and JSON of each answer by the name of its step."""


def recorded(name: str) -> dict[str, Any]:
    """The body of a request that Label Studio once sent."""
    body: dict[str, Any] = json.loads((RECORDED / f"{name}.json").read_text("utf-8"))["json"]
    return body


@dataclass(frozen=True)
class Step:
    """One request.

    Attributes:
        name: Of the step, and of its golden answer.
        path: Where it goes.
        body: Makes its JSON from the answers so far; ``None`` for a GET.
    """

    name: str
    path: str
    body: Callable[[Past], Any] | None = None


def hold(backend: Backend, steps: list[Step]) -> Answers:
    """Send every step, each after all that follows from the one before; return status and JSON by name."""
    answers: Answers = {}
    past: dict[str, Any] = {}
    for step in steps:
        if step.body is None:
            response = backend.client.get(step.path)
        else:
            response = backend.client.post(step.path, json=step.body(past))
        assert step.name not in answers, f"two steps are named {step.name}"
        past[step.name] = response.get_json()
        answers[step.name] = response.status_code, past[step.name]
        backend.settle()
    return answers


# --- requests


def setup(name: str, **changes: Any) -> dict[str, Any]:
    """The set-up of the project of a recorded request, without a token: Label Studio itself is not asked."""
    body = recorded(name)
    config = changes.pop("config", body["label_config"])
    made = {**recorded("setup"), "project": body["project"], "schema": config, "hostname": HOST, **changes}
    del made["access_token"]
    return made


def batch(name: str, **data: Any) -> dict[str, Any]:
    """The recorded tasks as a batch, with other data."""
    body = recorded(name)
    body["params"]["context"] = None
    for task in body["tasks"]:
        task["data"].update(data)
        task["drafts"] = task["predictions"] = task["annotations"] = []
    return body


def interactive(
    name: str, *results: dict[str, Any], config: str | None = None, **task: Any
) -> dict[str, Any]:
    """A recorded interactive call about other results, in another configuration, without the recorded draft."""
    body = recorded(name)
    body["params"]["context"]["result"] = list(results) or body["params"]["context"]["result"]
    body["label_config"] = config or body["label_config"]
    body["tasks"][0].update({"drafts": [], "predictions": [], "annotations": [], **task})
    return body


def with_status(name: str) -> str:
    """A recorded labelling configuration with a field for the backend's messages."""
    config: str = recorded(name)["label_config"]
    side = "frames" if "frames" in name else "video"
    return config.replace("</View>", _STATUS.format(side=side))


def with_prompts() -> str:
    """The recorded configuration of pages with boxes, choices of objects, verdicts and a field for messages."""
    config: str = recorded("predict_interactive_click_frames")["label_config"]
    return config.replace("</View>", _PROMPTS)


def typed(text: str, to_name: str = "frames") -> dict[str, Any]:
    """A text in the expression field."""
    return {
        "id": "typed",
        "from_name": "expression",
        "to_name": to_name,
        "type": "textarea",
        "value": {"text": [text]},
        "origin": "manual",
    }


def chosen(value: str, name: str = "which", to_name: str = "frames") -> dict[str, Any]:
    """A choice for the whole task."""
    return {
        "id": f"{name}-1",
        "from_name": name,
        "to_name": to_name,
        "type": "choices",
        "value": {"choices": [value]},
        "origin": "manual",
    }


def box(page: int, x: float, y: float, width: float, height: float, *labels: str) -> dict[str, Any]:
    """A box around an object on a page, in percent."""
    return {
        "id": f"box-{page}",
        "from_name": "around",
        "to_name": "frames",
        "type": "rectanglelabels",
        "item_index": page,
        "original_width": 640,
        "original_height": 360,
        "value": {"x": x, "y": y, "width": width, "height": height, "rectanglelabels": list(labels)},
        "origin": "manual",
    }


def click(page: int, x: float, y: float, label: str = "object") -> dict[str, Any]:
    """A click on a page, in percent."""
    return {
        "id": f"click-{page}-{x:g}-{y:g}",
        "from_name": "click",
        "to_name": "frames",
        "type": "keypointlabels",
        "item_index": page,
        "original_width": 640,
        "original_height": 360,
        "is_positive": True,
        "value": {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]},
        "origin": "manual",
    }


def draft(results: list[dict[str, Any]], person: int = 1) -> list[dict[str, Any]]:
    """The unsaved annotation beside an interactive call."""
    return [
        {
            "id": 1,
            "created_username": f" ann@example.org, {person}",
            "updated_at": "2026-11-22T15:30:00.000000Z",
            "result": results,
        }
    ]


# --- what annotators submit


def results_of(answer: Any, task: int = 0, rank: int = 0) -> list[dict[str, Any]]:
    """The results of one of a task's predictions, the best by default."""
    item = answer["results"][task]
    predictions = item if isinstance(item, list) else [item]
    found: list[dict[str, Any]] = deepcopy(predictions[-1 - rank]["result"])
    for result in found:
        result["origin"] = "prediction"
    return found


def submitted(
    number: int, task: dict[str, Any], results: list[dict[str, Any]], project: int, config: str, **fields: Any
) -> dict[str, Any]:
    """The event of an annotation that was created."""
    return {
        "action": "ANNOTATION_CREATED",
        "annotation": {
            "id": number,
            "task": task["id"],
            "project": project,
            "result": results,
            "was_cancelled": False,
            "created_at": "2026-11-22T15:40:00.000000Z",
            "updated_at": "2026-11-22T15:40:00.000000Z",
            "lead_time": 12.5,
            "parent_prediction": None,
            "completed_by": 1,
            "updated_by": 1,
            **fields,
        },
        "task": {"id": task["id"], "data": task["data"]},
        "project": {"id": project, "label_config": config},
    }


def task_of(name: str, number: int, **data: Any) -> dict[str, Any]:
    """A recorded task with another number and data."""
    task: dict[str, Any] = recorded(name)["tasks"][-1]
    return {**task, "id": number, "data": {**task["data"], **data}}
