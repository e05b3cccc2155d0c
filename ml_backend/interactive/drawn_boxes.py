"""Box tracks that an annotator has drawn on a video, without an expression: the segmenter tracks what is in the box.

Label Studio asks nothing when a box is drawn. It asks when the box gets its label, or a text of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ml_backend.interactive.answer import Answer, Call, clipped_score, late_answer, texts_beside
from ml_backend.interactive.request import DrawnTrack
from ml_backend.jobs.steering import SteeringJobs
from ml_backend.label_studio.controls import VideoSide
from ml_backend.label_studio.frame_numbers import FrameNumbers, numbers_beside_pages, numbers_of_video
from ml_backend.label_studio.regions import tracklet_to_video_region
from ml_backend.label_studio.results import Result
from ml_backend.label_studio.task import task_value
from ml_backend.label_studio.task_media import Media
from ml_backend.language.commands import is_go
from ml_backend.models.messages import FramePrompt, SteerRequest
from ml_backend.predictions.messages import capitalised, frame_ranges
from steerseg.errors import ExpressionError
from steerseg.masks import mask_area


@dataclass(frozen=True)
class _Tracked:
    """What became of one box: its regions, a message, and the segmenter's score."""

    result: tuple[Result, ...]
    message: str
    score: float


def track_drawn(call: Call, side: VideoSide, drawn: Sequence[DrawnTrack], jobs: SteeringJobs) -> Answer:
    """Track what is in drawn boxes; each keeps its id, its label and its texts.

    Args:
        call: The call.
        side: The video side of the project.
        drawn: The boxes; at least one.
        jobs: Asks the segmenter.

    Raises:
        SteerSegError: A box cannot be tracked; the message is for the annotator.
    """
    media = call.fetch()
    tracked: list[_Tracked] = []
    for track in drawn:
        answer = _track(call, side, track, media, jobs)
        if isinstance(answer, Answer):
            return answer
        tracked.append(answer)
    return Answer(
        tuple(result for one in tracked for result in one.result),
        " ".join(one.message for one in tracked),
        clipped_score(max(one.score for one in tracked)),
    )


def _track(
    call: Call, side: VideoSide, track: DrawnTrack, media: Media, jobs: SteeringJobs
) -> _Tracked | Answer:
    """Track one box; the answer to the whole call where the segmenter is not ready."""
    numbers = _numbers(call, side, track, media)
    prompts = _prompts(track, numbers, media.stride)
    job = jobs.request(
        _digest(media.digest, prompts),
        SteerRequest(
            media=media.path,
            fps=media.fps,
            track=(),
            anchor=None,
            prompts=prompts,
            painted={},
            hidden=frozenset(),
        ),
        owner=(call.project_id, call.task.id),
    )
    try:
        tracklet = job.future.result(call.seconds_left).tracklet
    except TimeoutError:
        return late_answer(job.progress)
    title = track.label or "the box"
    drawn_on = f"drawn on frame {frame_ranges(sorted(number - 1 for number in track.boxes))}"
    hidden = [t for t, mask in enumerate(tracklet.rles) if mask_area(mask) == 0]
    count = len(tracklet.rles)
    if len(hidden) == count:
        return _Tracked(
            (), f"No object was found in {title}, {drawn_on}. Draw it closer around the object.", 0.0
        )
    result = tracklet_to_video_region(
        tracklet,
        side,
        instance_id=track.id,
        expression="",
        numbers=numbers,
        label=track.label,
        frames=range(0, count * media.stride, media.stride),
        region_texts=_texts(call, side, track.id),
    )
    message = f"{capitalised(title)}, {drawn_on}, is tracked on {count - len(hidden)} of {count} frames"
    message += f"; not visible on {frame_ranges(hidden)}." if hidden else "."
    return _Tracked(tuple(result), message, float(tracklet.score))


def _texts(call: Call, side: VideoSide, track_id: str) -> list[str]:
    """The texts that stay beside a box; *go* was for the backend."""
    known = (*(() if call.task.draft is None else call.task.draft.results), *call.context)
    return [text for text in texts_beside(known, side.task.region_text, track_id) if not is_go(text)]


def _numbers(call: Call, side: VideoSide, track: DrawnTrack, media: Media) -> FrameNumbers:
    data = call.task.data
    if media.frames is not None:
        pages = task_value(data, media.frames.data_key)
        return numbers_beside_pages(
            side, data, len(pages) if isinstance(pages, Sequence) else 1, media.stride
        )
    if media.timeline is None:
        return FrameNumbers.constant(track.count, side.fps(data))
    return numbers_of_video(media.timeline, side.fps(data))


def _prompts(track: DrawnTrack, numbers: FrameNumbers, stride: int) -> dict[int, FramePrompt]:
    """The boxes by frame of the media.

    Raises:
        ExpressionError: None of them is on a frame of the video.
    """
    shown = np.asarray(numbers.shown)
    prompts = {
        int(shown[number - 1]) // stride: FramePrompt(box=box)
        for number, box in sorted(track.boxes.items())
        if 0 < number <= len(shown)
    }
    if not prompts:
        raise ExpressionError("the box is on no frame of the video; draw it on a frame that is shown")
    return prompts


def _digest(media: str, prompts: Mapping[int, FramePrompt]) -> str:
    content = {"media": media, "boxes": {str(frame): prompt.box for frame, prompt in prompts.items()}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
