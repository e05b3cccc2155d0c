"""Every answer of a long conversation with Label Studio, and what it leaves in the database."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.backend import Backend, running_backend
from tests.contract.conversation import RECORDED, hold
from tests.contract.database import dump
from tests.contract.golden import Golden
from tests.contract.normal import NUMBER, normalised
from tests.contract.steps import STEPS

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with running_backend(tmp_path_factory.mktemp("conversation")) as backend:
        yield backend


@pytest.fixture(scope="module")
def answers(talked: Backend) -> dict[str, tuple[int, Any]]:
    return hold(talked, STEPS)


@pytest.mark.parametrize("name", [step.name for step in STEPS])
def test_answer(answers: dict[str, tuple[int, Any]], golden: Golden, name: str) -> None:
    status, body = answers[name]
    golden.check(f"answers/{name}", {"status": status, "json": _settled(normalised(body))})


def _settled(body: dict[str, Any]) -> dict[str, Any]:
    """An answer without what depends on which thread was quicker: the order of jobs, how far a refinement is."""
    if "jobs" in body:
        jobs = [{**job, "name": job["name"] if job["kind"] == "refine" else NUMBER} for job in body["jobs"]]
        return {**body, "jobs": sorted(jobs, key=lambda job: json.dumps(job, sort_keys=True))}
    if body.get("current") and "requested" in body:
        return {**body, "current": {key: body["current"][key] for key in ("id", "project_id", "triggers")}}
    return body


def test_every_recorded_request_takes_part() -> None:
    there = {path.stem for path in RECORDED.glob("*.json")}
    assert there == {
        "setup",
        "predict_batch_video",
        "predict_interactive_click2_frames",
        "predict_interactive_click_frames",
        "predict_interactive_region_video",
        "predict_interactive_text_frames",
        "predict_interactive_text_video",
        "webhook_annotation_created_frames_brush",
        "webhook_annotation_created_skipped",
        "webhook_annotation_created_video",
        "webhook_annotation_updated",
        "webhook_annotations_deleted",
        "webhook_project_updated",
        "webhook_start_training",
    }


def test_database(answers: dict[str, tuple[int, Any]], talked: Backend, golden: Golden) -> None:
    for table, rows in dump(talked.database).items():
        golden.check(f"database/{table}", rows)


def test_metrics(answers: dict[str, tuple[int, Any]], talked: Backend, golden: Golden) -> None:
    text = talked.client.get("/metrics").get_data(as_text=True)
    lines = [line for line in text.splitlines() if not line.startswith("#") and "_created" not in line]
    counted = [line for line in lines if "seconds" not in line.partition("{")[0]]
    timed = {
        re.sub(r'_bucket|_sum|_count|le="[^"]*",|\S+$', "", line) for line in lines if line not in counted
    }
    golden.check("metrics", {"counted": sorted(counted), "timed": sorted(timed)})
