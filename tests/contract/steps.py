"""The conversation whose answers, and whose traces in the database, are golden."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tests.contract.conversation import (
    FRAMES,
    VIDEO,
    Past,
    Step,
    batch,
    box,
    chosen,
    click,
    draft,
    interactive,
    recorded,
    results_of,
    setup,
    submitted,
    task_of,
    typed,
    with_prompts,
    with_status,
)

_VIDEO_BATCH, _TEXT_VIDEO = "predict_batch_video", "predict_interactive_text_video"
_TEXT_FRAMES, _CLICK = "predict_interactive_text_frames", "predict_interactive_click_frames"


def _moved(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A box track whose first keyframe was moved."""
    changed = deepcopy(results)
    for result in changed:
        if result["type"] == "videorectangle":
            result["origin"] = "prediction-changed"
            result["value"]["sequence"][0]["x"] += 5
    return changed


def _masks(past: Past, rank: int = 0) -> list[dict[str, Any]]:
    return [
        result for result in results_of(past["batch-frames"], rank=rank) if result["type"] == "brushlabels"
    ]


def _some_erased(past: Past) -> list[dict[str, Any]]:
    """Half of the proposed pages, the first one drawn anew as another page has it."""
    first, *rest = _masks(past)[:5]
    return [{**first, "value": rest[-1]["value"], "origin": "prediction-changed"}, *rest]


def _drawn(past: Past) -> list[dict[str, Any]]:
    """One page of the second candidate as if it had been painted."""
    page = {**_masks(past, rank=1)[3], "id": "drawn", "origin": "manual"}
    del page["meta"], page["score"]
    return [page, typed("the painted thing")]


def _answer_in_draft(past: Past, step: str, *others: dict[str, Any]) -> list[dict[str, Any]]:
    return draft([*past[step]["results"][0]["result"], *others])


_RECORDED_REQUESTS = [
    Step("setup", "/setup", lambda _: setup(_VIDEO_BATCH)),
    Step("setup-again", "/setup", lambda _: setup(_VIDEO_BATCH)),
    Step("setup-frames", "/setup", lambda _: setup(_CLICK)),
    Step("batch-video", "/predict", lambda _: recorded(_VIDEO_BATCH)),
    Step("batch-video-again", "/predict", lambda _: recorded(_VIDEO_BATCH)),
    Step("batch-frames", "/predict", lambda _: batch(_TEXT_FRAMES)),
    Step("interactive-text-video", "/predict", lambda _: recorded(_TEXT_VIDEO)),
    Step("interactive-region-video", "/predict", lambda _: recorded("predict_interactive_region_video")),
    Step("interactive-text-frames", "/predict", lambda _: recorded(_TEXT_FRAMES)),
    Step("interactive-click-frames", "/predict", lambda _: recorded(_CLICK)),
    Step("interactive-click2-frames", "/predict", lambda _: recorded("predict_interactive_click2_frames")),
]

_ERRORS_OF_TASKS = [
    Step("batch-nothing", "/predict", lambda _: batch(_TEXT_VIDEO, expr="nothing at all")),
    Step("batch-unreadable", "/predict", lambda _: batch(_TEXT_VIDEO, expr="unreadable")),
    Step("batch-unlike", "/predict", lambda _: batch(_TEXT_VIDEO, expr="unlike anything")),
    Step("batch-dead-worker", "/predict", lambda _: batch(_TEXT_VIDEO, expr="die")),
    Step("batch-empty-expression", "/predict", lambda _: batch(_TEXT_VIDEO, expr=" \n ")),
    Step("batch-expression-no-text", "/predict", lambda _: batch(_TEXT_VIDEO, expr=["a", "b"])),
    Step("batch-no-media", "/predict", lambda _: batch(_TEXT_VIDEO, video="")),
    Step("batch-missing-page", "/predict", lambda _: batch(_TEXT_FRAMES, frames=["/nowhere/1.jpg"])),
    Step("batch-no-tasks", "/predict", lambda _: {**recorded(_VIDEO_BATCH), "tasks": []}),
]

_STEERING = [
    Step("spurious", "/predict", lambda _: interactive(_TEXT_VIDEO, {})),
    Step(
        "text-video-status",
        "/predict",
        lambda _: interactive(_TEXT_VIDEO, config=with_status(_TEXT_VIDEO)),
    ),
    Step(
        "text-video-nothing",
        "/predict",
        lambda _: interactive(_TEXT_VIDEO, typed("nothing", "video"), config=with_status(_TEXT_VIDEO)),
    ),
    Step(
        "text-video-beside-status",
        "/predict",
        lambda past: interactive(
            _TEXT_VIDEO,
            {**past["text-video-status"]["results"][0]["result"][-1], "from_name": "region_text"}
            | {"value": {"text": ["the ball"]}},
            config=with_status(_TEXT_VIDEO),
        ),
    ),
    Step(
        "words",
        "/predict",
        lambda _: interactive(_CLICK, typed("the red ball"), config=with_prompts(), id=11),
    ),
    Step(
        "words-second-candidate",
        "/predict",
        lambda past: interactive(
            _CLICK, typed("#2"), config=with_prompts(), id=11, drafts=_answer_in_draft(past, "words")
        ),
    ),
    Step(
        "words-no-such-candidate",
        "/predict",
        lambda past: interactive(
            _CLICK, typed("#9"), config=with_prompts(), id=11, drafts=_answer_in_draft(past, "words")
        ),
    ),
    Step(
        "two-objects",
        "/predict",
        lambda _: interactive(_CLICK, typed("two balls"), config=with_prompts(), id=12),
    ),
    Step(
        "named-object",
        "/predict",
        lambda _: interactive(_CLICK, typed("other: the box"), config=with_prompts(), id=13),
    ),
    Step(
        "chosen-object",
        "/predict",
        lambda _: interactive(_CLICK, typed("the green box"), chosen("other"), config=with_prompts(), id=14),
    ),
    Step(
        "click-alone",
        "/predict",
        lambda _: interactive(_CLICK, click(2, 40, 50), config=with_prompts(), id=15),
    ),
    Step(
        "click-off-alone",
        "/predict",
        lambda _: interactive(_CLICK, click(2, 40, 50, "negative"), config=with_prompts(), id=16),
    ),
    Step(
        "box-alone",
        "/predict",
        lambda _: interactive(_CLICK, box(1, 10, 20, 30, 40, "object"), config=with_prompts(), id=17),
    ),
    Step(
        "click-after-words",
        "/predict",
        lambda past: interactive(
            _CLICK,
            click(3, 40, 50),
            config=with_prompts(),
            id=11,
            drafts=_answer_in_draft(past, "words-second-candidate"),
        ),
    ),
    Step(
        "click-off-after-click",
        "/predict",
        lambda past: interactive(
            _CLICK,
            click(3, 60, 50, "negative"),
            config=with_prompts(),
            id=11,
            drafts=_answer_in_draft(past, "click-after-words"),
        ),
    ),
    Step(
        "box-of-another-object",
        "/predict",
        lambda past: interactive(
            _CLICK,
            box(5, 50, 50, 20, 20),
            config=with_prompts(),
            id=11,
            drafts=_answer_in_draft(past, "click-off-after-click", chosen("other")),
        ),
    ),
    Step(
        "words-after-paint",
        "/predict",
        lambda past: interactive(
            _CLICK,
            typed("the red ball"),
            config=with_prompts(),
            id=18,
            drafts=draft([{**past["words"]["results"][0]["result"][0], "id": "painted", "origin": "manual"}]),
        ),
    ),
    Step(
        "click-after-erasing",
        "/predict",
        lambda past: interactive(
            _CLICK,
            click(4, 30, 30),
            config=with_prompts(),
            id=11,
            drafts=draft(past["box-of-another-object"]["results"][0]["result"][:-3]),
        ),
    ),
]

_WEBHOOKS = [
    Step(f"webhook-{name}", "/webhook", lambda _, name=name: recorded(f"webhook_{name}"))  # type: ignore[misc]
    for name in (
        "annotation_created_video",
        "annotation_created_frames_brush",
        "annotation_updated",
        "annotation_created_skipped",
        "project_updated",
    )
]


def _accepted(number: int, task: int, results: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return submitted(number, task_of(_CLICK, task), results, FRAMES, with_prompts(), **fields)


def _tracked(number: int, results: list[dict[str, Any]]) -> dict[str, Any]:
    task = task_of(_VIDEO_BATCH, 3)
    return submitted(number, task, results, VIDEO, recorded(_VIDEO_BATCH)["label_config"])


_SUBMISSIONS = [
    Step("submit-accepted", "/webhook", lambda past: _accepted(101, 5, _masks(past))),
    Step("submit-erased", "/webhook", lambda past: _accepted(102, 5, _some_erased(past))),
    Step("submit-drawn", "/webhook", lambda past: _accepted(103, 21, _drawn(past))),
    Step(
        "submit-rejected",
        "/webhook",
        lambda past: _accepted(104, 22, [*_masks(past), chosen("Reject", "verdict")]),
    ),
    Step("submit-not-visible", "/webhook", lambda _: _accepted(105, 23, [chosen("not visible", "verdict")])),
    Step("submit-empty", "/webhook", lambda _: _accepted(106, 24, [])),
    Step(
        "submit-steered",
        "/webhook",
        lambda past: _accepted(107, 11, past["click-after-words"]["results"][0]["result"]),
    ),
    Step("submit-no-region", "/webhook", lambda _: _accepted(108, 25, [{"type": "brushlabels", "value": 5}])),
    Step(
        "submit-unreadable",
        "/webhook",
        lambda past: _accepted(109, 26, [{**_drawn(past)[0], "original_width": 320}, typed("unreadable")]),
    ),
    Step(
        "submit-beyond-the-end",
        "/webhook",
        lambda past: _accepted(110, 27, [{**_drawn(past)[0], "item_index": 40}, typed("beyond the end")]),
    ),
    Step("submit-track", "/webhook", lambda past: _tracked(111, results_of(past["batch-video"], 2))),
    Step(
        "submit-moved-track",
        "/webhook",
        lambda past: _tracked(112, _moved(results_of(past["batch-video"], 2))),
    ),
    Step("corrections-video-filled", f"/projects/{VIDEO}/corrections"),
    Step("corrections-frames", f"/projects/{FRAMES}/corrections"),
    Step("webhook-start_training", "/webhook", lambda _: recorded("webhook_start_training")),
    Step("webhook-annotations_deleted", "/webhook", lambda _: recorded("webhook_annotations_deleted")),
    Step(
        "tasks-deleted",
        "/webhook",
        lambda _: {"action": "TASKS_DELETED", "tasks": [{"id": 24}], "project": {"id": FRAMES}},
    ),
    Step("made-up-event", "/webhook", lambda _: {"action": "MADE UP", "project": 3}),
]

_QUESTIONS = [
    Step("health", "/health"),
    Step("versions", "/versions"),
    Step("versions-of-project", "/versions?project=1.1795359785"),
    Step("jobs", "/jobs"),
    Step("corrections-video", f"/projects/{VIDEO}/corrections"),
    Step("refinement-video", f"/projects/{VIDEO}/refinement"),
    Step("refinement-frames", f"/projects/{FRAMES}/refinement"),
    Step("refine", f"/projects/{FRAMES}/refine", lambda _: {}),
    Step("refinement-after", f"/projects/{FRAMES}/refinement"),
]

STEPS = [*_RECORDED_REQUESTS, *_ERRORS_OF_TASKS, *_STEERING, *_WEBHOOKS, *_SUBMISSIONS, *_QUESTIONS]
