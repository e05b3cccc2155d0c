"""Training samples of the demo's vision-language model: clips of the sprite world and questions about them.

A batch has one geometry. Each of its rows is one clip, seen as a video of its keyframes or as one keyframe at
twice the grid, and as many questions as fit behind it (see :mod:`tools.demo_models.lvlm_fast`). Everything here
is numpy and runs in worker processes; pictures are drawn later, on the GPU.

Tasks:

- ``reason``: the chain-of-thought pass (videos only);
- ``ground``: the object's name without an attributes line;
- ``steer``: the same with one, which sometimes has a wrong or missing attribute, as the model's own have;
- ``where``: the object's position and size as percentages, at one frame pair of a video or over all of them;
- ``at``: the inverse, from a position to the name or the attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from steerseg.demo import prompts
from steerseg.demo.colours import COLOURS, TINTS
from steerseg.demo.language import Referral, referrals, vocabulary
from steerseg.demo.scene import Scene, extents, visible_fraction
from steerseg.demo.sprites import Catalogue, load_catalogue
from steerseg.demo.world import SceneBatch, WorldSpec, collate, sample_scene
from steerseg.lvlm.families.base import video_grid
from tools.demo_models.lvlm import FRAME_SCALE, TEMPORAL_PATCH, VIDEO_TOKENS
from tools.demo_models.lvlm_fast import Layout

Mode = Literal["video", "frame"]

KEYFRAMES = 8
MOST_OBJECTS = 6
TASKS = ("reason", "ground", "steer", "where", "at")

GEOMETRIES: dict[tuple[int, int], float] = {
    (270, 480): 0.60,
    (288, 512): 0.08,
    (480, 270): 0.08,
    (240, 560): 0.05,
    (360, 480): 0.10,
    (384, 384): 0.09,
}
"""Native height and width of a batch's clips → how often. The first four have 60 tokens a frame pair."""

SHARES: dict[Mode, dict[str, float]] = {
    "video": {"reason": 0.32, "ground": 0.20, "steer": 0.15, "where": 0.23, "at": 0.10},
    "frame": {"ground": 0.25, "steer": 0.30, "where": 0.30, "at": 0.15},
}
"""Mode → task → how often."""

TASK_WEIGHTS = {"reason": 1.0, "ground": 2.0, "steer": 1.5, "where": 0.6, "at": 0.8}
"""Task → weight of its answers, which are also divided by the square root of their length."""

KIND_WEIGHTS = {"explicit": 0.6, "plural": 0.6, "implicit": 1.6}
"""Kind of expression → how readily it is drawn; 1 where absent. Named objects need no picture."""

MOVING_KINDS = frozenset({"motion"})
"""Kinds of expression that one frame cannot answer: frame passes ask them with attributes only."""


@dataclass(frozen=True)
class Question:
    """One question about a clip.

    Attributes:
        task: One of :data:`TASKS`.
        text: The user's text.
        answer: The assistant's.
        referral: The expression it is about.
    """

    task: str
    text: str
    answer: str
    referral: Referral


@dataclass(frozen=True)
class Batch:
    """One batch on its way to the GPU, all numpy. B rows, N text tokens, O objects at most.

    Attributes:
        layout: Shape of the pictures.
        native: Height and width of the clips.
        scenes: The fields of a :class:`SceneBatch` that holds the keyframes only.
        ids: (B, N) tokens of the packed questions.
        segments: (B, N) number of the question, from 1; 0 for padding.
        offsets: (B, N) position within the question.
        labels: (B, N) the next token where it belongs to an answer, else -1.
        weights: (B, N) weight of that label.
        tasks: (B, N) index into :data:`TASKS`.
        names: (B, O) object class.
        colours: (B, O) colour class or -1.
        centres: (B, pairs, O, 2) in [0, 1], mean over the pair.
        sizes: (B, pairs, O) height as a share of the picture's.
    """

    layout: Layout
    native: tuple[int, int]
    scenes: dict[str, NDArray[Any]]
    ids: NDArray[np.int32]
    segments: NDArray[np.int32]
    offsets: NDArray[np.int32]
    labels: NDArray[np.int32]
    weights: NDArray[np.float32]
    tasks: NDArray[np.int8]
    names: NDArray[np.int64]
    colours: NDArray[np.int64]
    centres: NDArray[np.float32]
    sizes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> Batch:
        """Some of the rows."""
        cut = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name not in _WHOLE}
        return replace(self, scenes={name: array[rows] for name, array in self.scenes.items()}, **cut)


_WHOLE = ("layout", "native", "scenes")


class Vocabulary:
    """The tokenizer as worker processes use it: fast, and free of PyTorch.

    Args:
        folder: Folder with ``tokenizer.json``.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.header = self.encode(["<|im_start|>user\n"])[0]
        self.turn = self.encode(["<|im_end|>\n<|im_start|>assistant\n"])[0]
        self.end = self.encode(["<|im_end|>"])[0]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several texts."""
        return [row.ids for row in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids up to the end of the turn."""
        ids = list(ids)
        stop = self.end[0]
        return str(self._tokenizer.decode(ids[: ids.index(stop)] if stop in ids else ids))

    def questions(self, items: Sequence[Question]) -> list[tuple[list[int], list[int]]]:
        """Prompt (from behind ``<|vision_end|>`` to where the answer begins) and answer tokens of each."""
        encoded = self.encode([text for item in items for text in (item.text, item.answer)])
        return [
            (encoded[2 * number] + self.turn, encoded[2 * number + 1] + self.end)
            for number in range(len(items))
        ]


def layout_of(native: tuple[int, int], mode: Mode) -> Layout:
    """The grid that clips of a size get in a pass."""
    rows, columns = video_grid(*native, VIDEO_TOKENS)
    if mode == "video":
        return Layout(KEYFRAMES // TEMPORAL_PATCH, rows, columns, video=True)
    return Layout(1, FRAME_SCALE * rows, FRAME_SCALE * columns, video=False)


def at_frames(scene: Scene, frames: NDArray[np.intp]) -> Scene:
    """The scene reduced to some of its frames."""
    return replace(
        scene,
        centre=scene.centre[:, frames],
        scale=scene.scale[:, frames],
        angle=scene.angle[:, frames],
        pan=scene.pan[frames],
    )


@dataclass(frozen=True)
class Clip:
    """A scene reduced to what a pass shows, with the facts that questions are made of.

    Attributes:
        scene: Only the frames shown.
        whole: All frames.
        visible: (N, pairs) in [0, 1], the larger of the pair's frames.
        boxes: (N, pairs, 4) centre x, y, width, height in [0, 1] of the part inside the picture.
    """

    scene: Scene
    visible: NDArray[np.float32]
    boxes: NDArray[np.float32]


def clip_of(whole: Scene, frames: NDArray[np.intp], pairs: int, catalogue: Catalogue) -> Clip:
    """Reduce a scene to ``frames``, in ``pairs`` groups of consecutive ones."""
    scene = at_frames(whole, frames)
    half = extents(scene, catalogue)
    size = np.array([scene.width, scene.height], dtype=np.float32)
    low = np.clip((scene.centre - half) / size, 0, 1)
    high = np.clip((scene.centre + half) / size, 0, 1)
    boxes = np.concatenate([(low + high) / 2, high - low], axis=-1)
    boxes = boxes.reshape(scene.num_objects, pairs, -1, 4).mean(2)
    visible = visible_fraction(scene, catalogue).reshape(scene.num_objects, pairs, -1).max(2)
    return Clip(scene, visible, boxes.astype(np.float32))


def _choose(rng: np.random.Generator, shares: dict[str, float]) -> str:
    edges = np.cumsum(list(shares.values()))
    return list(shares)[int(np.searchsorted(edges, rng.random() * edges[-1]))]


def dress(expression: str, rng: np.random.Generator) -> str:
    """Small differences in how people type: a capital, a full stop."""
    draw = rng.random()
    if draw < 0.10:
        return expression[:1].upper() + expression[1:]
    if draw < 0.16:
        return expression[:1].upper() + expression[1:] + "."
    return expression


def flawed(
    truth: tuple[str, ...], others: Sequence[tuple[str, ...]], rng: np.random.Generator
) -> tuple[str, ...]:
    """Attributes with a flaw: one taken from another object, or one missing."""
    if others and rng.random() < 0.7:
        other = others[int(rng.integers(len(others)))]
        if other:
            at = 0 if rng.random() < 0.5 or len(other) < 2 else int(rng.integers(len(truth)))
            wrong = other[0] if at == 0 else other[int(rng.integers(1, len(other)))]
            return tuple(dict.fromkeys((*truth[:at], wrong, *truth[at + 1 :])))
    drop = int(rng.integers(len(truth)))
    return truth[:drop] + truth[drop + 1 :]


class QuestionMaker:
    """Asks about clips."""

    def ask(
        self, clip: Clip, choices: Sequence[Referral], mode: Mode, count: int, rng: np.random.Generator
    ) -> list[Question]:
        """Up to ``count`` questions about what ``choices`` refer to."""
        seen = [
            referral
            for referral in choices
            if all(clip.visible[target].max() > 0.25 for target in referral.targets)
        ]
        if not seen:
            return []
        facts = {referral.targets[0]: referral.attributes for referral in choices}
        weights = np.array([KIND_WEIGHTS.get(referral.kind, 1.0) for referral in seen])
        edges = np.cumsum(weights)
        picks = np.searchsorted(edges, rng.random(count) * edges[-1])
        questions = []
        for pick in picks:
            task = _choose(rng, SHARES[mode])
            questions.append(self._question(clip, facts, seen[int(pick)], task, mode, rng))
        return questions

    def _question(
        self,
        clip: Clip,
        facts: dict[int, tuple[str, ...]],
        referral: Referral,
        task: str,
        mode: Mode,
        rng: np.random.Generator,
    ) -> Question:
        expression = dress(referral.expression, rng)
        single = len(referral.targets) == 1
        blind = mode == "frame" and referral.kind in MOVING_KINDS
        if task == "ground" and blind:
            task = "steer"
        if task in ("where", "at") and not single:
            task = "steer"
        if task == "reason":
            return Question(
                task,
                prompts.reasoning_text(expression),
                prompts.reasoning_answer(referral.attributes),
                referral,
            )
        if task == "ground":
            return Question(task, prompts.grounding_text(expression), referral.name, referral)
        if task == "steer":
            given = self._given(facts, referral, rng)
            return Question(task, prompts.grounding_text(expression, given), referral.name, referral)
        target = referral.targets[0]
        pairs = clip.visible.shape[1]
        visible = clip.visible[target]
        if task == "where":
            given = self._given(facts, referral, rng) if blind or rng.random() < 0.4 else ()
            if mode == "video" and rng.random() < 0.3:
                positions = [self._position(clip, target, pair) for pair in range(pairs)]
                return Question(task, prompts.where_text(expression, given), " ".join(positions), referral)
            pair = int(rng.integers(pairs))
            moment = pair + 1 if mode == "video" else None
            answer = self._position(clip, target, pair, size=True)
            return Question(task, prompts.where_text(expression, given, moment), answer, referral)
        pair = int(rng.choice(np.flatnonzero(visible > 0.25)))
        centre = (float(clip.boxes[target, pair, 0]), float(clip.boxes[target, pair, 1]))
        moment = pair + 1 if mode == "video" else None
        if mode == "video" and rng.random() < 0.6:
            answer = prompts.reasoning_answer(referral.attributes)
            return Question(task, prompts.at_text(centre, "Attributes?", moment), answer, referral)
        return Question(
            task, prompts.at_text(centre, "What is the main object?", moment), referral.name, referral
        )

    @staticmethod
    def _given(
        facts: dict[int, tuple[str, ...]], referral: Referral, rng: np.random.Generator
    ) -> tuple[str, ...]:
        truth = referral.attributes
        if rng.random() < 0.7 or not truth:
            return truth
        return flawed(truth, [facts[i] for i in facts if i not in referral.targets], rng)

    @staticmethod
    def _position(clip: Clip, target: int, pair: int, *, size: bool = False) -> str:
        if clip.visible[target, pair] <= 0.05:
            return "hidden"
        x, y, width, height = (float(value) for value in clip.boxes[target, pair])
        return prompts.where_answer((x, y), (width, height)) if size else prompts.position_text(x, y)


class BatchMaker:
    """Makes batches from a source of chance.

    Args:
        folder: Folder with ``tokenizer.json``.
        rows: Rows B of a batch.
        length: Tokens S of a row, prefix and questions together; the same for all geometries, so that one
            compiled graph serves them.
        spec: The distribution of scenes; sizes are set by the geometry.
    """

    def __init__(self, folder: Path, rows: int, length: int, spec: WorldSpec) -> None:
        self.vocabulary = Vocabulary(folder)
        self.catalogue = load_catalogue(spec.styles)
        self.maker = QuestionMaker()
        self.rows, self.length, self.spec = rows, length, spec
        self._main_colours = np.array(
            [[COLOURS.index(word) if word else -1 for word in style] for style in self.catalogue.colours]
        )
        self._tint_colours = np.array([COLOURS.index(word) if word else -1 for word in TINTS])

    def clip(
        self, rng: np.random.Generator, native: tuple[int, int], mode: Mode
    ) -> tuple[Clip, list[Referral]]:
        """One clip that has something to refer to."""
        spec = replace(self.spec, sizes=(native,))
        while True:
            whole = sample_scene(rng, spec, self.catalogue)
            choices = referrals(whole, rng)
            if not choices:
                continue
            keyframes = np.linspace(0, whole.num_frames - 1, KEYFRAMES).astype(np.intp)
            if mode == "frame":
                keyframes = keyframes[rng.integers(KEYFRAMES)][None]
            pairs = KEYFRAMES // TEMPORAL_PATCH if mode == "video" else 1
            return clip_of(whole, keyframes, pairs, self.catalogue), choices

    def batch(self, rng: np.random.Generator, native: tuple[int, int], mode: Mode) -> Batch:
        """One batch of random clips and questions."""
        layout = layout_of(native, mode)
        clips: list[Clip] = []
        asked: list[list[Question]] = []
        most = (self.length - layout.prefix) // 30 + 1
        while len(clips) < self.rows:
            clip, choices = self.clip(rng, native, mode)
            questions = self.maker.ask(clip, choices, mode, most, rng)
            if questions:
                clips.append(clip)
                asked.append(questions)
        return self.pack(clips, asked, native, mode)

    def pack(
        self, clips: Sequence[Clip], asked: Sequence[Sequence[Question]], native: tuple[int, int], mode: Mode
    ) -> Batch:
        """Clips and their questions as one batch; questions that no longer fit are left out."""
        layout = layout_of(native, mode)
        rows, room = len(clips), self.length - layout.prefix
        ids, segments, offsets = (np.zeros((rows, room), dtype=np.int32) for _ in range(3))
        labels = np.full((rows, room), -1, dtype=np.int32)
        weights = np.zeros((rows, room), dtype=np.float32)
        tasks = np.zeros((rows, room), dtype=np.int8)
        encoded = iter(self.vocabulary.questions([question for questions in asked for question in questions]))
        for row, questions in enumerate(asked):
            start = 0
            for number, question in enumerate(questions, start=1):
                prompt, answer = next(encoded)
                end = start + len(prompt) + len(answer)
                if end > room:
                    continue
                ids[row, start:end] = prompt + answer
                segments[row, start:end] = number
                offsets[row, start:end] = np.arange(end - start)
                said = slice(end - len(answer) - 1, end - 1)  # a label stands where the token is predicted
                labels[row, said] = answer
                weights[row, said] = TASK_WEIGHTS[question.task] * len(answer) ** -0.5
                tasks[row, said] = TASKS.index(question.task)
                start = end
        return Batch(
            layout=layout,
            native=native,
            scenes=_arrays(collate([clip.scene for clip in clips])),
            ids=ids,
            segments=segments,
            offsets=offsets,
            labels=labels,
            weights=weights,
            tasks=tasks,
            **self._facts(clips, layout),
        )

    def _facts(self, clips: Sequence[Clip], layout: Layout) -> dict[str, NDArray[Any]]:
        rows = len(clips)
        names = np.zeros((rows, MOST_OBJECTS), dtype=np.int64)
        colours = np.full((rows, MOST_OBJECTS), -1, dtype=np.int64)
        centres = np.zeros((rows, layout.pairs, MOST_OBJECTS, 2), dtype=np.float32)
        sizes = np.ones((rows, layout.pairs, MOST_OBJECTS), dtype=np.float32)
        for row, clip in enumerate(clips):
            scene = clip.scene
            count = scene.num_objects
            if count > MOST_OBJECTS:
                raise ValueError(f"a scene has {count} objects; at most {MOST_OBJECTS} are foreseen")
            names[row, :count] = scene.sprite
            own = self._main_colours[scene.style, scene.sprite]
            colours[row, :count] = np.where(scene.tint > 0, self._tint_colours[scene.tint], own)
            size = np.array([scene.width, scene.height], dtype=np.float32)
            middle = (scene.centre / size).reshape(count, layout.pairs, -1, 2).mean(2)
            centres[row, :, :count] = middle.swapaxes(0, 1)
            tall = 2 * extents(scene, self.catalogue)[..., 1] / scene.height
            sizes[row, :, :count] = tall.reshape(count, layout.pairs, -1).mean(2).T
        return {"names": names, "colours": colours, "centres": centres, "sizes": sizes}

    def stream(self, seed: int) -> Iterator[Batch]:
        """Batches without end; the same seed gives the same ones."""
        rng = np.random.default_rng(seed)
        sizes = {size: share for size, share in GEOMETRIES.items()}
        edges = np.cumsum(list(sizes.values()))
        natives = list(sizes)
        while True:
            native = natives[int(np.searchsorted(edges, rng.random() * edges[-1]))]
            mode: Mode = "video" if rng.random() < 0.5 else "frame"
            yield self.batch(rng, native, mode)


def _arrays(scenes: SceneBatch) -> dict[str, NDArray[Any]]:
    return {f.name: getattr(scenes, f.name).numpy() for f in fields(scenes)}


def training_spec() -> WorldSpec:
    """Scenes as training draws them: both styles, two to six objects, a photograph behind one in three."""
    return WorldSpec(objects=(2, 6), frames=(24, 64), split="train", photos=0.35)


def sentences(rng: np.random.Generator, scenes: int) -> Iterator[str]:
    """Prompts and answers of random scenes, for the tokenizer's training."""
    spec = replace(training_spec(), split="all")
    catalogue = load_catalogue(spec.styles)
    maker = QuestionMaker()
    for _ in range(scenes):
        whole = sample_scene(rng, spec, catalogue)
        choices = referrals(whole, rng)
        frames = np.linspace(0, whole.num_frames - 1, KEYFRAMES).astype(np.intp)
        clip = clip_of(whole, frames, KEYFRAMES // TEMPORAL_PATCH, catalogue)
        for question in maker.ask(clip, choices, "video", 6, rng):
            yield question.text
            yield question.answer
    for word in vocabulary(catalogue):
        for _ in range(3):
            yield f"the {word}"
    for name in catalogue.names:
        # Every name becomes few tokens, at the start of an answer and inside a sentence.
        for _ in range(8):
            yield name
            yield f"the {name}"
