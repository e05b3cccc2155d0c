"""Results on disk: one line a sample, in files that may come from several runs and machines."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from steerseg.errors import ConfigError
from steerseg.evaluation.diagnosis import Pointing
from steerseg.evaluation.metrics import Interval, bootstrap_mean

OF_VARIANT = frozenset({"variant", "config", "soft_prompts"})
"""Fields of a :class:`Run` that belong to its variant; the rest is the same for all that are compared."""


class PromptsIdentity(BaseModel):
    """The soft prompts of a run.

    Attributes:
        digest: Of both matrices.
        tokens: Length of each.
        placement: Their position in the chat.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    digest: str
    tokens: int
    placement: str


class Run(BaseModel):
    """Identity of a run, as the first line of a file of results holds it: data, models, settings; no machine.

    A field that a file does not hold stays unset, so that files of earlier versions keep their identity.

    Attributes:
        dataset: Name of the dataset, without its folder.
        split: Name of the split.
        samples: Number of samples in the split.
        content: Digest of the split; see :func:`~steerseg.evaluation.sample.split_digest`.
        preset: Name of the preset.
        lvlm: Fingerprint of the LVLM's weights, or its hub id.
        sam2: The same for the segmenter, which was SAM 2 when results got this field.
        quantise: Bits of the LVLM's weights, where they are quantised.
        frame_tokens: Most visual tokens of a frame pass, where the preset sets it.
        grounding: Layers, budgets and questions.
        variant: Name of the variant.
        config: Fields of :class:`~steerseg.config.PipelineConfig` that play a part.
        soft_prompts: Those that take part.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    dataset: str = ""
    split: str = ""
    samples: int = 0
    content: str = ""
    preset: str = ""
    lvlm: str = ""
    sam2: str = ""
    quantise: str | None = None
    frame_tokens: int | None = None
    grounding: dict[str, Any] = Field(default_factory=dict)
    variant: str
    config: dict[str, Any] = Field(default_factory=dict)
    soft_prompts: PromptsIdentity | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields that are set, in JSON types."""
        return self.model_dump(mode="json", exclude_unset=True)

    def refuse_other(self, known: Run, where: Path, ignore: frozenset[str] = frozenset()) -> None:
        """Raise ``ConfigError`` that names what differs, where two runs are not the same.

        Args:
            known: The other run.
            where: The file or folder that holds it.
            ignore: Fields that may differ.
        """
        mine, others = self.as_json(), known.as_json()
        different = sorted(key for key in {*mine, *others} - ignore if mine.get(key) != others.get(key))
        if different:
            raise ConfigError(
                f"{where} holds results of other settings ({', '.join(different)}); remove them or choose another "
                "folder"
            )


Accuracy = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""In [0, 1]; NaN, ``null`` in files, where only the dataset's server knows the truth."""


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of each stage. The first two are needed once a clip, the others for every expression.

    Attributes:
        keyframes: The LVLM's vision tower on the keyframes.
        frames: SAM 2's encoder on all frames.
        reasoning: Attributes.
        grounding: Grounding passes and rollouts.
        candidates: Candidates on the keyframes, ranked.
        tracking: The best one over the whole video.
    """

    keyframes: float = 0.0
    frames: float = 0.0
    reasoning: float = 0.0
    grounding: float = 0.0
    candidates: float = 0.0
    tracking: float = 0.0

    @property
    def clip(self) -> float:
        """Seconds once a clip."""
        return self.keyframes + self.frames

    @property
    def expression(self) -> float:
        """Seconds for every expression."""
        return self.reasoning + self.grounding + self.candidates + self.tracking


@dataclass(frozen=True)
class Result:
    """The outcome of one sample.

    Attributes:
        id: Id of the sample.
        video: Name of the clip.
        expression: The annotator's text.
        kind: Kind of the expression.
        twin: Whether another object of the clip has the target's name.
        frames: Number of frames of the clip.
        j: Region accuracy.
        f: Boundary accuracy.
        score: Rank score of the best tracklet; 0 where nothing was found.
        seconds: Seconds of each stage.
        attributes: Attributes of the chain-of-thought step.
        true_attributes: Attributes of the ground truth.
        name: Name of the target, "" where the dataset has none.
        answer: The model's answer to the grounding question; ``None`` where it was not asked.
        named: Whether that answer is the target's name.
        pointing: Shares of keyframes on which the grounding maps point to the target.
    """

    id: str
    video: str
    expression: str
    kind: str
    twin: bool
    frames: int
    j: Accuracy
    f: Accuracy
    score: float
    seconds: StageSeconds
    attributes: tuple[str, ...] = ()
    true_attributes: tuple[str, ...] = ()
    name: str = ""
    answer: str | None = None
    named: bool | None = None
    pointing: Pointing | None = None

    @property
    def jf(self) -> float:
        """J&F."""
        return (self.j + self.f) / 2

    @property
    def scored(self) -> bool:
        """Whether the truth is known here."""
        return not math.isnan(self.j)

    def line(self) -> str:
        """As a line of JSON."""
        data = asdict(self)
        if not self.scored:
            data["j"] = data["f"] = None  # JSON has no NaN
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> Result:
        """Read :meth:`line`; raises ``ValueError`` where it is damaged."""
        return _RESULT.validate_json(line)


_RESULT = TypeAdapter(Result)


def fingerprint(folder: str | Path) -> str:
    """Digest that changes with the weights in a model's folder; "" where the name is not a folder.

    The size and both ends of every weight file are hashed: enough to notice training, quick for any model.
    """
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors")) if Path(folder).is_dir() else []
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()[:16] if files else ""


@dataclass(frozen=True)
class VariantResults:
    """All results of one variant that a folder holds.

    Attributes:
        run: Their identity.
        results: By sample id.
        made_by: Versions and device of each environment that computed them.
    """

    run: Run
    results: dict[str, Result]
    made_by: tuple[dict[str, str], ...]


class ResultFolder:
    """JSONL files of any number of runs and variants; their names do not matter, only their first lines.

    Every run appends to files of its own, so that a folder can be finished elsewhere and files of the same
    settings can be copied together.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._token = secrets.token_hex(3)
        self._open: dict[str, TextIO] = {}

    def read(self) -> dict[str, VariantResults]:
        """All results, by variant.

        A line that an interrupted run has half written is left out.

        Raises:
            ConfigError: A file is damaged, or the files come from runs that cannot be compared.
        """
        variants: dict[str, VariantResults] = {}
        first: Run | None = None
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines()
            if not lines:
                continue
            run, made_by = _read_header(path, lines[0])
            known = variants.get(run.variant, VariantResults(run, {}, ()))
            first = first or run
            run.refuse_other(known.run, path)
            run.refuse_other(first, path, ignore=OF_VARIANT)
            results = dict(known.results)
            for result in _read_lines(path, lines[1:]):
                results.setdefault(result.id, result)
            environments = known.made_by if made_by in known.made_by else (*known.made_by, made_by)
            variants[run.variant] = VariantResults(run, dict(sorted(results.items())), environments)
        return variants

    def done(self, runs: Mapping[str, Run]) -> dict[str, dict[str, Result]]:
        """Results of these runs by variant and sample id.

        Raises:
            ConfigError: The folder holds results of other settings.
        """
        measured = self.read()
        for name, run in runs.items():
            for known, entry in measured.items():
                run.refuse_other(entry.run, self.folder, ignore=frozenset() if known == name else OF_VARIANT)
        return {name: dict(measured[name].results) if name in measured else {} for name in runs}

    def append(self, run: Run, made_by: Mapping[str, str], result: Result) -> None:
        """Add a result; the first one of a variant begins a file."""
        variant = run.variant
        if variant not in self._open:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{variant}.{self._token}.jsonl"
            self._open[variant] = path.open("w", encoding="utf-8")
            header = {"run": run.as_json(), "made_by": dict(made_by)}
            self._open[variant].write(json.dumps(header, ensure_ascii=False) + "\n")
        self._open[variant].write(result.line() + "\n")
        self._open[variant].flush()

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()
        self._open.clear()


def _read_header(path: Path, line: str) -> tuple[Run, dict[str, str]]:
    """Identity and environment of a file."""
    try:
        header = json.loads(line)
        return Run.model_validate(header["run"]), header["made_by"]
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a file of results: {error}; remove it") from error


def _read_lines(path: Path, lines: Sequence[str]) -> Iterator[Result]:
    """The results of a file, without the line that an interrupted run has half written."""
    for number, line in enumerate(lines, start=2):
        try:
            yield Result.from_line(line)
        except ValueError as error:
            if number == len(lines) + 1:
                return
            raise ConfigError(f"{path}, line {number}, is damaged: {error}; remove it") from error


def mean_of(results: Iterable[Result], measure: str = "jf", halves: Sequence[str] = ()) -> Interval:
    """A dataset's figure of "j", "f" or "jf" with its 95 % bootstrap interval over clips.

    Args:
        results: The expressions.
        measure: Name of the property that is averaged.
        halves: Kinds of expression whose means the figure is the mean of; where left out, it is the mean over
            all expressions. A half without results does not count, other kinds never do.
    """
    chosen, weights = _counted(list(results), halves)
    values = np.array([getattr(result, measure) for result in chosen], dtype=np.float64)
    return bootstrap_mean(values, [result.video for result in chosen], weights=weights)


def paired_gain(
    results: Sequence[Result], baseline: Sequence[Result], measure: str = "jf", halves: Sequence[str] = ()
) -> Interval:
    """Mean difference to a baseline on the same samples, with its interval; ``halves`` as in :func:`mean_of`.

    Raises:
        ValueError: If the samples differ.
    """
    if [r.id for r in results] != [b.id for b in baseline]:
        raise ValueError("a paired gain needs both runs on the same samples in the same order")
    before = {result.id: result for result in baseline}
    chosen, weights = _counted(results, halves)
    gains = [getattr(r, measure) - getattr(before[r.id], measure) for r in chosen]
    return bootstrap_mean(np.array(gains, dtype=np.float64), [r.video for r in chosen], weights=weights)


def _counted(
    results: Sequence[Result], halves: Sequence[str]
) -> tuple[Sequence[Result], NDArray[np.float64] | None]:
    """Results that count, and how much each does: every half the same in all."""
    sizes = Counter(result.kind for result in results if result.kind in halves)
    if not sizes:
        return results, None
    chosen = [result for result in results if result.kind in sizes]
    return chosen, np.array([1 / sizes[result.kind] for result in chosen])
