"""A preset is data: LVLM and segmenter, layers, budgets, questions and soft prompts.

A preset is a folder with a ``preset.json``. Names in it are hub ids, or folders beside the file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steerseg.config import (
    SETTINGS,
    CandidateSource,
    PipelineConfig,
    Quantisation,
    RefinementRecipe,
    SegmenterConfig,
)
from steerseg.errors import ConfigError, NoLanguageModelError
from steerseg.presence.confidence import ConfidenceCalibration
from steerseg.presence.signals import PresenceCalibration
from steerseg.reasoning import PromptTexts
from steerseg.words.learning import Lexicon

PRESET_FILE = "preset.json"
_BESIDE = ("lvlm", "sam2", "segmenter", "concepts", "soft_prompts", "lexicon")
_NAMED_SEGMENTERS = ("sam2", "edgetam", "sam3")
_HERE = Path(__file__).parent

_PUBLISHED = (
    "qwen2.5-vl-7b",
    "qwen2-vl-7b",
    "llava-onevision-7b",
    "internvl3-8b",
    "qwen3-vl-8b",
    "qwen3-vl-4b",
    "qwen3-vl-2b",
    "qwen3.5-4b",
    "qwen2.5-vl-3b",
    "internvl3-2b",
    "smolvlm2-2.2b",
    "clicks-edgetam",
    "clicks-sam2.1-tiny",
)

BUILT_IN = {"demo": _HERE.parent / "demo" / "weights", **{name: _HERE / name for name in _PUBLISHED}}


class ReplaySpec(BaseModel):
    """Examples of the data that the preset's own soft prompts were trained on; refinements replay them.

    Attributes:
        source: ``"sprites"`` for rendered scenes, or a folder beside the preset file, of a dataset in
            Ref-YouTube-VOS layout.
        split: Split of the dataset.
        training: Number of clips that training replays.
        held_out: Number of other clips that a candidate must not be worse on.
        seed: Chooses the clips.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    split: str = "train"
    training: int = Field(default=48, ge=0)
    held_out: int = Field(default=12, ge=0)
    seed: int = Field(default=0, ge=0)


class Preset(BaseModel):
    """The fields of a preset file.

    Attributes:
        name: Name of the preset in versions.
        lvlm: Hub id of the vision-language model, or a folder beside the preset file; ``None`` for clicks and boxes
            alone, which the segmenter answers.
        segmenter: ``"sam2"``, which takes its weights from ``sam2``; ``"edgetam"`` or ``"sam3"`` with their published
            weights; or the hub id or folder beside the preset file of such a model, as ``transformers`` saves it.
        sam2: Hub id of SAM 2, or a folder beside the preset file; needed where the segmenter is ``"sam2"``.
        concepts: Hub id of SAM 3, or a folder beside the preset file, with model and processor as ``transformers``
            saves them; it is loaded where ``pipeline`` sets ``candidates`` to ``"concepts"``.
        quantise: ``"8bit"`` or ``"4bit"`` for a text model of such weights; bitsandbytes has to be installed.
        settings: The choices that ``pipeline`` and ``segmenter_settings`` begin with: ``"own"`` or ``"published"``; see
            :data:`steerseg.config.PUBLISHED`.
        layers: Text layers of the rollout; the upper half of the model where left out (DecAF).
        keyframes: Number of frames that the LVLM sees.
        video_tokens: Most visual tokens of a slice of the video pass. Families whose video frames have one size
            ignore it.
        frame_tokens: Most visual tokens of a frame pass, for families that cut images into tiles; four times
            ``video_tokens`` where left out. Others use exactly twice the video's grid in each direction.
        frame_batch: Frame passes at a time; as many as fill the device within its memory where left out.
        seconds_per_slice: Seconds between two frame pairs in the LVLM's input; those of ``settings`` where left out.
        soft_prompts: Folder of the soft prompts beside the preset file; none where left out.
        lexicon: JSON file beside the preset file of the nouns that the model knows, as
            :class:`steerseg.words.learning.Lexicon`; where left out, the model itself says what kinds things are.
        confidence: How likely the best candidate is what an expression means, by signals of its rank; not said where
            left out, nor where presence is not judged.
        presence: How likely an expression is of anything in the video, by signals of a proposal; presence is not
            calibrated, and nothing is refused, where left out.
        prompts: The questions, where they differ from the defaults.
        pipeline: Further defaults of :class:`steerseg.config.PipelineConfig`.
        segmenter_settings: Further defaults of :class:`steerseg.config.SegmenterConfig`; ``segmenter`` in older files.
        replay: Examples that refinements replay, so that new ones do not erase what was known; none where left out.
        refinement: Further defaults of :class:`steerseg.config.RefinementRecipe`.
        hint: Sentence about the models' world, for annotators whose proposal is empty or unsure.
        unsure_below: A best score below it, in [-1, 1], is called unsure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    lvlm: str | None
    segmenter: str = "sam2"
    sam2: str = ""
    concepts: str = "facebook/sam3"
    quantise: Quantisation | None = None
    settings: Literal["own", "published"] = "own"
    layers: tuple[int, ...] | None = None
    keyframes: int = Field(default=16, ge=1)
    video_tokens: int = Field(default=400, ge=4)
    frame_tokens: int | None = Field(default=None, ge=4)
    frame_batch: int | None = Field(default=None, ge=1)
    seconds_per_slice: float | None = Field(default=None, gt=0)
    soft_prompts: str | None = None
    lexicon: str | None = None
    presence: PresenceCalibration | None = None
    confidence: ConfidenceCalibration | None = None
    prompts: dict[str, str] = {}
    pipeline: dict[str, Any] = {}
    segmenter_settings: dict[str, Any] = {}
    replay: ReplaySpec | None = None
    refinement: dict[str, Any] = {}
    hint: str = ""
    unsure_below: float = Field(default=0.2, ge=-1, le=1)

    @model_validator(mode="before")
    @classmethod
    def _read_older_files(cls, fields: Any) -> Any:
        """Settings were called ``segmenter`` while every preset had SAM 2."""
        if isinstance(fields, dict) and isinstance(fields.get("segmenter"), dict):
            fields = dict(fields)
            fields["segmenter_settings"] = fields.pop("segmenter")
        return fields

    @model_validator(mode="after")
    def _has_weights(self) -> Self:
        if self.segmenter == "sam2" and not self.sam2:
            raise ValueError("'sam2' is missing: name SAM 2's weights there, or another model by 'segmenter'")
        return self

    @property
    def language_model(self) -> str:
        """Hub id or folder of the vision-language model.

        Raises:
            NoLanguageModelError: The preset has none.
        """
        if self.lvlm is None:
            raise NoLanguageModelError(
                f"preset {self.name!r} has no language model: it answers clicks and boxes alone. Expressions and "
                "soft prompts take a preset with one, such as qwen3-vl-2b."
            )
        return self.lvlm

    @property
    def segmenter_source(self) -> str:
        """What :func:`steerseg.segmenters.choice.load_segmenter` loads."""
        return self.sam2 if self.segmenter == "sam2" else self.segmenter

    @property
    def texts(self) -> PromptTexts:
        """The questions of this preset."""
        try:
            return PromptTexts(**self.prompts)
        except ConfigError as error:
            raise ConfigError(f"preset {self.name!r}: {error}") from None
        except TypeError as error:
            raise ConfigError(
                f"preset {self.name!r}: {error}; 'prompts' takes reasoning, grounding, "
                "grounding_without_attributes, background, naming, whereabouts, verification, localisation and "
                "localisation_without_attributes."
            ) from None

    @property
    def prompts_folder(self) -> Path | None:
        """Folder of the preset's own soft prompts; ``None`` where it has none."""
        return None if self.soft_prompts is None else Path(self.soft_prompts)

    def load_lexicon(self) -> Lexicon:
        """The nouns that the model knows; none where the preset has no lexicon.

        Raises:
            ConfigError: The file cannot be read.
        """
        if self.lexicon is None:
            return Lexicon()
        try:
            return Lexicon.model_validate_json(Path(self.lexicon).read_bytes())
        except (OSError, ValidationError) as error:
            raise ConfigError(f"preset {self.name!r}: {self.lexicon} is no lexicon: {error}") from error

    @property
    def config(self) -> PipelineConfig:
        """The pipeline's defaults under this preset."""
        try:
            told = {} if self.seconds_per_slice is None else {"seconds_per_slice": self.seconds_per_slice}
            changes = {"keyframes": self.keyframes, **told, **self.pipeline}
            return replace(SETTINGS[self.settings].pipeline, **changes)
        except TypeError as error:
            raise ConfigError(
                f"preset {self.name!r}: {error}; 'pipeline' takes fields of PipelineConfig."
            ) from None

    @property
    def segmenter_config(self) -> SegmenterConfig:
        """How frames and clicks reach the segmenter under this preset."""
        try:
            return replace(SETTINGS[self.settings].segmenter, **self.segmenter_settings)
        except TypeError as error:
            raise ConfigError(
                f"preset {self.name!r}: {error}; 'segmenter_settings' takes fields of SegmenterConfig."
            ) from None

    @property
    def recipe(self) -> RefinementRecipe:
        """The recipe of refinements under this preset."""
        changes = dict(self.refinement)
        try:
            recipe = RefinementRecipe()
            as_proposed = replace(recipe.training, heads=self.config.heads, borders=self.config.borders)
            training = replace(as_proposed, **changes.pop("training", {}))
            return replace(recipe, training=training, **changes)
        except TypeError as error:
            raise ConfigError(
                f"preset {self.name!r}: {error}; 'refinement' takes fields of RefinementRecipe, and its "
                "'training' those of TrainingConfig."
            ) from None


def find_preset(name_or_folder: str | Path) -> Path:
    """The folder of a built-in preset or of one's own.

    Raises:
        ConfigError: Neither a known name nor a folder with a preset file.
    """
    folder = BUILT_IN.get(str(name_or_folder), Path(name_or_folder))
    if not (folder / PRESET_FILE).is_file():
        raise ConfigError(
            f"no preset {str(name_or_folder)!r}: expected one of {', '.join(BUILT_IN)}, or a folder that holds "
            f"a {PRESET_FILE}."
        )
    return folder


def load_preset(folder: Path) -> Preset:
    """Read a preset; names of folders beside the file become full paths.

    Raises:
        ConfigError: The file is not valid.
    """
    try:
        preset = Preset.model_validate_json((folder / PRESET_FILE).read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{folder / PRESET_FILE} is not a valid preset: {error}") from error
    _ = preset.texts  # questions that cannot be filled in are an error now
    beside = {
        key: str(folder / value)
        for key in _BESIDE
        if (value := getattr(preset, key)) and not _is_name(key, value) and (folder / value).exists()
    }
    replay = preset.replay
    if replay is not None and (folder / replay.source).is_dir():
        replay = replay.model_copy(update={"source": str(folder / replay.source)})
    return preset.model_copy(update={**beside, "replay": replay})


def portable_card(preset: Preset) -> dict[str, Any]:
    """The fields of a preset for a file in another folder: what lies beside its own file is named by its full path.

    Args:
        preset: As :func:`load_preset` returns it.
    """
    card = preset.model_dump(mode="json", exclude_defaults=True)
    beside = [(card, key) for key in _BESIDE] + ([(card["replay"], "source")] if "replay" in card else [])
    for fields, key in beside:
        value = fields.get(key)
        if isinstance(value, str) and not _is_name(key, value) and Path(value).exists():
            fields[key] = str(Path(value).resolve())
    return card


def _is_name(key: str, value: str) -> bool:
    """Whether a field names a segmenter, whatever files there are of that name."""
    return key == "segmenter" and value in _NAMED_SEGMENTERS


def open_preset(
    name_or_folder: str | Path,
    *,
    sam2: str | None = None,
    segmenter: str | None = None,
    quantise: Quantisation | None = None,
    candidates: CandidateSource | None = None,
) -> Preset:
    """A preset by name or folder, with other models in place of its own.

    Args:
        name_or_folder: Built-in name or folder.
        sam2: Hub id or folder of a SAM 2, in place of the preset's segmenter.
        segmenter: Name, hub id or folder of another segmenter.
        quantise: Bits of the text model's weights.
        candidates: Where candidates come from.

    Raises:
        ConfigError: It cannot be used.
    """
    preset = load_preset(find_preset(name_or_folder))
    if sam2 is not None:
        segmenter = "sam2"
    changes: dict[str, Any] = {"sam2": sam2, "segmenter": segmenter, "quantise": quantise}
    if candidates is not None:
        changes["pipeline"] = {**preset.pipeline, "candidates": candidates}
    changed = preset.model_copy(update={key: value for key, value in changes.items() if value is not None})
    if not changed.segmenter_source:
        raise ConfigError(
            f"preset {preset.name!r} names no SAM 2; give one by its hub id or folder (--sam2)."
        )
    return changed
