"""What the studies of words and of the gate share: proposals and corrections of tasks, options, and results on disk."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from benchmarks.refinement.annotator import Habits
from benchmarks.refinement.domain import Convention
from ml_backend.models.examples import CorrectionExample, Pool, TaskRef
from ml_backend.models.messages import NamedObject
from steerseg.evaluation import Sample
from steerseg.evaluation.metrics import region_iou, score
from steerseg.masks import decode_rle, encode_rle
from steerseg.pipeline import SteerSeg
from steerseg.presets import open_preset
from steerseg.runtime.artefacts import write_bytes, write_json
from steerseg.tracking.tracklets import Tracklet
from steerseg.words.naming import frames_to_show, name_object

ACCEPT = Habits().accept
"""A proposal with this mean IoU is accepted as it is."""
_NAME = TypeAdapter(NamedObject)


class ProposalQuality(NamedTuple):
    """How good a proposal is.

    Attributes:
        jf: J&F in [0, 1] of the best tracklet.
        j: J in [0, 1] of it.
        certainty: How sure the proposal is; see ``ProposalStore.certainties``.
        pages: Pages that an annotator would paint or empty where the proposal is not accepted as it is.
    """

    jf: float
    j: float
    certainty: float
    pages: int


class WordTasks:
    """Tasks of one word with the models; each proposal and name is made once.

    Args:
        steerseg: The models, with the preset's own soft prompts.
        word: The word.
        known: Folder that keeps what was measured; processes share it.
    """

    def __init__(self, steerseg: SteerSeg, word: Convention, known: Path) -> None:
        self.steerseg = steerseg
        self.word = word
        self._known = known

    def quality(self, sample: Sample, wording: str | None = None) -> ProposalQuality:
        """How good the proposal for a wording of a task is; as it is typed where left out."""
        wording = sample.expression if wording is None else wording
        path = self._path(sample, wording)
        if not path.is_file():
            write_json(path, list(measure_proposal(self.steerseg, sample, wording)))
        return ProposalQuality(*json.loads(path.read_text("utf-8")))

    def name(self, sample: Sample) -> NamedObject:
        """What the model calls the object of a task."""
        path = self._path(sample, "the name of the object")
        if not path.is_file():
            write_bytes(path, _NAME.dump_json(name_of(self.steerseg, sample)))
        return _NAME.validate_json(path.read_bytes())

    def plain(self, sample: Sample) -> str:
        """The expression with the plain word typed."""
        words = sample.expression.split()
        return " ".join(self.word.means if word == self.word.word else word for word in words)

    def _path(self, sample: Sample, about: str) -> Path:
        state = json.dumps([str(sample.folder), sample.id, about])
        return self._known / f"{hashlib.sha256(state.encode()).hexdigest()[:24]}.json"


def measure_proposal(steerseg: SteerSeg, sample: Sample, wording: str) -> ProposalQuality:
    """Propose for a wording of a task, and measure that."""
    truth = sample.masks()
    proposal = steerseg.propose(sample.load(), wording)
    scores = [tracklet.score for tracklet in proposal.tracklets[:2]]
    certainty = min(scores[0], scores[0] - scores[1]) if len(scores) > 1 else [*scores, -1.0][0]
    masks = best_masks(proposal.tracklets, truth.shape)
    result = score(masks, truth)
    kept = sum(region_iou(mask, true) >= Habits().keep for mask, true in zip(masks, truth, strict=True))
    return ProposalQuality(result.jf, result.j, certainty, len(truth) - kept)


def best_masks(tracklets: Sequence[Tracklet], shape: Sequence[int]) -> NDArray[np.bool_]:
    """The masks of the best tracklet; empty ones where there is none.

    Args:
        tracklets: The best one first.
        shape: (T, H, W).
    """
    if not tracklets:
        return np.zeros(shape, dtype=bool)
    return np.stack([decode_rle(rle) for rle in tracklets[0].rles])


def name_of(steerseg: SteerSeg, sample: Sample) -> NamedObject:
    """What the model calls the object of a task, shown its true masks."""
    video, truth = sample.load(), sample.masks()
    preset = steerseg.preset
    chosen = frames_to_show(np.flatnonzero(truth.any(axis=(1, 2))).tolist(), preset)
    naming = name_object(steerseg.lvlm, preset, preset.load_lexicon(), video.frames[chosen], truth[chosen])
    return NamedObject(naming.names, naming.kinds)


def corrected_example(
    sample: Sample, number: int, masks: NDArray[np.bool_], overlap: float, key: str
) -> CorrectionExample:
    """A task as its annotator leaves it, as an example of a refinement.

    Args:
        sample: The task.
        number: Of the correction.
        masks: (T, H, W), what the annotator submits.
        overlap: Mean IoU of what was proposed.
        key: Identifies the example.
    """
    frames = range(len(masks))
    return CorrectionExample(
        key=key,
        correction=number,
        revision=sample.id,
        video=sample.video,
        group=sample.video,
        expression=sample.expression,
        pool=Pool.NEW,
        weight=1.0 if overlap < ACCEPT else 0.5,
        truth=dict(enumerate(map(encode_rle, masks))),
        shares=dict.fromkeys(frames, 1.0),
        decided=frozenset(frames),
        rejected=(),
        num_frames=masks.shape[0],
        height=masks.shape[1],
        width=masks.shape[2],
        task=TaskRef(number, {}, ""),
        overlap=overlap,
    )


def add_place(parser: argparse.ArgumentParser, *, data: str, output: str) -> None:
    """Add the options that say where a study runs and what it reads and writes."""
    parser.add_argument("--device", default="auto")
    parser.add_argument("--processes", type=int, default=1, help="pieces of work at a time")
    parser.add_argument("--data", type=Path, default=Path(data), help="folder of rendered clips")
    parser.add_argument("-o", "--output", type=Path, default=Path(output))


def add_seconds(parser: argparse.ArgumentParser) -> None:
    """Add the option that ends a study in time."""
    parser.add_argument("--seconds", type=float, default=1e9, help="no piece of work begins later")


def in_processes(
    measure: Callable[..., Sequence[Mapping[str, Any]]], work: Sequence[tuple[Any, ...]], processes: int
) -> list[Mapping[str, Any]]:
    """The records of all pieces of work, each a call of a function in a process of its own.

    Args:
        measure: A function of a module.
        work: The arguments of each call.
        processes: Most processes at a time.
    """
    open_preset("demo")  # says what is wrong with it before any process starts
    with multiprocessing.get_context("spawn").Pool(min(processes, len(work))) as pool:
        parts = pool.starmap(measure, work, chunksize=1)
    return [record for part in parts for record in part]


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write records, a line of JSON each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text(lines, encoding="utf-8")


def write_study(folder: Path, name: str, records: Sequence[Mapping[str, Any]], text: str) -> None:
    """Write a study's records (``NAME.jsonl``) and tables (``NAME.md``), and print the tables."""
    write_records(folder / f"{name}.jsonl", records)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
