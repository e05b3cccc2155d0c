"""One refinement from its plan to the gate, slice by slice, so that it can stop anywhere and go on later.

What is to be done follows from the plan on disk, what is done from the files and rows that slices left. So
carrying on after a kill is nothing but running again: what is there is not made twice.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from ml_backend.corrections.records import Problem, Weights
from ml_backend.corrections.selection import teaching
from ml_backend.corrections.store import CorrectionStore
from ml_backend.database.database import Database
from ml_backend.database.errors import StoreError
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import RefinementState
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.task_media import Loader
from ml_backend.models.examples import CorrectionExample, Example, Pool
from ml_backend.models.messages import (
    MediaFile,
    ModelAnswer,
    ModelRequest,
    NamedObject,
    NameRequest,
    PreparedExample,
    PrepareRequest,
    SoftPromptsRef,
    TrainingProgress,
    TrainRequest,
    TrialRequest,
    TrialResult,
    Yielded,
)
from ml_backend.proposals import ProposalFiles
from ml_backend.refinement.folders import FEATURES, FOLDER
from ml_backend.refinement.gate import GateMetrics, Judgement, Outcome, PairedScore, judge, upper_first
from ml_backend.refinement.media import RefinementMedia
from ml_backend.refinement.plan import InsufficientData, Plan, Training, make_plan, proposed_masks
from ml_backend.refinement.plan_file import pack_plan, unpack_plan
from ml_backend.refinement.store import Refinement, RefinementStore
from ml_backend.refinement.version_store import CorrectionRevision, NewVersion, PromptVersion
from ml_backend.refinement.versions import PromptLine
from ml_backend.refinement.words import TRIAL, WordLessons, WordsJudgement
from steerseg.config import RefinementRecipe
from steerseg.errors import Cancelled, SteerSegError, VideoError
from steerseg.presets import ReplaySpec
from steerseg.runtime.artefacts import write_bytes
from steerseg.words.glossary import Glossary
from steerseg.words.learning import Lexicon

log = logging.getLogger(__name__)

_NOT_TRAINED = Judgement(
    Outcome.NOT_ENOUGH_DATA,
    "not trained, since the words come first; the next refinement trains on what they leave over",
    GateMetrics(),
)

NOTHING_TO_TRAIN = (
    "nothing to train: soft prompts steer a language model, and this server has none. The corrections are kept; a "
    "server with a language model learns from them in the same data folder"
)

_PLAN = "plan.json.gz"
_MEDIA = "media.json"

AnswerT = TypeVar("AnswerT", NamedObject, PreparedExample, TrainingProgress, TrialResult)

Ask = Callable[[ModelRequest], ModelAnswer]
"""Has the model process answer a slice; raises what it raises."""


@dataclass(frozen=True)
class RefinementSettings:
    """Settings that all refinements of a backend share.

    Attributes:
        recipe: How they are made.
        replay: The preset's replay set.
        base_version: Version of the preset, under which a refinement begins and ends.
        data_dir: The backend's data folder.
        feature_bytes: Most bytes of vision features that a refinement keeps on disk.
        confidence: Least confidence of a propagated mask.
        weights: How much frames count.
        slice_seconds: About how long a slice of training is.
        lexicon: The nouns that the model knows.
        preset_prompts: Folder of the preset's own soft prompts; ``None`` where it has none.
        trainable: Whether the preset has a language model, which soft prompts are trained for.
    """

    recipe: RefinementRecipe
    replay: ReplaySpec | None
    base_version: str
    data_dir: Path
    feature_bytes: int
    confidence: float
    weights: Weights
    slice_seconds: float = 3.0
    lexicon: Lexicon = field(default_factory=Lexicon)
    preset_prompts: Path | None = None
    trainable: bool = True


@dataclass
class _PreparedFeatures:
    """Vision features on disk, and the examples that they make ready.

    Attributes:
        sizes: Bytes of each file of features.
        ready: Keys of the examples that teach something.
        crowded_out: How many examples had no room.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    crowded_out: int = 0


class RefinementRun:
    """Carries one refinement on until it ends.

    Args:
        refinement: The refinement, waiting or running.
        settings: Settings of all refinements.
        database: The database.
        line: The prompt versions.
        media: Fetches media.
        connections: Connections to Label Studio.
        ask: Has the model process answer a slice.
        refresh: Brings a project's corrections up to date before they are read.
        patient: Whether to give up for now, by :class:`~ml_backend.refinement.media.MediaPendingError`, where media
            cannot be had at the moment; else their examples are left out.
    """

    def __init__(
        self,
        refinement: Refinement,
        settings: RefinementSettings,
        *,
        database: Database,
        line: PromptLine,
        media: Loader,
        connections: Connections,
        ask: Ask,
        refresh: Callable[[int], None],
        patient: bool = True,
    ) -> None:
        self._refinement = refinement
        self._settings = settings
        self._line = line
        self._ask_once = ask
        self._refresh = refresh
        self._refinements = RefinementStore(database)
        self._corrections = CorrectionStore(database)
        self._folder = settings.data_dir / FOLDER / str(refinement.id)
        self._features_folder = settings.data_dir / FOLDER / FEATURES
        self._media = RefinementMedia(
            refinement.project_id,
            self._folder / _MEDIA,
            projects=ProjectStore(database),
            loader=media,
            connections=connections,
            patient=patient,
        )

    def run(self) -> Refinement:
        """Carry on until the gate has decided.

        Returns:
            The refinement as it ended.

        Raises:
            MediaPendingError: Media cannot be had now; run again later.
            Cancelled: The server is stopping, to run it again after its next start; or it was cancelled.
            SteerSegError: It cannot be carried on.
        """
        plan = self._plan()
        if isinstance(plan, InsufficientData):
            judgement = Judgement(Outcome.NOT_ENOUGH_DATA, plan.reason, GateMetrics())
            return self._end(self._refinements.settle(self._refinement.id, judgement))
        self._media.open()
        words = self._learn_words(plan)
        plan = plan.without(self._refinement.left_out)
        if words.accepted:  # one thing at a time: the next refinement trains on what these words leave over
            return self._settle_words(words, _NOT_TRAINED)
        if plan.shortage:
            judgement = Judgement(Outcome.NOT_ENOUGH_DATA, plan.shortage, GateMetrics())
            return self._settle_words(words, judgement)
        base = self._champion()
        ready = self._prepare(plan, base)
        plan = plan.without(self._refinement.left_out)
        digest = ""
        losses: tuple[float, ...] = ()
        for training in plan.trainings:
            pools = self._pools(plan, training, ready)
            if not (pools[Pool.NEW] or pools[Pool.OLD]):
                judgement = Judgement(
                    Outcome.NOT_ENOUGH_DATA, "there is nothing left to learn from", GateMetrics()
                )
                return self._settle_words(words, judgement)
            digest, losses = self._train(training, pools, base)
            held_out = [
                plan.corrections[trial.key] for trial in plan.held_out if trial.training == training.name
            ]
            self._try(
                [(example, SoftPromptsRef(self._folder / training.name, digest)) for example in held_out],
                base,
                f"trying {training.name} on held-out videos",
            )
        candidate = SoftPromptsRef(self._folder / plan.candidate.name, digest)
        self._try([(example, candidate) for example in plan.regression], base, "trying on replayed clips")
        return self._settle(plan, candidate, self._judge(plan), words, losses)

    # --- the beginning

    def _plan(self) -> Plan | InsufficientData:
        """The plan on disk, or a new one."""
        if self._refinement.state is RefinementState.RUNNING:
            try:
                if self._refinement.base_version != self._settings.base_version:
                    raise StoreError("the preset was changed since it began")
                return unpack_plan((self._folder / _PLAN).read_bytes()).without(self._refinement.left_out)
            except (OSError, StoreError) as error:
                log.warning("refinement %d begins anew: %s", self._refinement.id, error)
                self._refinements.restart(self._refinement.id, f"begun anew: {error}")
        return self._begin()

    def _begin(self) -> Plan | InsufficientData:
        project = self._refinement.project_id
        self._report("reading corrections", 0, 1)
        try:
            self._refresh(project)
        except SteerSegError as error:
            # The corrections that are known are enough to begin with; the next refinement reads the others.
            log.warning("refinement %d: the project could not be read: %s", self._refinement.id, error)
        begun_at = datetime.now(UTC)
        champion = self._line.champion(project)
        plan = self._make_plan(champion) if self._settings.trainable else InsufficientData(NOTHING_TO_TRAIN)
        if isinstance(plan, Plan):
            # Whatever lies there is of a beginning that was never noted.
            shutil.rmtree(self._folder, ignore_errors=True)
            write_bytes(self._folder / _PLAN, pack_plan(plan))
        self._refinement = self._refinements.begin(
            self._refinement.id,
            champion_id=None if champion is None else champion.id,
            base_version=self._settings.base_version,
            at=begun_at,
        )
        return plan

    def _make_plan(self, champion: PromptVersion | None) -> Plan | InsufficientData:
        corrections, left_out = teaching(
            self._corrections.corrections(self._refinement.project_id, self._settings.weights)
        )
        for note in left_out:
            self._refinements.add_note(self._refinement.id, note)
        return make_plan(
            corrections,
            used=() if champion is None else champion.data,
            recipe=self._settings.recipe,
            replay=self._settings.replay,
            confidence=self._settings.confidence,
            rejected=proposed_masks(ProposalFiles(self._settings.data_dir).load),
        )

    # --- the slices

    def _prepare(self, plan: Plan, base: SoftPromptsRef | None) -> _PreparedFeatures:
        """Have the features of all that is learned from, the newest corrections first, as far as there is room."""
        wanted = {key for training in plan.trainings for key in training.keys}
        corrections = [example for key, example in plan.corrections.items() if key in wanted]
        corrections.sort(key=lambda example: (example.pool is Pool.OLD, -example.correction))
        examples: list[Example] = [*corrections, *plan.replayed]
        features = _PreparedFeatures()
        for done, example in enumerate(examples):
            self._report("preparing examples", done, len(examples))
            if sum(features.sizes.values()) >= self._settings.feature_bytes:
                features.crowded_out += 1
                continue
            answer = self._ask_about(
                example,
                partial(
                    PrepareRequest,
                    example,
                    folder=self._folder,
                    features=self._features_folder,
                    prompts=base,
                ),
                PreparedExample,
            )
            if answer is not None:
                features.sizes[answer.features] = answer.size
                if answer.teaches:
                    features.ready.add(example.key)
        if features.crowded_out:
            note = (
                f"{features.crowded_out} examples do not take part, since vision features may take "
                f"{self._settings.feature_bytes // 2**20} MiB; raise STEERSEG_REFINE_CACHE_MIB"
            )
            log.warning("refinement %d: %s", self._refinement.id, note)
            self._refinements.add_note(self._refinement.id, note)
        return features

    def _pools(
        self, plan: Plan, training: Training, features: _PreparedFeatures
    ) -> dict[Pool, tuple[str, ...]]:
        def ready(keys: Collection[str], pool: Pool) -> tuple[str, ...]:
            return tuple(key for key in keys if key in features.ready and plan.corrections[key].pool is pool)

        return {
            Pool.NEW: ready(training.keys, Pool.NEW),
            Pool.OLD: ready(training.keys, Pool.OLD),
            Pool.PRESET: tuple(example.key for example in plan.replayed if example.key in features.ready),
        }

    def _train(
        self, training: Training, pools: Mapping[Pool, tuple[str, ...]], start: SoftPromptsRef | None
    ) -> tuple[str, tuple[float, ...]]:
        """Train to the end; the result's digest, and the loss of each step."""
        phase = f"training {training.name}"
        self._report(phase, 0, self._settings.recipe.training.steps)
        while True:
            request = TrainRequest(
                name=training.name,
                folder=self._folder,
                features=self._features_folder,
                pools=pools,
                start=start,
                seconds=self._settings.slice_seconds,
            )
            answer = self._ask(request, TrainingProgress)
            shared = f" on {answer.workers} workers" if answer.workers > 1 else ""
            self._report(phase + shared, answer.step, answer.steps)
            if answer.digest is not None:
                return answer.digest, answer.losses

    def _try(
        self,
        trials: Sequence[tuple[Example, SoftPromptsRef]],
        champion: SoftPromptsRef | None,
        phase: str,
        prefix: str = "",
    ) -> None:
        """Compare a version with the champion on each example; results are kept under a prefix and its key."""
        known = self._refinements.trials(self._refinement.id)
        for done, (example, candidate) in enumerate(trials):
            self._report(phase, done, len(trials))
            if prefix + example.key in known:
                continue
            answer = self._ask_about(
                example,
                partial(TrialRequest, example, candidate=candidate, champion=champion),
                TrialResult,
            )
            if answer is not None:
                self._refinements.add_trial(
                    self._refinement.id,
                    prefix + example.key,
                    candidate=answer.candidate,
                    champion=answer.champion,
                )

    # --- words

    def _learn_words(self, plan: Plan) -> WordsJudgement:
        """Have the corrected objects named, and learn and try what the team's words mean."""
        champion = self._champion()
        self._lessons = WordLessons(
            self._folder,
            self._settings.preset_prompts if champion is None else champion.folder,
            self._settings.lexicon,
            self._settings.recipe,
        )
        examples = list(plan.corrections.values())
        named = 0

        def ask(example: CorrectionExample) -> NamedObject | None:
            nonlocal named
            self._report("naming corrected objects", named, len(examples))
            named += 1
            return self._ask_about(example, partial(NameRequest, example), NamedObject)

        def attempt(
            trials: Sequence[tuple[CorrectionExample, SoftPromptsRef]],
        ) -> dict[str, tuple[float, float]]:
            self._try(trials, champion, "trying words", TRIAL)
            known = self._refinements.trials(self._refinement.id)
            keys = [example.key for example, _ in trials]
            return {key: known[TRIAL + key] for key in keys if TRIAL + key in known}

        words = self._lessons.learn(examples, ask, attempt)
        if words.reason:
            self._refinements.add_note(self._refinement.id, words.reason)
        return words

    def _settle_words(self, words: WordsJudgement, training: Judgement) -> Refinement:
        """End with what was learned of words: the champion's soft prompts with them, if there is anything new."""
        if not words.changed and not words.accepted:
            return self._end(self._refinements.settle(self._refinement.id, training))
        outcome = Outcome.PROMOTED if words.accepted else training.outcome
        trained = f"soft prompts: {training.reason}"
        metrics = words.metrics if words.accepted else training.metrics
        judgement = Judgement(outcome, f"{words.reason}. {upper_first(trained)}", metrics)
        champion = self._champion_version()
        trained_on = () if champion is None else champion.data
        return self._keep(trained_on, self._lessons.version(words.glossary), words.glossary, judgement, ())

    def _champion(self) -> SoftPromptsRef | None:
        """The soft prompts that this refinement began from, whoever leads now."""
        version = self._champion_version()
        return None if version is None else self._line.ref(version)

    def _champion_version(self) -> PromptVersion | None:
        """The version that this refinement began from; ``None`` for the preset's own soft prompts."""
        number = self._refinement.champion_id
        return None if number is None else self._line.versions.by_id(number)

    # --- the end

    def _judge(self, plan: Plan) -> Judgement:
        self._report("judging", 0, 1)
        trials = self._refinements.trials(self._refinement.id)

        def compared(key: str, video: str) -> PairedScore:
            mine, theirs = trials[key]
            return PairedScore(key, video, mine, theirs)

        return judge(
            [
                compared(trial.key, plan.corrections[trial.key].group)
                for trial in plan.held_out
                if trial.key in trials
            ],
            [compared(example.key, example.group) for example in plan.regression if example.key in trials],
            self._settings.recipe,
            plan.scheme,
            self._settings.recipe.prior,
        )

    def _settle(
        self,
        plan: Plan,
        candidate: SoftPromptsRef,
        judgement: Judgement,
        words: WordsJudgement,
        losses: tuple[float, ...],
    ) -> Refinement:
        """End with the trained candidate; the words that were not accepted are told, and not in it."""
        if words.reason:
            judgement = replace(judgement, reason=f"{judgement.reason}. {upper_first(words.reason)}")
        # Words are not trained: those of the champion that it began from.
        glossary = self._line.glossary(self._champion_version())
        return self._keep(plan.used, candidate, glossary, judgement, losses)

    def _keep(
        self,
        trained_on: Sequence[CorrectionRevision],
        version: SoftPromptsRef,
        glossary: Glossary,
        judgement: Judgement,
        losses: tuple[float, ...],
    ) -> Refinement:
        # The artefact first: a version in the database always has one.
        path = self._line.keep(version.folder, version.digest, glossary)
        new = NewVersion(
            path=path,
            digest=version.digest,
            model=self._line.model,
            origin="refined",
            parent_id=self._refinement.champion_id,
            refinement_id=self._refinement.id,
            data=trained_on,
            curve=losses,
            metrics=judgement.metrics,
            reason=judgement.reason,
        )
        return self._end(self._refinements.settle(self._refinement.id, judgement, new))

    def _end(self, refinement: Refinement) -> Refinement:
        log.info(
            "refinement %d of project %d: %s: %s",
            refinement.id,
            refinement.project_id,
            refinement.state,
            refinement.reason,
        )
        self.remove_files()
        return refinement

    def remove_files(self) -> None:
        """Remove what only this refinement needed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # --- one slice

    def _ask(self, request: ModelRequest, kind: type[AnswerT]) -> AnswerT:
        """Have a slice answered, again and again while it yields to something more urgent."""
        while True:
            answer = self._ask_once(request)
            if isinstance(answer, kind):
                return answer
            if not isinstance(answer, Yielded):
                raise SteerSegError(
                    f"the model process answered with {type(answer).__name__}, not {kind.__name__}"
                )

    def _ask_about(
        self, example: Example, request: Callable[[MediaFile | None], ModelRequest], kind: type[AnswerT]
    ) -> AnswerT | None:
        """Have a slice answered that needs an example's media; ``None`` where the example is left out."""
        if example.key in self._refinement.left_out:
            return None
        if not isinstance(example, CorrectionExample):
            return self._ask(request(None), kind)
        try:
            media = self._media.file(example)
            try:
                return self._ask(request(media), kind)
            except VideoError:
                if media.path.exists():
                    raise
            # The cache dropped it while the slice waited.
            return self._ask(request(self._media.file(example)), kind)
        except VideoError as error:
            self._leave_out(example, error)
            return None

    def _leave_out(self, example: CorrectionExample, error: SteerSegError) -> None:
        """Set aside a correction whose media are gone; the refinement goes on without it."""
        log.warning(
            "refinement %d: correction %d of task %d is set aside: %s",
            self._refinement.id,
            example.correction,
            example.task.task_id,
            error,
        )
        self._corrections.set_aside(example.correction, Problem.MEDIA_GONE, str(error))
        self._refinement = self._refinements.leave_out(
            self._refinement.id, example.key, f"task {example.task.task_id}: {error}"
        )

    def _report(self, phase: str, done: int, total: int) -> None:
        if not self._refinements.note_progress(self._refinement.id, phase, done, total):
            raise Cancelled(f"refinement {self._refinement.id} has ended: it was cancelled")
