"""Draw scenes as batches of tensors; the same code runs on a CPU and on a GPU.

Each object is drawn as a patch around its centre: the sprite is sampled bilinearly from a mip level near its
size on screen, tinted, and laid over what is there (painter's order). Only the frames asked for are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from steerseg.demo.colours import TINT_RGB
from steerseg.demo.photos import load_photos
from steerseg.demo.scene import OCTAVES, Scene
from steerseg.demo.sheet import SPRITE
from steerseg.demo.sprites import Atlas

WORLD = 1.5  # the background covers this many frame sizes in each direction
SPARE = 0.25  # of it lie on each side of the picture
PIXELS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 27}
PHOTOS_AT_ONCE = 64


@dataclass(frozen=True)
class SceneBatch:
    """Scenes side by side, padded to the most objects N and frames T (the last frame repeats).

    Shapes: ``present``, ``sprite``, ``style``, ``tint``, ``flip`` (B, N); ``centre`` (B, N, T, 2) as
    fractions of width and height; ``scale``, ``angle`` (B, N, T), scale in native pixels; ``size`` (B, 2)
    native height and width; ``num_frames`` (B,); ``pan`` (B, T, 2) as fractions; the rest as in
    :class:`steerseg.demo.scene.Background` with B in front.
    """

    present: Tensor
    sprite: Tensor
    style: Tensor
    tint: Tensor
    flip: Tensor
    centre: Tensor
    scale: Tensor
    angle: Tensor
    size: Tensor
    num_frames: Tensor
    pan: Tensor
    colours: Tensor
    gradient: Tensor
    noise: Tensor
    noise_weights: Tensor
    noise_amount: Tensor
    stripes: Tensor
    blobs: Tensor
    photo: Tensor
    photo_window: Tensor
    photo_look: Tensor

    def __len__(self) -> int:
        return len(self.sprite)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SceneBatch:
        """The same batch on another device."""
        return SceneBatch(
            **{f.name: getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)}
        )

    def pin_memory(self) -> SceneBatch:
        """The same batch in pinned memory; called by PyTorch's data loader."""
        return SceneBatch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})

    def select(self, scenes: slice | Tensor) -> SceneBatch:
        """Some of the scenes, by a slice or by their indices."""
        return SceneBatch(**{f.name: getattr(self, f.name)[scenes] for f in fields(self)})


def keyframes(scenes: Sequence[Scene], count: int) -> Tensor:
    """(B, count) frame indices spread evenly over each scene, first and last included."""
    rows = [np.linspace(0, scene.num_frames - 1, count).astype(np.int64) for scene in scenes]
    return torch.from_numpy(np.stack(rows))


def collate(scenes: Sequence[Scene]) -> SceneBatch:
    """Scenes of any sizes, lengths and counts of objects → one batch on the CPU."""
    count = max(scene.num_objects for scene in scenes)
    frames = max(scene.num_frames for scene in scenes)

    def objects(name: str) -> Tensor:
        arrays = []
        for scene in scenes:
            array = getattr(scene, name)
            pad = np.zeros((count - len(array), *array.shape[1:]), dtype=array.dtype)
            arrays.append(np.concatenate([array, pad]))
        return torch.from_numpy(np.stack(arrays))

    def over_time(name: str) -> Tensor:
        arrays = []
        for scene in scenes:
            array = getattr(scene, name)
            widths = [(0, count - scene.num_objects), (0, frames - scene.num_frames)]
            widths += [(0, 0)] * (array.ndim - 2)
            array = np.pad(array, [(0, 0), widths[1], *widths[2:]], mode="edge")
            arrays.append(np.pad(array, [widths[0], (0, 0), *widths[2:]]))
        return torch.from_numpy(np.stack(arrays))

    def background(name: str) -> Tensor:
        return torch.from_numpy(np.stack([np.asarray(getattr(scene.background, name)) for scene in scenes]))

    native = torch.tensor([[scene.height, scene.width] for scene in scenes], dtype=torch.float32)
    pans = [
        np.pad(scene.pan, [(0, frames - scene.num_frames), (0, 0)], mode="edge") / (scene.width, scene.height)
        for scene in scenes
    ]
    return SceneBatch(
        present=torch.tensor([[i < s.num_objects for i in range(count)] for s in scenes]),
        sprite=objects("sprite"),
        style=objects("style"),
        tint=objects("tint"),
        flip=objects("flip"),
        centre=over_time("centre") / native.flip(1)[:, None, None],
        scale=over_time("scale"),
        angle=over_time("angle"),
        size=native,
        num_frames=torch.tensor([scene.num_frames for scene in scenes]),
        pan=torch.from_numpy(np.stack(pans)).float(),
        **{
            name: background(name)
            for name in (
                "colours",
                "gradient",
                "noise",
                "noise_weights",
                "noise_amount",
                "stripes",
                "blobs",
                "photo",
                "photo_window",
                "photo_look",
            )
        },
    )


_LEVELS = torch.tensor([[0.0, 0.0, SPRITE], [SPRITE, 0.0, SPRITE / 2], [SPRITE, SPRITE / 2, SPRITE / 4]])
"""The mip levels in a texture: x, y, side."""


def _mipmapped(images: Tensor) -> Tensor:
    """(M, 4, S, S) uint8 RGBA → (M, 4, S, 1.5 S) float: premultiplied, two smaller levels beside it."""
    rgba = images.float() / 255.0
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], dim=1)
    texture = rgba.new_zeros(len(rgba), 4, SPRITE, SPRITE * 3 // 2)
    texture[:, :, :, :SPRITE] = rgba
    texture[:, :, : SPRITE // 2, SPRITE:] = F.avg_pool2d(rgba, 2)
    texture[:, :, SPRITE // 2 : SPRITE * 3 // 4, SPRITE : SPRITE * 5 // 4] = F.avg_pool2d(rgba, 4)
    return texture


def _tinted(textures: Tensor, tint: Tensor) -> Tensor:
    """Give premultiplied (M, 4, h, w) textures the hue of their tint index (M,); their shading stays."""
    colour = torch.as_tensor(TINT_RGB, device=textures.device)[tint][:, :, None, None]
    weights = textures.new_tensor([0.299, 0.587, 0.114])[None, :, None, None]
    rgb, alpha = textures[:, :3], textures[:, 3:]
    light = (rgb * weights).sum(dim=1, keepdim=True)
    shaded = colour * (0.35 * alpha + 0.75 * light)
    shaded = shaded + 0.25 * (light - 0.75 * alpha).clamp(min=0)  # highlights stay light
    mixed = (0.88 * shaded + 0.12 * rgb).clamp(min=0).minimum(alpha)
    return torch.cat([torch.where((tint > 0)[:, None, None, None], mixed, rgb), alpha], dim=1)


def _lay_photos(colour: Tensor, batch: SceneBatch, x: Tensor, y: Tensor) -> None:
    """Lay the scenes' photographs over ``colour`` (B, 3, rows, columns), in place.

    ``x`` and ``y`` are the columns' and the rows' positions in the world, in frame sizes.
    """
    chosen = (batch.photo >= 0).nonzero().squeeze(1)
    if not len(chosen):
        return
    views = load_photos().on(batch.photo.device)
    # A few at a time: each view becomes floats before it is sampled.
    for rows in torch.split(chosen, PHOTOS_AT_ONCE):
        left, top, width, height = batch.photo_window[rows].unbind(dim=1)
        u = left[:, None] + (x - SPARE) * width[:, None]  # (b, columns)
        v = top[:, None] + (y - SPARE) * height[:, None]  # (b, rows)
        shape = (len(rows), v.shape[1], u.shape[1])
        grid = torch.stack([u[:, None, :].expand(shape), v[:, :, None].expand(shape)], dim=-1) * 2 - 1
        view = views[batch.photo[rows]].float() / 255.0
        seen = F.grid_sample(view, grid, padding_mode="reflection", align_corners=False)
        brightness, opacity = batch.photo_look[rows, :, None, None, None].unbind(dim=1)
        colour[rows] = colour[rows] + ((seen * brightness).clamp(0, 1) - colour[rows]) * opacity


def _background(batch: SceneBatch, height: int, width: int, origin: float, reach: float) -> Tensor:
    """(B, 3, height * reach, width * reach) in [0, 1]: the world from ``origin`` on, in frame sizes."""
    rows, columns = round(height * reach), round(width * reach)
    device = batch.sprite.device
    y = (torch.arange(rows, device=device) + 0.5) / height + origin
    x = (torch.arange(columns, device=device) + 0.5) / width + origin
    grid = torch.stack(torch.meshgrid(x / WORLD * 2 - 1, y / WORLD * 2 - 1, indexing="xy"), dim=-1)
    grid = grid.expand(len(batch), -1, -1, -1)
    noise = torch.zeros(len(batch), 1, rows, columns, device=device)
    at = 0
    for octave, side in enumerate(OCTAVES):
        lattice = batch.noise[:, at : at + side * side].view(-1, 1, side, side).float() / 127.0
        at += side * side
        # Bicubic at first at a few times the lattice's side, which hides its squares; then linear.
        lattice = F.interpolate(lattice, scale_factor=4 if side <= 24 else 2, mode="bicubic")
        sampled = F.grid_sample(lattice, grid, padding_mode="border", align_corners=False)
        noise += batch.noise_weights[:, octave, None, None, None] * sampled
    across, down = x, y
    x, y = x[None, None, None, :], y[None, None, :, None]

    def parameter(tensor: Tensor, index: int) -> Tensor:
        return tensor[:, index, None, None, None]

    first, second, third, fourth = (batch.colours[:, i, :, None, None] for i in range(4))
    along = (x - 0.5) * parameter(batch.gradient, 0) + (y - 0.5) * parameter(batch.gradient, 1)
    mix = (0.5 + along * parameter(batch.gradient, 2)).clamp(0, 1)
    colour = first + (second - first) * mix
    mix = (batch.noise_amount[:, None, None, None] * (noise + 0.35)).clamp(0, 1)
    colour = colour + (third - colour) * mix
    _lay_photos(colour, batch, across, down)
    p = [parameter(batch.stripes, i) for i in range(6)]
    if bool((p[4] > 0).any()):
        wave = torch.sin(6.2832 * p[2] * (x * p[0] + y * p[1]) + p[5] * noise)
        colour = colour + (fourth - colour) * (torch.sigmoid(p[3] * wave) * p[4])
    if bool((batch.blobs[..., 3] > 0).any()):
        aspect = width / height
        for blob in batch.blobs.unbind(dim=1):
            distance = ((x - blob[:, 0, None, None, None]) * aspect) ** 2 + (
                y - blob[:, 1, None, None, None]
            ) ** 2
            inside = (
                torch.sigmoid((blob[:, 2, None, None, None] - distance.sqrt()) * 60)
                * blob[:, 3, None, None, None]
            )
            colour = colour + (blob[:, 4:, None, None] - colour) * inside
    return colour.clamp(0, 1)


def _seen_background(batch: SceneBatch, frames: Tensor, height: int, width: int, moving: bool) -> Tensor:
    """(B, K, H, W, 3) in [0, 1], or (B, 1, H, W, 3) where the camera rests.

    The camera's middle position begins :data:`SPARE` frame sizes from the world's corner, and pans stay within.
    """
    if not moving:
        return _background(batch, height, width, SPARE, 1.0).permute(0, 2, 3, 1)[:, None]
    device = batch.sprite.device
    world = _background(batch, height, width, 0.0, WORLD)
    pan = batch.pan[torch.arange(len(batch), device=device)[:, None], frames]  # (B, K, 2)
    y = (torch.arange(height, device=device) + 0.5) / height
    x = (torch.arange(width, device=device) + 0.5) / width
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None, None]
    grid = (grid + (pan + SPARE)[:, :, None, None]) / WORLD * 2 - 1  # (B, K, H, W, 2)
    image = F.grid_sample(world, grid.flatten(1, 2), padding_mode="border", align_corners=False)
    shots = image.reshape(len(batch), 3, frames.shape[1], height, width)
    return shots.permute(0, 2, 3, 4, 1)


class _Canvas:
    """The pixels and ids of B scenes at K frames, drawn layer by layer.

    Args:
        batch: The scenes.
        frames: (B, K) indices of the frames.
        height: Of the pictures.
        width: Of the pictures.
    """

    def __init__(self, batch: SceneBatch, frames: Tensor, height: int, width: int) -> None:
        self._batch = batch
        self._frames = frames
        self._height, self._width = height, width
        self._scenes, self._shots = frames.shape
        self._device = batch.sprite.device
        pixels = self._scenes * self._shots * height * width
        # One spare row at the end takes what falls outside the picture.
        self._pixels = torch.empty(pixels + 1, 3, device=self._device)
        self._pixels[:-1] = self._backgrounds().reshape(-1, 3)
        self._ids = torch.zeros(pixels + 1, dtype=torch.uint8, device=self._device)
        self._row = torch.arange(self._scenes, device=self._device)[:, None]
        self._to_pixels = torch.tensor([width, height], dtype=torch.float32, device=self._device)
        self._stretch = torch.stack([width / batch.size[:, 1], height / batch.size[:, 0]], dim=1)  # (B, 2)
        self._levels = _LEVELS.to(self._device)
        shots = torch.arange(self._scenes * self._shots, device=self._device)
        self._first_pixel = shots.view(self._scenes, self._shots, 1, 1) * (height * width)

    def _backgrounds(self) -> Tensor:
        """(B, K, H, W, 3) in [0, 1]."""
        batch, height, width = self._batch, self._height, self._width
        image = torch.empty(self._scenes, self._shots, height, width, 3, device=self._device)
        panned = batch.pan.flatten(1).any(dim=1)
        for moving in (False, True):
            chosen = (panned == moving).nonzero().squeeze(1)
            if len(chosen):
                part = batch.select(chosen)
                behind = _seen_background(part, self._frames[chosen], height, width, moving)
                image[chosen] = behind.expand(-1, self._shots, -1, -1, -1)
        return image

    def draw(self, layer: int, textures: Tensor) -> None:
        """Draw one object of each scene; its mip-mapped ``textures`` are (B, 4, S, 1.5 S)."""
        batch, stretch = self._batch, self._stretch
        centre = batch.centre[:, layer][self._row, self._frames] * self._to_pixels  # (B, K, 2)
        scale = batch.scale[:, layer][self._row, self._frames] * batch.present[:, layer, None]  # (B, K)
        angle = batch.angle[:, layer][self._row, self._frames]
        cosine, sine = angle.cos(), angle.sin()
        # A turned square needs |cos| + |sin| times its half side.
        room = (scale * (cosine.abs() + sine.abs()))[..., None] * stretch[:, None]
        side = int(torch.ceil(2 * room.max()).item()) + 2
        if side <= 2:
            return
        origin = torch.floor(centre - side / 2)  # (B, K, 2)
        step = torch.arange(side, device=self._device)
        px = origin[..., 0, None] + step  # (B, K, side)
        py = origin[..., 1, None] + step
        dx = ((px + 0.5 - centre[..., 0, None]) / stretch[:, None, None, 0])[:, :, None, :]
        dy = ((py + 0.5 - centre[..., 1, None]) / stretch[:, None, None, 1])[:, :, :, None]
        inverse = 1 / scale.clamp(min=1e-3)[..., None, None]
        turn, lean = cosine[..., None, None], sine[..., None, None]
        u = (turn * dx + lean * dy) * inverse  # (B, K, side, side)
        v = (turn * dy - lean * dx) * inverse
        inside = (u.abs() < 1) & (v.abs() < 1) & (scale > 0)[..., None, None]
        u = torch.where(batch.flip[:, layer, None, None, None], -u, u)
        patch = self._sample(textures, u, v, scale) * inside[..., None]
        self._blend(patch, px, py, layer + 1)

    def _sample(self, textures: Tensor, u: Tensor, v: Tensor, scale: Tensor) -> Tensor:
        """(B, K, side, side, 4) premultiplied RGBA at texture coordinates in [-1, 1], from the mip level by size."""
        drawn = scale * self._stretch.prod(dim=1).sqrt()[:, None]
        level = torch.log2(SPRITE / (2 * drawn.clamp(min=0.5))).round().clamp(0, 2).long()
        left, top, extent = self._levels[level].unbind(dim=-1)  # (B, K)
        half = (extent / 2)[..., None, None]
        margin = half - 0.5
        tx = left[..., None, None] + half + (u * half).clamp(-margin, margin)
        ty = top[..., None, None] + half + (v * half).clamp(-margin, margin)
        grid = torch.stack([tx / (SPRITE * 0.75) - 1, ty / (SPRITE * 0.5) - 1], dim=-1)
        side = u.shape[-1]
        rows = grid.view(self._scenes, self._shots * side, side, 2)
        patch = F.grid_sample(textures, rows, align_corners=False)
        return patch.view(self._scenes, 4, self._shots, side, side).permute(0, 2, 3, 4, 1)

    def _blend(self, patch: Tensor, px: Tensor, py: Tensor, number: int) -> None:
        """Lay a patch (B, K, side, side, 4) over the pixels at columns ``px`` and rows ``py``, (B, K, side)."""
        height, width = self._height, self._width
        within = ((px >= 0) & (px < width))[:, :, None, :] & ((py >= 0) & (py < height))[:, :, :, None]
        index = self._first_pixel + (py.long() * width)[:, :, :, None] + px.long()[:, :, None, :]
        # Only pixels that the sprite touches are looked up and written.
        touched = (within & (patch[..., 3] > 0.004)).view(-1).nonzero().squeeze(1)
        index = index.view(-1)[touched]
        patch = patch.reshape(-1, 4)[touched]
        below = self._pixels.index_select(0, index)
        self._pixels.index_copy_(0, index, patch[:, :3] + below * (1 - patch[:, 3:]))
        solid = index[patch[:, 3] > 0.5]
        self._ids.index_fill_(0, solid, number)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Images (B, K, 3, H, W) uint8 and ids (B, K, H, W) uint8."""
        shape = (self._scenes, self._shots, self._height, self._width)
        images = (self._pixels[:-1] * 255 + 0.5).clamp(0, 255).to(torch.uint8).view(*shape, 3)
        return images.permute(0, 1, 4, 2, 3).contiguous(), self._ids[:-1].view(shape)


def _draw(
    batch: SceneBatch, textures: Tensor, frames: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Draw scenes whose mip-mapped ``textures`` are (B, N, 4, S, 1.5 S), at ``frames`` (B, K)."""
    canvas = _Canvas(batch, frames, height, width)
    for layer in range(batch.sprite.shape[1]):
        canvas.draw(layer, textures[:, layer])
    return canvas.finish()


@torch.inference_mode()
def render(
    batch: SceneBatch,
    atlas: Atlas,
    frames: Tensor | Sequence[int] | NDArray[np.int64] | None = None,
    size: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Draw a batch.

    Args:
        batch: Scenes, on any device.
        atlas: Pictures of the styles that the scenes were sampled with.
        frames: Frame indices, (K,) for all scenes or (B, K); all frames if left out.
        size: (height, width) to draw at; the first scene's native size if left out. Where the aspect differs
            from a scene's, the picture is stretched, as a resized video is.
        device: Device that draws; the results stay there.

    Returns:
        Images (B, K, 3, H, W) uint8 RGB, and ids (B, K, H, W) uint8: the topmost visible object + 1, 0 for
        the background (of the edge pixels, those that the sprite covers by more than half).
    """
    device = torch.device(device)
    batch = batch.to(device)
    if size is None:
        size = (int(batch.size[0, 0].item()), int(batch.size[0, 1].item()))
    height, width = size
    if frames is None:
        frames = torch.arange(batch.centre.shape[2])
    frames = torch.as_tensor(frames, device=device)
    if frames.ndim == 1:
        frames = frames.expand(len(batch), -1)
    at_once = PIXELS_AT_ONCE["cpu" if device.type == "cpu" else "cuda"]
    chunk = max(1, at_once // (frames.shape[1] * height * width))
    sprites = atlas.on(device)
    drawn = []
    for start in range(0, len(batch), chunk):
        part = batch.select(slice(start, start + chunk))
        textures = _mipmapped(sprites[part.style, part.sprite].flatten(0, 1))
        textures = _tinted(textures, part.tint.flatten())
        textures = textures.reshape(*part.sprite.shape, *textures.shape[1:])
        drawn.append(_draw(part, textures, frames[start : start + chunk], height, width))
    images, ids = zip(*drawn, strict=True)
    return torch.cat(images), torch.cat(ids)
