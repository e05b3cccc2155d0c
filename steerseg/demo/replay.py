"""The demo preset's replay set: rendered scenes of the kind that its soft prompts were trained on."""

from __future__ import annotations

import numpy as np

from steerseg.demo.dataset import render_scene
from steerseg.demo.language import KINDS, Referral, referrals
from steerseg.demo.sprites import load_atlas
from steerseg.demo.world import WorldSpec, sample_scene
from steerseg.presets import ReplaySpec
from steerseg.replay import Part, ReplayClip
from steerseg.video import Video

ENTROPY = 20_261_122
"""Seeds of the scenes start from it, so that they are none of training's and none of the splits'."""

# Short clips of the size that most training scenes have: replay costs time in every refinement.
WORLD = WorldSpec(frames=(24, 32), photos=0.35)
_SINGLE = [kind for kind in KINDS if kind != "plural"]


class SpriteReplay:
    """Rendered scenes by number, their kinds of expression in turn.

    Args:
        spec: Its seed chooses the scenes.
    """

    def __init__(self, spec: ReplaySpec) -> None:
        self._seed = spec.seed
        self._atlas = load_atlas(WORLD.styles)

    def __call__(self, part: Part, index: int) -> ReplayClip:
        """Draw a clip; see :class:`~steerseg.replay.ReplaySource`."""
        rng = np.random.default_rng((ENTROPY, self._seed, part == "held_out", index))
        kind = _SINGLE[index % len(_SINGLE)]
        of_kind: list[Referral] = []
        while not of_kind:
            scene = sample_scene(rng, WORLD)
            of_kind = [referral for referral in referrals(scene, rng) if referral.kind == kind]
        referral = of_kind[int(rng.integers(len(of_kind)))]
        frames, ids = render_scene(scene, self._atlas)
        name = f"sprites-{self._seed}-{part}-{index}"
        video = Video(
            frames=frames,
            pts=np.arange(len(frames), dtype=np.float64) / scene.fps,
            fps=scene.fps,
            source=name,
            digest=name,
        )
        masks = np.isin(ids, [target + 1 for target in referral.targets])
        return ReplayClip(video, referral.expression, masks)
