"""Dense auxiliary objectives on visual tokens: what a pretrained vision encoder would bring.

Two linear heads, thrown away when the model is exported. One reads the vision tower's tokens: which object is
under a token, its colour, whether there is any, and where the object's centre lies from here. One reads the
language model's visual tokens half-way up, where time and position are known: object, colour, size, centre in
the picture and motion. Targets come from the renderer's id maps, so they cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.demo_models.lvlm_fast import Layout


@dataclass(frozen=True)
class DenseTargets:
    """The object under every visual token. N = pairs · rows · columns.

    Attributes:
        weight: (B, N) share in [0, 1] of the token's area that its object covers, 0 where it is too small to
            be named.
        cover: (B, N) share in [0, 1] of the area that any object covers.
        names: (B, N) object class, of the object that covers most.
        colours: (B, N) colour class; -1 where the object has no clear one.
        offset: (B, N, 2) from the token's centre to the object's, x and y in tokens of the video grid.
        position: (B, N, 2) the object's centre, x and y in [-1, 1].
        size: (B, N) logarithm of the object's height as a share of the picture's.
        motion: (B, N, 2) the object's movement since the clip's first keyframe of this layout, x and y as
            shares of the width.
    """

    weight: Tensor
    cover: Tensor
    names: Tensor
    colours: Tensor
    offset: Tensor
    position: Tensor
    size: Tensor
    motion: Tensor


def cell_shares(ids: Tensor, layout: Layout, objects: int) -> Tensor:
    """Share of every token's area that each object covers.

    Args:
        ids: (B, T, H, W) uint8, object + 1 or 0 for background, at any multiple of the grid's size.
        layout: The batch's layout.
        objects: Largest number of objects in a scene.

    Returns:
        (B, pairs, rows, columns, objects) in [0, 1], the mean over the pair's frames.
    """
    batch, frames, height, width = ids.shape
    cells = ids.view(
        batch, frames, layout.rows, height // layout.rows, layout.columns, width // layout.columns
    )
    shares = torch.stack([(cells == number + 1).float().mean((3, 5)) for number in range(objects)], dim=-1)
    return shares.view(batch, layout.pairs, -1, layout.rows, layout.columns, objects).mean(2)


def dense_targets(
    shares: Tensor,
    layout: Layout,
    names: Tensor,
    colours: Tensor,
    centres: Tensor,
    sizes: Tensor,
    *,
    least: float = 0.25,
) -> DenseTargets:
    """Targets of every token from what its cell is covered by.

    Args:
        shares: (B, pairs, rows, columns, objects) from :func:`cell_shares`.
        layout: The batch's layout.
        names: (B, objects) class of each object.
        colours: (B, objects) colour class or -1.
        centres: (B, pairs, objects, 2) x and y in [0, 1], the mean over the pair's frames.
        sizes: (B, pairs, objects) height as a share of the picture's.
        least: Smallest share of a cell that names it.
    """
    batch, objects = names.shape
    best, which = shares.flatten(1, 3).max(-1)  # (B, N)
    count = layout.rows * layout.columns
    pair = torch.arange(layout.pairs, device=shares.device).repeat_interleave(count)  # (N,)
    # (B, N) index into the flattened (pairs, objects) tables.
    slot = pair * objects + which

    def take(table: Tensor) -> Tensor:
        flat = table.reshape(batch, layout.pairs * objects, -1)
        return flat.gather(1, slot[..., None].expand(-1, -1, flat.shape[-1]))

    position = take(centres)
    moved = take(centres - centres[:, :1])
    grid_y, grid_x = torch.meshgrid(
        (torch.arange(layout.rows, device=shares.device) + 0.5) / layout.rows,
        (torch.arange(layout.columns, device=shares.device) + 0.5) / layout.columns,
        indexing="ij",
    )
    here = torch.stack([grid_x, grid_y], dim=-1).view(-1, 2).repeat(layout.pairs, 1)  # (N, 2)
    scale = torch.tensor([10.0, 10.0 * layout.rows / layout.columns], device=shares.device)
    return DenseTargets(
        weight=torch.where(best >= least, best, torch.zeros_like(best)),
        cover=shares.sum(-1).flatten(1).clamp(max=1.0),
        names=names.gather(1, which),
        colours=colours.gather(1, which),
        offset=(position - here) * scale,
        position=2 * position - 1,
        size=take(sizes[..., None])[..., 0].clamp(min=0.02).log(),
        motion=moved * torch.tensor([1.0, layout.rows / layout.columns], device=shares.device),
    )


class DenseHeads(nn.Module):
    """The two heads.

    Args:
        width: Width of the tokens.
        names: Number of object classes.
        colours: Number of colour classes.
    """

    def __init__(self, width: int, names: int, colours: int) -> None:
        super().__init__()
        self.names, self.colours = names, colours
        self.eye_norm = nn.RMSNorm(width)
        self.eye = nn.Linear(width, names + colours + 1 + 2)
        self.mind_norm = nn.RMSNorm(width)
        self.mind = nn.Linear(width, names + colours + 2 + 1 + 2)
        for layer in (self.eye, self.mind):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def eye_loss(self, tokens: Tensor, targets: DenseTargets, dtype: torch.dtype) -> dict[str, Tensor]:
        """Losses (and the name accuracy) on the vision tower's tokens (B, N, d)."""
        scores = self._score(self.eye_norm, self.eye, tokens, dtype)
        names, colours, cover, offset = scores.split([self.names, self.colours, 1, 2], dim=-1)
        found = self._classes(names, colours, targets)
        found["cover"] = F.binary_cross_entropy_with_logits(cover[..., 0], targets.cover)
        found["offset"] = _weighted(
            F.smooth_l1_loss(offset, targets.offset, reduction="none").mean(-1), targets
        )
        return found

    def mind_loss(self, tokens: Tensor, targets: DenseTargets, dtype: torch.dtype) -> dict[str, Tensor]:
        """Losses (and the name accuracy) on the language model's visual tokens (B, N, d)."""
        scores = self._score(self.mind_norm, self.mind, tokens, dtype)
        names, colours, position, size, motion = scores.split([self.names, self.colours, 2, 1, 2], dim=-1)
        found = self._classes(names, colours, targets)
        found["place"] = _weighted(
            F.smooth_l1_loss(position, targets.position, reduction="none", beta=0.2).mean(-1), targets
        )
        found["size"] = _weighted(
            F.smooth_l1_loss(size[..., 0], targets.size, reduction="none", beta=0.2), targets
        )
        motion_error = F.smooth_l1_loss(5 * motion, 5 * targets.motion, reduction="none", beta=0.2)
        found["motion"] = _weighted(motion_error.mean(-1), targets)
        return found

    @staticmethod
    def _score(norm: nn.RMSNorm, layer: nn.Linear, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        normed = norm(tokens).to(dtype)
        return F.linear(normed, layer.weight.to(dtype), layer.bias.to(dtype)).float()

    @staticmethod
    def _classes(names: Tensor, colours: Tensor, targets: DenseTargets) -> dict[str, Tensor]:
        wrong = F.cross_entropy(names.flatten(0, 1), targets.names.flatten(), reduction="none")
        tinted = F.cross_entropy(
            colours.flatten(0, 1), targets.colours.flatten(), ignore_index=-1, reduction="none"
        )
        right = (names.argmax(-1) == targets.names).float()
        return {
            "name": _weighted(wrong.view_as(targets.weight), targets),
            "colour": _weighted(tinted.view_as(targets.weight), targets),
            "accuracy": _weighted(right, targets).detach(),
        }


def _weighted(values: Tensor, targets: DenseTargets) -> Tensor:
    return (values * targets.weight).sum() / targets.weight.sum().clamp(min=1.0)
