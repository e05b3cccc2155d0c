"""Point prompts -> tracklets, by SAM 2: frames encoded once, candidates decoded and propagated as batches.

This is a driver over the ``sam2`` package, not a fork of it: the package's own modules compute every frame
(see :mod:`steerseg.segmenters.sam2_step`). Its stock predictor loops over objects in Python and keeps the state of
every frame; here all candidates advance as one batch, in both directions of time at once, and only the memory
that can still be attended to is kept.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from steerseg.config import PipelineConfig
from steerseg.masks import iou
from steerseg.points import PointPrompt
from steerseg.runtime.cuda_graphs import CapturedCalls, Function
from steerseg.runtime.memory import free_bytes
from steerseg.tracking.host_transfer import Delivery, Sink
from steerseg.tracking.features import STREAMED_FRAMES, EncodedVideo
from steerseg.segmenters.sam2_image_encoder import ImageEncoding
from steerseg.segmenters.loading import load_folder, load_from_hub
from steerseg.tracking.packed_masks import PackedTrack
from steerseg.segmenters.sam2_step import TrackingStep, attended
from steerseg.tracking.tracklets import (
    Candidate,
    Decoded,
    Memory,
    Prompt,
    Propagation,
    StageProgress,
    TrackedFrames,
    Tracklet,
)
from steerseg.video.loading import Video, video_from_frames

_PIXEL_MEAN = (0.485, 0.456, 0.406)
_PIXEL_STD = (0.229, 0.224, 0.225)
_ENCODE_BATCH = 4
_FEATURE_BYTES = 2 << 30
_MAX_ROWS = 32
_MAX_DECODED = 32  # points of one call; each takes 20 MB of a GPU at SAM 2's usual size
_EARLIER_LOGIT = 10.0  # what SAM 2 writes for a certain pixel of a given mask


class _Lookahead:
    """Has frames encoded that tracking comes to, a batch at a time.

    On a CPU the next batch is encoded in a thread of its own: a step of tracking is a thousand small operations in
    turn, which leave cores idle that the encoder's large products fill. A GPU has its own queue.
    """

    def __init__(self, tracker: Tracker, encoded: EncodedVideo) -> None:
        self._tracker = tracker
        self._encoded = encoded
        self._thread = ThreadPoolExecutor(1, "encode") if tracker.device.type == "cpu" else None
        self._coming: list[tuple[list[int], Future[list[tuple[Tensor, ...]]]]] = []

    def __enter__(self) -> _Lookahead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def have(self, paths: Sequence[Sequence[int]], place: int) -> None:
        """Have the frames at a place of some paths encoded, and begin with those that come after them."""
        encoded = self._encoded
        now = [path[place] for path in paths]
        if not encoded.missing(now):
            return
        if self._thread is None:
            soon = _full_batches(encoded, paths, place, _ENCODE_BATCH)
            self._tracker.encode(encoded, soon, staying=now)
            return
        soon, later = (
            _each_once(frame for path in paths for frame in path[start : start + _ENCODE_BATCH])
            for start in (place, place + _ENCODE_BATCH)
        )
        for part, features in self._coming:
            self._tracker.keep(encoded, part, features.result(), wanted=soon)
        self._coming = []
        self._tracker.encode(encoded, soon, staying=now)
        missing = [frame for frame in later if encoded.missing([frame])]
        for part in self._tracker._batched(missing):
            self._coming.append((part, self._thread.submit(self._tracker.features, encoded.frames[part])))


def _each_once(frames: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(frames))


def _full_batches(encoded: EncodedVideo, paths: Sequence[Sequence[int]], place: int, batch: int) -> list[int]:
    """Frames that paths come to soon: about a batch a path, and so many that those which are missing fill batches."""
    soon: dict[int, None] = {}
    missing = 0
    longest = max(len(path) for path in paths)
    for ahead in range(place, min(longest, place + 3 * batch)):
        for path in paths:
            if ahead - place >= batch and missing % batch == 0:
                return list(soon)
            if ahead < len(path) and path[ahead] not in soon:
                soon[path[ahead]] = None
                missing += len(encoded.missing([path[ahead]]))
    return list(soon)


@dataclass(frozen=True)
class _Row:
    """One object in one direction of time, counted from its first prompted frame.

    Attributes:
        owner: Index of the candidate.
        path: Frames of the video in the order of tracking; the first is prompted.
        memories: What is known from prompts, by place relative to the path's start, negative behind it.
    """

    owner: int
    path: tuple[int, ...]
    memories: dict[int, Memory]


class Tracker:
    """A frozen SAM 2.

    Args:
        model: A ``SAM2VideoPredictor``, on its device.
        version: Name and hash of configuration and weights.
        dtype: ``torch.bfloat16`` runs a GPU under autocast; a CPU always computes in float32.
        feature_bytes: How much of a video's image features is kept.

    Attributes:
        captures: Whether a GPU's steps are replayed as CUDA graphs once they were seen.
        fused: Whether SAM 2's parts run in fewer passes over memory than the package's own code.
        memory_backend: What computes the attention to memories then; torch's choice where ``None``.
        in_blocks: Whether a GPU's answers come to the host in blocks; each one at once where not.
    """

    def __init__(
        self,
        model: Any,
        *,
        version: str,
        dtype: torch.dtype = torch.float32,
        feature_bytes: int = _FEATURE_BYTES,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.version = version
        self.device: torch.device = model.device
        if self.device.type == "cuda" and dtype is not torch.float32:
            round_multiplied_weights(model, dtype)
        self.feature_bytes = feature_bytes
        self._dtype = dtype
        self._positions: list[Tensor] = []
        self._sizes: list[tuple[int, int]] = []
        self._memory_position: Tensor | None = None
        self._step: TrackingStep | None = None
        self._calls: CapturedCalls | None = None
        self._encoding = ImageEncoding(model)
        self.captures = True
        self.fused = self.device.type == "cuda"
        self.memory_backend: SDPBackend | None = None
        self.in_blocks = True

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tracker:
        """Load SAM 2 from a folder or from the Hugging Face hub.

        Args:
            source: A folder with a configuration (``config.yaml``, or the only ``*.yaml``) and weights
                (``model.safetensors``, or the only ``*.safetensors`` or ``*.pt``), or one of the hub's ids,
                such as ``facebook/sam2.1-hiera-large``.
            device: Where to run.
            dtype: See :class:`Tracker`.

        Raises:
            ModelError: Nothing usable is there, or weights and configuration do not fit.
        """
        device = torch.device(device)
        if Path(source).is_dir():
            model, version = load_folder(Path(source), device)
        else:
            model, version = load_from_hub(str(source), device)
        return cls(model, version=version, dtype=dtype)

    # ------------------------------------------------------------------ frames

    def open(self, video: Video) -> EncodedVideo:
        """A video to track in; its frames are encoded when they are first needed."""
        return EncodedVideo(video, self._storage(video), self.feature_bytes)

    def encode(
        self,
        encoded: EncodedVideo,
        frames: Sequence[int] | None = None,
        progress: StageProgress | None = None,
        *,
        staying: Sequence[int] = (),
    ) -> None:
        """Encode those of ``frames`` (all if left out) that are not yet, in batches; ``staying`` ones make no room."""
        wanted = range(len(encoded)) if frames is None else frames
        missing = encoded.missing(wanted)
        done = 0
        for part in self._batched(missing):
            self.keep(encoded, part, self.features(encoded.frames[part]), wanted=[*part, *staying])
            done += len(part)
            if progress is not None:
                progress(done / len(missing))

    def _batched(self, frames: Sequence[int]) -> list[list[int]]:
        """Frames in the order in which they come, as many at a time as the encoder takes at once."""
        return [list(frames[start : start + _ENCODE_BATCH]) for start in range(0, len(frames), _ENCODE_BATCH)]

    @contextlib.contextmanager
    def encoding_ahead(self, encoded: EncodedVideo, first: Sequence[int]) -> Iterator[None]:
        """Inside, a CPU encodes frames in a thread of its own: ``first`` these, then the others.

        Two passes side by side fill two cores better than one pass that is spread over both. What is done when the
        block ends is kept, the rest is left to :meth:`encode`. Of a long video, nothing but ``first`` is encoded; and
        nothing on a GPU, which one pass fills.

        Args:
            encoded: The video. Inside, nobody else encodes frames.
            first: What is needed soonest.
        """
        if self.device.type != "cpu":
            yield
            return
        others = range(len(encoded)) if len(encoded) <= STREAMED_FRAMES else ()
        missing = [frame for frame in _each_once((*first, *others)) if encoded.missing([frame])]
        parts = self._batched(missing)
        thread = ThreadPoolExecutor(1, "encode")
        coming = [thread.submit(self._features_of, encoded, part) for part in parts]
        try:
            yield
        finally:
            thread.shutdown(cancel_futures=True)
            for part, features in zip(parts, coming, strict=True):
                if not features.cancelled():
                    self.keep(encoded, part, features.result(), wanted=first)

    def _features_of(self, encoded: EncodedVideo, frames: list[int]) -> list[tuple[Tensor, ...]]:
        return self.features(encoded.frames[frames])

    @staticmethod
    def keep(
        encoded: EncodedVideo,
        frames: Sequence[int],
        features: list[tuple[Tensor, ...]],
        wanted: Sequence[int],
    ) -> None:
        """Store features of frames of a video; while that fills its memory, those that are ``wanted`` stay."""
        for frame, levels in zip(frames, features, strict=True):
            encoded.keep(frame, tuple(level.to(encoded.device) for level in levels), wanted=wanted)
        encoded.rest(len(frames))

    def _storage(self, video: Video) -> torch.device:
        """On the device, unless the features would take more than a third of its free memory."""
        if self.device.type != "cuda":
            return self.device
        side = self.model.image_size
        channels = self.model.hidden_dim
        # Strides 4, 8 and 16 with an eighth, a quarter and all of the channels, two bytes each.
        frame = 2 * channels * ((side // 4) ** 2 // 8 + (side // 8) ** 2 // 4 + (side // 16) ** 2)
        fits = min(len(video) * frame, self.feature_bytes) < free_bytes(self.device) / 3
        return self.device if fits else torch.device("cpu")

    @torch.inference_mode()
    def features(self, frames: NDArray[np.uint8]) -> list[tuple[Tensor, ...]]:
        """(B, H, W, 3) uint8 RGB -> per frame and level (C, h, w) features, lowest resolution last."""
        pixels = preprocess(self._on_device(frames), self.model.image_size)
        if self._precision_is_lower:
            pixels = pixels.to(self._dtype)  # as the first product would
        levels = self._levels_of(pixels)
        if not self._positions:
            encoding = self.model.image_encoder.neck.position_encoding
            positions = [encoding(level[:1]).to(level.dtype) for level in levels]
            self._sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
            self._positions = [level.flatten(2).permute(2, 0, 1) for level in positions]  # (h * w, 1, C)
        return list(zip(*(level.unbind(0) for level in levels), strict=True))

    def _levels_of(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) pixels -> per level (B, C, h, w) features."""
        with self._precision():
            if self.fused and self._encoding.serves():
                return tuple(self._encoding(pixels))
            return tuple(self.model.forward_image(pixels)["backbone_fpn"][-self.model.num_feature_levels :])

    def _on_device(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Frames where the model is. A GPU takes them from page-locked memory, and nobody waits for it."""
        tensor = torch.from_numpy(pixels)
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _levels(self, encoded: EncodedVideo, frames: Sequence[int]) -> list[Tensor]:
        """Features of one frame per row, per level (N, C, h, w)."""
        self.encode(encoded, frames, staying=frames)
        if len(set(frames)) == 1:
            return [
                level.to(self.device)[None].expand(len(frames), -1, -1, -1)
                for level in encoded.get(frames[0])
            ]
        stored = [encoded.get(frame) for frame in frames]
        return [torch.stack(level).to(self.device) for level in zip(*stored, strict=True)]

    def _vision(self, encoded: EncodedVideo, frames: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Features and position encodings of one frame per row, per level (h * w, N, C)."""
        features = [level.flatten(2).permute(2, 0, 1) for level in self._levels(encoded, frames)]
        return features, [position.expand(-1, len(frames), -1) for position in self._positions]

    @property
    def _precision_is_lower(self) -> bool:
        return self.device.type == "cuda" and self._dtype is not torch.float32

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self._precision_is_lower:
            return torch.autocast("cuda", dtype=self._dtype)
        return contextlib.nullcontext()

    # ------------------------------------------------------------------ prompts

    def candidates(
        self,
        encoded: EncodedVideo,
        points: Sequence[PointPrompt],
        config: PipelineConfig,
        *,
        keyframes: Sequence[int] | None = None,
        progress: StageProgress | None = None,
    ) -> list[Candidate]:
        """Points -> different objects, tracked over the keyframes.

        Points of all keyframes are decoded together. A candidate's first score is its predicted overlap
        plus the map's value. On the keyframe of the best one, all that differ are tracked over the keyframes
        as one batch; candidates of other keyframes that one of these tracks already covers are dropped; and
        so on with the best of the rest (DecAF does the same one point at a time).

        Args:
            encoded: The video.
            points: Prompts.
            config: ``duplicate_iou`` and ``max_candidates`` count here.
            keyframes: Where to track them; the points' own frames if left out. A later :meth:`propagate` over
                the same frames costs nothing.
            progress: Told of each encoded batch and each tracked frame.

        Returns:
            Candidates in the order in which they were found; empty where no point gives a mask.
        """
        frames = tuple(sorted({*(keyframes or ()), *(point.frame for point in points)}))
        tell = progress or (lambda fraction: None)
        self.encode(encoded, frames, progress=lambda fraction: tell(0.0))
        pool: list[Decoded] = []
        decoded_points = self._decode_points(encoded, points)
        tell(0.0)
        for frame in dict.fromkeys(point.frame for point in points):
            answers = [decoded for decoded in decoded_points if decoded.point.frame == frame]
            pool += _without_duplicates(answers, config.duplicate_iou)
        most = max(1, min(len(pool), config.max_candidates))

        found: list[Candidate] = []
        while pool and len(found) < config.max_candidates:
            best = max(pool, key=lambda decoded: decoded.score)
            group = [decoded for decoded in pool if decoded.point.frame == best.point.frame]
            group = group[: config.max_candidates - len(found)]
            started = [
                Candidate(decoded.point, decoded.score, decoded.iou, {decoded.point.frame: memory})
                for decoded, memory in zip(group, self._remember(encoded, group), strict=True)
            ]
            tracked = self._tracked(
                encoded,
                started,
                frames,
                _part_of(tell, len(found) / most, (len(found) + len(started)) / most),
            )
            found += tracked
            pool = [
                decoded
                for decoded in pool
                if decoded.point.frame != best.point.frame
                and not any(_covers(c, decoded, config.duplicate_iou) for c in tracked)
            ]
        tell(1.0)
        return found

    def start(self, encoded: EncodedVideo, prompts: Sequence[Prompt]) -> Candidate:
        """One object from prompts on one or several frames, each of which conditions the tracking.

        Raises:
            ValueError: No prompt, two on one frame, or a frame that the video does not have.
        """
        frames = [prompt.frame for prompt in prompts]
        if not prompts or len(set(frames)) != len(frames):
            raise ValueError(f"expected at least one prompt and one a frame, got frames {frames}")
        if min(frames) < 0 or max(frames) >= len(encoded):
            raise ValueError(f"prompted frames {frames}, but the video has frames 0 to {len(encoded) - 1}")
        memories: dict[int, Memory] = {}
        quality = 1.0
        for prompt in sorted(prompts, key=lambda prompt: prompt.frame):
            decoded = self._decode_prompt(encoded, prompt)
            quality = min(quality, decoded.iou)
            memories[prompt.frame] = self._remember(encoded, [decoded])[0]
        place = prompts[0].place()
        return Candidate(place, quality + place.value, quality, memories)

    def _decode_points(self, encoded: EncodedVideo, points: Sequence[PointPrompt]) -> list[Decoded]:
        """One positive click per row, many in one call; clicks that hit nothing are left out."""
        decoded: list[Decoded] = []
        ordered = sorted(points, key=lambda point: point.frame)
        for start in range(0, len(ordered), _MAX_DECODED):
            part = ordered[start : start + _MAX_DECODED]
            places = torch.tensor([[[point.x, point.y]] for point in part], dtype=torch.float32)
            labels = torch.ones(len(part), 1, dtype=torch.int32)
            decoded += self._decode(encoded, part, clicks=self._clicks(places, labels))
        return [answer for answer in decoded if bool(answer.mask.any())]

    def _decode_prompt(self, encoded: EncodedVideo, prompt: Prompt) -> Decoded:
        if prompt.mask is not None:
            mask = (self._resized(encoded, prompt.mask, self.model.image_size) >= 0.5).float()
            return self._decode(encoded, [prompt.place()], mask=mask)[0]
        places, labels = list(prompt.points), [int(label) for label in prompt.labels]
        if prompt.box is not None:
            x, y, width, height = prompt.box
            places, labels = [(x, y), (x + width, y + height), *places], [2, 3, *labels]
        clicks = self._clicks(
            torch.tensor([places], dtype=torch.float32), torch.tensor([labels], dtype=torch.int32)
        )
        earlier: Tensor | None = None
        if prompt.earlier is not None and prompt.earlier.any():
            side = 4 * self.model.sam_image_embedding_size
            # As logits on SAM 2's own grid, as its predictors hand a first answer to correcting clicks.
            earlier = (self._resized(encoded, prompt.earlier, side) * 2 - 1) * _EARLIER_LOGIT
        return self._decode(encoded, [prompt.place()], clicks=clicks, earlier=earlier)[0]

    def _resized(self, encoded: EncodedVideo, mask: NDArray[np.bool_], side: int) -> Tensor:
        """A mask of the video's size as (1, 1, side, side) coverage in [0, 1]."""
        if mask.shape != (encoded.height, encoded.width):
            raise ValueError(
                f"the mask is {mask.shape}, but the frames are {(encoded.height, encoded.width)}"
            )
        coverage = torch.from_numpy(mask).float()[None, None]
        coverage = F.interpolate(
            coverage, size=(side, side), mode="bilinear", align_corners=False, antialias=True
        )
        return coverage.to(self.device)

    def _clicks(self, places: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """(N, P, 2) places in [0, 1] -> SAM 2's pixel coordinates, to which it adds half a pixel itself."""
        return {
            "point_coords": (places * self.model.image_size - 0.5).to(self.device),
            "point_labels": labels.to(self.device),
        }

    @torch.inference_mode()
    def _decode(
        self,
        encoded: EncodedVideo,
        points: Sequence[PointPrompt],
        clicks: dict[str, Tensor] | None = None,
        mask: Tensor | None = None,
        earlier: Tensor | None = None,
    ) -> list[Decoded]:
        """One prompt per row on its frame, without memory of other frames; clicks may correct earlier logits."""
        features, positions = self._vision(encoded, [point.frame for point in points])
        with self._precision():
            _, output, _, _ = self.model._track_step(
                frame_idx=0,
                is_init_cond_frame=True,
                current_vision_feats=features,
                current_vision_pos_embeds=positions,
                feat_sizes=self._sizes,
                point_inputs=clicks,
                mask_inputs=mask,
                output_dict={},
                num_frames=1,
                track_in_reverse=False,
                prev_sam_mask_logits=earlier,
            )
        _, _, ious, logits, large, pointers, presence = output
        # With several masks per prompt SAM 2 has taken the one that it believes in most.
        best = ious.float().amax(dim=1).clamp(0, 1).tolist()
        masks = (logits[:, 0] > 0).cpu()
        clicked = clicks is not None
        return [
            Decoded(point, best[i], logits[i, 0], masks[i], large[i, 0], pointers[i], presence[i], clicked)
            for i, point in enumerate(points)
        ]

    @torch.inference_mode()
    def _remember(self, encoded: EncodedVideo, decoded: Sequence[Decoded]) -> list[Memory]:
        """Turn answers into the memories that condition other frames; all of one kind, in one call."""
        features, _ = self._vision(encoded, [answer.point.frame for answer in decoded])
        with self._precision():
            memories, positions = self.model._encode_new_memory(
                current_vision_feats=features,
                feat_sizes=self._sizes,
                pred_masks_high_res=torch.stack([answer.large for answer in decoded])[:, None],
                object_score_logits=torch.stack([answer.presence for answer in decoded]),
                is_mask_from_pts=decoded[0].clicked,
            )
        if self._memory_position is None:  # always the same, and captured steps read it where it is
            self._memory_position = positions[-1][:1].clone()
        return [
            Memory(answer.logits, answer.pointer, answer.presence, memory)
            for answer, memory in zip(decoded, memories, strict=True)
        ]

    # ------------------------------------------------------------------ tracking

    def propagate(
        self,
        encoded: EncodedVideo,
        candidates: Sequence[Candidate],
        frames: Sequence[int] | None = None,
        progress: StageProgress | None = None,
    ) -> Propagation:
        """Track all candidates forwards and backwards from where they were prompted, as one batch.

        Args:
            encoded: The video.
            candidates: What to track.
            frames: Where to track; all frames of the video if left out. SAM 2 sees these and the prompted
                frames as if they followed each other directly.
            progress: Told of each tracked frame.
        """
        wanted = tuple(range(len(encoded))) if frames is None else tuple(sorted(set(frames)))
        tracked = self._tracked(encoded, candidates, wanted, progress)
        tracks = [candidate._track for candidate in tracked if candidate._track is not None]
        if not tracks:
            side = 4 * self.model.sam_image_embedding_size
            logits = torch.zeros(0, len(wanted), side, side)
            scores: NDArray[np.float32] = np.zeros((0, len(wanted)), dtype=np.float32)
        else:
            logits = torch.stack([track.logits for track in tracks])
            scores = np.stack([track.presence for track in tracks])
        return Propagation(tuple(tracked), wanted, logits, scores, encoded.height, encoded.width)

    def track(
        self, encoded: EncodedVideo, candidates: Sequence[Candidate], progress: StageProgress | None = None
    ) -> tuple[Tracklet, ...]:
        """The candidates as tracklets of the whole video, with a score of 0 until they are ranked.

        The same masks as :meth:`propagate` gives, in memory that hardly grows with the video's length.

        Args:
            encoded: The video.
            candidates: What to track.
            progress: Told of each tracked frame.
        """
        packed = [PackedTrack(len(encoded), encoded.height, encoded.width) for _ in candidates]
        self.follow(encoded, candidates, packed, progress=progress)
        return tuple(
            Tracklet(rles=track.rles, frame_scores=track.presence, prompt=candidate.prompt, score=0.0)
            for track, candidate in zip(packed, candidates, strict=True)
        )

    def follow(
        self,
        encoded: EncodedVideo,
        candidates: Sequence[Candidate],
        sinks: Sequence[Sink],
        progress: StageProgress | None = None,
    ) -> None:
        """Track all candidates over the whole video and hand on each frame's answer as soon as it is there.

        Nothing is kept of a frame but what SAM 2 still attends to.

        Args:
            encoded: The video.
            candidates: What to track.
            sinks: What takes the answers, one for each candidate.
            progress: Told of each tracked frame.
        """
        frames = tuple(range(len(encoded)))
        wanted: dict[int, Sink] = {}
        for owner, (candidate, sink) in enumerate(zip(candidates, sinks, strict=True)):
            track = candidate._track
            if track is None or track.frames != frames:
                wanted[owner] = sink
                continue
            for frame in frames:
                sink.put(frame, track.logits[frame], float(track.presence[frame]))
        self._run(encoded, candidates, wanted, frames, progress)

    def _tracked(
        self,
        encoded: EncodedVideo,
        candidates: Sequence[Candidate],
        frames: tuple[int, ...],
        progress: StageProgress | None,
    ) -> list[Candidate]:
        """The candidates with their tracks over ``frames``; tracks that are there already are kept."""
        tracks = {
            owner: _Builder(frames)
            for owner, candidate in enumerate(candidates)
            if candidate._track is None or candidate._track.frames != frames
        }
        self._run(encoded, candidates, tracks, frames, progress)
        return [
            replace(candidate, _track=tracks[owner].track()) if owner in tracks else candidate
            for owner, candidate in enumerate(candidates)
        ]

    def _run(
        self,
        encoded: EncodedVideo,
        candidates: Sequence[Candidate],
        sinks: Mapping[int, Sink],
        frames: tuple[int, ...],
        progress: StageProgress | None,
    ) -> None:
        """Track the candidates that have a sink over ``frames``, and over their prompted frames."""
        rows: dict[tuple[int, ...], list[_Row]] = {}
        for owner in sinks:
            for row in _rows(owner, candidates[owner]._memories, frames):
                # Rows whose prompts lie at the same relative places can share one memory bank.
                rows.setdefault(tuple(row.memories), []).append(row)
        batches = [
            group[start : start + _MAX_ROWS]
            for group in rows.values()
            for start in range(0, len(group), _MAX_ROWS)
        ]
        steps = sum(max(len(row.path) for row in batch) for batch in batches)
        done = 0
        for batch in batches:
            for _ in self._advance(encoded, batch, sinks, num_frames=len(frames)):
                done += 1
                if progress is not None:
                    progress(done / steps)

    @torch.inference_mode()
    def _advance(
        self, encoded: EncodedVideo, rows: list[_Row], tracks: Mapping[int, Sink], num_frames: int
    ) -> Iterator[None]:
        """Step all rows through their paths; yields after every step.

        Places are counted from each row's own start, so that rows that start on different frames, or run in
        different directions, share one batch: SAM 2 only knows differences of time. Longer paths come first,
        and the batch shrinks from its end as paths end.
        """
        model, step = self.model, self._stepping()
        call: Function = self._calls if self.captures and self._calls is not None else step
        rows = sorted(rows, key=lambda row: -len(row.path))
        prompted = tuple(rows[0].memories)
        known = {place: [row.memories[place] for row in rows] for place in prompted}
        spatial = {place: torch.stack([one.features for one in known[place]]) for place in prompted}
        pointers = {place: torch.stack([one.pointer for one in known[place]]) for place in prompted}
        chosen = [attended(model, place, prompted, num_frames) for place in range(len(rows[0].path))]
        distances = self._distances([[distance for distance, _ in one.pointers] for one in chosen])
        spatial_reach = model.num_maskmem * max(1, model.memory_temporal_stride_for_eval)
        pointer_reach = max(spatial_reach, model.max_obj_ptrs_in_encoder)
        blocks = {} if self.in_blocks and self.device.type == "cuda" else {"block_bytes": 0}
        active = len(rows)
        with _Lookahead(self, encoded) as ahead, Delivery(tracks, **blocks) as delivery:
            for place, around in enumerate(chosen):
                still = sum(len(row.path) > place for row in rows)
                if still < active:
                    active = still
                    for bank in (spatial, pointers):
                        bank.update({earlier: memory[:active] for earlier, memory in bank.items()})
                current = rows[:active]
                shown = [row.path[place] for row in current]
                if place in known:
                    logits = torch.stack([one.logits for one in known[place][:active]]).float()
                    presence = (
                        torch.stack([one.presence for one in known[place][:active]])[:, 0].float().sigmoid()
                    )
                else:
                    ahead.have([row.path for row in current], place)
                    key, given, shared = step.arguments(
                        around,
                        self._levels(encoded, shown),
                        [spatial[earlier] for _, earlier in around.spatial],
                        [pointers[earlier] for _, earlier in around.pointers],
                        distances[place, : len(around.pointers)],
                    )
                    logits, pointers[place], spatial[place], presence = call(key, given, shared)
                    for bank, reach in ((spatial, spatial_reach), (pointers, pointer_reach)):
                        if place - reach not in known:
                            bank.pop(place - reach, None)
                places = [(row.owner, frame) for row, frame in zip(current, shown, strict=True)]
                delivery.add(places, logits, presence)
                yield

    def warm(self, rows: Sequence[int] = (1, 2, 4)) -> None:
        """Capture the steps of so many objects at once, which the first videos would pay for. Nothing on a CPU.

        Args:
            rows: Numbers of objects, both directions of time counted.
        """
        if self.device.type == "cuda" and self.captures:
            self._capture_steps(rows)

    @property
    def capture_seconds(self) -> float:
        """What capturing steps has taken so far."""
        return 0.0 if self._calls is None else self._calls.capture_seconds

    def _capture_steps(self, rows: Sequence[int]) -> None:
        """See each form of a step once, on a made-up video, so that it is captured."""
        # As many frames as it takes until every later step is of one form.
        reach = max(self.model.num_maskmem, self.model.max_obj_ptrs_in_encoder) + 2
        still = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        encoded = self.open(video_from_frames(np.stack([still] * reach), fps=24))
        for count in rows:
            prompts = [Prompt(0, (((place + 0.5) / count, 0.5),), (True,)) for place in range(count)]
            started = [self.start(encoded, [prompt]) for prompt in prompts]
            self._stepping()
            assert self._calls is not None
            before, self._calls.sights = self._calls.sights, 1
            try:
                self.propagate(encoded, started)
            finally:
                self._calls.sights = before

    def _stepping(self) -> TrackingStep:
        """The step of a frame, made when the first prompt has been remembered."""
        if self._step is None:
            if self._memory_position is None:
                raise RuntimeError("no prompt has been remembered yet")
            self._step = TrackingStep(
                self.model, self._sizes, self._positions[-1], self._memory_position, self._precision
            )
            self._calls = CapturedCalls(self._step)
        self._step.fused, self._step.backend = self.fused, self.memory_backend
        return self._step

    def _distances(self, distances: Sequence[Sequence[int]]) -> Tensor:
        """Rows of numbers on the device, each filled up at its end: all of a path's at once."""
        longest = max(1, *(len(row) for row in distances))
        filled = [[*row, *[0] * (longest - len(row))] for row in distances]
        return torch.tensor(filled, dtype=torch.float32).to(self.device)


class _Builder:
    """Collects one candidate's answers from both directions of time."""

    def __init__(self, frames: tuple[int, ...]) -> None:
        self.frames = frames
        self._place = {frame: i for i, frame in enumerate(frames)}
        self._missing = set(frames)
        self._logits: Tensor | None = None
        self._presence = np.zeros(len(frames), dtype=np.float32)

    def put(self, frame: int, logits: Tensor, presence: float) -> None:
        """Note one frame; those that nobody asked for are passed over."""
        place = self._place.get(frame)
        if place is None:
            return
        if self._logits is None:
            self._logits = logits.new_empty(len(self.frames), *logits.shape)
        self._logits[place] = logits  # what came may be a part of a block in page-locked memory
        self._presence[place] = presence
        self._missing.discard(frame)

    def track(self) -> TrackedFrames:
        """All frames together."""
        if self._logits is None or self._missing:
            raise RuntimeError("a track is asked for before all of its frames were tracked")
        return TrackedFrames(self.frames, self._logits, self._presence)


def _part_of(tell: StageProgress, start: float, end: float) -> StageProgress:
    """A tick for a part of the work that lies between two fractions of the whole."""
    return lambda fraction: tell(start + fraction * (end - start))


def _rows(owner: int, memories: dict[int, Memory], frames: tuple[int, ...]) -> Iterator[_Row]:
    """The ways forwards and backwards from the first prompted frame; a way of one frame is left out."""
    first = min(memories)
    onwards = sorted({*memories, *(frame for frame in frames if frame > first)})
    back = [first, *(frame for frame in reversed(frames) if frame < first)]
    places = {place: memories[frame] for place, frame in enumerate(onwards) if frame in memories}
    if len(onwards) > 1 or len(back) == 1:
        yield _Row(owner, tuple(onwards), places)
    if len(back) > 1:
        yield _Row(owner, tuple(back), {-place: memory for place, memory in places.items()})


def _without_duplicates(decoded: Sequence[Decoded], limit: float) -> list[Decoded]:
    """Best first, without answers that overlap a better one by more than ``limit``."""
    kept: list[Decoded] = []
    for answer in sorted(decoded, key=lambda answer: -answer.score):
        if all(iou(answer.mask.numpy(), other.mask.numpy()) <= limit for other in kept):
            kept.append(answer)
    return kept


def _covers(candidate: Candidate, decoded: Decoded, limit: float) -> bool:
    """Whether a tracked candidate is the decoded object on the latter's keyframe."""
    track = candidate._track
    if track is None:
        return False
    logits = track.logits[track.frames.index(decoded.point.frame)]
    return iou((logits > 0).numpy(), decoded.mask.numpy()) > limit


def round_multiplied_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep in ``dtype`` what autocast would bring there at every use, hundreds of times a frame. The same numbers."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.to(dtype)


def preprocess(frames: Tensor, size: int) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, size, size) float32 with the statistics that SAM 2 expects."""
    pixels = frames.permute(0, 3, 1, 2).float().div_(255)
    pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    mean, std = _statistics(pixels.device)
    return pixels.sub_(mean).div_(std)


@functools.cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) mean and deviation of each colour, there once: bringing them to a GPU waits for all of its work."""
    with torch.inference_mode(False):
        mean, std = (torch.tensor(each, device=device).view(3, 1, 1) for each in (_PIXEL_MEAN, _PIXEL_STD))
    return mean, std


# ---------------------------------------------------------------------- loading
