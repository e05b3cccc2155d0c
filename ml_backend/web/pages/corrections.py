"""The page of a project's corrections: what annotators decided, as pictures too, and what reviewers say of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as BaseResponse

from ml_backend.corrections.completion_store import CompletionStore
from ml_backend.corrections.efforts import annotator_names
from ml_backend.corrections.filters import CorrectionFilter, Reviewed, Standing
from ml_backend.corrections.records import Correction
from ml_backend.corrections.reviews import MAX_NOTE, ReviewVerdict
from ml_backend.database.projects import Project
from ml_backend.label_studio.task_media import media_limits
from ml_backend.proposals import ProposalFiles, StoredTracklet
from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.web.pages.drawings import cut_around, with_masks
from ml_backend.web.pages.paging import (
    ROWS,
    Pager,
    asked_for,
    requested_choice,
    requested_number,
    requested_offset,
    requested_text,
)
from ml_backend.web.pages.projects import known_project
from ml_backend.web.pages.queries import annotators_of
from ml_backend.web.pages.thumbnails import Thumbnails, jpeg
from steerseg.masks import RLE, mask_area


def add_corrections(blueprint: Blueprint, service: Service, thumbnails: Thumbnails) -> None:
    """Add the routes of a project's corrections and their reviews.

    Args:
        blueprint: The pages.
        service: What is shown and steered.
        thumbnails: Frames for the pictures.
    """
    store, reviews = service.corrections, service.reviewer.reviews

    @blueprint.get("/pages/projects/<int:number>/corrections")
    def corrections(number: int) -> str:
        known = known_project(service, number)
        offset, chosen = requested_offset(), requested_corrections()
        newest = store.newest(number, limit=ROWS, offset=offset, chosen=chosen)
        set_aside = store.list_set_aside(number)
        annotations = {one.annotation_id for one in newest} | {one.annotation_id for one in set_aside}
        with service.database.reading() as session:
            names = annotator_names(session, number)
        made_by = annotators_of(service.database, annotations)
        return render_template(
            "corrections.html",
            project=known,
            counts=store.counts(number),
            corrections=[ListedCorrection.of(one, service.settings.propagation_confidence) for one in newest],
            set_aside=set_aside,
            pending=CompletionStore(service.database).pending(number)[:ROWS],
            pager=Pager.at(offset, store.count(number, chosen)),
            chosen=chosen,
            standings=Standing,
            review_states=Reviewed,
            verdicts=ReviewVerdict,
            names=names,
            made_by=made_by,
            reviews=reviews.of(annotations),
            most=MAX_NOTE,
        )

    @blueprint.post("/pages/projects/<int:number>/annotations/<int:annotation>/review")
    def review(number: int, annotation: int) -> BaseResponse:
        known = known_project(service, number)
        task = reviews.task_of(number, annotation)
        if task is None:
            raise RequestError(
                404,
                f"project {number} has no annotation {annotation}",
                "It may be deleted; load the page again.",
            )
        _review(service, known, task, annotation)
        return redirect(url_for(".corrections", number=number, **asked_for()), 303)

    _add_pictures(blueprint, service, thumbnails)


def _add_pictures(blueprint: Blueprint, service: Service, thumbnails: Thumbnails) -> None:
    files = ProposalFiles(service.settings.data_dir)

    @blueprint.get("/pages/projects/<int:number>/corrections/<int:correction>/<what>.jpg")
    def correction_picture(number: int, correction: int, what: str) -> Response:
        known = known_project(service, number)
        found = [one for one in service.corrections.of_numbers([correction]) if one.project_id == number]
        if not found or what not in ("proposed", "accepted"):
            raise RequestError(404, f"there is no picture {what} of correction {correction}", "")
        (one,) = found
        tracklet = _proposed(files, one)
        if tracklet is None and what == "proposed":
            raise RequestError(404, f"no proposal of correction {correction} is known", "")
        frame = shown_frame(one, tracklet)
        masks = {"accepted": one.masks.get(frame), "proposed": _mask_at(tracklet, frame)}
        media = partial(service.media.load_corrected, known, one)
        picture = thumbnails.frame(media, one.media_digest, frame)
        rle = masks[what]
        shown = with_masks(picture, [] if rle is None else [rle])
        part = cut_around(picture, shown, [one for one in masks.values() if one is not None])
        response = Response(jpeg(part), mimetype="image/jpeg")
        response.headers["Cache-Control"] = "private, max-age=600"
        return response


def media_thumbnails(service: Service) -> Thumbnails:
    """The thumbnails of a service's media."""
    return Thumbnails(service.settings.data_dir, media_limits(service.settings))


def requested_corrections() -> CorrectionFilter:
    """Which corrections the requested page shows."""
    return CorrectionFilter(
        text=requested_text("q"),
        standing=requested_choice("standing", Standing),
        annotator=requested_number("annotator"),
        reviewed=requested_choice("review", Reviewed),
    )


def _review(service: Service, project: Project, task: int, annotation: int) -> None:
    """Do what the form says.

    Raises:
        RequestError: It says neither, or returns without a note.
    """
    name = request.authorization.username if request.authorization is not None else None
    by = f"{name or 'a person'}, on the page"
    match request.form.get("verdict", ""):
        case ReviewVerdict.ACCEPTED:
            service.reviewer.accept(project, task, annotation, by=by)
        case ReviewVerdict.RETURNED:
            note = " ".join(request.form.get("note", "").split())
            if not note or len(note) > MAX_NOTE or not note.isprintable():
                raise RequestError(
                    400,
                    f"a returned annotation needs a note of at most {MAX_NOTE} characters",
                    "Write what the annotator should mend, and return it again.",
                )
            service.reviewer.give_back(project, task, annotation, note, by=by)
        case _:
            raise RequestError(
                400, "the form says neither “accepted” nor “returned”", "Use the page's buttons."
            )


@dataclass(frozen=True)
class ListedCorrection:
    """What a list shows of a correction, which has no use for its masks.

    Attributes:
        correction: The correction.
        standing: What the annotator did.
        iou: Mean overlap in [0, 1] with what was proposed, over the decided frames; ``None`` without a proposal.
        changed: How many frames the annotator changed.
        propagated: How many frames SAM 2 filled.
        unsure: Of these, how many are too uncertain for exports and training.
    """

    correction: Correction
    standing: Standing
    iou: float | None
    changed: int
    propagated: int
    unsure: int

    @classmethod
    def of(cls, correction: Correction, confidence: float) -> ListedCorrection:
        """What the list shows of this correction.

        Args:
            correction: The correction.
            confidence: Least confidence of a frame that SAM 2 filled, for exports and training.
        """
        if correction.rejected:
            standing = Standing.REJECTED
        else:
            standing = Standing.CORRECTED if correction.touched else Standing.ACCEPTED
        return cls(
            correction=correction,
            standing=standing,
            iou=correction.iou,
            changed=sum(frame.touched for frame in correction.frames.values()),
            propagated=len(correction.propagated),
            unsure=sum(frame.confidence < confidence for frame in correction.propagated.values()),
        )


def shown_frame(correction: Correction, tracklet: StoredTracklet | None) -> int:
    """The frame that tells most of a correction: where most was changed, or else where the mask is largest.

    Args:
        correction: The correction.
        tracklet: What was proposed, where it is known.
    """
    if correction.frames:

        def worth(index: int) -> tuple[float, int, int]:
            frame = correction.frames[index]
            # An erased mask has no area of its own; the picture of what was proposed shows it.
            area = _area(frame.rle) or _area(_mask_at(tracklet, index))
            return (0.0 if frame.iou is None else round((1.0 - frame.iou) * area)), area, -index

        return max(correction.frames, key=worth)
    if tracklet is None:
        return 0
    return max(range(len(tracklet.rles)), key=lambda index: (_area(tracklet.rles[index]), -index))


def _area(rle: RLE | None) -> int:
    return 0 if rle is None else mask_area(rle)


def _proposed(files: ProposalFiles, correction: Correction) -> StoredTracklet | None:
    """The tracklet that a correction began from; ``None`` where it is not known.

    Raises:
        StoreError: Its file is missing or damaged.
    """
    proposed = correction.proposed
    tracklets = () if proposed is None else files.load(proposed.path).tracklets
    return None if proposed is None or proposed.rank >= len(tracklets) else tracklets[proposed.rank]


def _mask_at(tracklet: StoredTracklet | None, frame: int) -> RLE | None:
    return None if tracklet is None or frame >= len(tracklet.rles) else tracklet.rles[frame]
