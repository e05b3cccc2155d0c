"""The page of the frames that a person should look at first, by task."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from flask import Blueprint, Response, render_template

from ml_backend.database.errors import StoreError
from ml_backend.predictions.frame_checks import DoubtfulFrame, doubt_of_task, doubtful_frames
from ml_backend.proposals import ProposalFiles
from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.web.pages.drawings import with_masks
from ml_backend.web.pages.projects import known_project
from ml_backend.web.pages.queries import ListedProposal, annotated_tasks, find_proposal, newest_of_tasks
from ml_backend.web.pages.thumbnails import Thumbnails, jpeg
from steerseg.runtime.lru import LruCache

MOST_TASKS = 200
"""Tasks whose proposals are read, the least certain ones: each is a file of its own."""
_KEPT = 4096  # proposals whose frames to check stay in memory


@dataclass(frozen=True)
class TaskToCheck:
    """A task with the frames to look at.

    Attributes:
        listed: Its newest proposal.
        frames: The frames, in their order.
        problem: Why the proposal could not be read; empty where it was.
    """

    listed: ListedProposal
    frames: tuple[DoubtfulFrame, ...]
    problem: str = ""


class FrameChecks:
    """Finds frames to check, each proposal once. Safe to share between threads.

    Args:
        files: The stored proposals.
    """

    def __init__(self, files: ProposalFiles) -> None:
        self._files = files
        self._known = LruCache[str, tuple[DoubtfulFrame, ...]](_KEPT)
        self._lock = threading.Lock()

    def of(self, listed: ListedProposal) -> TaskToCheck:
        """The frames of a proposal to check; raises nothing where its file is missing or damaged."""
        with self._lock:
            frames = self._known.get(listed.path)
        if frames is None:
            try:
                frames = doubtful_frames(self._files.load(listed.path))
            except StoreError as error:
                return TaskToCheck(listed, (), str(error))
            with self._lock:
                self._known.put(listed.path, frames)
        return TaskToCheck(listed, frames)

    def ordered(self, proposals: Sequence[ListedProposal]) -> list[TaskToCheck]:
        """Tasks with frames to check, the most doubtful first, and those whose proposal could not be read."""
        found = [self.of(one) for one in proposals]
        wanted = [one for one in found if one.frames or one.problem]
        return sorted(wanted, key=lambda one: (-doubt_of_task(one.frames), one.listed.task_id))


def add_checks(blueprint: Blueprint, service: Service, thumbnails: Thumbnails) -> None:
    """Add the routes of a project's frames to check.

    Args:
        blueprint: The pages.
        service: What is shown.
        thumbnails: Frames for the pictures.
    """
    files = ProposalFiles(service.settings.data_dir)
    checks = FrameChecks(files)

    @blueprint.get("/pages/projects/<int:number>/check")
    def check(number: int) -> str:
        known = known_project(service, number)
        done = annotated_tasks(service.database, number)
        proposals = [one for one in newest_of_tasks(service.database, number) if one.task_id not in done]
        return render_template(
            "check.html",
            project=known,
            tasks=checks.ordered(proposals[:MOST_TASKS]),
            read=min(len(proposals), MOST_TASKS),
            left=max(0, len(proposals) - MOST_TASKS),
            annotated=len(done),
            both_ways=service.settings.check_both_ways,
        )

    @blueprint.get("/pages/proposals/<int:number>/frames/<int:frame>.jpg")
    def frame_picture(number: int, frame: int) -> Response:
        listed = find_proposal(service.database, number)
        stored = None if listed is None else files.load(listed.path)
        if listed is None or stored is None or frame >= len(stored.pts):
            raise RequestError(404, f"proposal {number} has no frame {frame + 1}", "")
        media = partial(service.task_media, listed.project_id, listed.task_id, listed.key.media_digest)
        wanted = {one.frame for one in checks.of(listed).frames}
        picture = thumbnails.frame(media, listed.key.media_digest, frame, wanted)
        drawn = with_masks(picture, [one.rles[frame] for one in stored.tracklets])
        response = Response(jpeg(drawn), mimetype="image/jpeg")
        response.headers["Cache-Control"] = "private, max-age=3600"
        return response
