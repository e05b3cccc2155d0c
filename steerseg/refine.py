"""Training of the soft prompts: the objective, one step, and a state that can be put down and taken up again.

Only the two soft prompts learn. The vision tower stands before them and never changes, so a sample is its visual
tokens, made once, together with the question and the target on the token grid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from steerseg.artefacts import write_tensors
from steerseg.config import Heads
from steerseg.errors import ConfigError
from steerseg.grounding import FRAME_KERNEL, VIDEO_KERNEL, VisionContext, min_max, rolled_map, smooth
from steerseg.lvlm.base import LVLM, VisionFeatures
from steerseg.ranking import on_frame_grid, on_video_grid
from steerseg.soft_prompts import SoftPrompts

STATE_FILE = "training_state.safetensors"


@dataclass(frozen=True)
class RefineConfig:
    """How soft prompts are trained.

    Attributes:
        steps: Length of the schedule.
        learning_rate: Peak rate of AdamW; warm-up, then cosine to a tenth.
        warmup: Steps of linear warm-up.
        weight_decay: Pull towards zero; small, since the prompts start at word embeddings.
        clip: Largest gradient norm of each matrix.
        heads: Head weighting of the rollout.
    """

    steps: int = 400
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 0.0
    clip: float = 1.0
    heads: Heads = "visual_max"


@dataclass(frozen=True)
class TrainingSample:
    """One (video, expression) with what the maps should show.

    Attributes:
        context: The keyframes as the vision tower saw them.
        question: The grounding question, attributes included.
        frame_target: (N, h, w) mask share of each token of the context's N images, in [0, 1].
        video_target: (t, h', w') the same for the video pass.
        weight: Weight of the sample in the loss.
    """

    context: VisionContext
    question: str
    frame_target: torch.Tensor
    video_target: torch.Tensor
    weight: float = 1.0

    @classmethod
    def from_masks(
        cls,
        context: VisionContext,
        question: str,
        masks: NDArray[np.bool_],
        temporal_merge: int,
        *,
        pictures: Sequence[int] | None = None,
        weight: float = 1.0,
    ) -> TrainingSample:
        """From (K, H, W) masks on the keyframes, area-averaged on the token grids.

        ``pictures`` names the keyframes that ``context`` holds as images, where those are not all.
        """
        pixels = torch.from_numpy(masks)[None]
        shown = pixels if pictures is None else pixels[:, list(pictures)]
        frame = on_frame_grid(shown, context.frames.grid[1:])[0]
        video = on_video_grid(pixels, context.video.grid[1:], temporal_merge)[0]
        return cls(context, question, frame, video, weight)


def map_loss(maps: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """BCE + Dice of normalised maps (N, ...) in [0, 1] against targets of the same shape: (N,).

    The map is clamped to [1e-4, 1 - 1e-4], since min-max puts cells at exactly 0 and 1.
    """
    maps, targets = maps.flatten(1).float().clamp(1e-4, 1 - 1e-4), targets.flatten(1)
    entropy = F.binary_cross_entropy(maps, targets, reduction="none").mean(dim=1)
    dice = 1 - (2 * (maps * targets).sum(dim=1) + 1) / (maps.sum(dim=1) + targets.sum(dim=1) + 1)
    return entropy + dice


def _together(parts: Sequence[VisionFeatures]) -> VisionFeatures:
    first = parts[0]
    return replace(first, tokens=torch.cat([part.tokens for part in parts]))


class SoftPromptTrainer:
    """Trains a pair of soft prompts step by step.

    Args:
        lvlm: The frozen model.
        layers: Text layers of the rollout.
        start: Where the prompts begin.
        config: The schedule.
    """

    def __init__(self, lvlm: LVLM, layers: Sequence[int], start: SoftPrompts, config: RefineConfig) -> None:
        self.lvlm = lvlm
        self.layers = tuple(layers)
        self.config = config
        self.placement = start.placement
        self.step_count = 0
        # An fp32 master copy, whatever the model's precision.
        self.frame = start.frame.detach().to(lvlm.device, torch.float32).clone().requires_grad_()
        self.video = start.video.detach().to(lvlm.device, torch.float32).clone().requires_grad_()
        self.optimizer = torch.optim.AdamW(
            [self.frame, self.video],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
        )

    @property
    def prompts(self) -> SoftPrompts:
        """The prompts as they stand, on the CPU."""
        return SoftPrompts(
            frame=self.frame.detach().cpu().clone(),
            video=self.video.detach().cpu().clone(),
            placement=self.placement,
        )

    def _rate(self) -> float:
        config = self.config
        if self.step_count < config.warmup:
            return config.learning_rate * (self.step_count + 1) / config.warmup
        done = (self.step_count - config.warmup) / max(1, config.steps - config.warmup)
        return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))

    def _loss(
        self, batch: Sequence[TrainingSample], frames_per_sample: int, rng: np.random.Generator
    ) -> torch.Tensor:
        live = SoftPrompts(frame=self.frame, video=self.video, placement=self.placement)
        device = self.lvlm.device
        losses = []
        # Min-max forces a peak, so a target without foreground teaches nothing and is left out.
        filmed = [sample for sample in batch if sample.video_target.amax() > 0]
        if filmed:
            rolled = rolled_map(
                self.lvlm,
                [sample.question for sample in filmed],
                _together([sample.context.video for sample in filmed]),
                layers=self.layers,
                heads=self.config.heads,
                soft_prompts=live,
            )
            maps = torch.stack([min_max(smooth(one, VIDEO_KERNEL), per_frame=False) for one in rolled])
            targets = torch.stack([sample.video_target for sample in filmed]).to(device)
            weights = torch.tensor([sample.weight for sample in filmed], device=device)
            losses.append((map_loss(maps, targets) * weights).mean())
        pictures, questions, frame_targets, frame_weights = [], [], [], []
        for sample in batch:
            shown = np.flatnonzero(sample.frame_target.flatten(1).amax(dim=1).numpy() > 0)
            chosen = rng.permutation(shown)[:frames_per_sample]
            for k in sorted(int(index) for index in chosen):
                pictures.append(sample.context.frames[k : k + 1])
                questions.append(sample.question)
                frame_targets.append(sample.frame_target[k])
                frame_weights.append(sample.weight)
        if pictures:
            rolled = rolled_map(
                self.lvlm,
                questions,
                _together(pictures),
                layers=self.layers,
                heads=self.config.heads,
                soft_prompts=live,
            )
            maps = min_max(smooth(rolled[:, 0], FRAME_KERNEL), per_frame=True)
            weights = torch.tensor(frame_weights, device=device)
            losses.append((map_loss(maps, torch.stack(frame_targets).to(device)) * weights).mean())
        if not losses:
            raise ConfigError(
                "every mask of the batch is empty; soft prompts learn from visible objects only."
            )
        return torch.stack(losses).sum()

    def step(
        self, batch: Sequence[TrainingSample], rng: np.random.Generator, *, frames_per_sample: int = 2
    ) -> float:
        """One optimisation step over samples whose frames have one size.

        Args:
            batch: The samples. Their videos must share a token grid.
            rng: Chooses the frames.
            frames_per_sample: Frame passes taken of each sample.

        Returns:
            The loss before the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(batch, frames_per_sample, rng)
        loss.backward()
        for matrix in (self.frame, self.video):
            torch.nn.utils.clip_grad_norm_([matrix], self.config.clip)
        self.optimizer.step()
        self.step_count += 1
        return loss.item()

    def save_state(self, directory: str | Path) -> None:
        """Write prompts, optimiser state and step; :meth:`load_state` goes on exactly from there.

        Raises:
            ArtefactError: The disk is full or not writable; the state of before is still there.
        """
        tensors = {"frame": self.frame, "video": self.video}
        for name, matrix in (("frame", self.frame), ("video", self.video)):
            for key, value in self.optimizer.state.get(matrix, {}).items():
                tensors[f"{name}.{key}"] = value
        card = {"step": self.step_count, "placement": self.placement, "config": asdict(self.config)}
        # One file, so that no step is ever counted without its weights.
        write_tensors(Path(directory) / STATE_FILE, tensors, {"state": json.dumps(card)})

    def load_state(self, directory: str | Path) -> None:
        """Take up what :meth:`save_state` put down.

        Raises:
            ConfigError: The state cannot be read, or is of another schedule.
        """
        path = Path(directory) / STATE_FILE
        try:
            with safe_open(path, framework="pt") as file:
                card = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"the training state {path} cannot be read ({error}); remove it to begin the training anew."
            ) from error
        if card["config"] != asdict(self.config) or card["placement"] != self.placement:
            raise ConfigError(
                f"the training state {path} is of another schedule than the one asked for; remove it to "
                "begin the training anew."
            )
        self.step_count = card["step"]
        with torch.no_grad():
            self.frame.copy_(tensors.pop("frame"))
            self.video.copy_(tensors.pop("video"))
        for name, matrix in (("frame", self.frame), ("video", self.video)):
            state = {
                key.removeprefix(f"{name}."): value.to(matrix.device) if value.ndim else value
                for key, value in tensors.items()
                if key.startswith(f"{name}.")
            }
            if state:
                self.optimizer.state[matrix] = state
