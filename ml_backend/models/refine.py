"""In the model process: examples are prepared, soft prompts trained a few steps at a time, candidates tried.

Each request is a slice of a refinement that ends soon, or is put down when something more urgent waits. Whatever
a slice achieves is on disk when it ends, and none depends on what this process remembers: after a kill the
next process goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml_backend.models.examples import CorrectionExample, Example, Masks, Pool, ReplayExample
from ml_backend.models.executor import Progress, should_yield
from ml_backend.models.messages import (
    MediaFile,
    PreparedExample,
    PrepareRequest,
    SoftPromptsRef,
    TrainingProgress,
    TrainRequest,
    TrialRequest,
    TrialResult,
    YieldRequested,
)
from ml_backend.models.prompts import LoadedPrompts
from steerseg.config import PipelineConfig, RefinementRecipe
from steerseg.errors import ConfigError, ModelError, VideoError
from steerseg.masks import decode_rle
from steerseg.runtime.artefacts import write_tensors
from steerseg.video import VideoLimits, keyframe_indices, load_video

if TYPE_CHECKING:  # these come with torch, which only the model process loads
    import torch

    from steerseg.grounding import VisionContext
    from steerseg.pipeline import SteerSeg, VideoFeatures
    from steerseg.replay import ReplayClip, ReplaySource
    from steerseg.soft_prompts import SoftPrompts
    from steerseg.training.trainer import SoftPromptTrainer, TrainingSample
    from steerseg.video import Video

_TRAINERS = 4  # trainings whose state stays in memory between slices
_CONTEXT_BYTES = 1 << 30  # vision features that stay in memory


class Refiner:
    """Answers the slices of refinements with a loaded :class:`~steerseg.pipeline.SteerSeg`.

    Args:
        steerseg: The frozen models.
        limits: What a video may cost.
        prompts: Soft prompts that are loaded already.
    """

    def __init__(self, steerseg: SteerSeg, limits: VideoLimits, prompts: LoadedPrompts) -> None:
        self._steerseg = steerseg
        self._recipe: RefinementRecipe = steerseg.preset.recipe
        self._limits = limits
        self._prompts = prompts
        self._replay: ReplaySource | None = None
        self._trainers: OrderedDict[Path, tuple[int, SoftPromptTrainer]] = OrderedDict()
        self._contexts: OrderedDict[Path, VisionContext] = OrderedDict()

    # --- preparing

    def prepare(self, request: PrepareRequest, progress: Progress) -> PreparedExample:
        """Show an example's keyframes to the vision tower, ask for its attributes, and keep both.

        Raises:
            YieldRequested: Something more urgent waits.
            VideoError: The media cannot be read, or is not what was corrected.
            ArtefactError: The disk is full.
        """
        known = self._prepared(request)
        if known is not None:
            return known
        tell = _telling(progress)
        opened = self._open(request.example, request.media, tell)
        config = self._config
        keyframes = keyframe_indices(len(opened.video), config.keyframes)
        pictures = _pictures(opened.video.digest, len(keyframes), self._recipe.pictures)
        path = request.features / self._features_name(opened.video, keyframes, pictures)
        if not path.is_file():
            _write_context(
                path, self._steerseg.encode_keyframes(opened.video, config, tell, pictures=pictures)
            )
        context = self._context(path)
        question = self._question(context, opened.expression, tell)
        sample = self._sample_of(context, question, opened, pictures, request.example.weight)
        _write_sample(_sample_path(request.folder, request.example.key), sample, path.name)
        return PreparedExample(path.name, path.stat().st_size, sample.teaches)

    def _prepared(self, request: PrepareRequest) -> PreparedExample | None:
        path = _sample_path(request.folder, request.example.key)
        if not path.is_file():
            return None
        card, _ = _read(path)
        features = request.features / card["features"]
        if not features.is_file():
            return None
        os.utime(features)  # in use
        return PreparedExample(
            features.name, features.stat().st_size, self._sample(path, request.features).teaches
        )

    def _open(self, example: Example, media: MediaFile | None, tell: Progress) -> _Opened:
        if isinstance(example, CorrectionExample):
            if media is None:
                raise VideoError(f"the media of {example.key} is not there")
            video = load_video(media.path, limits=self._limits, fps=media.fps, progress=tell)
            expected = (example.num_frames, example.height, example.width)
            if video.frames.shape[:3] != expected:
                raise VideoError(
                    f"the media has {video.frames.shape[0]} frames of {video.width}x{video.height}, the masks "
                    f"are for {expected[0]} of {expected[2]}x{expected[1]}: it was changed since"
                )
            return _Opened(
                video,
                example.expression,
                lambda frames: _on_frames(example.truth, frames, expected[1:]),
                sorted(example.decided),
                lambda frame: example.shares.get(frame, 0.0) if frame in example.truth else 0.0,
                example.rejected,
            )
        clip = self._clip(example)
        return _Opened(
            clip.video,
            clip.expression,
            lambda frames: clip.masks[list(frames)],
            range(len(clip.masks)),
            lambda frame: 1.0,
            (),
        )

    def _clip(self, example: ReplayExample) -> ReplayClip:
        from steerseg.training.replay import open_replay

        if self._replay is None:
            spec = self._steerseg.preset.replay
            if spec is None:
                raise ConfigError(f"preset {self._steerseg.preset.name!r} has nothing to replay")
            self._replay = open_replay(spec)
        return self._replay(example.part, example.index)

    def _question(self, context: VisionContext, expression: str, tell: Progress) -> str:
        from steerseg.reasoning import attributes_of

        config = self._config
        attributes: tuple[str, ...] = ()
        if config.reasoning:
            tell("reasoning", 0.0)
            lvlm = self._steerseg.lvlm
            film = context.video.to(lvlm.device)
            attributes = attributes_of(lvlm, film, expression, self._steerseg.texts, config)
        return self._steerseg.texts.grounding_question(expression, attributes)

    def _sample_of(
        self,
        context: VisionContext,
        question: str,
        opened: _Opened,
        pictures: Sequence[int],
        weight: float,
    ) -> TrainingSample:
        from steerseg.training.trainer import TrainingSample

        keyframes = context.keyframes
        size = (opened.video.height, opened.video.width)
        rejected = [_on_frames(masks, keyframes, size) for masks in opened.wrong]
        return TrainingSample.from_masks(
            context,
            question,
            opened.truth(keyframes),
            self._steerseg.lvlm.family.temporal_merge,
            pictures=pictures,
            weight=weight,
            shares=np.array([opened.share(frame) for frame in keyframes], dtype=np.float32),
            rejected=np.stack(rejected) if rejected else None,
        )

    @property
    def _config(self) -> PipelineConfig:
        return replace(self._steerseg.config, soft_prompts=True)

    def _features_name(self, video: Video, keyframes: Sequence[int], pictures: Sequence[int]) -> str:
        """Names what the features depend on."""
        preset = self._steerseg.preset
        state = json.dumps(
            [
                video.digest,
                list(keyframes),
                list(pictures),
                self._steerseg.lvlm.name,
                str(self._steerseg.lvlm.dtype),
                preset.video_tokens,
                preset.frame_tokens,
                preset.seconds_per_slice,
            ]
        )
        return f"{hashlib.sha256(state.encode()).hexdigest()[:32]}.safetensors"

    # --- training

    def train(self, request: TrainRequest, progress: Progress) -> TrainingProgress:
        """Train until the slice ends, all steps are done, or something more urgent waits.

        Raises:
            ModelError: The loss is not a number.
            ArtefactError: The disk is full; the state of the slice before is still there.
        """
        folder = request.folder / request.name
        end = time.monotonic() + request.seconds
        trainer = self._trainer(folder, request.start)
        steps = trainer.config.steps
        from steerseg.runtime.devices import native_products

        try:
            with native_products():
                while trainer.step_count < steps:
                    progress("training", trainer.step_count / steps)
                    self._step(trainer, request)
                    if should_yield(progress) or time.monotonic() >= end:
                        break
            trainer.save_state(folder)
        except BaseException:
            self._trainers.pop(folder, None)  # what is in memory is not what is on disk
            raise
        self._remember_trainer(folder, trainer)
        if trainer.step_count < steps:
            return TrainingProgress(trainer.step_count, steps, None, ())
        prompts = trainer.prompts.averaged(self._start(request.start), self._recipe.champion_share)
        prompts.save(folder)
        return TrainingProgress(
            steps, steps, prompts.digest, tuple(round(loss, 6) for loss in trainer.losses)
        )

    def _step(self, trainer: SoftPromptTrainer, request: TrainRequest) -> None:
        step = trainer.step_count
        seed = (self._recipe.seed, int.from_bytes(hashlib.sha256(request.name.encode()).digest()[:4], "big"))
        keys = batch_of(request.pools, step, self._recipe, seed)
        samples = [self._sample(_sample_path(request.folder, key), request.features) for key in keys]
        # By seed and step, so that a training that was interrupted draws what it would have drawn.
        rng = np.random.default_rng((*seed, step))
        loss = trainer.step(samples, rng, frames_per_sample=self._recipe.frames_per_sample)
        if not math.isfinite(loss):
            raise ModelError(
                f"the loss of step {step + 1} is not a number; lower the learning rate of the preset's "
                "'refinement'"
            )

    def _trainer(self, folder: Path, start: SoftPromptsRef | None) -> SoftPromptTrainer:
        from steerseg.training.trainer import STATE_FILE, SoftPromptTrainer

        state = folder / STATE_FILE
        kept = self._trainers.get(folder)
        if kept is not None and state.is_file() and kept[0] == state.stat().st_mtime_ns:
            return kept[1]
        trainer = SoftPromptTrainer(
            self._steerseg.lvlm, self._steerseg.layers, self._start(start), self._recipe.training
        )
        if state.is_file():
            trainer.load_state(folder)
        return trainer

    def _remember_trainer(self, folder: Path, trainer: SoftPromptTrainer) -> None:
        from steerseg.training.trainer import STATE_FILE

        self._trainers[folder] = ((folder / STATE_FILE).stat().st_mtime_ns, trainer)
        self._trainers.move_to_end(folder)
        while len(self._trainers) > _TRAINERS:
            self._trainers.popitem(last=False)

    def _start(self, start: SoftPromptsRef | None) -> SoftPrompts:
        from steerseg.soft_prompts import SoftPrompts

        steerseg = self._steerseg
        prompts = self._prompts.load(start) or steerseg.soft_prompts
        if prompts is None:
            neutral = steerseg.lvlm.line_break
            prompts = SoftPrompts.from_embedding(neutral, self._recipe.tokens, seed=self._recipe.seed)
        checked = steerseg.prepare_prompts(prompts)
        assert checked is not None
        return checked

    def _sample(self, path: Path, features: Path) -> TrainingSample:
        from steerseg.training.trainer import TrainingSample

        card, tensors = _read(path)
        return TrainingSample(
            context=self._context(features / card["features"]),
            question=card["question"],
            frame_target=tensors["frame_target"],
            video_target=tensors["video_target"],
            weight=card["weight"],
            frame_share=tensors.get("frame_share"),
            video_share=tensors.get("video_share"),
            frame_rejected=tensors.get("frame_rejected"),
            video_rejected=tensors.get("video_rejected"),
        )

    def _context(self, path: Path) -> VisionContext:
        """Vision features from disk, on the CPU; those used last stay in memory."""
        if path not in self._contexts:
            self._contexts[path] = _read_context(path)
        self._contexts.move_to_end(path)
        while len(self._contexts) > 1 and sum(map(_bytes_of, self._contexts.values())) > _CONTEXT_BYTES:
            self._contexts.popitem(last=False)
        return self._contexts[path]

    # --- trying

    def compare(self, request: TrialRequest, progress: Progress) -> TrialResult:
        """Ask candidate and champion for the same object; video, features and attributes are shared.

        Raises:
            YieldRequested: Something more urgent waits.
            VideoError: The media cannot be read, or is not what was corrected.
        """
        tell = _telling(progress)
        opened = self._open(request.example, request.media, tell)
        steerseg = self._steerseg
        config = replace(self._config, alternatives=1)
        seen = steerseg.encode(opened.video, config, tell)
        attributes = steerseg.reason(seen, opened.expression, config, tell)
        if request.champion is None:
            champion = steerseg.steering(steerseg.config)
        else:
            champion = steerseg.steering(config, self._prompts.load(request.champion))
        candidate = steerseg.steering(config, self._prompts.load(request.candidate))
        return TrialResult(
            candidate=self._worth(seen, opened, attributes, config, candidate, tell),
            champion=self._worth(seen, opened, attributes, config, champion, tell),
        )

    def _worth(
        self,
        seen: VideoFeatures,
        opened: _Opened,
        attributes: tuple[str, ...],
        config: PipelineConfig,
        steering: SoftPrompts | None,
        tell: Progress,
    ) -> float:
        """J&F in [0, 1] of the best tracklet under a pair of soft prompts, on the frames whose truth is known."""
        from steerseg.evaluation.metrics import score

        maps = self._steerseg.ground(seen, opened.expression, attributes, config, steering, tell)
        found = self._steerseg.find_candidates(seen, maps, config, tell)
        tracklets = self._steerseg.track(seen, found, self._steerseg.rank(found, maps, config), tell)
        true = opened.truth(opened.judged)
        if tracklets:
            predicted = np.stack([decode_rle(tracklets[0].rles[frame]) for frame in opened.judged])
        else:
            predicted = np.zeros_like(true)
        return score(predicted, true).jf


@dataclass(frozen=True)
class _Opened:
    """A decoded example.

    Attributes:
        video: Its video.
        expression: What is asked for.
        truth: Gives the (n, H, W) masks of n frames; empty where nothing is known.
        judged: Frames that a candidate is judged by.
        share: How much what is known of a frame counts, in [0, 1]; 0 where nothing is.
        wrong: Masks that are wrong answers.
    """

    video: Video
    expression: str
    truth: Callable[[Sequence[int]], NDArray[np.bool_]]
    judged: Sequence[int]
    share: Callable[[int], float]
    wrong: Sequence[Masks]


def batch_of(
    pools: Mapping[Pool, Sequence[str]], step: int, recipe: RefinementRecipe, seed: Sequence[int]
) -> list[str]:
    """The examples of one step: each pool's share, every example of a pool once before any comes again.

    Args:
        pools: Names of the examples.
        step: Which step, from 0; nothing else than this and ``seed`` is drawn from.
        recipe: Size and shares.
        seed: Of the order.
    """
    wanted = {
        Pool.NEW: recipe.new_share,
        Pool.OLD: recipe.old_share,
        Pool.PRESET: max(0.0, 1.0 - recipe.new_share - recipe.old_share),
    }
    present = {pool: share for pool, share in wanted.items() if pools.get(pool) and share > 0}
    if not present:
        present = {pool: 1.0 for pool in wanted if pools.get(pool)}
    if not present:
        raise ConfigError("there is no example to learn from")
    counts = _portions(present, recipe.batch)
    chosen = []
    for number, (pool, count) in enumerate(counts.items()):
        names = pools[pool]
        for place in range(step * count, (step + 1) * count):
            epoch, index = divmod(place, len(names))
            order = np.random.default_rng((*seed, number, epoch)).permutation(len(names))
            chosen.append(names[int(order[index])])
    return chosen


def _portions(shares: Mapping[Pool, float], total: int) -> dict[Pool, int]:
    """Split ``total`` by shares, at least one each where there is room."""
    whole = sum(shares.values())
    counts = {pool: max(1, round(total * share / whole)) for pool, share in shares.items()}
    first = next(iter(counts))
    counts[first] = max(1, counts[first] + total - sum(counts.values()))
    return counts


def _telling(progress: Progress) -> Progress:
    """Progress that ends the work where something more urgent waits."""

    def tell(stage: str, fraction: float) -> None:
        progress(stage, fraction)
        if should_yield(progress):
            raise YieldRequested

    return tell


def _pictures(digest: str, keyframes: int, count: int) -> tuple[int, ...]:
    """Which keyframes of a video are kept as images: the same ones every time."""
    seed = int.from_bytes(hashlib.sha256(digest.encode()).digest()[:8], "big")
    return tuple(sorted(np.random.default_rng(seed).permutation(keyframes)[:count].tolist()))


def _on_frames(masks: Masks, frames: Sequence[int], size: Sequence[int]) -> NDArray[np.bool_]:
    """(n, H, W) masks of n frames; empty where nothing is known."""
    stack = np.zeros((len(frames), *size), dtype=bool)
    for place, frame in enumerate(frames):
        rle = masks.get(frame)
        if rle is not None:
            stack[place] = decode_rle(rle)
    return stack


# --- on disk


def _sample_path(folder: Path, key: str) -> Path:
    return folder / "samples" / f"{key}.safetensors"


def _write_sample(path: Path, sample: TrainingSample, features: str) -> None:
    tensors = {
        name: tensor
        for name in (
            "frame_target",
            "video_target",
            "frame_share",
            "video_share",
            "frame_rejected",
            "video_rejected",
        )
        if (tensor := getattr(sample, name)) is not None
    }
    card = {"features": features, "question": sample.question, "weight": sample.weight}
    write_tensors(path, tensors, {"card": json.dumps(card)})


def _write_context(path: Path, context: VisionContext) -> None:
    card = {
        "keyframes": list(context.keyframes),
        "video": context.video.card,
        "frames": context.frames.card,
    }
    tensors = {**context.video.tensors("video"), **context.frames.tensors("frames")}
    write_tensors(path, tensors, {"card": json.dumps(card)})


def _read_context(path: Path) -> VisionContext:
    from steerseg.grounding import VisionContext
    from steerseg.lvlm import VisionFeatures

    card, tensors = _read(path)
    return VisionContext(
        keyframes=tuple(card["keyframes"]),
        video=VisionFeatures.from_parts(card["video"], tensors, "video"),
        frames=VisionFeatures.from_parts(card["frames"], tensors, "frames"),
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A file's card and tensors.

    Raises:
        ModelError: It is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads(file.metadata()["card"])
            return card, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}); start the refinement again, which prepares its examples anew"
        ) from error


def _bytes_of(context: VisionContext) -> int:
    return context.video.nbytes + context.frames.nbytes
