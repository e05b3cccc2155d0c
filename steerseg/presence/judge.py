"""The judge of presence: looks at candidates, and says how likely an expression is of anything in the video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from steerseg.config import PipelineConfig
from steerseg.errors import ConfigError
from steerseg.grounding import GroundingMaps, VisionContext
from steerseg.keyframes import timing_of
from steerseg.lvlm.base import LVLM
from steerseg.presence.confidence import ConfidenceSignals
from steerseg.presence.look import Expectation, look_at, look_of
from steerseg.presence.signals import (
    NOT_JUDGED,
    Look,
    Presence,
    PresenceSignals,
    Said,
    names_no_kind,
    names_nothing,
    signals_of,
)
from steerseg.presets import Preset
from steerseg.ranking import RankedCandidate
from steerseg.reasoning import expression_as
from steerseg.tracking import Propagation
from steerseg.verification import Opinion, Stance, order_by_opinion, verify
from steerseg.video import Video
from steerseg.words.learning import Lexicon
from steerseg.words.reading import Reading


@dataclass(frozen=True)
class Case:
    """What is known of an expression and its candidates before one of them is looked at.

    Attributes:
        video: The video.
        reading: The expression as the models read it.
        said: What reasoning read it as.
        maps: The grounding maps.
        on_keyframes: The candidates on the keyframes.
        context: Visual tokens of the keyframes.
    """

    video: Video
    reading: Reading
    said: Said
    maps: GroundingMaps
    on_keyframes: Propagation
    context: VisionContext


class Judge:
    """Judges proposals of one preset.

    Args:
        lvlm: The model.
        preset: Its questions, its calibration and its budget of visual tokens.
        lexicon: The model's words.
    """

    def __init__(self, lvlm: LVLM, preset: Preset, lexicon: Lexicon) -> None:
        self._lvlm = lvlm
        self._preset = preset
        self._lexicon = lexicon
        self._expectation = Expectation(lvlm, preset)

    def can_judge(self, config: PipelineConfig) -> bool:
        """Whether the preset is calibrated, and there is reasoning, which the signals need."""
        return self._preset.presence is not None and config.reasoning

    def stance(self, value: float) -> Stance:
        """What a presence in [0, 1] says: rejected below the threshold, doubted within as much of 1.

        Raises:
            ConfigError: The preset is not calibrated.
        """
        if self._preset.presence is None:
            raise ConfigError(f"presence is not calibrated for the preset {self._preset.name!r}")
        least = self._preset.presence.threshold
        return "rejected" if value < least else "doubted" if value < 1 - least else "accepted"

    def accepts(self, presence: Presence) -> bool:
        """Whether presence was judged, and is likely."""
        return presence.value is not None and self.stance(presence.value) == "accepted"

    def look(self, case: Case, index: int, correlation: float) -> Look:
        """Look at a candidate, alone.

        Args:
            case: The expression and its candidates.
            index: Of the candidate.
            correlation: Its correlation with the maps.
        """
        found = look_at(self._lvlm, self._preset, case.video, case.on_keyframes, index)
        ratio = self._expectation.log_ratio(case.reading.text, found.name)
        merge = self._lvlm.family.temporal_merge
        return look_of(case.said, found, ratio, correlation, case.on_keyframes, index, case.maps, merge)

    def presence(self, case: Case, look: Look, score: float, config: PipelineConfig) -> Presence:
        """How likely the expression is of anything, and of the best candidate, by its look and its rank score."""
        calibration = self._preset.presence
        if calibration is None:
            return NOT_JUDGED
        signals = self._signals(case, look)
        value = calibration.probability(signals)
        refuses = config.presence == "refuse" or (
            config.presence == "refuse-known"
            and not case.reading.new_words
            and not names_nothing(case.reading.text, self._lexicon)
        )
        understood = signals.known == 1 and not signals.negated
        refused = refuses and value < calibration.threshold
        return Presence(value, refused, look.found.name, understood, self._confidence(signals, score))

    def _confidence(self, signals: PresenceSignals, score: float) -> float | None:
        calibration = self._preset.confidence
        return None if calibration is None else calibration.probability(ConfidenceSignals.of(score, signals))

    def _signals(self, case: Case, look: Look) -> PresenceSignals:
        return signals_of(case.reading.text, look, self._lexicon)

    def opinion_of_kind(self, case: Case, look: Look) -> Opinion | None:
        """Whether what was looked at is of the kind and colour that an expression names, wherever it is.

        Its name has to be likelier for the expression than for any, and the colour none but the expression's. A speck
        that the segmenter takes neither for visible nor for well outlined is nothing. ``None`` where the expression
        names no kind, and the colour is right.
        """
        signals = self._signals(case, look)
        if max(signals.visible, signals.predicted_iou) < 0.5:
            return Opinion("rejected", "hardly an object")
        if signals.coloured > -1 and names_no_kind(case.reading.text, self._lexicon):
            return None
        of_kind = signals.expected > 0 and signals.coloured > -1
        name = look.found.name
        return Opinion("accepted" if of_kind else "rejected", f"looks like “{name}”" if name else "")

    def verify(
        self, case: Case, ranking: tuple[RankedCandidate, ...], config: PipelineConfig
    ) -> tuple[RankedCandidate, ...]:
        """The ranked candidates in the order of what the LVLM thinks of each; see :mod:`steerseg.verification`.

        As they were ranked where ``config`` leaves the step out, where it has the LVLM look without a calibration, and
        where it has looked at them already.
        """
        opinions: Sequence[Opinion | None]
        if not ranking or config.verification == "off":
            return ranking
        if config.verification == "ask":
            frames = case.video.frames[list(case.on_keyframes.frames)]
            masks = [case.on_keyframes.masks(ranked.index) for ranked in ranking]
            asked = expression_as(config.expression_form, case.reading.text)
            timing = timing_of(
                case.video.pts,
                case.video.duration,
                case.on_keyframes.frames,
                config,
                self._lvlm.family.temporal_merge,
            )
            opinions = verify(self._lvlm, self._preset, config, frames, masks, asked, timing)
        elif self.can_judge(config) and ranking[0].opinion is None:
            looks = [self.look(case, ranked.index, ranked.correlation) for ranked in ranking]
            opinions = self._opinions(case, looks)
        else:
            return ranking
        judged = [replace(ranked, opinion=one) for ranked, one in zip(ranking, opinions, strict=True)]
        return tuple(judged[i] for i in order_by_opinion(opinions))

    def _opinions(self, case: Case, looks: Sequence[Look]) -> list[Opinion]:
        calibration = self._preset.presence
        assert calibration is not None
        values = [calibration.probability(self._signals(case, look)) for look in looks]
        names = [f"looks like “{look.found.name}”" if look.found.name else "" for look in looks]
        return [Opinion(self.stance(value), name) for value, name in zip(values, names, strict=True)]
