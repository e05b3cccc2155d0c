"""Every answer of a long conversation with Label Studio, and what it leaves in the database."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.contract.backend import Backend
from tests.contract.conversation import RECORDED, Answers
from tests.contract.database import dump
from tests.contract.golden import Golden
from tests.contract.normal import NUMBER, normalised
from tests.contract.steps import STEPS

pytestmark = pytest.mark.timeout(300)

Talked = tuple[Backend, Answers]


@pytest.mark.parametrize("name", [step.name for step in STEPS])
def test_answer(talked: Talked, golden: Golden, name: str) -> None:
    _, answers = talked
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


def test_database(talked: Talked, golden: Golden) -> None:
    for table, rows in dump(talked[0].database).items():
        golden.check(f"database/{table}", rows)


def test_metrics(talked: Talked, golden: Golden) -> None:
    text = talked[0].client.get("/metrics").get_data(as_text=True)
    lines = [line for line in text.splitlines() if not line.startswith("#") and "_created" not in line]
    lines = [
        line for line in lines if not line.startswith("steerseg_worker_state")
    ]  # as it happens to stand now
    counted = [line for line in lines if "seconds" not in line.partition("{")[0]]
    timed = {
        re.sub(r'_bucket|_sum|_count|le="[^"]*",|\S+$', "", line) for line in lines if line not in counted
    }
    golden.check("metrics", {"counted": sorted(counted), "timed": sorted(timed)})
