"""Training of the soft prompts: the objective, one step, and a state that can be put down and taken up again.

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
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from steerseg.config import TrainingConfig
from steerseg.errors import ConfigError
from steerseg.grounding import FRAME_KERNEL, VIDEO_KERNEL, VisionContext, min_max, rolled_map, smooth
from steerseg.lvlm.base import LVLM, VisionFeatures
from steerseg.ranking import on_frame_grid, on_video_grid, pearson
from steerseg.runtime.artefacts import write_tensors
from steerseg.runtime.memory import to_device
from steerseg.soft_prompts import SoftPrompts

STATE_FILE = "training_state.safetensors"


@dataclass(frozen=True)
class TrainingSample:
    """One (video, expression) with what the maps should show.

    Attributes:
        context: The keyframes as the vision tower saw them.
        question: The grounding question, attributes included.
        frame_target: (N, h, w) mask share of each token of the context's N images, in [0, 1].
        video_target: (t, h', w') the same for the video pass.
        weight: Weight of the sample in the loss.
        frame_share: (N,) in [0, 1], how much each image's target counts; 0 where the truth is unknown. All 1
            where left out.
        video_share: (t,) the same for the slices of the video pass.
        frame_rejected: (M, N, h, w) masks that are wrong answers, as shares of the tokens; none where left out.
        video_rejected: (M, t, h', w') the same for the video pass.
    """

    context: VisionContext
    question: str
    frame_target: torch.Tensor
    video_target: torch.Tensor
    weight: float = 1.0
    frame_share: torch.Tensor | None = None
    video_share: torch.Tensor | None = None
    frame_rejected: torch.Tensor | None = None
    video_rejected: torch.Tensor | None = None

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
        shares: NDArray[np.float32] | None = None,
        rejected: NDArray[np.bool_] | None = None,
    ) -> TrainingSample:
        """From (K, H, W) masks on the keyframes, area-averaged on the token grids.

        Args:
            context: The keyframes as the vision tower saw them.
            question: The grounding question.
            masks: The truth; anything where ``shares`` is 0.
            temporal_merge: Frames of a video slice.
            pictures: The keyframes that ``context`` holds as images, where those are not all.
            weight: Weight of the sample.
            shares: (K,) in [0, 1], how much each keyframe's mask counts; all 1 where left out.
            rejected: (M, K, H, W) masks that are wrong answers.
        """
        shown = range(len(masks)) if pictures is None else list(pictures)
        frame, video = _on_grids(torch.from_numpy(masks)[None], context, shown, temporal_merge)
        frame_share = video_share = None
        if shares is not None:
            known = torch.from_numpy(np.asarray(shares, dtype=np.float32))
            frame_share, video_share = known[shown], _of_slices(known, temporal_merge)
        wrong_frame = wrong_video = None
        if rejected is not None and len(rejected):
            wrong_frame, wrong_video = _on_grids(torch.from_numpy(rejected), context, shown, temporal_merge)
        return cls(
            context,
            question,
            frame[0],
            video[0],
            weight,
            frame_share,
            video_share,
            wrong_frame,
            wrong_video,
        )

    @property
    def teaches(self) -> bool:
        """Whether any pass over it has something to learn from: a visible object, or a wrong answer."""
        rows = [_picture_row(self, index) for index in range(len(self.frame_target))]
        return any(row.teaches for row in (_video_row(self), *rows))


def _on_grids(
    masks: torch.Tensor, context: VisionContext, shown: Sequence[int], temporal_merge: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, K, H, W) -> on the frame grid (M, N, h, w) and on the video grid (M, t, h', w')."""
    frame = on_frame_grid(masks[:, list(shown)], context.frames.grid[1:])
    return frame, on_video_grid(masks, context.video.grid[1:], temporal_merge)


def _of_slices(shares: torch.Tensor, temporal_merge: int) -> torch.Tensor:
    """(K,) -> (t,): a slice's target is known no better than the least known of its frames."""
    missing = -len(shares) % temporal_merge
    if missing:
        shares = torch.cat([shares, shares[-1:].expand(missing)])
    return shares.unflatten(0, (-1, temporal_merge)).amin(dim=1)


def map_loss(maps: torch.Tensor, targets: torch.Tensor, shares: torch.Tensor | None = None) -> torch.Tensor:
    """BCE + Dice of normalised maps (N, ...) in [0, 1] against targets of the same shape: (N,).

    The map is clamped to [1e-4, 1 - 1e-4], since min-max puts cells at exactly 0 and 1. ``shares``, of the same
    shape, weighs the cells.
    """
    maps, targets = maps.flatten(1).float().clamp(1e-4, 1 - 1e-4), targets.flatten(1)
    cells = torch.ones_like(maps) if shares is None else shares.flatten(1)
    entropy = F.binary_cross_entropy(maps, targets, reduction="none")
    entropy = (entropy * cells).sum(dim=1) / cells.sum(dim=1).clamp_min(1e-6)
    overlap = (maps * targets * cells).sum(dim=1)
    dice = 1 - (2 * overlap + 1) / ((maps * cells).sum(dim=1) + (targets * cells).sum(dim=1) + 1)
    return entropy + dice


def ranking_loss(
    maps: torch.Tensor, target: torch.Tensor, rejected: torch.Tensor, *, margin: float
) -> torch.Tensor:
    """How far wrong answers are from ranking below the right one: a scalar, 0 where they do.

    Tracklets are ranked by the correlation of their masks with the maps, so that is what is compared. Without a
    right answer, wrong ones should not correlate at all (our choice; the method itself has no such term).

    Args:
        maps: (...) one normalised map.
        target: (...) the right mask on its grid, empty where none is known.
        rejected: (M, ...) the wrong masks.
        margin: Wanted distance between the correlations.
    """
    wrong = pearson(rejected.flatten(1), maps.flatten())
    if target.amax() > 0:
        right = pearson(target.flatten()[None], maps.flatten())
        return F.relu(margin + wrong - right).mean()
    return F.relu(wrong).mean()


@dataclass(frozen=True)
class _Row:
    """One question of one pass: a whole video, or one picture."""

    question: str
    vision: VisionFeatures
    target: torch.Tensor  # (t, h, w), t = 1 for a picture
    share: torch.Tensor  # (t,)
    rejected: torch.Tensor | None  # (M, t, h, w)
    weight: float

    @property
    def visible(self) -> bool:
        """Whether the truth shows anything: min-max forces a peak, so an empty target teaches nothing."""
        return bool((self.target.amax(dim=(1, 2)) * self.share).amax() > 0)

    @property
    def teaches(self) -> bool:
        return self.visible or (self.rejected is not None and bool(self.rejected.amax() > 0))


def _video_row(sample: TrainingSample) -> _Row:
    share = sample.video_share
    return _Row(
        sample.question,
        sample.context.video,
        sample.video_target,
        torch.ones(len(sample.video_target)) if share is None else share,
        sample.video_rejected,
        sample.weight,
    )


def _picture_row(sample: TrainingSample, index: int) -> _Row:
    part = slice(index, index + 1)
    wrong = sample.frame_rejected
    return _Row(
        sample.question,
        sample.context.frames[part],
        sample.frame_target[part],
        torch.ones(1) if sample.frame_share is None else sample.frame_share[part],
        None if wrong is None else wrong[:, part],
        sample.weight,
    )


def _passes(rows: Sequence[_Row], most: int, fitting: Callable[[int], int]) -> Iterator[list[_Row]]:
    """Rows that can go through the model together: of one grid and one pace, and as many as memory allows.

    Args:
        rows: All rows.
        most: Of one pass.
        fitting: The number of a row's visual tokens -> how many such rows have room.
    """
    groups: dict[tuple[object, ...], list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.vision.layout, []).append(row)
    for group in groups.values():
        size = min(most, fitting(group[0].vision.tokens.shape[1]))
        for start in range(0, len(group), size):
            yield group[start : start + size]


class SoftPromptTrainer:
    """Trains a pair of soft prompts step by step.

    Args:
        lvlm: The frozen model.
        layers: Text layers of the rollout.
        start: Where the prompts begin.
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
        )

    def _rate(self) -> float:
        config = self.config
        if self.step_count < config.warmup:
            return config.learning_rate * (self.step_count + 1) / config.warmup
        done = (self.step_count - config.warmup) / max(1, config.steps - config.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return config.learning_rate * (config.LAST_RATE + (1 - config.LAST_RATE) * cosine)

    def _row_losses(self, rows: Sequence[_Row]) -> torch.Tensor:
        """Weighted losses (B,) of rows that go through the model together."""
        device = self.lvlm.device
        filmed = rows[0].vision.kind == "video"
        vision = VisionFeatures.join([row.vision for row in rows]).to(device)
        wanted = self._checkpointing
        if wanted is None:
            wanted = not self.lvlm.activations_fit(vision.tokens.shape[:2].numel())
        with self.lvlm.recomputing(wanted, up_to=max(self.layers)):
            rolled = rolled_map(
                self.lvlm,
                [row.question for row in rows],
                vision,
                layers=self.layers,
                heads=self.config.heads,
                soft_prompts=SoftPrompts(frame=self.frame, video=self.video, placement=self.placement),
            )  # (B, t, h, w)
        if filmed:
            maps = torch.stack([min_max(smooth(one, VIDEO_KERNEL), per_frame=False) for one in rolled])
        else:
            maps = min_max(smooth(rolled[:, 0], FRAME_KERNEL), per_frame=True)[:, None]
        targets = to_device(torch.stack([row.target for row in rows]), device)
        shares = to_device(torch.stack([row.share for row in rows]), device)
        shares = shares[:, :, None, None].expand_as(targets)
        visible = to_device(torch.tensor([float(row.visible) for row in rows]), device)
        losses = map_loss(maps, targets, shares) * visible
        if not filmed:  # of a video the shares weigh its slices; of a picture, the whole
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
            frames_per_sample: Frame passes taken of each sample.

        Returns:
            The loss before the step: the mean over video passes plus the mean over frame passes.

        Raises:
            ConfigError: No mask of the batch shows anything.
        """
        films = [row for row in map(_video_row, batch) if row.teaches]
        pictures = []
        for sample in batch:
            rows = [_picture_row(sample, index) for index in range(len(sample.frame_target))]
            teaching = [row for row in rows if row.teaches]
            chosen = sorted(rng.permutation(len(teaching))[:frames_per_sample].tolist())
            pictures += [teaching[index] for index in chosen]
        counts = torch.tensor([len(films), len(pictures)], device=self.lvlm.device)
        self._add_up(counts)  # means are over the whole batch, whoever has which part of it
        if not counts.any():
            raise ConfigError(
                "every mask of the batch is empty; soft prompts learn from visible objects only."
            )
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        losses: list[torch.Tensor] = []  # read at the end: each reading waits for the device
        for rows, count in zip((films, pictures), counts.tolist(), strict=True):
            for part in _passes(rows, self.config.rows, self.lvlm.training_rows):
                loss = self._row_losses(part).sum() / count
                loss.backward()
                losses.append(loss.detach())
        self._share_gradients(counts.tolist())
        anchor = self.config.anchor * self._anchor_loss() if self.config.anchor > 0 else None
        if anchor is not None:
            anchor.backward()
        for matrix in (self.frame, self.video):
            if matrix.grad is not None:
                torch.nn.utils.clip_grad_norm_([matrix], self.config.clip)
        self.optimizer.step()
        self.step_count += 1
        own = torch.stack(losses).sum().item() if losses else 0.0
        total = self._sum_of(own) + (0.0 if anchor is None else anchor.item())
        self.losses.append(total)
        return total

    def _share_gradients(self, counts: Sequence[int]) -> None:
        """Add up this process's share of the gradients with the others'."""
        for matrix, count in zip((self.video, self.frame), counts, strict=True):
            if count:
                if matrix.grad is None:  # none of its rows was this process's
                    matrix.grad = torch.zeros_like(matrix)
                self._add_up(matrix.grad)

    def _sum_of(self, loss: float) -> float:
        """A loss of this process's part of the batch -> that of the whole."""
        told = torch.tensor([loss], dtype=torch.float64)
        self._add_up(told)
        return told.item()

    def pass_over(self) -> None:
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
