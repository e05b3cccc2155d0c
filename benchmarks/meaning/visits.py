"""Clips of the demo's world in which the target is visible for a part of the time alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.meaning.answers import ClipQuestions
from steerseg.demo.absence import ABSENT_KINDS, Absences
from steerseg.demo.dataset import ENTROPY, Clip, ClipEntry, Expression, Manifest, render_scene
from steerseg.demo.language import Referral, referrals
from steerseg.demo.scene import Scene, extents
from steerseg.demo.sprites import load_atlas, load_catalogue
from steerseg.demo.world import WorldSpec, sample_scene
from steerseg.video import keyframe_indices, video_from_frames

VISITS = ("between", "back between", "back", "late", "left", "never", "always")
"""When the target is visible.

``between``: between two keyframes alone. ``back between``: it leaves, and comes back between two keyframes.
``back``: it leaves, and comes back over keyframes. ``late``: it enters late. ``left``: it leaves for good.
"""

SEEDS = {"develop": 5_000_000, "measured": 6_000_000, "absent": 7_000_000}
"""Splits: rules were chosen on the first. ``absent`` asks whole clips for what is not there."""

KEYFRAMES = 8
_KINDS = ("explicit", "attribute")  # what stays true of one object alone wherever it is
_WHERE = re.compile(r"\b(?:left|right|top|bottom|upper|lower|middle|centre|half|corner|edge|side)\b")
_RAMP = 5  # frames of an entry or an exit, at most
WORLD = WorldSpec(frames=(96, 160), pairs="any", photos=0.3, photo_half="heldout")


def visits_manifest(split: str, count: int) -> Manifest:
    """Clips of a split, one expression each; the visits, or the kinds of what is not there, take turns.

    Args:
        split: A name of :data:`SEEDS`.
        count: Number of clips.
    """
    clips: list[ClipEntry] = []
    seed = SEEDS[split]
    asked = _absent if split == "absent" else _visitor
    while len(clips) < count:
        seed += 1
        expression = asked(sample_scene(np.random.default_rng((ENTROPY, seed)), WORLD), seed, len(clips))
        if expression is not None:
            clips.append(ClipEntry(f"visits-{split}-{len(clips):04d}", seed, (expression,)))
    about = "targets that are visible for a part of the time, or never"
    return Manifest(f"visits-{split}", about, WORLD, "train", tuple(clips))


def draw_visit(manifest: Manifest, entry: ClipEntry) -> ClipQuestions:
    """The clip of an entry, in which the target comes and goes as its kind says."""
    scene = sample_scene(np.random.default_rng((ENTROPY, entry.seed)), manifest.world)
    (expression,) = entry.expressions
    if expression.targets:
        windows = visible_windows(expression.kind, scene.num_frames, np.random.default_rng((entry.seed, 1)))
        scene = come_and_go(scene, expression.targets[0], windows)
    frames, ids = render_scene(scene, load_atlas(scene.styles))
    clip = Clip(entry, frames, ids, scene.fps)
    return ClipQuestions(clip, video_from_frames(frames, fps=scene.fps))


def visible_windows(visit: str, frames: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """From and to which frame (exclusive) the target is in the picture."""
    moments = keyframe_indices(frames, KEYFRAMES)
    last = len(moments) - 1
    gap = int(rng.integers(3, last))  # the later of the gaps between keyframes, in which it is seen
    seen = (moments[gap] + 1, moments[gap + 1])
    start = (0, moments[1] + 3)
    return {
        "between": [seen],
        "back between": [start, seen],
        "back": [start, (moments[gap] - 4, frames)],
        "late": [(moments[gap] - 4, frames)],
        "left": [start],
        "never": [],
        "always": [(-_RAMP, frames + _RAMP)],
    }[visit]


def come_and_go(scene: Scene, target: int, windows: Sequence[tuple[int, int]]) -> Scene:
    """The scene with one object moved out of the picture wherever it is in no window.

    It enters and leaves over the nearest side within a few frames at both ends of a window; what touches the clip's
    beginning does not enter, and what touches its end does not leave.
    """
    half = extents(scene, load_catalogue(scene.styles))[target]
    path = scene.centre[target].copy()
    reach = np.hypot(half[:, 0], half[:, 1]).max() + 2
    left = path[:, 0].mean() < scene.width / 2
    outside = np.stack([np.full(len(path), -reach if left else scene.width + reach), path[:, 1]], axis=1)
    inside = np.max(
        [_share_inside(scene.num_frames, *window) for window in windows] or [np.zeros(len(path))], axis=0
    )
    centre = scene.centre.copy()
    centre[target] = outside + (path - outside) * inside[:, None]
    return replace(scene, centre=centre.astype(np.float32))


def _share_inside(frames: int, start: int, end: int) -> NDArray[np.float64]:
    time = np.arange(frames)
    entered = np.ones(frames) if start <= 0 else (time - start + 1) / _RAMP
    stays = np.ones(frames) if end >= frames else (end - time) / _RAMP
    return np.clip(np.minimum(entered, stays), 0, 1)


def _visitor(scene: Scene, seed: int, number: int) -> Expression | None:
    """An expression that stays true wherever its target is; ``None`` where there is none."""
    catalogue = load_catalogue(scene.styles)
    for referral in referrals(scene, np.random.default_rng((seed, 2)), kinds=_KINDS, catalogue=catalogue):
        path = scene.centre[referral.targets[0]]
        inside = np.all((path > 0) & (path < (scene.width, scene.height)))
        if len(referral.targets) == 1 and inside and not _WHERE.search(referral.expression):
            return _expression(referral, VISITS[number % len(VISITS)])
    return None


def _absent(scene: Scene, seed: int, number: int) -> Expression | None:
    """An expression of nothing in the scene; ``None`` where none of its kind was drawn."""
    rng, catalogue = np.random.default_rng((seed, 3)), load_catalogue(scene.styles)
    absences = Absences(scene, sample_scene(rng, WORLD, catalogue), rng, catalogue, "measure")
    referral = absences.draw(ABSENT_KINDS[number % len(ABSENT_KINDS)])
    return None if referral is None else _expression(referral, referral.kind)


def _expression(referral: Referral, kind: str) -> Expression:
    return Expression(
        referral.expression, referral.targets, kind, referral.name, referral.attributes, twin=False
    )
