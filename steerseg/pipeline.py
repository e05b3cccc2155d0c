"""SteerSeg: the whole way from a video and an expression to a ranked proposal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steerseg import __version__
from steerseg.config import PipelineConfig
from steerseg.grounding import GroundingMaps, VisionContext, ground
from steerseg.instances.search import InstanceSearch
from steerseg.keyframes import VideoFeatures, show_keyframes, timing_of
from steerseg.lvlm import LVLM
from steerseg.lvlm.prefix import PrefixStore, VideoPrefixes, default_budget, default_host_budget
from steerseg.motion.choice import by_motion
from steerseg.points import point_prompts
from steerseg.presence.added_keyframes import look_between, with_returns
from steerseg.presence.findings import Finding
from steerseg.presence.judge import Case, Judge
from steerseg.presence.localisation import Positions, locate
from steerseg.presence.signals import NOT_JUDGED, Presence
from steerseg.presets import Preset, open_preset
from steerseg.proposal import Proposal
from steerseg.ranking import RankedCandidate, rank_candidates
from steerseg.reasoning import (
    Reasoning,
    ReasoningMemory,
    check_expression,
    expression_as,
    reason_about,
)
from steerseg.runtime.devices import resolve_device
from steerseg.runtime.lru import LruCache
from steerseg.runtime.machine import installed_version
from steerseg.runtime.room import makes_room
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking import EncodedVideo, OpenVideos, Tracker, Tracklet
from steerseg.tracking.sources import CandidateFinder, Candidates, load_concepts
from steerseg.video import Video, keyframe_indices
from steerseg.words.counting import alternatives_for, choose_candidates, instances_meant, singular_expression
from steerseg.words.glossary import Glossary
from steerseg.words.nouns import noun_phrases
from steerseg.words.reading import Reading, read_expression

if TYPE_CHECKING:  # with the library's SAM 3, which few presets use
    from steerseg.segmenters.concepts import ConceptSegmenter

Progress = Callable[[str, float], None]
"""Called with the name of the stage and the fraction in [0, 1] of that stage that is done. May raise
:class:`steerseg.errors.Cancelled` to stop the work."""


def _ignore(stage: str, fraction: float) -> None:
    """The report of callers that want no progress."""


class SteerSeg:
    """A frozen LVLM and a frozen SAM 2 with the soft prompts that steer the first.

    Args:
        lvlm: The loaded vision-language model.
        tracker: The loaded SAM 2.
        preset: Layers, budgets and questions.
        soft_prompts: They steer the attention; ``None`` leaves it raw.
        concepts: SAM 3, where candidates may come from its concepts.
        switched_off: What the preset asks for and cannot have, for a person; empty where it has all.
        remembered_videos: For how many videos the visual tokens are kept; the least recently used go first.
        prefix_bytes: Bytes of the text model's states after the visual tokens that are kept beside them, so that a
            further expression costs its own tokens only; 0 keeps nothing. Left out, on a GPU a third of the memory
            that is free beside the weights, on a CPU 256 MiB; see :func:`steerseg.lvlm.prefix.default_budget`.
        remembered_bytes: Bytes of videos and of SAM 2's features of them that are kept, the least recently used
            first out; the video in use is kept whatever its size.

    Example:
        >>> from steerseg import SteerSeg, load_video
        >>> steerseg = SteerSeg.from_pretrained("demo", device="cpu")
        >>> video = load_video("clip.mp4")
        >>> proposal = steerseg.propose(video, "the red car that turns left")
        >>> proposal.best.masks.shape == (len(video), video.height, video.width)
        True
        >>> proposal.save("out")
    """

    def __init__(
        self,
        lvlm: LVLM,
        tracker: Tracker,
        preset: Preset,
        soft_prompts: SoftPrompts | None = None,
        *,
        concepts: ConceptSegmenter | None = None,
        switched_off: str = "",
        remembered_videos: int = 4,
        prefix_bytes: int | None = None,
        remembered_bytes: int = 4 << 30,
    ) -> None:
        self.lvlm = lvlm
        self.tracker = tracker
        self.finder = CandidateFinder(tracker, concepts)
        self.switched_off = switched_off
        self.preset = preset
        self.texts = preset.texts
        self.config = preset.config
        self.lexicon = preset.load_lexicon()
        self.judge = Judge(lvlm, preset, self.lexicon)
        self.instances = InstanceSearch(tracker, self.judge, lvlm.family.temporal_merge)
        self.layers = lvlm.rollout_layers(preset.layers, preset.name)
        self.soft_prompts = None if soft_prompts is None else soft_prompts.for_model(lvlm)
        self._prefixes = prefixes = PrefixStore(
            default_budget(lvlm.device) if prefix_bytes is None else prefix_bytes, default_host_budget()
        )
        self._features = features = LruCache[tuple[Any, ...], VideoFeatures](  # by digest and what was shown
            remembered_videos, on_evict=lambda key, _: prefixes.drop(key)
        )

        self.reasonings = ReasoningMemory()

        def drop_video(digest: str) -> None:
            for key in [key for key in features if key[0] == digest]:
                features.pop(key)
                prefixes.drop(key)

        self._videos = OpenVideos(tracker, remembered_bytes, drop_video)
        self.room = tracker.room
        for give in (prefixes.give_memory, lvlm.give_memory, self._videos.give_memory):
            self.room.add(give)

    @classmethod
    def from_pretrained(
        cls,
        preset: str | Path | Preset = "demo",
        *,
        device: str = "auto",
        remembered_bytes: int = 4 << 30,
        prefix_bytes: int | None = None,
    ) -> SteerSeg:
        """Load a preset by name (``"demo"``, ``"qwen2.5-vl-7b"``), from a folder, or as :func:`open_preset` changed it.

        Args:
            preset: Name, folder or preset.
            device: ``"auto"`` (a GPU where there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
            remembered_bytes: See :class:`SteerSeg`.
            prefix_bytes: See :class:`SteerSeg`.

        Raises:
            ConfigError: The preset cannot be used.
            NoLanguageModelError: It has no language model; a :class:`~steerseg.tracking.Tracker` answers clicks.
            ModelError: Weights cannot be loaded.
        """
        loaded = preset if isinstance(preset, Preset) else open_preset(preset)
        torch_device, dtype = resolve_device(device)
        lvlm = LVLM.from_pretrained(
            loaded.language_model, device=torch_device, dtype=dtype, quantise=loaded.quantise
        )
        tracker = Tracker.from_pretrained(
            loaded.segmenter_source, device=torch_device, dtype=dtype, config=loaded.segmenter_config
        )
        concepts, switched_off = None, ""
        if loaded.config.candidates == "concepts":
            concepts, switched_off = load_concepts(loaded.concepts, torch_device, dtype)
        prompts = None if loaded.soft_prompts is None else SoftPrompts.load(loaded.soft_prompts)
        return cls(
            lvlm,
            tracker,
            loaded,
            prompts,
            concepts=concepts,
            switched_off=switched_off,
            remembered_bytes=remembered_bytes,
            prefix_bytes=prefix_bytes,
        )

    def versions(self, soft_prompts: SoftPrompts | None) -> dict[str, str]:
        """Versions of the packages, models and prompts of a proposal that ``soft_prompts`` steer."""
        concepts = self.finder.concepts
        return {
            "steerseg": __version__,
            "torch": str(torch.__version__),  # its own type would bring torch to whoever unpickles it
            "transformers": installed_version("transformers"),
            "sam2": installed_version("sam2"),
            "preset": self.preset.name,
            "lvlm": self.lvlm.version,
            "tracker": self.tracker.version,
            "soft_prompts": "none" if soft_prompts is None else soft_prompts.digest,
            **({} if concepts is None else {"concepts": concepts.version}),
        }

    def propose(
        self,
        video: Video,
        expression: str,
        *,
        config: PipelineConfig | None = None,
        soft_prompts: SoftPrompts | None = None,
        progress: Progress | None = None,
    ) -> Proposal:
        """Track what ``expression`` refers to (section 3 of the paper).

        Args:
            video: The video.
            expression: The annotator's text, at most 1 000 characters.
            config: Switches of the method; the preset's where left out.
            soft_prompts: Other soft prompts than the preset's, such as a champion; its glossary is in use, too.
            progress: Called with each stage and the fraction of it that is done.

        Returns:
            The ranked tracklets with maps, points and attributes; without tracklets where no point gave a mask.

        Raises:
            ExpressionError: The expression is missing, empty or too long.
            Cancelled: ``progress`` raised it.
        """
        expression = check_expression(expression)
        config = config or self.config
        steering = self.steering(config, soft_prompts)
        reading = self.read(expression, config, soft_prompts)
        several = instances_meant(reading.text)
        report = progress or _ignore
        keyframes = keyframe_indices(len(video), config.keyframes)
        first = self.find(video, reading, keyframes, config, steering, report)
        found = look_between(self, first, config, steering, report)
        tracklets = self.track(found.features, found.candidates, found.ranking, report)
        tracklets, returned = with_returns(self, found, tracklets, config, steering, report)
        return Proposal(
            expression=expression,
            attributes=found.attributes,
            tracklets=tracklets,
            maps=found.case.maps,
            points=found.candidates.points,
            pts=video.pts,
            fps=video.fps,
            height=video.height,
            width=video.width,
            versions=self.versions(steering),
            video=video,
            read_as="" if reading.text == expression else reading.text,
            presence=found.presence,
            several=() if several is None else tuple(choose_candidates(tracklets, several)),
            positions=found.positions,
            note=" ".join(filter(None, (found.candidates.note, found.note, returned))),
        )

    def forget(self) -> None:
        """Drop the features of remembered videos, so that the next proposal starts cold."""
        self._features.clear()
        self._videos.clear()
        self._prefixes.clear()
        self.reasonings.clear()

    def open(self, video: Video) -> EncodedVideo:
        """The video for SAM 2, with the features that earlier work on it has left.

        All videos together are kept below ``remembered_bytes``, the least recently opened being dropped first.
        """
        return self._videos.open(video)

    @property
    def remembered(self) -> int:
        """Bytes of opened videos and their features."""
        return self._videos.size

    # ------------------------------------------------------------------ the stages of a proposal

    def steering(self, config: PipelineConfig, soft_prompts: SoftPrompts | None = None) -> SoftPrompts | None:
        """The soft prompts that take part under ``config``: the given ones, else the preset's, else none.

        Raises:
            ConfigError: Their width is not the model's.
        """
        if not config.soft_prompts:
            return None
        pair = self.soft_prompts if soft_prompts is None else soft_prompts.for_model(self.lvlm)
        return None if pair is None or not len(pair.frame) else pair

    def read(
        self, expression: str, config: PipelineConfig, soft_prompts: SoftPrompts | None = None
    ) -> Reading:
        """What the models read for an expression: the glossary's meanings stand for its terms, in plain wording."""
        prompts = soft_prompts or self.soft_prompts
        glossary = Glossary() if prompts is None else prompts.glossary
        return read_expression(expression, config, glossary, self.lexicon)

    def find(
        self,
        video: Video,
        reading: Reading,
        keyframes: tuple[int, ...],
        config: PipelineConfig,
        soft_prompts: SoftPrompts | None,
        report: Progress = _ignore,
    ) -> Finding:
        """What some keyframes show of an expression: its candidates, ranked and judged.

        Args:
            video: The video.
            reading: The expression as the models read it.
            keyframes: Indices of the frames that are looked at.
            config: Switches of the method.
            soft_prompts: Those that take part, on the device; ``None`` for raw attention.
            report: Called with each stage and the fraction of it that is done.
        """
        wording = reading.text
        sought = instances_meant(wording) if config.instances == "search" else None
        config = replace(config, alternatives=alternatives_for(wording, config.alternatives))
        one = reading if sought is None else replace(reading, text=singular_expression(wording))
        with (
            self.tracker.encoding_ahead(self.open(video), keyframes) as ahead,
            self.lvlm.decoder.doing(ahead, partial(report, "reasoning", 0.0)),
        ):
            features = self.encode(video, config, report, keyframes=keyframes)
            reasoning = self.reasonings.recall(
                features, wording, self.texts, config, lambda: self.reason(features, wording, config, report)
            )
            telling = reasoning.attributes if sought is None else ()  # they tell one from the others
            maps = self.ground(features, one.text, telling, config, soft_prompts, report)
        positions = self.locate(features, wording, reasoning.attributes, config, report)
        candidates = self.find_candidates(features, maps, config, report, (wording, *reasoning.attributes))
        case = Case(video, one, reasoning.said, maps, candidates.on_keyframes, features.context)
        if sought is None:
            chosen = self.choose(case, features, candidates, positions, config, soft_prompts, report)
        else:
            search = partial(self.instances.search, progress=partial(report, "candidates"))
            chosen = search(case, features.encoded, candidates, sought, config)
        candidates, ranking = chosen
        case = replace(case, on_keyframes=candidates.on_keyframes)
        ranking = self.verify(case, ranking, config)
        presence = self.judge_presence(case, ranking, config)
        if sought is not None:  # the calibration is one of single objects
            presence = replace(presence, confidence=None)
        return Finding(
            reading, features, reasoning.attributes, positions, candidates, case, ranking, presence
        )

    @makes_room("the encoding of keyframes")
    def encode(
        self,
        video: Video,
        config: PipelineConfig,
        report: Progress = _ignore,
        *,
        keyframes: tuple[int, ...] | None = None,
    ) -> VideoFeatures:
        """Features of a video. Those of its usual keyframes are kept, since a further expression needs the same ones.

        Args:
            video: The video.
            config: Number of keyframes, and how they reach the LVLM.
            report: Called with the stage ``keyframes`` and the fraction of it that is done.
            keyframes: Which frames; spread evenly where left out.
        """
        usual = keyframe_indices(len(video), config.keyframes)
        keyframes = keyframes or usual
        if keyframes != usual:
            return VideoFeatures(
                self.encode_keyframes(video, config, report, keyframes=keyframes), self.open(video)
            )
        key = (video.digest, keyframes, config.grid, config.enlarge, config.seconds_per_slice)
        known = self._features.get(key)
        if known is not None:
            self.open(video)  # it is in use again
            return known
        context = self.encode_keyframes(video, config, report, keyframes=keyframes)
        features = VideoFeatures(context, self.open(video), VideoPrefixes(self._prefixes, key))
        self._features.put(key, features)
        return features

    def encode_keyframes(
        self,
        video: Video,
        config: PipelineConfig,
        report: Progress = _ignore,
        *,
        keyframes: tuple[int, ...] | None = None,
        pictures: Sequence[int] | None = None,
    ) -> VisionContext:
        """Visual tokens of the keyframes; they are not kept.

        Args:
            video: The video.
            config: Number of keyframes.
            report: Called with the stage ``keyframes`` and the fraction of it that is done.
            keyframes: Which frames; spread evenly where left out.
            pictures: Indices of the keyframes that are encoded as images; all where left out.
        """
        keyframes = keyframes or keyframe_indices(len(video), config.keyframes)
        return show_keyframes(
            self.lvlm,
            self.preset,
            config,
            video.frames[list(keyframes)],
            keyframes,
            timing_of(video.pts, video.duration, keyframes, config, self.lvlm.family.temporal_merge),
            pictures=pictures,
            tick=lambda fraction: report("keyframes", fraction),
        )

    @makes_room("the chain of thought")
    def reason(
        self, features: VideoFeatures, expression: str, config: PipelineConfig, report: Progress = _ignore
    ) -> Reasoning:
        """The chain-of-thought step with all that its answer says; empty where ``config`` leaves the step out."""
        if not config.reasoning:
            return Reasoning()
        report("reasoning", 0.0)
        reasoning = reason_about(
            self.lvlm,
            features.context.video,
            expression,
            self.texts,
            config,
            prefix=features.question_slot,
        )
        report("reasoning", 1.0)
        return reasoning

    @makes_room("grounding")
    def ground(
        self,
        features: VideoFeatures,
        expression: str,
        attributes: tuple[str, ...],
        config: PipelineConfig,
        soft_prompts: SoftPrompts | None,
        report: Progress = _ignore,
    ) -> GroundingMaps:
        """Attention of the LVLM when it is asked for the object; raw where ``soft_prompts`` is ``None``."""
        asked = expression_as(config.expression_form, expression)
        return ground(
            self.lvlm,
            features.context,
            self.texts.grounding_question(asked, attributes),
            soft_prompts,
            config,
            layers=self.layers,
            background=self.texts.background_question(asked) if config.background else None,
            frame_batch=self.preset.frame_batch,
            prefixes=features.prefixes,
            tick=lambda fraction: report("grounding", fraction),
        )

    @makes_room("localisation")
    def locate(
        self,
        features: VideoFeatures,
        expression: str,
        attributes: tuple[str, ...],
        config: PipelineConfig,
        report: Progress = _ignore,
    ) -> Positions | None:
        """Where the LVLM says that the object is; ``None`` where ``config`` leaves it out, or several are meant."""
        if not config.localisation or instances_meant(expression) is not None:
            return None
        report("localisation", 0.0)
        positions = locate(
            self.lvlm,
            features.context.video,
            expression,
            attributes,
            self.texts,
            config,
            moments=features.context.video.grid[0],
            prefix=features.question_slot,
        )
        report("localisation", 1.0)
        return positions

    @makes_room("the search for candidates")
    def find_candidates(
        self,
        features: VideoFeatures,
        maps: GroundingMaps,
        config: PipelineConfig,
        report: Progress = _ignore,
        said: Sequence[str] = (),
    ) -> Candidates:
        """Point prompts of the fused map, and the different objects under them, tracked over the keyframes.

        Where ``config`` has candidates from concepts, they are what the nouns of ``said`` name: the expression and its
        attributes.
        """
        points, phrases = point_prompts(maps, config), noun_phrases(said)
        progress = partial(report, "candidates")
        return self.finder.find(features.encoded, points, maps.keyframes, phrases, config, progress)

    def choose(
        self,
        case: Case,
        features: VideoFeatures,
        found: Candidates,
        positions: Positions | None,
        config: PipelineConfig,
        soft_prompts: SoftPrompts | None,
        report: Progress = _ignore,
    ) -> tuple[Candidates, tuple[RankedCandidate, ...]]:
        """The best candidates of an expression of one object, best first, with those that a stated motion adds."""
        moving = by_motion(self, case, features, found, config, soft_prompts, report)
        if moving is None:
            return found, self.rank(found, case.maps, config, positions)
        ranking = self.rank(moving.candidates, case.maps, config, positions, moving.agreement)
        return moving.candidates, tuple(
            replace(ranked, correlation=max(ranked.correlation, float(moving.correlations[ranked.index])))
            for ranked in ranking
        )

    def rank(
        self,
        candidates: Candidates,
        maps: GroundingMaps,
        config: PipelineConfig,
        positions: Positions | None = None,
        motion: torch.Tensor | None = None,
    ) -> tuple[RankedCandidate, ...]:
        """The best candidates, best first, at most ``config.alternatives``."""
        merge = self.lvlm.family.temporal_merge
        return rank_candidates(candidates.on_keyframes.soft_masks(), maps, config, positions, merge, motion)

    @makes_room("verification")
    def verify(
        self, case: Case, ranking: tuple[RankedCandidate, ...], config: PipelineConfig
    ) -> tuple[RankedCandidate, ...]:
        """The ranked candidates in the order of what the LVLM thinks of each; see :meth:`Judge.verify`."""
        return self.judge.verify(case, ranking, config)

    @makes_room("the judgement of presence")
    def judge_presence(
        self, case: Case, ranking: Sequence[RankedCandidate], config: PipelineConfig
    ) -> Presence:
        """How likely an expression is of anything in the video; see :mod:`steerseg.presence.signals`.

        Not judged where the preset has no calibration, where ``config`` leaves it out or has no reasoning, which the
        signals need, and where nothing was found anyway. Not refused where the LVLM accepted the best candidate.
        """
        if config.presence == "off" or not ranking or not self.judge.can_judge(config):
            return NOT_JUDGED
        look = self.judge.look(case, ranking[0].index, ranking[0].correlation)
        accepted = ranking[0].opinion is not None and ranking[0].opinion.stance == "accepted"
        config = replace(config, presence="judge") if accepted else config
        return self.judge.presence(case, look, ranking[0].score, config)

    def track(
        self,
        features: VideoFeatures,
        candidates: Candidates,
        ranking: Sequence[RankedCandidate],
        report: Progress = _ignore,
    ) -> tuple[Tracklet, ...]:
        """The ranked candidates over the whole video, in the given order."""
        if not ranking:
            return ()
        whole = self.tracker.track(
            features.encoded,
            [candidates.on_keyframes.candidates[ranked.index] for ranked in ranking],
            progress=lambda fraction: report("tracking", fraction),
        )
        return tuple(
            replace(tracklet, score=ranked.score, opinion=ranked.opinion)
            for tracklet, ranked in zip(whole, ranking, strict=True)
        )
