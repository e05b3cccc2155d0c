"""The plan of a refinement: corrections to learn from and to be judged by, split by video, with a replay.

A plan is made once, at the beginning of a refinement, and kept by :mod:`ml_backend.refinement.plan_file`: whatever
happens to the corrections meanwhile, an interrupted refinement goes on with the same examples.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ml_backend.corrections.records import Correction
from ml_backend.database.errors import StoreError
from ml_backend.models.examples import CorrectionExample, Masks, Pool, ReplayExample, TaskRef, shows_object
from ml_backend.models.geometry import mask_iou
from ml_backend.proposals import StoredProposal
from ml_backend.refinement.gate import Scheme
from ml_backend.refinement.version_store import CorrectionRevision
from steerseg.config import RefinementRecipe
from steerseg.presets import ReplaySpec
from steerseg.replay import Part
from steerseg.words.counting import instances_meant

log = logging.getLogger(__name__)

CANDIDATE = "candidate"
"""Name of the training that gives the candidate."""

_FEWEST_FOR_WORDS = 2  # videos that a word has to occur in

LoadRejected = Callable[[Correction], Masks | None]
"""The masks that were proposed for a correction, where they are still there."""


@dataclass(frozen=True)
class Training:
    """One training.

    Attributes:
        name: Its name.
        keys: The examples from corrections that it learns from.
    """

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """One comparison.

    Attributes:
        key: The example.
        training: The training whose result is compared with the champion on it.
    """

    key: str
    training: str


@dataclass(frozen=True)
class Plan:
    """The trainings and trials of a refinement.

    Attributes:
        scheme: How the candidate is judged.
        corrections: The examples from corrections by key.
        replayed: Replay clips to learn from, in every training.
        trainings: The trainings; the last one gives the candidate.
        held_out: The trials on held-out videos.
        regression: Replay clips that the candidate must not be worse on.
        shortage: Why nothing is trained, in text and numbers; words may be learned all the same. Empty otherwise.
    """

    scheme: Scheme
    corrections: Mapping[str, CorrectionExample] = field(repr=False)
    replayed: tuple[ReplayExample, ...]
    trainings: tuple[Training, ...]
    held_out: tuple[Trial, ...]
    regression: tuple[ReplayExample, ...]
    shortage: str = ""

    @property
    def candidate(self) -> Training:
        """The training that gives the candidate."""
        return self.trainings[-1]

    @property
    def used(self) -> tuple[CorrectionRevision, ...]:
        """The corrections that the candidate is trained on; all where nothing is trained."""
        keys = self.candidate.keys if self.trainings else tuple(self.corrections)
        chosen = (self.corrections[key] for key in keys)
        return tuple((example.correction, example.revision) for example in chosen)

    def without(self, keys: Collection[str]) -> Plan:
        """The same plan less some corrections: those whose media cannot be had any more."""
        return replace(
            self,
            corrections={key: example for key, example in self.corrections.items() if key not in keys},
            trainings=tuple(
                replace(training, keys=tuple(key for key in training.keys if key not in keys))
                for training in self.trainings
            ),
            held_out=tuple(trial for trial in self.held_out if trial.key not in keys),
        )


@dataclass(frozen=True)
class InsufficientData:
    """There are too few corrections for a refinement; the reason in text and numbers."""

    reason: str


def make_plan(
    corrections: Sequence[Correction],
    *,
    used: Collection[CorrectionRevision],
    recipe: RefinementRecipe,
    replay: ReplaySpec | None,
    confidence: float,
    rejected: LoadRejected,
) -> Plan | InsufficientData:
    """Split a project's corrections into what is learned and what is held out.

    Videos are split, not frames, parts or expressions, and by a hash of their identity: a video stays on its side,
    whatever comes later. Where a hash leaves too few on either side, the candidate is cross-validated.

    Args:
        corrections: All usable corrections of the project.
        used: The corrections that the champion was trained on.
        recipe: Sizes and limits.
        replay: The preset's replay set, if it has one.
        confidence: Least confidence of a propagated mask.
        rejected: Loads the masks of a correction's proposal.
    """
    seen = set(used)
    examples = [
        made
        for correction in corrections
        if (made := _example(correction, seen, recipe, confidence, rejected)) is not None
    ]
    return split_examples(examples, recipe, replay)


def split_examples(
    examples: Sequence[CorrectionExample], recipe: RefinementRecipe, replay: ReplaySpec | None
) -> Plan | InsufficientData:
    """Split examples into what is learned and what is held out; see :func:`make_plan`."""
    videos = sorted({example.group for example in examples if example.judges}, key=_position)
    by_key = {example.key: example for example in examples}
    if len(videos) < recipe.min_videos:
        shortage = (
            f"corrections on {len(videos)} videos show an object, at least {recipe.min_videos} are needed"
        )
        if len(videos) < _FEWEST_FOR_WORDS:
            return InsufficientData(shortage)
        return Plan(Scheme.CROSS_VALIDATION, by_key, (), (), (), (), shortage)
    away = [video for video in videos if _position(video) < recipe.held_out]
    if len(away) >= recipe.min_held_out and len(videos) - len(away) >= recipe.min_held_out:
        scheme = Scheme.HELD_OUT
        trainings, trials = _hold_out(examples, away)
    else:
        scheme = Scheme.CROSS_VALIDATION
        trainings, trials = _cross_validate(examples, videos, recipe.folds)
    return Plan(
        scheme=scheme,
        corrections=by_key,
        replayed=_replay("training", 0 if replay is None else replay.training),
        trainings=trainings,
        held_out=trials,
        regression=_replay("held_out", 0 if replay is None else replay.held_out),
    )


def _example(
    correction: Correction,
    seen: Collection[CorrectionRevision],
    recipe: RefinementRecipe,
    confidence: float,
    load_rejected: LoadRejected,
) -> CorrectionExample | None:
    """A correction as an example; ``None`` where it can teach nothing."""
    truth = correction.filled(confidence)
    weight = correction.weight
    shares = {
        frame: correction.frames[frame].weight / weight
        if frame in correction.masks
        else correction.propagated[frame].confidence
        for frame in truth
        if weight > 0
    }
    wrong: list[Masks] = []
    first = _as_shown_first(correction)
    overlap = correction.iou if first is correction else _overlap(correction, load_rejected(first))
    # What was rejected, and what had to be replaced altogether; a proposal for something invisible as well.
    missed = overlap is not None and overlap < recipe.negative_overlap
    if correction.rejected or (correction.touched and (missed or not correction.visible)):
        masks = load_rejected(first)
        if masks is not None and any(shows_object(rle) for rle in masks.values()):
            wrong.append(masks)
    if not (wrong or any(shows_object(rle) for rle in truth.values())):
        return None
    return CorrectionExample(
        key=f"c{correction.id}-{correction.revision[:12]}",
        correction=correction.id,
        revision=correction.revision,
        video=correction.media_digest,
        group=correction.group,
        expression=correction.expression,
        pool=Pool.OLD if (correction.id, correction.revision) in seen else Pool.NEW,
        weight=weight if weight > 0 else 1.0,
        truth=truth,
        shares=shares,
        decided=frozenset(correction.masks),
        rejected=tuple(wrong),
        num_frames=correction.num_frames,
        height=correction.height,
        width=correction.width,
        task=TaskRef(correction.task_id, correction.task_data, correction.label_config),
        overlap=overlap,
    )


def _as_shown_first(correction: Correction) -> Correction:
    """The correction with the proposal's first tracklet: who took another one, or drew its object, was misunderstood.

    An expression that means several objects has a tracklet for each, and all of them are shown.
    """
    proposed = correction.proposed
    if proposed is None or proposed.rank == 0 or instances_meant(proposed.key.expression) is not None:
        return correction
    return replace(correction, proposed=replace(proposed, rank=0))


def _overlap(correction: Correction, masks: Masks | None) -> float | None:
    """Mean IoU of masks with what was decided; the correction's own where there are none to compare."""
    if masks is None or not correction.masks:
        return correction.iou
    return sum(mask_iou(rle, masks.get(i)) for i, rle in correction.masks.items()) / len(correction.masks)


def proposed_masks(load: Callable[[str], StoredProposal]) -> LoadRejected:
    """A loader of what was proposed for a correction.

    Args:
        load: Reads a proposal by its path.
    """

    def masks(correction: Correction) -> Masks | None:
        proposed = correction.proposed
        if proposed is None:
            return None
        try:
            tracklet = load(proposed.path).tracklets[proposed.rank]
        except (StoreError, IndexError) as error:
            log.info("correction %d: its proposal is gone (%s)", correction.id, error)
            return None
        fits = len(tracklet.rles) == correction.num_frames and tracklet.rles[0]["size"] == [
            correction.height,
            correction.width,
        ]
        return dict(enumerate(tracklet.rles)) if fits else None

    return masks


def _position(video: str) -> float:
    """A position in [0, 1) for a video, by a hash of its identity; it never changes."""
    digest = hashlib.sha256(f"held-out:{video}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _hold_out(
    examples: Sequence[CorrectionExample], away: Sequence[str]
) -> tuple[tuple[Training, ...], tuple[Trial, ...]]:
    """One training without the videos that are held out, tried on them."""
    training = Training(CANDIDATE, _keys(examples, without=away))
    return (training,), _trials(examples, away, training.name)


def _cross_validate(
    examples: Sequence[CorrectionExample], videos: Sequence[str], folds: int
) -> tuple[tuple[Training, ...], tuple[Trial, ...]]:
    """A training for each fold, tried on the videos of that fold; the last one, without trials, takes all."""
    parts = {f"fold-{fold + 1}": videos[fold::folds] for fold in range(min(folds, len(videos)))}
    trainings = [Training(name, _keys(examples, without=part)) for name, part in parts.items()]
    trials = [trial for name, part in parts.items() for trial in _trials(examples, part, name)]
    return (*trainings, Training(CANDIDATE, _keys(examples, without=()))), tuple(trials)


def _keys(examples: Sequence[CorrectionExample], *, without: Collection[str]) -> tuple[str, ...]:
    return tuple(example.key for example in examples if example.group not in without)


def _trials(
    examples: Sequence[CorrectionExample], videos: Collection[str], training: str
) -> tuple[Trial, ...]:
    # Those of the same media follow each other, so that these are decoded and encoded once.
    chosen = sorted(
        (example for example in examples if example.group in videos and example.judges),
        key=lambda example: (example.video, example.key),
    )
    return tuple(Trial(example.key, training) for example in chosen)


def _replay(part: Part, count: int) -> tuple[ReplayExample, ...]:
    return tuple(ReplayExample(part, index) for index in range(count))
