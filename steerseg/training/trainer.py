"""Training of the soft prompts: one step, and a state that is saved and loaded at any step.

Only the two soft prompts learn. The vision tower stands before them and never changes, so a sample is its visual
tokens, made once, together with the question and the target on the token grid.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from steerseg.config import TrainingConfig
from steerseg.errors import ConfigError
from steerseg.grounding import frame_map_from, rolled_map, video_map_from
from steerseg.lvlm.base import LVLM, VisionFeatures
from steerseg.runtime.artefacts import write_tensors
from steerseg.runtime.memory import to_device
from steerseg.soft_prompts import SoftPrompts
from steerseg.training.losses import map_loss, ranking_loss
from steerseg.training.sample import Row, TrainingSample, choose_rows, passes

__all__ = ["SoftPromptTrainer", "TrainingSample", "map_loss", "ranking_loss"]

STATE_FILE = "training_state.safetensors"

NOTHING_VISIBLE = "every mask of the batch is empty; soft prompts learn from visible objects only."


@dataclass(frozen=True)
class RowCounts:
    """How many rows a step has, over which its losses are means.

    Attributes:
        videos: Of whole videos.
        images: Of single images.
    """

    videos: int
    images: int


@dataclass(frozen=True)
class Gradients:
    """The gradients of a step.

    Attributes:
        frame: (n, d) of the frame prompt; ``None`` where no row is of an image.
        video: (n, d) of the video prompt; ``None`` where no row is of a video.
        loss: The loss before the step, without the anchor's.
    """

    frame: torch.Tensor | None
    video: torch.Tensor | None
    loss: float


class SoftPromptTrainer:
    """Trains a pair of soft prompts step by step.

    Args:
        lvlm: The frozen model.
        layers: Text layers of the rollout.
        start: Prompts that the training starts from.
        config: The schedule.
        add_up: Sums a tensor in place over the processes that train the same pair together, each on its part of
            every batch. Alone where left out.
        checkpointing: Whether text layers are computed again in the backward pass, which takes a third more time and
            a fraction of the memory. Left out, they are on a GPU where they would not fit otherwise.

    Attributes:
        step_count: Steps done.
        losses: The loss of each of them that had something to learn from.
    """

    def __init__(
        self,
        lvlm: LVLM,
        layers: Sequence[int],
        start: SoftPrompts,
        config: TrainingConfig,
        *,
        add_up: Callable[[torch.Tensor], None] = lambda values: None,
        checkpointing: bool | None = None,
    ) -> None:
        self.lvlm = lvlm
        self._checkpointing = checkpointing
        self._add_up = add_up
        self.layers = tuple(layers)
        self.config = config
        self.placement = start.placement
        self.step_count = 0
        self.losses: list[float] = []
        self._start = start.to(lvlm.device)
        # An fp32 master copy, whatever the model's precision.
        self.frame = start.frame.detach().to(lvlm.device, torch.float32).clone().requires_grad_()
        self.video = start.video.detach().to(lvlm.device, torch.float32).clone().requires_grad_()
        self.optimizer = torch.optim.AdamW(
            [self.frame, self.video],
            lr=config.learning_rate,
            betas=config.BETAS,
            weight_decay=config.weight_decay,
        )

    @property
    def prompts(self) -> SoftPrompts:
        """The prompts as they stand, on the CPU."""
        return SoftPrompts(
            frame=self.frame.detach().cpu().clone(),
            video=self.video.detach().cpu().clone(),
            placement=self.placement,
            glossary=self._start.glossary,
        )

    def _rate(self) -> float:
        config = self.config
        if self.step_count < config.warmup:
            return config.learning_rate * (self.step_count + 1) / config.warmup
        done = (self.step_count - config.warmup) / max(1, config.steps - config.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return config.learning_rate * (config.LAST_RATE + (1 - config.LAST_RATE) * cosine)

    def _row_losses(self, rows: Sequence[Row]) -> torch.Tensor:
        """Weighted losses (B,) of rows that go through the model together."""
        device = self.lvlm.device
        is_video = rows[0].is_video
        vision = VisionFeatures.join([row.vision for row in rows]).to(device)
        recompute = self._checkpointing
        if recompute is None:
            recompute = not self.lvlm.activations.fits_backward(vision.tokens.shape[:2].numel())
        with self.lvlm.activations.recomputing(recompute, up_to=max(self.layers)):
            rollouts = rolled_map(
                self.lvlm,
                [row.question for row in rows],
                vision,
                layers=self.layers,
                heads=self.config.heads,
                soft_prompts=SoftPrompts(frame=self.frame, video=self.video, placement=self.placement),
            )  # (B, t, h, w)
        if is_video:
            maps = torch.stack([video_map_from(one, borders=self.config.borders) for one in rollouts])
        else:
            maps = frame_map_from(rollouts[:, 0], borders=self.config.borders)[:, None]
        targets = to_device(torch.stack([row.target for row in rows]), device)
        shares = to_device(torch.stack([row.share for row in rows]), device)
        shares = shares[:, :, None, None].expand_as(targets)
        visible = to_device(torch.tensor([float(row.visible) for row in rows]), device)
        losses = map_loss(maps, targets, shares) * visible
        if not is_video:  # the shares of a video weigh its slices, that of an image the whole
            losses = losses * shares[:, 0, 0, 0]
        if self.config.ranking_weight > 0:
            losses = losses + self.config.ranking_weight * torch.stack(
                [
                    losses.new_zeros(())
                    if row.rejected is None
                    else ranking_loss(
                        one,
                        target * (share > 0),
                        to_device(row.rejected, device),
                        margin=self.config.ranking_margin,
                    )
                    for row, one, target, share in zip(rows, maps, targets, shares, strict=True)
                ]
            )
        return losses * to_device(torch.tensor([row.weight for row in rows]), device)

    def _anchor_loss(self) -> torch.Tensor:
        """Distance from the start, as a share of the start's mean square."""
        pairs = ((self.frame, self._start.frame), (self.video, self._start.video))
        return torch.stack(
            [(now - then).square().mean() / then.square().mean().clamp_min(1e-12) for now, then in pairs]
        ).sum()

    def step(
        self, batch: Sequence[TrainingSample], rng: np.random.Generator, *, frames_per_sample: int = 2
    ) -> float:
        """One optimisation step.

        Args:
            batch: The samples, of whatever sizes; those of one token grid go through the model together.
            rng: Chooses the frames.
            frames_per_sample: Frame passes of each sample.

        Returns:
            The loss before the step: the mean over video passes plus the mean over frame passes.

        Raises:
            ConfigError: No mask of the batch shows anything.
        """
        rows = [chosen.row(batch) for chosen in choose_rows(batch, rng, frames_per_sample)]
        videos = sum(row.is_video for row in rows)
        counted = torch.tensor([videos, len(rows) - videos], device=self.lvlm.device)
        self._add_up(counted)  # means are over the whole batch, whoever has which part of it
        counts = RowCounts(*counted.tolist())
        if not (counts.videos or counts.images):
            raise ConfigError(NOTHING_VISIBLE)
        self.optimizer.zero_grad(set_to_none=True)
        losses = [loss for _, loss in self.backward(rows, counts)]
        self._share_gradients(counts)
        return self._update(losses)

    def backward(self, rows: Sequence[Row], counts: RowCounts) -> Iterator[tuple[list[Row], torch.Tensor]]:
        """Add the gradients of a step's rows to those of the matrices, one pass through the model after the other.

        Args:
            rows: Some rows of the step, or all.
            counts: How many rows the whole step has.

        Yields:
            The rows of each pass, and their share of the step's loss: a scalar on the device.
        """
        for kind, count in ((True, counts.videos), (False, counts.images)):
            same = [row for row in rows if row.is_video is kind]
            for part in passes(same, self.config.rows, self.lvlm.activations.training_rows):
                loss = self._row_losses(part).sum() / count
                torch.autograd.backward(loss)
                yield part, loss.detach()

    def apply(self, gradients: Gradients) -> float:
        """Take a step along gradients that were computed elsewhere, of all rows of the step.

        Returns:
            The loss before the step, as :meth:`step` does.
        """
        self.optimizer.zero_grad(set_to_none=True)
        for matrix, gradient in ((self.frame, gradients.frame), (self.video, gradients.video)):
            if gradient is not None:
                matrix.grad = gradient.to(matrix.device, matrix.dtype)
        return self._update([torch.tensor(gradients.loss)])

    def _update(self, losses: Sequence[torch.Tensor]) -> float:
        """Step along the gradients as they are; the losses are read last, since that waits for the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        anchor = self.config.anchor * self._anchor_loss() if self.config.anchor > 0 else None
        if anchor is not None:
            torch.autograd.backward(anchor)
        for matrix in (self.frame, self.video):
            if matrix.grad is not None:
                torch.nn.utils.clip_grad_norm_([matrix], self.config.clip)
        self.optimizer.step()
        self.step_count += 1
        own = torch.stack(list(losses)).sum().item() if losses else 0.0
        total = self._sum_of(own) + (0.0 if anchor is None else anchor.item())
        self.losses.append(total)
        return total

    def _share_gradients(self, counts: RowCounts) -> None:
        """Add up this process's share of the gradients with the others'."""
        for matrix, count in ((self.video, counts.videos), (self.frame, counts.images)):
            if count:
                if matrix.grad is None:  # none of its rows was this process's
                    matrix.grad = torch.zeros_like(matrix)
                self._add_up(matrix.grad)

    def _sum_of(self, loss: float) -> float:
        """A loss of this process's part of the batch -> that of the whole."""
        total = torch.tensor([loss], dtype=torch.float64)
        self._add_up(total)
        return total.item()

    def skip_step(self) -> None:
        """Count a step whose batch has nothing to learn from, so that the schedule and the data stay in step."""
        self.step_count += 1

    def save_state(self, directory: str | Path) -> None:
        """Write prompts, optimiser state and step; :meth:`load_state` goes on exactly from there.

        Raises:
            ArtefactError: The disk is full or not writable; the state of before is still there.
        """
        tensors = {"frame": self.frame, "video": self.video}
        for name, matrix in (("frame", self.frame), ("video", self.video)):
            for key, value in self.optimizer.state.get(matrix, {}).items():
                tensors[f"{name}.{key}"] = value
        card = {
            "step": self.step_count,
            "losses": [round(loss, 6) for loss in self.losses],
            "placement": self.placement,
            "config": asdict(self.config),
        }
        # One file, so that no step is ever counted without its weights.
        write_tensors(Path(directory) / STATE_FILE, tensors, {"state": json.dumps(card)})

    def load_state(self, directory: str | Path) -> None:
        """Read what :meth:`save_state` wrote.

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
        # States from before there was a choice of borders have normalised ones.
        if {"borders": "normalised", **card["config"]} != asdict(self.config) or card[
            "placement"
        ] != self.placement:
            raise ConfigError(
                f"the training state {path} is of another schedule than the one asked for; remove it to "
                "begin the training anew."
            )
        self.step_count, self.losses = card["step"], card["losses"]
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
