"""The page of one proposal, with its pictures and its video."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from flask import Blueprint, Response, render_template, send_file

from ml_backend.label_studio.task_media import media_limits
from ml_backend.predictions.frame_checks import doubtful_frames
from ml_backend.predictions.messages import describe_proposal
from ml_backend.proposals import ProposalFiles
from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.web.pages.curves import presence_of
from ml_backend.web.pages.pictures import ProposalPictures, ShownProposal, View, views
from ml_backend.web.pages.projects import known_project
from ml_backend.web.pages.queries import ListedProposal, find_proposal

_VIEW_TITLES = {
    View.FRAME_MAP: ("Frame map", "attention in each frame alone"),
    View.VIDEO_MAP: ("Video map", "attention over the whole clip"),
    View.POINTS: ("Points", "point prompts for SAM 2; large: the winner's"),
    View.MASKS: ("Masks", "the winner tinted, others outlined"),
}


def add_proposals(blueprint: Blueprint, service: Service) -> None:
    """Add the routes of a proposal.

    Args:
        blueprint: The pages.
        service: What is shown.
    """
    files = ProposalFiles(service.settings.data_dir)
    pictures = ProposalPictures(service.settings.data_dir, media_limits(service.settings))

    def load(number: int) -> tuple[ListedProposal, ShownProposal]:
        listed = find_proposal(service.database, number)
        if listed is None:
            raise RequestError(
                404, f"there is no proposal {number}", "The project's page lists its proposals."
            )
        media = partial(service.task_media, listed.project_id, listed.task_id, listed.key.media_digest)
        return listed, ShownProposal(listed.path, files.load(listed.path), media)

    @blueprint.get("/pages/proposals/<int:number>")
    def proposal(number: int) -> str:
        listed, shown = load(number)
        stored = shown.proposal
        keyframes = [(index, frame, stored.pts[frame]) for index, frame in enumerate(stored.maps.keyframes)]
        return render_template(
            "proposal.html",
            listed=listed,
            project=known_project(service, listed.project_id),
            proposal=stored,
            description=describe_proposal(stored, guidance=service.guidance),
            tracklets=[(tracklet, presence_of(tracklet)) for tracklet in stored.tracklets],
            keyframes=keyframes,
            doubtful=doubtful_frames(stored),
            views=[(view, *_VIEW_TITLES[view]) for view in views(stored)],
        )

    @blueprint.get("/pages/proposals/<int:number>/<int:index>/<view>.jpg")
    def keyframe(number: int, index: int, view: str) -> Response:
        _, shown = load(number)
        try:
            content = pictures.keyframe(shown, index, View(view))
        except (IndexError, ValueError) as error:
            raise RequestError(404, f"the proposal has no picture {index} of {view}", "") from error
        return _unchanging(Response(content, mimetype="image/jpeg"))

    @blueprint.get("/pages/proposals/<int:number>/overlay.mp4")
    def overlay(number: int) -> Response:
        _, shown = load(number)
        path = pictures.overlay(shown).absolute()
        return _unchanging(send_file(path, mimetype="video/mp4", conditional=True))


_Answer = TypeVar("_Answer", bound=Response)


def _unchanging(response: _Answer) -> _Answer:
    """Let the browser keep what is drawn of a stored proposal, and nobody in between."""
    response.headers["Cache-Control"] = "private, max-age=3600"
    return response
