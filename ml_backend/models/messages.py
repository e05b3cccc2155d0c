"""The contract between server and model process: every request and every answer, as plain data.

Whoever reads this module alone knows all that a worker can be asked. It imports neither torch nor a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ml_backend.models.examples import Example, Pool
from ml_backend.models.geometry import Box, TrackBox
from ml_backend.proposals import StoredProposal, StoredTracklet
from steerseg.masks import RLE

AGREEMENT = 0.3


@dataclass(frozen=True)
class ProposeRequest:
    """Ask for one proposal.

    Attributes:
        media: A video file, or a folder of frames whose names give their order.
        expression: What to track.
        fps: Frames a second of a folder of frames; files know their own.
        alternatives: Most tracklets wanted.
        soft_prompts: The project's; ``None`` for the preset's own.
    """

    media: Path
    expression: str
    fps: float | None
    alternatives: int
    soft_prompts: SoftPromptsRef | None = None


@dataclass(frozen=True)
class Yielded:
    """The answer of work that made way for something more urgent: ask again."""


@dataclass(frozen=True)
class MaskRequest:
    """Ask for masks on frames that have boxes only, and on those that nobody decided.

    Attributes:
        media: A video file, or a folder of frames.
        fps: Frames a second of a folder of frames.
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
class MaskAnswer:
    """What SAM 2 made of it.

    Attributes:
        num_frames: T, as decoded.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        boxed: By frame, the mask of the boxes there. Frames are missing whose mask does not fill its box.
        upright: By frame, the upright boxes around the given ones.
        propagated: By frame, what was propagated.
    """

    num_frames: int
    height: int
    width: int
    boxed: Mapping[int, RLE] = field(repr=False)
    upright: Mapping[int, tuple[Box, ...]] = field(repr=False)
    propagated: Mapping[int, PropagatedFrame] = field(repr=False)


class YieldRequested(Exception):  # noqa: N818 - a request, no fault
    """Something more urgent came; the work is to be begun again later."""


@dataclass(frozen=True)
class FramePrompt:
    """Clicks and a box on one frame; places are fractions of its width and height.

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
        fps: Frames a second of a folder of frames.
        track: One mask per frame of what was tracked so far, ``None`` where it is not visible; empty where
            nothing was.
        anchor: The frame where that track began; the frame where it is largest if not known.
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
        tracklet: Its masks; the given ones where frames are painted or hidden. Its score is SAM 2's own
            estimate in [0, 1] of the prompted masks' overlap with the object.
        kept_track: Whether the track so far took part; if not, marks and paint speak of something else.
        unused: Marked frames that told nothing: clicks off the object where there is none.
    """

    tracklet: StoredTracklet
    kept_track: bool
    unused: tuple[int, ...] = ()


@dataclass(frozen=True)
class MediaFile:
    """Media on this machine: a video file, or a folder of frames and how many of them a second."""

    path: Path
    fps: float | None


@dataclass(frozen=True)
class PrepareRequest:
    """Have an example's vision features, question and targets on disk.

    Attributes:
        example: What to prepare.
        media: Its media; ``None`` for replayed clips, and where the features are known to be there.
        folder: Folder of the refinement.
        features: Folder of vision features, which refinements share.
    """

    example: Example
    media: MediaFile | None
    folder: Path
    features: Path


@dataclass(frozen=True)
class PreparedExample:
    """An example is ready.

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
    """Train for a while.

    Attributes:
        name: Of the training; it also seeds the order of the data.
        folder: Folder of the refinement; the training's state and result are kept in a folder of its name.
        features: Folder of vision features.
        pools: The prepared examples by where they come from.
        start: The champion; ``None`` for the preset's own prompts, or words where it has none.
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
    """

    step: int
    steps: int
    digest: str | None
    losses: tuple[float, ...] = field(repr=False)


@dataclass(frozen=True)
class TrialRequest:
    """Compare candidate and champion on one example.

    Attributes:
        example: What both are asked for.
        media: Its media; ``None`` for replayed clips.
        candidate: The candidate.
        champion: The champion; ``None`` for the preset's own prompts, if it has any.
    """

    example: Example
    media: MediaFile | None
    candidate: SoftPromptsRef
    champion: SoftPromptsRef | None


@dataclass(frozen=True)
class TrialResult:
    """J&F of both in [0, 1]."""

    candidate: float
    champion: float


@dataclass(frozen=True)
class SoftPromptsRef:
    """Soft prompts on disk.

    Attributes:
        folder: Where they lie.
        digest: What they must hash to.
    """

    folder: Path
    digest: str


@dataclass(frozen=True)
class PropagatedFrame:
    """A frame that nobody decided, filled by SAM 2 from those that were.

    Attributes:
        rle: The (H, W) mask; ``None`` where SAM 2 sees no object.
        confidence: In [0, 1]: SAM 2's certainty that the object is visible (or is not), times how little the
            mask changes when its threshold does.
    """

    rle: RLE | None = field(repr=False)
    confidence: float


ModelRequest = ProposeRequest | SteerRequest | MaskRequest | PrepareRequest | TrainRequest | TrialRequest
ModelAnswer = (
    StoredProposal | SteerAnswer | MaskAnswer | PreparedExample | TrainingProgress | TrialResult | Yielded
)
