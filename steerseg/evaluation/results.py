"""Results on disk: one line a sample, in files that may come from several runs and machines."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from steerseg.errors import ConfigError
from steerseg.evaluation.diagnosis import Pointing
from steerseg.evaluation.metrics import Interval, bootstrap_mean

Run = dict[str, Any]
"""What identifies a run, in JSON types: dataset, models, settings. Nothing of the machine it runs on."""

OF_VARIANT = frozenset({"variant", "config", "soft_prompts"})
"""What of a run belongs to its variant; the rest is the same for all that are compared."""


@dataclass(frozen=True)
class StageSeconds:
    """Time of each stage. The first two are needed once a clip, the others for every expression.

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
        """Once a clip."""
        return self.keyframes + self.frames

    @property
    def expression(self) -> float:
        """For every expression."""
        return self.reasoning + self.grounding + self.candidates + self.tracking


@dataclass(frozen=True)
class Result:
    """The outcome of one sample.

    Attributes:
        id: Of the sample.
        video: Of the clip.
        expression: What was asked for.
        kind: Of the expression.
        twin: Whether another object of the clip has the target's name.
        frames: How many the clip has.
        j: Region accuracy in [0, 1]; NaN where only the dataset's server can tell.
        f: Boundary accuracy in [0, 1]; NaN where only the dataset's server can tell.
        score: The method's own; 0 where nothing was found.
        seconds: By stage.
        attributes: What the method named.
        true_attributes: What it should name.
        name: What the target is called, "" where the dataset does not tell.
        answer: The model's answer to the grounding question; ``None`` where it was not asked.
        named: Whether that is the target's name.
        pointing: Where the grounding maps point.
    """

    id: str
    video: str
    expression: str
    kind: str
    twin: bool
    frames: int
    j: float
    f: float
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
        """Read :meth:`line`; raises ``ValueError``, ``TypeError`` or ``KeyError`` where it is damaged."""
        data = json.loads(line)
        for name in ("j", "f"):
            data[name] = math.nan if data[name] is None else data[name]
        for name in ("attributes", "true_attributes"):
            data[name] = tuple(data[name])
        data["seconds"] = StageSeconds(**data["seconds"])
        data["pointing"] = None if data["pointing"] is None else Pointing(**data["pointing"])
        return cls(**data)


def fingerprint(folder: str | Path) -> str:
    """Tells whether the weights in a model's folder have changed; "" where the name is not a folder.

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
class Measured:
    """All results of one variant that a folder holds.

    Attributes:
        run: What they have in common.
        results: By sample id.
        made_by: What made them: versions and device, one entry a different environment.
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

    def read(self) -> dict[str, Measured]:
        """What is there, by variant.

        A line that an interrupted run has half written is left out.

        Raises:
            ConfigError: A file is damaged, or the files come from runs that cannot be compared.
        """
        found: dict[str, Measured] = {}
        first: Run | None = None
        for path in sorted(self.folder.glob("*.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines()
            if not lines:
                continue
            try:
                header = json.loads(lines[0])
                run, made_by = header["run"], header["made_by"]
                variant = run["variant"]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{path} is not a file of results: {error}; remove it") from error
            known = found.get(variant, Measured(run, {}, ()))
            first = first or run
            refuse_other(path, run, known.run)
            refuse_other(path, run, first, ignore=OF_VARIANT)
            results = dict(known.results)
            for number, line in enumerate(lines[1:], start=2):
                try:
                    result = Result.from_line(line)
                except (ValueError, KeyError, TypeError) as error:
                    if number == len(lines):
                        break  # the run stopped while it wrote this line
                    raise ConfigError(f"{path}, line {number}, is damaged: {error}; remove it") from error
                results.setdefault(result.id, result)
            environments = known.made_by if made_by in known.made_by else (*known.made_by, made_by)
            found[variant] = Measured(run, dict(sorted(results.items())), environments)
        return found

    def done(self, runs: Mapping[str, Run]) -> dict[str, dict[str, Result]]:
        """Results of these runs by variant and sample id.

        Raises:
            ConfigError: The folder holds results of other settings.
        """
        measured = self.read()
        for name, run in runs.items():
            plain = json.loads(json.dumps(run))
            for known, entry in measured.items():
                refuse_other(
                    self.folder, plain, entry.run, ignore=frozenset() if known == name else OF_VARIANT
                )
        return {name: dict(measured[name].results) if name in measured else {} for name in runs}

    def append(self, run: Run, made_by: Mapping[str, str], result: Result) -> None:
        """Add a result; the first one of a variant begins a file."""
        variant = run["variant"]
        if variant not in self._open:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{variant}.{self._token}.jsonl"
            self._open[variant] = path.open("w", encoding="utf-8")
            header = {"run": run, "made_by": dict(made_by)}
            self._open[variant].write(json.dumps(header, ensure_ascii=False) + "\n")
        self._open[variant].write(result.line() + "\n")
        self._open[variant].flush()

    def close(self) -> None:
        """Close all files."""
        for file in self._open.values():
            file.close()
        self._open.clear()


def refuse_other(place: Path, run: Run, known: Run, ignore: frozenset[str] = frozenset()) -> None:
    """Raise ``ConfigError`` that names what differs, where two runs are not the same."""
    different = sorted(key for key in {*run, *known} - ignore if run.get(key) != known.get(key))
    if different:
        raise ConfigError(
            f"{place} holds results of other settings ({', '.join(different)}); remove them or choose another "
            "folder"
        )


def mean_of(results: Iterable[Result], measure: str = "jf", halves: Sequence[str] = ()) -> Interval:
    """A dataset's figure of "j", "f" or "jf" with its 95 % bootstrap interval over clips.

    Args:
        results: The expressions.
        measure: What is averaged.
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
