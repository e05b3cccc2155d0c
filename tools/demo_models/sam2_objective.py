"""The objective of the embedded SAM 2: prompts drawn from true masks, and the losses of an image and of a clip.

Everything is batched over objects and stays on the device; nothing here waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Mode = Literal["click", "clicks", "box", "box+click", "mask"]

_PIXEL_MEAN = (0.485, 0.456, 0.406)
_PIXEL_STD = (0.229, 0.224, 0.225)
_CLICK_GRID = 2
"""Clicks are drawn on every second pixel in each direction: a quarter of the random numbers."""
_MASK_LOGIT_LIMIT = 32.0


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms, as published for SAM 2, whose 20 for the focal term includes its balance."""

    focal: float = 10.0
    dice: float = 1.0
    iou: float = 1.0
    presence: float = 1.0


@dataclass
class Losses:
    """A weighted sum, with each term kept for the log."""

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)

    def add(self, name: str, value: Tensor, weight: float) -> None:
        """Add ``weight * value`` to the sum and keep ``value``."""
        self.total = self.total + weight * value
        self.terms[name] = value.detach()


@dataclass(frozen=True)
class Targets:
    """True masks of the chosen objects of a batch of pictures.

    Attributes:
        picture: (N,) index of each object's picture in the batch.
        masks: (N, T, S, S) bool, what is visible of the object.
        valid: (N,) float, 0 for padding where a picture has fewer objects.
    """

    picture: Tensor
    masks: Tensor
    valid: Tensor


def normalise_images(images: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] -> the statistics that SAM 2 expects."""
    mean = images.new_tensor(_PIXEL_MEAN).view(3, 1, 1)
    std = images.new_tensor(_PIXEL_STD).view(3, 1, 1)
    return (images - mean) / std


def choose_objects(ids: Tensor, count: int, most: int, min_pixels: int = 24) -> Targets:
    """Choose up to ``count`` different objects that are visible in the first frame of each picture.

    Args:
        ids: (B, T, S, S) uint8, topmost object + 1, 0 for background.
        count: Objects taken per picture.
        most: Highest id that occurs.
        min_pixels: Least visible area in the first frame.
    """
    batch = ids.shape[0]
    labels = torch.arange(1, most + 1, device=ids.device)
    areas = torch.stack([(ids[:, 0] == label).sum((-1, -2)) for label in labels], dim=1)  # (B, most)
    order = torch.rand(areas.shape, device=ids.device) * (areas >= min_pixels)
    score, chosen = order.topk(count, dim=1)  # (B, count)
    picture = torch.arange(batch, device=ids.device).repeat_interleave(count)
    label = chosen.flatten() + 1
    masks = ids[picture] == label[:, None, None, None].to(ids.dtype)
    return Targets(picture=picture, masks=masks, valid=(score.flatten() > 0).float())


def random_pixels(region: Tensor) -> Tensor:
    """One uniformly drawn pixel of each (N, S, S) bool region as (N, 2) float x, y; (0, 0) where empty."""
    size = region.shape[-1] // _CLICK_GRID
    grid = region[:, ::_CLICK_GRID, ::_CLICK_GRID].flatten(1)
    index = (torch.rand(grid.shape, device=region.device) * grid).argmax(1)
    return torch.stack([index % size, index // size], dim=-1).float() * _CLICK_GRID


def nearby(mask: Tensor, reach: int) -> Tensor:
    """Pixels outside each (N, S, S) bool mask but within ``reach`` pixels of it."""
    coarse = F.max_pool2d(mask[:, None].float(), 4)
    grown = F.max_pool2d(coarse, 2 * (reach // 4) + 1, stride=1, padding=reach // 4)
    return (F.interpolate(grown, size=mask.shape[-2:])[:, 0] > 0) & ~mask


def boxes(mask: Tensor, jitter: float) -> Tensor:
    """(N, 2, 2) corners x, y of each (N, S, S) bool mask, moved by up to ``jitter`` of the box's size."""
    size = mask.shape[-1]
    positions = torch.arange(size, device=mask.device)
    columns, rows = mask.any(1), mask.any(2)  # (N, S)
    low = torch.stack([torch.where(line, positions, size).amin(1) for line in (columns, rows)], dim=-1)
    high = torch.stack([torch.where(line, positions, -1).amax(1) for line in (columns, rows)], dim=-1)
    corners = torch.stack([low, high], dim=1).float()  # (N, corner, x/y)
    extent = (corners[:, 1:] - corners[:, :1]).clamp_min(0)
    corners = corners + (2 * torch.rand_like(corners) - 1) * jitter * extent
    return corners.clamp(0, size - 1)


def draw_prompts(mask: Tensor, mode: Mode) -> tuple[Tensor, Tensor]:
    """Prompts of one kind for (N, S, S) bool masks.

    A tenth of the positive clicks lie a little outside their object, since a click derived from a coarse map
    does too.

    Returns:
        (N, P, 2) float pixel coordinates and (N, P) int32 labels: 1 in, 0 out, 2 and 3 box corners.
    """
    count, device = mask.shape[0], mask.device

    def label(value: int) -> Tensor:
        return torch.full((count, 1), value, dtype=torch.int32, device=device)

    points: list[Tensor] = []
    labels: list[Tensor] = []
    if mode in ("box", "box+click"):
        points.append(boxes(mask, jitter=0.08))
        labels += [label(2), label(3)]
    if mode in ("click", "clicks", "box+click"):
        click = random_pixels(mask)
        if mode == "click":
            ring = nearby(mask, reach=8)
            stray = (torch.rand(count, 1, device=device) < 0.1) & ring.flatten(1).any(1, keepdim=True)
            click = torch.where(stray, random_pixels(ring), click)
        points.append(click[:, None])
        labels.append(label(1))
    if mode == "clicks":
        around = nearby(mask, reach=40)
        outside = torch.where(around.flatten(1).any(1)[:, None, None], around, ~mask)
        points += [random_pixels(mask)[:, None], random_pixels(outside)[:, None]]
        labels += [label(1), label(0)]
    return torch.cat(points, dim=1), torch.cat(labels, dim=1)


def correction(predicted: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A click where (N, S, S) bool masks differ from the truth: (N, 1, 2) pixels and (N, 1) int32 labels."""
    missed, false = mask & ~predicted, predicted & ~mask
    positive = missed.flatten(1).sum(1) >= false.flatten(1).sum(1)
    region = torch.where(positive[:, None, None], missed, false)
    # Where nothing is wrong a further click on the object is right.
    empty = ~region.flatten(1).any(1)
    region = torch.where(empty[:, None, None], mask, region)
    return random_pixels(region)[:, None], (positive | empty).int()[:, None]


def enlarge(logits: Tensor, size: int) -> Tensor:
    """(N, h, w) mask logits -> (N, size, size) float32, as SAM 2 does it."""
    return F.interpolate(logits[:, None].float(), size=(size, size), mode="bilinear", align_corners=False)[
        :, 0
    ]


def mask_iou(predicted: Tensor, mask: Tensor) -> Tensor:
    """(N,) overlap in [0, 1] of (N, S, S) bool masks; 1 where both are empty."""
    intersection = (predicted & mask).flatten(1).sum(1)
    union = (predicted | mask).flatten(1).sum(1)
    return torch.where(union == 0, 1.0, intersection / union.clamp_min(1))


def mask_losses(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Focal (gamma 2, mean over pixels) and Dice loss per object: (N, S, S) -> (N,), (N,).

    The focal term is not balanced between object and background: SAM 2's alpha of 0.25 would pull every
    outline inwards, which costs small objects much of their overlap.
    """
    truth = mask.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    chance = torch.sigmoid(logits)
    miss = chance + truth - 2 * chance * truth
    focal = (miss.square() * cross_entropy).flatten(1).mean(1)
    overlap = (chance * truth).flatten(1).sum(1)
    dice = 1 - (2 * overlap + 1) / (chance.flatten(1).sum(1) + truth.flatten(1).sum(1) + 1)
    return focal, dice


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of ``values`` under ``weights``; 0 where all weights are 0."""
    return (values * weights).sum() / weights.sum().clamp_min(1e-6)


@dataclass(frozen=True)
class Decoded:
    """Raw outputs of the mask decoder, before SAM 2 hides masks that it scores as absent.

    Attributes:
        logits: (N, h, w) low-resolution mask logits.
        iou: (N,) predicted overlap in [0, 1].
        presence: (N,) logits of the object being visible.
    """

    logits: Tensor
    iou: Tensor
    presence: Tensor


def supervise(
    losses: Losses, decoded: Decoded, mask: Tensor, valid: Tensor, weights: LossWeights, share: float = 1.0
) -> Tensor:
    """Add the losses of one decoding against (N, S, S) bool masks; absent objects train the presence alone.

    Returns:
        (N,) overlap of the thresholded masks, without gradient.
    """
    logits = enlarge(decoded.logits, mask.shape[-1])
    visible = mask.flatten(1).any(1)
    counted = valid * visible
    focal, dice = mask_losses(logits, mask)
    with torch.no_grad():
        overlap = mask_iou(logits > 0, mask)
    presence = F.binary_cross_entropy_with_logits(decoded.presence.float(), visible.float(), reduction="none")
    losses.add("focal", weighted_mean(focal, counted), share * weights.focal)
    losses.add("dice", weighted_mean(dice, counted), share * weights.dice)
    losses.add("iou", weighted_mean((decoded.iou.float() - overlap).abs(), counted), share * weights.iou)
    losses.add("presence", weighted_mean(presence, valid), share * weights.presence)
    return overlap


def encode_images(
    model: Any, images: Tensor, chunk: int | None = None
) -> tuple[list[Tensor], list[Tensor], list[tuple[int, int]]]:
    """Image features of a batch, in SAM 2's sequence-first layout.

    Args:
        model: A ``SAM2Base``.
        images: (B, 3, S, S), normalised.
        chunk: Pictures per pass through the encoder; a constant one keeps a compiled encoder's shapes.

    Returns:
        Per level (h * w, B, C) features, the position encodings of the same layout with B = 1, and (h, w).
    """
    parts = [model.forward_image(part) for part in images.split(chunk or len(images))]
    features = [torch.cat(level) for level in zip(*(part["backbone_fpn"] for part in parts), strict=True)]
    merged = {"backbone_fpn": features, "vision_pos_enc": [p[:1] for p in parts[0]["vision_pos_enc"]]}
    _, sequences, positions, sizes = model._prepare_backbone_features(merged)
    return sequences, positions, sizes


def decode(
    model: Any,
    features: Sequence[Tensor],
    points: Tensor,
    labels: Tensor,
    mask_logits: Tensor | None = None,
) -> Decoded:
    """Decode prompts on still images.

    Args:
        model: A ``SAM2Base``.
        features: Per level (N, C, h, w), lowest resolution last, with the no-memory embedding added.
        points: (N, P, 2) pixel coordinates.
        labels: (N, P) as in :func:`draw_prompts`.
        mask_logits: (N, h, w) of an earlier answer to refine.
    """
    sparse, dense = model.sam_prompt_encoder(
        points=(points, labels),
        boxes=None,
        masks=None if mask_logits is None else mask_logits[:, None],
    )
    masks, ious, _, presence = model.sam_mask_decoder(
        image_embeddings=features[-1],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        repeat_image=False,
        high_res_features=list(features[:-1]),
    )
    return Decoded(logits=masks[:, 0], iou=ious[:, 0], presence=presence[:, 0])


def image_losses(
    model: Any, images: Tensor, targets: Targets, mode: Mode, weights: LossWeights, chunk: int | None = None
) -> tuple[Losses, Tensor]:
    """One click on each object, then another kind of prompt, then a correcting click on the first answer.

    Clicks on several objects of the same picture stand in one batch, so that an answer from the picture
    alone cannot lower the loss.

    Args:
        model: A ``SAM2Base``.
        images: (B, 3, S, S), normalised.
        targets: Objects with T = 1.
        mode: The second kind of prompt.
        weights: Of the loss terms.
        chunk: See :func:`encode_images`.

    Returns:
        The losses and the mean overlap after one click.
    """
    mask = targets.masks[:, 0]
    sequences, _, sizes = encode_images(model, images, chunk)
    sequences[-1] = sequences[-1] + model.no_mem_embed
    features = [
        level.permute(1, 2, 0).unflatten(2, size)[targets.picture]
        for level, size in zip(sequences, sizes, strict=True)
    ]
    losses = Losses(total=mask.new_zeros((), dtype=torch.float32))
    points, labels = draw_prompts(mask, "click")
    first = decode(model, features, points, labels)
    overlap = supervise(losses, first, mask, targets.valid, weights)
    report = dict(losses.terms)

    supervise(
        losses, decode(model, features, *draw_prompts(mask, mode)), mask, targets.valid, weights, share=0.5
    )

    earlier = first.logits.detach().float().clamp(-_MASK_LOGIT_LIMIT, _MASK_LOGIT_LIMIT)
    point, sign = correction(enlarge(earlier, mask.shape[-1]) > 0, mask)
    second = decode(
        model, features, torch.cat([points, point], 1), torch.cat([labels, sign], 1), mask_logits=earlier
    )
    supervise(losses, second, mask, targets.valid, weights, share=0.5)
    losses.terms = report
    return losses, weighted_mean(overlap, targets.valid)


class DecoderTap:
    """Keeps what the mask decoder last gave while SAM 2's own tracking step runs it."""

    def __init__(self, decoder: nn.Module) -> None:
        self.last: Decoded | None = None
        self._handle = decoder.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        masks, ious, _, presence = output
        self.last = Decoded(logits=masks[:, 0], iou=ious[:, 0], presence=presence[:, 0])

    def take(self) -> Decoded:
        """The last outputs, handed over once."""
        if self.last is None:
            raise RuntimeError("the mask decoder has not run since the outputs were last taken")
        last, self.last = self.last, None
        return last

    def remove(self) -> None:
        """Stop listening."""
        self._handle.remove()


def track(
    model: Any,
    images: Tensor,
    targets: Targets,
    mode: Mode,
    chunk: int | None = None,
    correct_at: int | None = None,
    each: Callable[[int, Decoded], None] | None = None,
) -> list[Tensor]:
    """Prompt every object on the first frame of its clip and track it through SAM 2's own step.

    Backward tracking is the same on reversed clips, so callers reverse clips instead.

    Args:
        model: A ``SAM2Base``.
        images: (B, T, 3, S, S), normalised.
        targets: Objects visible on the first frame.
        mode: The prompt on the first frame.
        chunk: See :func:`encode_images`.
        correct_at: A later frame on which a click corrects (or confirms) the object.
        each: Called per frame with the decoder's raw outputs; not for a frame prompted with a mask.

    Returns:
        Per frame (N, h, w) low-resolution logits as SAM 2 gives them, strongly negative where absent.
    """
    frames = images.shape[1]
    sequences, positions, sizes = encode_images(model, images.flatten(0, 1), chunk)
    memory: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    tap = DecoderTap(model.sam_mask_decoder)
    answers = []
    try:
        for t in range(frames):
            index = targets.picture * frames + t
            point_inputs = mask_inputs = None
            if t == 0 and mode == "mask":
                mask_inputs = targets.masks[:, 0, None].float()
            elif t == 0 or t == correct_at:
                mask = targets.masks[:, t]
                points, labels = draw_prompts(mask, mode if t == 0 else "click")
                # An object that is hidden on the frame to correct gets an empty prompt.
                labels = torch.where(mask.flatten(1).any(1)[:, None], labels, -1)
                point_inputs = {"point_coords": points, "point_labels": labels}
            output = model.track_step(
                frame_idx=t,
                is_init_cond_frame=t == 0,
                current_vision_feats=[level[:, index] for level in sequences],
                current_vision_pos_embeds=[level.expand(-1, len(index), -1) for level in positions],
                feat_sizes=sizes,
                point_inputs=point_inputs,
                mask_inputs=mask_inputs,
                output_dict=memory,
                # It only scales the pointers' temporal encoding; a long video is the usual case.
                num_frames=max(frames, model.max_obj_ptrs_in_encoder),
            )
            decoded = tap.take()
            del output["pred_masks_high_res"]
            memory["cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"][t] = output
            answers.append(output["pred_masks"][:, 0])
            if each is not None and mask_inputs is None:
                each(t, decoded)
    finally:
        tap.remove()
    return answers


def video_losses(
    model: Any,
    images: Tensor,
    targets: Targets,
    mode: Mode,
    weights: LossWeights,
    chunk: int | None = None,
    correct_at: int | None = None,
) -> tuple[Losses, Tensor]:
    """Track prompted objects through clips and supervise every frame.

    Args:
        model: A ``SAM2Base``.
        images: (B, T, 3, S, S), normalised.
        targets: Objects visible on the first frame.
        mode: The prompt on the first frame.
        weights: Of the loss terms.
        chunk: See :func:`encode_images`.
        correct_at: See :func:`track`.

    Returns:
        The losses (terms averaged over frames) and the mean overlap over the frames after the first.
    """
    frames = images.shape[1]
    losses = Losses(total=images.new_zeros((), dtype=torch.float32))
    kept: dict[str, list[Tensor]] = {}
    overlaps: list[Tensor] = []

    def each(t: int, decoded: Decoded) -> None:
        overlap = supervise(losses, decoded, targets.masks[:, t], targets.valid, weights, share=1.0 / frames)
        for name, value in losses.terms.items():
            kept.setdefault(name, []).append(value)
        if t > 0:
            visible = targets.masks[:, t].flatten(1).any(1)
            overlaps.append(weighted_mean(overlap, targets.valid * visible))

    track(model, images, targets, mode, chunk, correct_at, each)
    losses.terms = {name: torch.stack(values).mean() for name, values in kept.items()}
    return losses, torch.stack(overlaps).mean()
