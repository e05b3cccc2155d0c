"""``python -m benchmarks.fidelity.corrections``: J&F after corrective clicks, by what a click goes with.

A robot corrects the demo's proposals as an annotator does: on the worst frame, a click in the middle of the largest
wrong region, positive where the object is missing and negative where something else is covered. Each way has clicks
of its own, since they follow from its masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.fidelity.clips import Masks, Question, decoded, paired_rows, questions
from ml_backend.models.messages import FramePrompt, SteerRequest
from ml_backend.models.steer import answer_steering
from steerseg.config import Correction
from steerseg.errors import SteerSegError
from steerseg.evaluation.metrics import score
from steerseg.evaluation.runner import processor
from steerseg.masks import RLE, decode_rle, iou, mask_area
from steerseg.pipeline import SteerSeg
from steerseg.tracking import EncodedVideo, Prompt, Tracker

FRAME, MEMORY, PREDICTOR = "the frame alone", "memory and own logits", "SAM 2's predictor as it is"
"""The ways: as it was, as it is, and without the look for clicks that mean another object."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fidelity.corrections", description=__doc__)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--clicks", type=int, default=3)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    steerseg = SteerSeg.from_pretrained(options.preset, device=options.device)
    ways = (FRAME, MEMORY, PREDICTOR)
    found: list[dict[str, list[float]]] = [{way: [] for way in ways} for _ in range(options.clicks + 1)]
    for question in tqdm(questions(options.split, options.clips), total=options.clips):
        proposal = steerseg.propose(question.video, question.expression)
        if not proposal.tracklets:
            continue  # a click then starts an object, and corrects none
        best = proposal.tracklets[0]
        track = tuple(rle if mask_area(rle) else None for rle in best.rles)
        encoded = steerseg.open(question.video)
        for way in ways:
            robot = Robot(steerseg.tracker, encoded, question, track, best.prompt.frame, way)
            found[0][way].append(robot.score)
            for click in range(options.clicks):
                robot.click()
                found[click + 1][way].append(robot.score)
        steerseg.forget()
    count = len(found[0][FRAME])
    print(
        f"{count} clips of {options.split}, preset {options.preset} on {options.device} ({processor()}); "
        "95 % intervals over clips\n"
    )
    print("| clicks | a click goes with | J&F | gain over the frame alone |\n|---|---|---|---|")
    for clicks, measured in enumerate(found):
        for name, mean, gain in paired_rows(measured, FRAME):
            print(f"| {clicks} | {name} | {mean} | {gain} |")


class Robot:
    """An annotator who corrects one proposal.

    Args:
        tracker: The tracker over the segmenter.
        encoded: The video.
        question: Its truth is what the robot wants.
        track: The proposal's best tracklet; ``None`` where it is not visible.
        anchor: The frame where that began.
        way: What a click goes with.

    Attributes:
        score: J&F of the masks so far.
    """

    def __init__(
        self,
        tracker: Tracker,
        encoded: EncodedVideo,
        question: Question,
        track: tuple[RLE | None, ...],
        anchor: int,
        way: str,
    ) -> None:
        self._tracker = tracker
        self._encoded = encoded
        self._truth = question.truth
        self._track = track
        self._anchor = anchor
        self._way = way
        self._prompts: dict[int, FramePrompt] = {}
        self._show(decoded(track, question.truth))

    def _show(self, masks: Masks) -> None:
        self._masks = masks
        self.score = score(masks, self._truth).jf

    def click(self) -> None:
        """Click once; nothing where no pixel is wrong, or where the click is refused."""
        overlaps = [iou(mask, true) for mask, true in zip(self._masks, self._truth, strict=True)]
        wrong = (self._masks ^ self._truth).any(axis=(1, 2))
        if not wrong.any():
            return
        frame = int(np.argmin(np.where(wrong, overlaps, 2.0)))
        x, y, positive = _middle_of_error(self._masks[frame], self._truth[frame])
        earlier = self._prompts.get(frame, FramePrompt())
        self._prompts[frame] = FramePrompt((*earlier.points, (x, y)), (*earlier.labels, positive))
        try:
            rles = self._predictor() if self._way == PREDICTOR else self._backend()
        except SteerSegError:
            return  # clicks beside the object, where there is none
        self._show(decoded(rles, self._truth))

    def _backend(self) -> Sequence[RLE]:
        request = SteerRequest(
            media=Path("clip"),
            fps=None,
            track=self._track,
            anchor=self._anchor,
            prompts=self._prompts,
            painted={},
            hidden=frozenset(),
        )
        correction: Correction = "memory" if self._way == MEMORY else "frame"
        answer = answer_steering(
            self._tracker, self._encoded, request, lambda *_: None, correction=correction
        )
        return answer.tracklet.rles

    def _predictor(self) -> Sequence[RLE]:
        beginning = self._track[self._anchor]
        assert beginning is not None, "a tracklet is visible where it begins"
        candidate = self._tracker.start(self._encoded, [Prompt(self._anchor, mask=decode_rle(beginning))])
        for frame, prompt in self._prompts.items():
            candidate = self._tracker.correct(
                self._encoded, candidate, Prompt(frame, prompt.points, prompt.labels)
            )
        (tracked,) = self._tracker.track(self._encoded, [candidate])
        return tracked.rles


def _middle_of_error(mask: Masks, truth: Masks) -> tuple[float, float, bool]:
    """The middle of the largest wrong region of an (H, W) mask, in fractions, and whether the object is there."""
    count, regions, statistics, _ = cv2.connectedComponentsWithStats(
        (mask ^ truth).astype(np.uint8), connectivity=4
    )
    assert count > 1, "there is a wrong pixel"
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    region = np.pad(regions == largest, 1).astype(np.uint8)  # the picture's edge is an edge of the region
    distances = cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    row, column = np.unravel_index(int(distances.argmax()), distances.shape)
    height, width = mask.shape
    return (float(column) + 0.5) / width, (float(row) + 0.5) / height, bool(truth[row, column])


if __name__ == "__main__":
    main()
