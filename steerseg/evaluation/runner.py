"""Run a pipeline over samples, keep every result as it comes, and sum them up in a table."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from steerseg.config import PipelineConfig
from steerseg.errors import ConfigError
from steerseg.evaluation.metrics import Interval, bootstrap_mean, score
from steerseg.evaluation.readers import Sample

if TYPE_CHECKING:
    from steerseg.pipeline import SteerSeg
    from steerseg.video import Video

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Prediction:
    """What a method answers for one sample.

    Attributes:
        masks: (T, H, W) bool.
        attributes: What it named, if it reasons.
        score: Its own confidence; 0 where nothing was found.
    """

    masks: NDArray[np.bool_]
    attributes: tuple[str, ...] = ()
    score: float = 0.0


Method = Callable[["Video", Sample], Prediction]


@dataclass(frozen=True)
class Result:
    """The outcome of one sample. ``j``, ``f`` and ``jf`` lie in [0, 1]; ``seconds`` is the method's time."""

    id: str
    video: str
    expression: str
    kind: str
    twin: bool
    j: float
    f: float
    jf: float
    seconds: float
    score: float
    attributes: tuple[str, ...]
    true_attributes: tuple[str, ...]


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


def proposing(steerseg: SteerSeg, config: PipelineConfig | None, progress: Progress | None = None) -> Method:
    """The method that answers with a proposal's best tracklet, or with empty masks if there is none."""

    def predict(video: Video, sample: Sample) -> Prediction:
        proposal = steerseg.propose(video, sample.expression, config=config, progress=progress)
        if not proposal.tracklets:
            return Prediction(np.zeros(video.frames.shape[:3], dtype=bool), proposal.attributes)
        best = proposal.tracklets[0]
        return Prediction(np.asarray(best.masks, dtype=bool), proposal.attributes, float(best.score))

    return predict


def read_results(path: Path, run: dict[str, Any]) -> list[Result]:
    """Results that an interrupted run of the same kind has left; a half-written last line is left out.

    Raises:
        ConfigError: If the file is of a different run.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    if not lines:
        return []
    if json.loads(lines[0]) != {"run": run}:
        raise ConfigError(f"{path} holds results of other settings; remove it or choose another folder")
    results = []
    for number, line in enumerate(lines[1:], start=2):
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break  # the run stopped while it wrote this line
            raise ConfigError(f"{path}, line {number}, is damaged: {error}; remove the file") from error
        for name in ("attributes", "true_attributes"):
            data[name] = tuple(data[name])
        results.append(Result(**data))
    return results


def evaluate_method(
    method: Method,
    samples: Sequence[Sample],
    *,
    run: dict[str, Any] | None = None,
    results: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Score a method on samples.

    Args:
        method: Predicts masks for a video and a sample.
        samples: What to score on; samples of one clip should follow each other, so that it is read once.
        run: What identifies this run (settings, versions; JSON types); a results file of another is refused.
        results: A JSONL file to append to after each sample; what is in it already is not run again.
        progress: Called with "evaluate" and the fraction done.

    Returns:
        Results in the samples' order.

    Raises:
        ConfigError: If there is no sample, a clip lacks frames, or the results file is of another run.
    """
    from steerseg.video import load_video  # decoding needs PyAV; tables do not

    if not samples:
        raise ConfigError("no samples to evaluate; check the split and the limit")
    described = json.loads(json.dumps(run or {}))
    path = Path(results) if results is not None else None
    done: dict[str, Result] = {}
    if path is not None:
        kept = read_results(path, described)
        done = {result.id: result for result in kept}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"run": described})] + [json.dumps(asdict(r), ensure_ascii=False) for r in kept]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    video: Video | None = None
    folder: Path | None = None
    for number, sample in enumerate(samples):
        if progress is not None:
            progress("evaluate", number / len(samples))
        if sample.id in done:
            continue
        if video is None or folder != sample.folder:
            video, folder = load_video(sample.folder, fps=sample.fps), sample.folder
        if len(video.frames) != len(sample.frames):
            raise ConfigError(
                f"{sample.folder} holds {len(video.frames)} frames, the dataset lists {len(sample.frames)}"
            )
        start = time.perf_counter()
        prediction = method(video, sample)
        seconds = time.perf_counter() - start
        scores = score(prediction.masks, sample.masks())
        result = Result(
            id=sample.id,
            video=sample.video,
            expression=sample.expression,
            kind=sample.kind,
            twin=sample.twin,
            j=scores.j,
            f=scores.f,
            jf=scores.jf,
            seconds=seconds,
            score=prediction.score,
            attributes=prediction.attributes,
            true_attributes=sample.attributes,
        )
        done[sample.id] = result
        if path is not None:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
    if progress is not None:
        progress("evaluate", 1.0)
    return [done[sample.id] for sample in samples]


def evaluate(
    steerseg: SteerSeg,
    samples: Sequence[Sample],
    config: PipelineConfig | None = None,
    *,
    run: dict[str, Any] | None = None,
    results: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Result]:
    """Score the pipeline's best tracklets; see :func:`evaluate_method`.

    Args:
        steerseg: The loaded pipeline.
        samples: What to score on.
        config: Switches of the method; the preset's if left out.
        run: What else identifies this run, beside ``config``.
        results: JSONL file for resuming.
        progress: Called with "evaluate" and the fraction done.
    """
    described = {**(run or {}), "config": None if config is None else asdict(config)}
    return evaluate_method(
        proposing(steerseg, config), samples, run=described, results=results, progress=progress
    )


def mean_of(results: Iterable[Result], measure: str = "jf") -> Interval:
    """Mean of "j", "f" or "jf" over expressions with its 95 % bootstrap interval over clips."""
    chosen = list(results)
    values = np.array([getattr(result, measure) for result in chosen], dtype=np.float64)
    return bootstrap_mean(values, [result.video for result in chosen])


def paired_gain(results: Sequence[Result], baseline: Sequence[Result], measure: str = "jf") -> Interval:
    """Mean difference to a baseline on the same samples, with its interval.

    Raises:
        ValueError: If the samples differ.
    """
    if [r.id for r in results] != [b.id for b in baseline]:
        raise ValueError("a paired gain needs both runs on the same samples in the same order")
    gains = [getattr(r, measure) - getattr(b, measure) for r, b in zip(results, baseline, strict=True)]
    return bootstrap_mean(np.array(gains, dtype=np.float64), [r.video for r in results])


def table(results: Sequence[Result]) -> str:
    """A Markdown table: all expressions, each kind, and targets with or without a namesake in the clip."""
    groups: list[tuple[str, list[Result]]] = [("all", list(results))]
    kinds = sorted({result.kind for result in results if result.kind})
    groups += [(kind, [r for r in results if r.kind == kind]) for kind in kinds]
    twins = [result for result in results if result.twin]
    if twins:
        groups.append(("with a namesake", twins))
        groups.append(("without", [result for result in results if not result.twin]))
    lines = [
        "| expressions | n | J&F [95 % interval] | J | F | seconds each |",
        "|---|---|---|---|---|---|",
    ]
    for name, members in groups:
        if not members:
            continue
        seconds = float(np.mean([r.seconds for r in members]))
        lines.append(
            f"| {name} | {len(members)} | {mean_of(members)} | {mean_of(members, 'j').mean:.3f} | "
            f"{mean_of(members, 'f').mean:.3f} | {seconds:.2f} |"
        )
    return "\n".join(lines)
