"""`sprites-ref`: rendered referring videos in fixed splits, on disk in Ref-YouTube-VOS layout.

    python -m steerseg.demo.dataset --split val -o data/sprites-ref

A split is a manifest (``assets/splits/<split>.json``): what its scenes are like, and for every clip its seed
and its expressions. Scenes are drawn again from the seeds, so only the manifests are committed.

``--rebuild`` draws new manifests. It is needed after a change of :data:`RECIPES` or of anything that a scene or
an expression is sampled from (the catalogue, the wordings, the photographs, :mod:`steerseg.demo.world`); results
on a rebuilt split compare with none before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter
from tqdm import tqdm

from steerseg.demo.absence import ABSENT_KINDS, Absences, Half
from steerseg.demo.language import Phrasing, Referral, referrals
from steerseg.demo.scene import Scene
from steerseg.demo.sheet import ASSETS
from steerseg.demo.sprites import FETCHED, Atlas, Catalogue, load_atlas, load_catalogue
from steerseg.demo.world import VARIED_SIZES, WorldSpec, collate, render, sample_scene, unseen_pair
from steerseg.errors import ConfigError

SPLITS = ASSETS / "splits"
ENTROPY = 20_260_514
"""Seeds of the splits start from it, so that training (which seeds differently) never meets their scenes."""


@dataclass(frozen=True)
class Expression:
    """One expression of a clip. ``targets`` are the scene's object indices; ids in annotations are one more.

    An expression of nothing in the clip has no target.

    ``twin`` tells that another object of the scene has the same name as the target: they differ only in tint,
    size, position or motion.
    """

    text: str
    targets: tuple[int, ...]
    kind: str
    name: str
    attributes: tuple[str, ...]
    twin: bool


@dataclass(frozen=True)
class ClipEntry:
    """One clip of a manifest."""

    video: str
    seed: int
    expressions: tuple[Expression, ...]


@dataclass(frozen=True)
class Manifest:
    """A split: the world its scenes come from, and its clips."""

    split: str
    about: str
    world: WorldSpec
    phrasing: Phrasing
    clips: tuple[ClipEntry, ...]


@dataclass(frozen=True)
class Clip:
    """A rendered clip: ``frames`` (T, H, W, 3) uint8 RGB, ``ids`` (T, H, W) uint8 with 0 = background."""

    entry: ClipEntry
    frames: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    fps: float

    def masks(self, expression: Expression) -> NDArray[np.bool_]:
        """(T, H, W) masks of an expression's targets, together."""
        return np.isin(self.ids, [target + 1 for target in expression.targets])


@dataclass(frozen=True)
class _Recipe:
    about: str
    world: WorldSpec
    clips: int
    expressions: int
    phrasing: Phrasing = "train"
    twins: float = 0.0  # share of clips that begin with a twin told apart by motion or position
    about_what: Literal["one", "several", "one or none"] = "one"
    half: Half = "measure"  # of the fixed texts that name nothing


_TEST = WorldSpec(sizes=VARIED_SIZES, frames=(24, 96), pairs="any", photos=0.3, photo_half="heldout")
RECIPES: dict[str, _Recipe] = {
    "val": _Recipe(
        "for choosing weights: 480x270, one expression a clip",
        WorldSpec(pairs="any", photos=0.3, photo_half="heldout"),
        100,
        1,
        twins=0.2,
    ),
    "test": _Recipe("unseen scenes of several sizes and lengths", _TEST, 160, 2, twins=0.3),
    "test-compositions": _Recipe(
        "targets in a tint that they never have in training",
        replace(_TEST, pairs="unseen"),
        60,
        2,
    ),
    "test-phrasings": _Recipe("wordings that training never uses", _TEST, 60, 2, "heldout"),
    "test-objects": _Recipe(
        "targets that are held-out objects",
        replace(_TEST, split="heldout"),
        60,
        2,
    ),
    "test-style": _Recipe(
        "sprites of a style that training never shows and the package does not ship",
        replace(_TEST, styles=("twemoji",)),
        60,
        2,
        twins=0.3,
    ),
    "presence-val": _Recipe(
        "for fitting presence: per clip three expressions of an object, three of none",
        replace(_TEST, sizes=((270, 480),), frames=(24, 48)),
        60,
        6,
        about_what="one or none",
        half="develop",
    ),
    "test-presence": _Recipe(
        "per clip three expressions of an object, three of none", _TEST, 100, 6, about_what="one or none"
    ),
    "test-plurals": _Recipe("expressions of several objects", _TEST, 60, 1, about_what="several"),
    "plurals-val": _Recipe(
        "for choosing how several objects are found: one expression of several objects a clip",
        replace(_TEST, sizes=((270, 480),), frames=(24, 48)),
        100,
        1,
        about_what="several",
    ),
}


def scene_of(manifest: Manifest, entry: ClipEntry) -> Scene:
    """The scene of a clip, drawn again from its seed."""
    return sample_scene(np.random.default_rng((ENTROPY, entry.seed)), manifest.world)


def _choose(
    possible: Sequence[Referral], count: int, names: Sequence[str], want_twin: bool
) -> list[Referral]:
    """Referrals of different kinds; none of several objects, since a proposal is one object.

    Args:
        possible: The referrals of the scene, in random order.
        count: Number of referrals to choose; fewer come back where there are not enough.
        names: The names of the scene's objects.
        want_twin: The first must be of an object that another one shares its name with, and tell it apart by
            motion or position; where there is none, nothing is chosen.
    """
    singular = [referral for referral in possible if referral.kind != "plural"]
    chosen: list[Referral] = []
    if want_twin:
        twins = [
            r for r in singular if r.kind in ("motion", "spatial") and names.count(names[r.targets[0]]) > 1
        ]
        if not twins:
            return []
        chosen = twins[:1]
    for referral in singular:
        if len(chosen) < count and referral.kind not in {c.kind for c in chosen}:
            chosen.append(referral)
    return chosen


def _possible(
    scene: Scene, rng: np.random.Generator, recipe: _Recipe, catalogue: Catalogue
) -> list[Referral]:
    """The referrals of a scene whose targets are those that a recipe is about."""
    possible = referrals(scene, rng, phrasing=recipe.phrasing, catalogue=catalogue)
    if recipe.world.split == "heldout":
        possible = [r for r in possible if catalogue.heldout[scene.sprite[r.targets[0]]]]
    if recipe.world.pairs == "unseen":
        unseen = unseen_pair(scene.sprite, scene.tint)
        possible = [r for r in possible if unseen[r.targets[0]]]
    return possible


def _absent(
    scene: Scene, rng: np.random.Generator, recipe: _Recipe, catalogue: Catalogue, clip: int
) -> list[Referral]:
    """Expressions of nothing in the scene, of kinds that take turns."""
    absences = Absences(scene, sample_scene(rng, recipe.world, catalogue), rng, catalogue, recipe.half)
    count = recipe.expressions - recipe.expressions // 2
    kinds = [ABSENT_KINDS[(clip * count + k) % len(ABSENT_KINDS)] for k in range(count)]
    drawn = [absences.draw(kind) for kind in kinds]
    return [referral for referral in drawn if referral is not None]


def _expression(referral: Referral, names: Sequence[str]) -> Expression:
    twin = bool(referral.targets) and names.count(names[referral.targets[0]]) > 1
    return Expression(
        referral.expression, referral.targets, referral.kind, referral.name, referral.attributes, twin
    )


def build_manifest(split: str) -> Manifest:
    """Draw the seeds and expressions of a split anew.

    Raises:
        ConfigError: If the split has no recipe.
    """
    if split not in RECIPES:
        raise ConfigError(f"unknown split {split!r}; there are {', '.join(RECIPES)}")
    recipe = RECIPES[split]
    catalogue = load_catalogue(recipe.world.styles)
    clips: list[ClipEntry] = []
    seed = (list(RECIPES).index(split) + 1) * 100_000
    while len(clips) < recipe.clips:
        seed += 1
        rng = np.random.default_rng((ENTROPY, seed))
        scene = sample_scene(rng, recipe.world, catalogue)
        names = [catalogue.names[i] for i in scene.sprite]
        possible = _possible(scene, rng, recipe, catalogue)
        if recipe.about_what == "several":
            chosen = [r for r in possible if r.kind == "plural"][: recipe.expressions]
        elif recipe.about_what == "one or none":
            present = _choose(possible, recipe.expressions // 2, names, want_twin=False)
            absent = _absent(scene, rng, recipe, catalogue, len(clips))
            chosen = [*present, *absent]
        else:
            want_twin = int((len(clips) + 1) * recipe.twins) > int(len(clips) * recipe.twins)
            chosen = _choose(possible, recipe.expressions, names, want_twin)
        if len(chosen) < recipe.expressions:
            continue
        expressions = tuple(_expression(referral, names) for referral in chosen)
        clips.append(ClipEntry(f"{split}-{len(clips):04d}", seed, expressions))
    return Manifest(split, recipe.about, recipe.world, recipe.phrasing, tuple(clips))


def _as_json(manifest: Manifest) -> str:
    """One clip a line."""
    head = {
        "split": manifest.split,
        "about": manifest.about,
        "world": asdict(manifest.world),
        "phrasing": manifest.phrasing,
    }
    clips = ",\n".join("  " + json.dumps(asdict(clip), ensure_ascii=False) for clip in manifest.clips)
    text = json.dumps(head, indent=1, ensure_ascii=False)[:-2]
    return f'{text},\n "clips": [\n{clips}\n ]\n}}\n'


def save_manifest(manifest: Manifest, directory: Path = SPLITS) -> Path:
    """Write a manifest as JSON, one clip a line."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{manifest.split}.json"
    path.write_text(_as_json(manifest), encoding="utf-8")
    return path


def load_manifest(split: str, directory: Path = SPLITS) -> Manifest:
    """Read a committed manifest.

    Raises:
        ConfigError: If there is none of that name.
    """
    path = directory / f"{split}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in directory.glob("*.json")))
        raise ConfigError(f"unknown split {split!r} of sprites-ref; there are {known}")
    return TypeAdapter(Manifest).validate_json(path.read_bytes())


@lru_cache(maxsize=1)
def _atlas(styles: tuple[str, ...], cache: Path = FETCHED) -> Atlas:
    return load_atlas(styles, cache)


def render_scene(scene: Scene, atlas: Atlas) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a scene at its native size: frames (T, H, W, 3) uint8 RGB and ids (T, H, W) uint8."""
    images, ids = render(collate([scene]), atlas)
    return np.ascontiguousarray(images[0].permute(0, 2, 3, 1).numpy()), ids[0].numpy()


def clips(manifest: Manifest) -> Iterator[Clip]:
    """Draw the clips of a split one after the other, without touching the disk."""
    atlas = _atlas(manifest.world.styles)
    for entry in manifest.clips:
        scene = scene_of(manifest, entry)
        frames, ids = render_scene(scene, atlas)
        yield Clip(entry, frames, ids, scene.fps)


def _palette() -> list[int]:
    """The colours of DAVIS and YouTube-VOS annotations."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    for i in range(256):
        value, shift = i, 7
        while value:
            for channel in range(3):
                palette[i, channel] |= ((value >> channel) & 1) << shift
            shift -= 1
            value >>= 3
    return palette.flatten().tolist()


def write_clip(entry: ClipEntry, manifest: Manifest, root: Path, quality: int = 92) -> None:
    """Draw one clip and write its JPEG frames and palette PNG annotations. A complete clip is left alone."""
    torch.set_num_threads(1)  # one process per core does better than one clip on all
    images = root / manifest.split / "JPEGImages" / entry.video
    annotations = root / manifest.split / "Annotations" / entry.video
    scene = scene_of(manifest, entry)
    if images.is_dir() and len(list(images.glob("*.jpg"))) == scene.num_frames:
        return
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    frames, ids = render_scene(scene, _atlas(manifest.world.styles, root / "styles"))
    palette = _palette()
    for t, (frame, mask) in enumerate(zip(frames, ids, strict=True)):
        annotation = Image.fromarray(mask, mode="P")
        annotation.putpalette(palette)
        annotation.save(annotations / f"{t:05d}.png")
        Image.fromarray(frame).save(
            images / f"{t:05d}.jpg", quality=quality
        )  # last: marks the frame complete


def _remove_other_clips(manifest: Manifest, root: Path) -> None:
    """Remove what an earlier manifest of the same name has drawn: its clips have the same names."""
    stamp = root / manifest.split / "manifest.sha256"
    digest = hashlib.sha256(_as_json(manifest).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="ascii") == digest:
        return
    for folder in ("JPEGImages", "Annotations"):
        shutil.rmtree(root / manifest.split / folder, ignore_errors=True)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest, encoding="ascii")


def write_split(manifest: Manifest, root: Path, workers: int = 1) -> Path:
    """Write a split under ``root`` in Ref-YouTube-VOS layout. Clips that are there already are left alone.

    Args:
        manifest: The split.
        root: Folder that gets ``<split>/JPEGImages``, ``<split>/Annotations`` and ``meta_expressions/<split>``.
        workers: Processes that draw at once.

    Returns:
        The path of ``meta_expressions.json``.

    Raises:
        ConfigError: If the split's style has to be fetched and cannot be.
    """
    _atlas(manifest.world.styles, root / "styles")  # fetched here, where an error is seen, and once
    _remove_other_clips(manifest, root)
    write = partial(write_clip, manifest=manifest, root=root)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            list(tqdm(pool.map(write, manifest.clips), total=len(manifest.clips), unit="clip", disable=None))
    else:
        for entry in tqdm(manifest.clips, unit="clip", disable=None):
            write(entry)
    videos = {}
    for entry in manifest.clips:
        scene = scene_of(manifest, entry)
        videos[entry.video] = {
            "frames": [f"{t:05d}" for t in range(scene.num_frames)],
            "fps": scene.fps,
            "expressions": {
                str(k): {
                    "exp": expression.text,
                    **({"obj_id": str(expression.targets[0] + 1)} if expression.targets else {}),
                    "obj_ids": [target + 1 for target in expression.targets],
                    "kind": expression.kind,
                    "name": expression.name,
                    "attributes": list(expression.attributes),
                    "twin": expression.twin,
                }
                for k, expression in enumerate(entry.expressions)
            },
        }
    path = root / "meta_expressions" / manifest.split / "meta_expressions.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"videos": videos}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write sprites-ref in Ref-YouTube-VOS layout.")
    parser.add_argument("--split", help=f"one of {', '.join(RECIPES)} (default: val)")
    parser.add_argument("-o", "--output", type=Path, default=Path("data/sprites-ref"))
    parser.add_argument("--workers", type=int, default=1, help="processes that draw at once")
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="instead, draw a new manifest of the split, or of all: new clips, which no old number compares with",
    )
    options = parser.parse_args()
    if options.rebuild:
        for split in [options.split] if options.split else RECIPES:
            print(f"wrote {save_manifest(build_manifest(split))}")
        return
    print(f"wrote {write_split(load_manifest(options.split or 'val'), options.output, options.workers)}")


if __name__ == "__main__":
    main()
