"""The contract between server and model process: every request, every answer, and the envelope they travel in.

Whoever reads this module alone knows all that a model process is asked and all that it says. It is plain data,
and imports neither torch nor a model: the server reads it without loading any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeGuard, TypeVar

from ml_backend.models.examples import CorrectionExample, Example, Pool
from ml_backend.models.geometry import Box, TrackBox
from ml_backend.models.step_messages import (
    GradientRequest,
    GradientShare,
    PromptMatrices,
    StepGradients,
    StepRow,
)
from ml_backend.proposals import StoredProposal, StoredTracklet
from steerseg.masks import RLE

# --- what requests refer to


@dataclass(frozen=True)
class MediaFile:
    """Media on this machine: a video file, or a folder of frames.

    Attributes:
        path: The file; or the folder, whose files' names give the order of the frames.
        fps: Frames per second of a folder; ``None`` for a file, which knows its own.
    """

    path: Path
    fps: float | None


@dataclass(frozen=True)
class SoftPromptsRef:
    """Soft prompts on disk.

    Attributes:
        folder: Where they lie.
        digest: What they must hash to.
    """

    folder: Path
    digest: str


# --- a proposal; the answer is a :class:`~ml_backend.proposals.StoredProposal`


@dataclass(frozen=True)
class ProposeRequest:
    """Ask for one proposal.

    Attributes:
        media: A video file, or a folder of frames whose names give their order.
        expression: What to track.
        fps: Frames per second of a folder of frames; files know their own.
        alternatives: Most tracklets wanted.
        soft_prompts: The project's; ``None`` for the preset's own.
        both_ways: Whether the shown tracklets are tracked anew in both directions of time, to find frames to check.
    """

    media: Path
    expression: str
    fps: float | None
    alternatives: int
    soft_prompts: SoftPromptsRef | None = None
    both_ways: bool = False


# --- one object as its annotator means it


AGREEMENT = 0.3
"""Least overlap (IoU, in [0, 1]) of a prompted or painted frame with the tracklet so far. Below it, the tracklet
followed something else and says nothing about the object (our choice)."""


@dataclass(frozen=True)
class FramePrompt:
    """Clicks and a box on one frame; positions are fractions of its width and height.

    Attributes:
        points: (x, y) of each click.
        labels: Per click, whether it lies on the object.
        box: (x, y, width, height) around the object.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[bool, ...] = ()
    box: Box | None = None


@dataclass(frozen=True)
class SteerRequest:
    """Ask for one object as its annotator means it.

    Attributes:
        media: A video file, or a folder of frames.
        fps: Frames per second of a folder of frames.
        track: The tracklet so far: one mask per frame, ``None`` where the object is not visible; empty where
            nothing was tracked.
        anchor: The frame where that tracklet began; the frame where it is largest if not known.
        prompts: Clicks and boxes by frame.
        painted: Masks by frame that the annotator painted or accepted; they stay as they are.
        hidden: Frames where the annotator removed the object.
    """

    media: Path
    fps: float | None
    track: tuple[RLE | None, ...] = field(repr=False)
    anchor: int | None
    prompts: Mapping[int, FramePrompt]
    painted: Mapping[int, RLE] = field(repr=False)
    hidden: frozenset[int]


@dataclass(frozen=True)
class SteerAnswer:
    """The object over the whole video.

    Attributes:
        tracklet: Its masks; the given ones where frames are painted or hidden. Its score is the segmenter's own
            estimate in [0, 1] of the prompted masks' overlap with the object.
        kept_track: Whether the tracklet so far took part; if not, it overlaps prompts and paint by less than
            :data:`AGREEMENT`.
        unused: Prompted frames that say nothing: clicks off the object where there is none.
    """

    tracklet: StoredTracklet
    kept_track: bool
    unused: tuple[int, ...] = ()


# --- masks of boxes and of the frames that nobody decided


@dataclass(frozen=True)
class MaskRequest:
    """Ask for masks on frames that have boxes only, and on those that nobody decided.

    Attributes:
        media: A video file, or a folder of frames.
        fps: Frames per second of a folder of frames.
        masks: Decided masks by frame, of the media's size and not empty.
        boxes: Decided boxes by frame, where there is no mask.
        hidden: Frames that are decided to be empty.
        propagate: Whether the frames that are none of these are wanted.
    """

    media: Path
    fps: float | None
    masks: Mapping[int, RLE] = field(repr=False)
    boxes: Mapping[int, tuple[TrackBox, ...]] = field(repr=False)
    hidden: frozenset[int] = field(repr=False)
    propagate: bool


@dataclass(frozen=True)
class PropagatedFrame:
    """A frame that nobody decided, filled by the segmenter from those that were.

    Attributes:
        rle: The (H, W) mask; ``None`` where the segmenter sees no object.
        confidence: In [0, 1]: the segmenter's certainty that the object is visible (or is not), times how little
            the mask changes when its threshold does.
    """

    rle: RLE | None = field(repr=False)
    confidence: float


@dataclass(frozen=True)
class MaskAnswer:
    """The masks that the segmenter made.

    Attributes:
        num_frames: T, as decoded.
        height: Height of the frames, in pixels.
        width: Width of the frames, in pixels.
        boxed: By frame, the mask of the boxes there. Frames are missing whose mask does not fill its box.
        upright: By frame, the upright boxes around the given ones.
        propagated: By frame, the masks that were propagated.
    """

    num_frames: int
    height: int
    width: int
    boxed: Mapping[int, RLE] = field(repr=False)
    upright: Mapping[int, tuple[Box, ...]] = field(repr=False)
    propagated: Mapping[int, PropagatedFrame] = field(repr=False)


# --- the slices of a refinement


@dataclass(frozen=True)
class NameRequest:
    """Ask what a corrected object is.

    Attributes:
        example: The correction; its masks show the object on at least one frame.
        media: Its media.
    """

    example: CorrectionExample
    media: MediaFile | None


@dataclass(frozen=True)
class NamedObject:
    """What a corrected object may be called; see :class:`steerseg.words.naming.Naming`."""

    names: Mapping[str, float]
    kinds: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class PrepareRequest:
    """Have an example's vision features, question and targets on disk.

    Attributes:
        example: The example to prepare.
        media: Its media; ``None`` for replayed clips, and where the features are known to be there.
        folder: Folder of the refinement.
        features: Folder of vision features, which refinements share.
        prompts: The version whose glossary rewrites the expression; ``None`` for the preset's own.
    """

    example: Example
    media: MediaFile | None
    folder: Path
    features: Path
    prompts: SoftPromptsRef | None = None


@dataclass(frozen=True)
class PreparedExample:
    """An example that is ready.

    Attributes:
        features: Name of the file of its vision features.
        size: Bytes of that file.
        teaches: Whether any keyframe shows what is to be learned; the example is of no use otherwise.
    """

    features: str
    size: int
    teaches: bool


@dataclass(frozen=True)
class TrainRequest:
    """Train for one slice.

    Attributes:
        name: Name of the training; it also seeds the order of the data.
        folder: Folder of the refinement; the training's state and result are kept in a folder of its name.
        features: Folder of vision features.
        pools: Keys of the prepared examples by where they come from.
        start: The champion; ``None`` for the preset's own soft prompts, or for text where it has none.
        seconds: When to end the slice; one step is taken at least.
    """

    name: str
    folder: Path
    features: Path
    pools: Mapping[Pool, tuple[str, ...]] = field(repr=False)
    start: SoftPromptsRef | None
    seconds: float


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        digest: Digest of the result, once all are done.
        losses: The loss of each step, once all are done.
        workers: How many workers took part in the slice.
    """

    step: int
    steps: int
    digest: str | None
    losses: tuple[float, ...] = field(repr=False)
    workers: int = 1


# --- a step of a training that several workers share; :mod:`ml_backend.models.step_messages` has what it consists of


@dataclass(frozen=True)
class StepRequest:
    """Take a training one step further, once; then say what its next step needs.

    Attributes:
        training: The training; its seconds do not matter.
        gradients: Those of its next step; ``None`` to ask only. Gradients of another step are of no use any more,
            and change nothing.
    """

    training: TrainRequest
    gradients: StepGradients | None


@dataclass(frozen=True, eq=False)
class TrainingStep:
    """What the next step of a training needs.

    Attributes:
        progress: How far the training is.
        prompts: The soft prompts as they are; ``None`` once all steps are done.
        rows: The passes of the step, in their order; none once all steps are done.
    """

    progress: TrainingProgress
    prompts: PromptMatrices | None
    rows: tuple[StepRow, ...] = field(repr=False)


@dataclass(frozen=True)
class TrialRequest:
    """Compare candidate and champion on one example.

    Attributes:
        example: The example that both propose for.
        media: Its media; ``None`` for replayed clips.
        candidate: The candidate.
        champion: The champion; ``None`` for the preset's own soft prompts, if it has any.
    """

    example: Example
    media: MediaFile | None
    candidate: SoftPromptsRef
    champion: SoftPromptsRef | None


@dataclass(frozen=True)
class TrialResult:
    """J&F of both on one example, in [0, 1]."""

    candidate: float
    champion: float


@dataclass(frozen=True)
class Yielded:
    """The answer of work that made way for something more urgent: ask again."""


ModelRequest = (
    ProposeRequest
    | SteerRequest
    | MaskRequest
    | NameRequest
    | PrepareRequest
    | TrainRequest
    | StepRequest
    | GradientRequest
    | TrialRequest
)
ModelAnswer = (
    StoredProposal
    | SteerAnswer
    | MaskAnswer
    | NamedObject
    | PreparedExample
    | TrainingProgress
    | TrainingStep
    | GradientShare
    | TrialResult
    | Yielded
)

JOB_KINDS: Mapping[type[ModelRequest], str] = {
    ProposeRequest: "propose",
    SteerRequest: "steer",
    MaskRequest: "masks",
    NameRequest: "name",
    PrepareRequest: "prepare",
    TrainRequest: "train",
    StepRequest: "step",
    GradientRequest: "gradients",
    TrialRequest: "trial",
}
"""What the work on each kind of request is called, in metrics."""


def video_of(request: ModelRequest) -> Path | None:
    """The media that a worker reads for a request, and may still have in memory; ``None`` where it reads none."""
    match request:
        case ProposeRequest(media=media) | SteerRequest(media=media) | MaskRequest(media=media):
            return media
        case NameRequest(media=file) | PrepareRequest(media=file) | TrialRequest(media=file):
            return None if file is None else file.path
        case TrainRequest() | StepRequest() | GradientRequest():
            return None


def is_read_ahead(request: ModelRequest) -> TypeGuard[ProposeRequest]:
    """Whether a worker may decode the media of a request while it still works on another one."""
    return isinstance(request, ProposeRequest)


# --- the envelope: commands go to the worker, reports come back


RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class RunCommand(Generic[RequestT]):
    """Answer a request.

    Attributes:
        job: Number of the job; all that is said about it carries the same number.
        request: The request.
        request_id: What the log lines about the job carry; empty where nobody's request asked for it.
        upcoming: What the worker probably answers next, soonest first, so that it may read the videos meanwhile.
        urgent: Whether a person waits, so that nothing is done for what is upcoming that takes from this.
    """

    job: int
    request: RequestT
    request_id: str = ""
    upcoming: tuple[RequestT, ...] = ()
    urgent: bool = False


@dataclass(frozen=True)
class CancelCommand:
    """End a job at its next sign of progress."""

    job: int


@dataclass(frozen=True)
class YieldCommand:
    """Let a job make way for something more urgent, where it can."""

    job: int


@dataclass(frozen=True)
class ErrorDetails:
    """An error as it crosses the border.

    Attributes:
        kind: Name of its type in :mod:`steerseg.errors`.
        message: Text for a person.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class ReadyReport:
    """The models are loaded.

    Attributes:
        switched_off: What the preset asks for and cannot have, for a person; empty where it has all.
    """

    switched_off: str = ""


@dataclass(frozen=True)
class LoadFailureReport:
    """The models cannot be loaded; the process ends."""

    error: ErrorDetails


@dataclass(frozen=True)
class ProgressReport:
    """How far a job is.

    Attributes:
        job: Number of the job.
        stage: Name of the stage that it is in.
        fraction: Part of that stage that is done, in [0, 1].
    """

    job: int
    stage: str
    fraction: float


@dataclass(frozen=True)
class FrameCountReport:
    """How many frames the video of a job has."""

    job: int
    frames: int


@dataclass(frozen=True)
class ResultReport(Generic[ResultT]):
    """A job ended with a result."""

    job: int
    result: ResultT


@dataclass(frozen=True)
class ErrorReport:
    """A job ended with an error."""

    job: int
    error: ErrorDetails


WorkerCommand = RunCommand[RequestT] | CancelCommand | YieldCommand
JobReport = ProgressReport | FrameCountReport
WorkerReport = ReadyReport | LoadFailureReport | JobReport | ResultReport[ResultT] | ErrorReport
