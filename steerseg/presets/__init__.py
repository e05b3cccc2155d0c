"""A preset is data: LVLM and SAM 2, layers, budgets, questions and soft prompts.

A preset is a folder with a ``preset.json``. Names in it are hub ids, or folders beside the file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steerseg.config import SETTINGS, PipelineConfig, Quantisation, RefinementRecipe, SegmenterConfig
from steerseg.errors import ConfigError
from steerseg.reasoning import PromptTexts
from steerseg.words.learning import Lexicon

PRESET_FILE = "preset.json"
_BESIDE = ("lvlm", "sam2", "soft_prompts", "lexicon")
_HERE = Path(__file__).parent

_PUBLISHED = ("qwen2.5-vl-7b", "qwen2-vl-7b", "llava-onevision-7b", "internvl3-8b", "qwen3-vl-8b")

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
        lvlm: Hub id of the vision-language model, or a folder beside the preset file.
        sam2: Hub id of SAM 2, or a folder beside the preset file.
        quantise: ``"8bit"`` or ``"4bit"`` for a text model of such weights; bitsandbytes has to be installed.
        settings: The choices that ``pipeline`` and ``segmenter`` begin with: ``"own"`` or ``"published"``; see
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
        prompts: The questions, where they differ from the defaults.
        pipeline: Further defaults of :class:`steerseg.config.PipelineConfig`.
        segmenter: Further defaults of :class:`steerseg.config.SegmenterConfig`.
        replay: Examples that refinements replay, so that new ones do not erase what was known; none where left out.
        refinement: Further defaults of :class:`steerseg.config.RefinementRecipe`.
        hint: Sentence about the models' world, for annotators whose proposal is empty or unsure.
        unsure_below: A best score below it, in [-1, 1], is called unsure.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    lvlm: str
    sam2: str
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
    prompts: dict[str, str] = {}
    pipeline: dict[str, Any] = {}
    segmenter: dict[str, Any] = {}
    replay: ReplaySpec | None = None
    refinement: dict[str, Any] = {}
    hint: str = ""
    unsure_below: float = Field(default=0.2, ge=-1, le=1)

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
                "grounding_without_attributes, background and naming."
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
        """How frames and clicks reach SAM 2 under this preset."""
        try:
            return replace(SETTINGS[self.settings].segmenter, **self.segmenter)
        except TypeError as error:
            raise ConfigError(
                f"preset {self.name!r}: {error}; 'segmenter' takes fields of SegmenterConfig."
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
        if (value := getattr(preset, key)) is not None and (folder / value).exists()
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
        if isinstance(fields.get(key), str) and Path(fields[key]).exists():
            fields[key] = str(Path(fields[key]).resolve())
    return card


def open_preset(
    name_or_folder: str | Path, *, sam2: str | None = None, quantise: Quantisation | None = None
) -> Preset:
    """A preset by name or folder, with other models in place of its own.

    Args:
        name_or_folder: Built-in name or folder.
        sam2: Hub id or folder of another SAM 2.
        quantise: Bits of the text model's weights.

    Raises:
        ConfigError: It cannot be used.
    """
    preset = load_preset(find_preset(name_or_folder))
    changes: dict[str, Any] = {"sam2": sam2, "quantise": quantise}
    return preset.model_copy(update={key: value for key, value in changes.items() if value is not None})
