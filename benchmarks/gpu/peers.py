"""``python -m benchmarks.gpu.peers -o DIR``: our driver beside the libraries' own, same weights, same process.

All of them get the same pixels, already decoded; frames are encoded and clicked objects are tracked. ``sam2`` runs
under autocast in bfloat16, as its authors do; sessions of ``transformers`` run with weights in bfloat16, as its page
shows.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Sam2ImageProcessor, Sam2VideoProcessor, Sam2VideoVideoProcessor
from transformers.models.edgetam_video.modeling_edgetam_video import EdgeTamVideoInferenceSession
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from benchmarks.gpu.models import Size, make_video
from benchmarks.gpu.objects import click_grid
from benchmarks.gpu.records import Records
from benchmarks.gpu.report import write_report
from benchmarks.gpu.segmenters import HF_LARGE, LARGE, build_predictor, build_segmenter, build_video_model
from steerseg.config import SegmenterConfig
from steerseg.segmenters.hf import EdgeTam, VideoModel
from steerseg.segmenters.pixels import IMAGENET, preprocess
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import Prompt, Tracker
from steerseg.video import Video
from tests.support.tiny_sam2 import SMALL_SAM2
from tests.support.tiny_video_models import tiny_video_model

_SECONDS = 420.0
_COUNTS = (1, 4)
_SHIFTED = SegmenterConfig(clicks="shifted")  # both libraries have clicks half a pixel to the right and down

Masks = NDArray[np.bool_]
Run = Callable[[Sequence[Prompt]], list[Masks]]
"""Tracks clicked objects through the video; the (N, H, W) masks of each frame, on the host."""


def ours(tracker: Tracker, video: Video, *, follow: bool = True) -> Run:
    """Our driver.

    Args:
        tracker: The tracker.
        video: The video.
        follow: Whether masks come as they do in a proposal, and are not brought to the video's size.
    """

    class Nothing:
        def put(self, frame: int, logits: torch.Tensor, presence: float) -> None:
            """Let a mask go."""

    def run(prompts: Sequence[Prompt]) -> list[Masks]:
        encoded = tracker.open(video)
        started = [tracker.start(encoded, [prompt]) for prompt in prompts]
        if follow:
            tracker.follow(encoded, started, [Nothing() for _ in started])
            return []
        tracked = tracker.propagate(encoded, started)
        return list(np.stack([tracked.masks(index) for index in range(len(started))], axis=1))

    return run


def sam2_predictor(model: Any, video: Video, dtype: torch.dtype) -> Run:
    """The predictor of the ``sam2`` package."""
    from sam2 import sam2_video_predictor

    model.fill_hole_area = 0  # holes are filled by a kernel that is not always there
    device = model.device

    @torch.inference_mode()
    def run(prompts: Sequence[Prompt]) -> list[Masks]:
        pixels = preprocess(torch.from_numpy(video.frames).to(device), model.image_size, IMAGENET)
        frames = mock.patch.object(
            sam2_video_predictor, "load_video_frames", return_value=(pixels, video.height, video.width)
        )
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32), frames:
            state = model.init_state("")
            for number, prompt in enumerate(prompts):
                points = [[x * video.width, y * video.height] for x, y in prompt.points]
                model.add_new_points_or_box(
                    state, prompt.frame, number, points=points, labels=[1] * len(points)
                )
            return [(logits[:, 0] > 0).cpu().numpy() for _, _, logits in model.propagate_in_video(state)]

    return run


def session(model: Any, session_type: type[Any], video: Video, side: int, dtype: torch.dtype) -> Run:
    """The session of ``transformers``."""
    processor = Sam2VideoProcessor(Sam2ImageProcessor(), Sam2VideoVideoProcessor(), target_size=side)
    device = model.device

    @torch.inference_mode()
    def run(prompts: Sequence[Prompt]) -> list[Masks]:
        pixels = preprocess(torch.from_numpy(video.frames).to(device), side, IMAGENET)
        state = session_type(
            video=pixels,
            video_height=video.height,
            video_width=video.width,
            inference_device=device,
            inference_state_device=device,
            video_storage_device=device,
            dtype=dtype,
        )
        for number, prompt in enumerate(prompts):
            points = [[[[x * video.width, y * video.height] for x, y in prompt.points]]]
            labels = [[[1] * len(prompt.points)]]
            processor.add_inputs_to_inference_session(
                state, prompt.frame, number, input_points=points, input_labels=labels
            )
        state.obj_with_new_inputs = list(range(len(prompts)))
        model(state, frame_idx=0)
        found = []
        for output in model.propagate_in_video_iterator(state):
            (masks,) = processor.post_process_masks(
                [output.pred_masks], original_sizes=[[video.height, video.width]], binarize=True
            )
            found.append(masks[:, 0].cpu().numpy())
        return found

    return run


def mean_iou(first: Sequence[Masks], second: Sequence[Masks]) -> float:
    """Mean overlap of masks in [0, 1], over frames and objects; two empty masks agree."""
    overlaps = [
        1.0 if not (a | b).any() else float((a & b).sum() / (a | b).sum())
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return float(np.mean(overlaps))


def _tiny_predictor(device: torch.device) -> Any:
    from steerseg.demo.sam2 import build_sam2

    torch.manual_seed(1)
    return build_sam2(SMALL_SAM2).to(device).eval()


class Peers:
    """Measures our driver and a library's own by turns.

    Args:
        records: Where the numbers go.
        size: Of the models.
    """

    def __init__(self, records: Records, size: Size) -> None:
        self.records, self.size, self.device = records, size, records.device
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.video = make_video(80 if size == "full" else 4, size)

    def compare(self, name: str, tracker: Tracker, theirs: Run, counts: Sequence[int]) -> None:
        """Seconds, rates, memory and how well the masks agree."""
        for count in counts:
            prompts = click_grid(count)
            rates = {}
            # Our captured steps are compared at their second use. Libraries are slower, so that fewer runs are enough.
            for label, run, before, repeat in (
                (f"{name}: ours", ours(tracker, self.video), 2, 3),
                (f"{name}: its own", theirs, 1, 2),
            ):
                for _ in range(before):
                    run(prompts)
                _, seconds = self.records.timed(
                    f"{label}, {count} objects", functools.partial(run, prompts), repeat=repeat
                )
                rates[label] = len(self.video) / seconds
            agreement = mean_iou(ours(tracker, self.video, follow=False)(prompts), theirs(prompts))
            mine, peer = rates.values()
            self.records.put(
                f"{name}: {count} objects, ours beside its own",
                frames_a_second=mine,
                frames_a_second_of_its_own=peer,
                ratio=mine / peer,
                mean_iou=agreement,
            )

    def sam2(self, counts: Sequence[int]) -> None:
        """``sam2``'s ``SAM2VideoPredictor``."""
        if self.size == "full":
            segmenter = build_segmenter(LARGE, self.device, self.dtype, _SHIFTED)
            peer = build_predictor(LARGE, self.device)
        else:
            segmenter = Sam2(_tiny_predictor(self.device), version="random", config=_SHIFTED)
            peer = _tiny_predictor(self.device)
        self.compare("sam2", Tracker(segmenter), sam2_predictor(peer, self.video, self.dtype), counts)

    def transformers_sam2(self, counts: Sequence[int]) -> None:
        """The session of ``transformers`` with its SAM 2."""
        self._session("SAM 2 of transformers", "sam2", VideoModel, Sam2VideoInferenceSession, counts)

    def edgetam(self, counts: Sequence[int]) -> None:
        """The session of ``transformers`` with its EdgeTAM."""
        self._session("EdgeTAM of transformers", "edgetam", EdgeTam, EdgeTamVideoInferenceSession, counts)

    def _session(
        self, name: str, model: str, kind: type[VideoModel], session_type: type[Any], counts: Sequence[int]
    ) -> None:
        def build() -> Any:
            if self.size == "tiny":
                return tiny_video_model(model).to(self.device)
            return build_video_model(HF_LARGE if model == "sam2" else model, self.device)

        segmenter = kind(build(), version="random", dtype=self.dtype, config=_SHIFTED)
        peer = build().to(self.dtype)
        run = session(peer, session_type, self.video, segmenter.image_size, self.dtype)
        self.compare(name, Tracker(segmenter), run, counts)


PEERS = {"sam2": Peers.sam2, "transformers-sam2": Peers.transformers_sam2, "edgetam": Peers.edgetam}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 where nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.peers", description=__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder of results.jsonl and report.md"
    )
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS), help="some of the peers")
    parser.add_argument("--counts", type=int, nargs="+", default=_COUNTS, help="numbers of objects")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny models run on a CPU")
    given = parser.parse_args(arguments)
    records = Records(given.output, torch.device(given.device), _SECONDS)
    records.put_environment(given.size)
    peers = Peers(records, given.size)
    for name in given.only:
        records.attempt(name, functools.partial(PEERS[name], peers, given.counts))
    write_report(given.output)
    return 1 if records.failures else 0


if __name__ == "__main__":
    sys.exit(main())
