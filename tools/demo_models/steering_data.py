"""Training samples of the demo's soft prompts: fresh clips for every step, drawn and encoded as batches.

Processes sample scenes and expressions (numpy, some milliseconds a clip); the device draws them and runs the
vision tower over all pictures of a batch at once (:class:`tools.demo_models.lvlm_fast.FastLVLM`), so that no clip
has to come twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from steerseg.demo.language import Referral, referrals
from steerseg.demo.scene import Scene
from steerseg.demo.sprites import load_atlas
from steerseg.demo.world import WorldSpec, collate, render, sample_scene
from steerseg.grounding import VisionContext, encode_keyframes
from steerseg.lvlm import LVLM
from steerseg.presets import Preset
from steerseg.training.trainer import TrainingSample
from tools.demo_models.lvlm_data import GEOMETRIES, at_frames, flawed
from tools.demo_models.lvlm_fast import FastLVLM, Layout

TRAINING_WORLD = WorldSpec(objects=(2, 6), frames=(24, 72), photos=0.35)
PIXELS_PER_CELL = 8  # side of a frame pass's cell in the masks that targets are averaged from

ATTRIBUTES = {"none": 0.4, "true": 0.4, "flawed": 0.2}
"""Where a sample's attributes line comes from → how often. The model's own are as good as a mixture of the last two,
and take a generation each."""


@dataclass(frozen=True)
class Asked:
    """One clip at its keyframes, and what is asked about it: expressions and attributes."""

    scene: Scene
    questions: tuple[tuple[Referral, tuple[str, ...]], ...]


def by_turns(choices: Sequence[Referral], rng: np.random.Generator) -> list[Referral]:
    """Shuffled, so that the kinds of expression take turns; without those of several objects."""
    singular = [choice for choice in choices if choice.kind != "plural"]
    seen: dict[str, int] = defaultdict(int)
    turns: list[tuple[int, Referral]] = []
    for index in rng.permutation(len(singular)):
        turns.append((seen[singular[index].kind], singular[index]))
        seen[singular[index].kind] += 1
    return [choice for _, choice in sorted(turns, key=lambda turn: turn[0])]


def _attributes(referral: Referral, choices: Sequence[Referral], rng: np.random.Generator) -> tuple[str, ...]:
    source = rng.choice(list(ATTRIBUTES), p=list(ATTRIBUTES.values()))
    if source == "none" or not referral.attributes:
        return ()
    if source == "true":
        return referral.attributes
    facts = {choice.targets[0]: choice.attributes for choice in choices}
    others = [facts[target] for target in facts if target not in referral.targets]
    return flawed(referral.attributes, others, rng)


class ClipStream(IterableDataset[list[Asked]]):
    """Endless batches of clips of one size; runs in worker processes.

    Args:
        seed: Of everything; each worker has its own share of chance.
        clips: Clips of a batch.
        expressions: Questions about each clip, at most.
        keyframes: Frames of a clip that the model sees.
        world: The distribution of scenes; sizes are those of :data:`tools.demo_models.lvlm_data.GEOMETRIES`.
    """

    def __init__(self, seed: int, clips: int, expressions: int, keyframes: int, world: WorldSpec) -> None:
        self.seed, self.clips, self.expressions, self.keyframes = seed, clips, expressions, keyframes
        self.world = world

    def __iter__(self) -> Iterator[list[Asked]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        sizes = list(GEOMETRIES)
        shares = np.array(list(GEOMETRIES.values())) / sum(GEOMETRIES.values())
        while True:
            world = replace(self.world, sizes=(sizes[rng.choice(len(sizes), p=shares)],))
            batch: list[Asked] = []
            while len(batch) < self.clips:
                scene = sample_scene(rng, world)
                choices = by_turns(referrals(scene, rng), rng)
                if not choices:
                    continue
                frames = np.linspace(0, scene.num_frames - 1, self.keyframes).astype(np.intp)
                questions = [(r, _attributes(r, choices, rng)) for r in choices[: self.expressions]]
                batch.append(Asked(at_frames(scene, frames), tuple(questions)))
            yield batch


def _as_they_are(batch: list[Asked]) -> list[Asked]:
    return batch


class SampleFeed:
    """Batches of training samples without end.

    Args:
        lvlm: The model, in single precision.
        preset: Its budgets and questions.
        clips: Clips of a batch.
        expressions: Samples of each clip, at most.
        pictures: Keyframes of a clip that become pictures of a frame pass.
        seed: Of everything.
        workers: Processes that sample; 0 for this one.
        world: The distribution of scenes.
    """

    def __init__(
        self,
        lvlm: LVLM,
        preset: Preset,
        *,
        clips: int,
        expressions: int,
        pictures: int,
        seed: int,
        workers: int,
        world: WorldSpec = TRAINING_WORLD,
    ) -> None:
        self._lvlm, self._preset, self._pictures = lvlm, preset, pictures
        self._fast = FastLVLM(lvlm.model)
        self._atlas = load_atlas(world.styles)
        self._rng = np.random.default_rng([seed, 1])
        self._templates: dict[tuple[int, int], VisionContext] = {}
        processor = lvlm.processor.image_processor
        self._mean = torch.tensor(processor.image_mean, device=lvlm.device).view(3, 1, 1)
        self._std = torch.tensor(processor.image_std, device=lvlm.device).view(3, 1, 1)
        loader = DataLoader(
            ClipStream(seed, clips, expressions, preset.keyframes, world),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            multiprocessing_context="fork" if workers else None,
            collate_fn=_as_they_are,  # arrays travel through pipes as they are, not through shared memory
        )
        self._clips: Iterator[list[Asked]] = iter(loader)

    def __iter__(self) -> Iterator[list[TrainingSample]]:
        return self

    def __next__(self) -> list[TrainingSample]:
        """The samples of the next clips; all of one size."""
        asked = next(self._clips)
        scenes = [item.scene for item in asked]
        shown = [
            sorted(self._rng.permutation(self._preset.keyframes)[: self._pictures].tolist()) for _ in scenes
        ]
        contexts, ids = self.encode(scenes, shown)
        samples = []
        for item, pictures, context, objects in zip(asked, shown, contexts, ids.cpu(), strict=True):
            present = [int(number) for number in objects.unique() if number]
            for referral, attributes in item.questions:
                wanted = [target + 1 for target in referral.targets]
                others = [(objects == number).numpy() for number in present if number not in wanted]
                samples.append(
                    TrainingSample.from_masks(
                        context,
                        self._preset.texts.grounding_question(referral.expression, attributes),
                        torch.isin(objects, torch.tensor(wanted)).numpy(),
                        self._lvlm.family.temporal_merge,
                        pictures=pictures,
                        rejected=np.stack(others) if others else None,
                    )
                )
        return samples

    @torch.no_grad()
    def encode(
        self, scenes: Sequence[Scene], shown: Sequence[Sequence[int]]
    ) -> tuple[list[VisionContext], Tensor]:
        """Draw scenes of one size and show them to the vision tower.

        Args:
            scenes: B scenes at their K keyframes.
            shown: For each, the keyframes that become pictures; the same number of all.

        Returns:
            B contexts as :func:`steerseg.grounding.encode_keyframes` makes them, and object ids (B, K, h, w) uint8 with
            :data:`PIXELS_PER_CELL` pixels a cell of the frame pass; 0 is the background.
        """
        device, first = self._lvlm.device, scenes[0]
        template = self._template(first.height, first.width)
        _, rows, columns = template.video.grid
        images, ids = render(collate(list(scenes)), self._atlas, device=device)
        slices = images.shape[1] // self._lvlm.family.temporal_merge
        video = self._tokens(images, Layout(slices, rows, columns, video=True))
        chosen = torch.tensor(shown, device=device)
        pictures = images[torch.arange(len(scenes), device=device)[:, None], chosen].flatten(0, 1)[:, None]
        frames = self._tokens(pictures, Layout(1, 2 * rows, 2 * columns, video=False))
        frames = frames.unflatten(0, (len(scenes), -1))
        contexts = [
            VisionContext(
                template.keyframes,
                replace(template.video, tokens=video[index : index + 1]),
                replace(template.frames, tokens=frames[index]),
            )
            for index in range(len(scenes))
        ]
        grid = (2 * PIXELS_PER_CELL * rows, 2 * PIXELS_PER_CELL * columns)
        small = F.interpolate(ids.float(), grid, mode="nearest-exact").to(torch.uint8)
        return contexts, small

    def _tokens(self, images: Tensor, layout: Layout) -> Tensor:
        """(B, T, 3, H, W) uint8 -> visual tokens (B, N, d), resized and normalised as the product does."""
        flat = F.interpolate(
            images.flatten(0, 1).float(), (layout.height, layout.width), mode="bicubic", antialias=True
        )
        pixels = (flat.round().clamp(0, 255) / 255 - self._mean) / self._std
        return self._fast.see(pixels.unflatten(0, images.shape[:2]), layout, plain=True)

    def _template(self, height: int, width: int) -> VisionContext:
        """An empty clip encoded as the product does it: grids, and the text that stands for pictures."""
        if (height, width) not in self._templates:
            preset = self._preset
            self._templates[(height, width)] = encode_keyframes(
                self._lvlm,
                np.zeros((preset.keyframes, height, width, 3), dtype=np.uint8),
                range(preset.keyframes),
                budget=preset.video_tokens,
                seconds_per_slice=preset.seconds_per_slice or 1.0,
                frame_batch=preset.frame_batch,
                pictures=[0],
            )
        return self._templates[(height, width)]
