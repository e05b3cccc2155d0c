"""``python -m benchmarks.gpu -o DIR [--quick] [--device cuda]``: time and memory of everything, on random weights.

Each measurement stands alone: one that fails is recorded as failed, and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.changes import (
    SEPARATE,
    measure_changes,
    pieces_in_turn,
    resized_on_host,
    separate_rotations,
)
from benchmarks.gpu.floors import SAM2_ENCODER, SAM2_STEP, Floors
from benchmarks.gpu.models import (
    TRAINING,
    Size,
    limit_memory,
    make_lvlm,
    make_preset,
    make_prompts,
    make_sample,
    make_tracker,
    make_video,
    quantise,
)
from benchmarks.gpu.objects import discs_encoded
from benchmarks.gpu.profiles import profile_stages
from benchmarks.gpu.records import Records, measure
from benchmarks.gpu.report import write_report
from benchmarks.gpu.straightforward import eager_maps, full_rollout, track_one_by_one
from steerseg import SteerSeg
from steerseg.attention.rollout import kernel_difference, kernels_work, streaming_rollout
from steerseg.config import PipelineConfig
from steerseg.grounding import GroundingMaps
from steerseg.keyframes import VideoFeatures
from steerseg.lvlm.base import VisionFeatures
from steerseg.lvlm.tap import QueryKeyTap, RolloutInputs
from steerseg.runtime.room import Room
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import Prompt, Tracker
from steerseg.training.trainer import SoftPromptTrainer
from steerseg.video import Video
from steerseg.warm_up import compile_tracker

ATTRIBUTES = ("red", "on the left")
_COMPILING = 120.0  # seconds that compiling may take
MEASUREMENTS = (
    "kernels",
    "warm_up",
    "proposals",
    "long_answer",
    "grounding_parts",
    "straightforward",
    "refinement",
    "changes",
    "profiles",
    "scaling_keyframes",
    "scaling_frames",
    "compiled",
    "quantised",
)
EXPRESSIONS = ("the block that stays behind", "the bright thing above the others")
FURTHER = (
    "the red one",
    "a small block that stays behind",
    "the thing that goes to the left and leaves in the end",
    "anything that moves",
    "the one that is hidden for a while",
)


class _NoTracker:
    """Stands where SAM 2 could not be made: what needs it fails, and the language model is measured all the same."""

    version = "none"

    def __init__(self) -> None:
        self.room = Room()

    def open(self, video: Video) -> None:
        """Nothing to track in."""


class Bench:
    """The models and what is measured on them."""

    def __init__(
        self, records: Records, size: Size, device: torch.device, *, quick: bool, memory: float | None = None
    ) -> None:
        self.records, self.size, self.device, self.quick = records, size, device, quick
        self.memory = memory  # GB, where less is to be used than there is
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.video = make_video(80 if size == "full" else 6, size)
        self._steerseg: SteerSeg | None = None
        self.cold = self.further = 0.0  # seconds of a proposal, once measured

    @property
    def steerseg(self) -> SteerSeg:
        """Made when first asked for."""
        if self._steerseg is None:
            lvlm = make_lvlm(self.size, self.device, self.dtype)
            made: list[Tracker] = []
            self.records.attempt(
                "SAM 2", lambda: made.append(make_tracker(self.size, self.device, self.dtype))
            )
            tracker: Any = made[0] if made else _NoTracker()
            self._steerseg = SteerSeg(lvlm, tracker, make_preset(self.size), make_prompts(lvlm, self.size))
        return self._steerseg

    def _limit(self) -> None:
        if self.memory is not None:
            limit_memory(self.device, self.memory)

    # ------------------------------------------------------------------ the rollout alone

    def kernels(self) -> None:
        """Whether the Triton kernels are right, and what they take beside chunks of rows and whole matrices."""
        put = self.records.put
        if self.device.type == "cuda":
            for dtype in (torch.float32, torch.bfloat16):
                name = str(dtype).removeprefix("torch.")
                difference = kernel_difference(self.device, dtype, 128, size=700)
                put(f"kernels against row chunks, {name}", largest_difference=difference)
        self._rollout("rollout, video pass", 1, 3000)
        self._rollout("rollout, frame passes", 4, 1560)

    def _rollout(self, name: str, rows: int, tokens: int) -> None:
        layers = tuple(range(14))
        heads, shared, depth = 28, 4, 128
        if self.size == "tiny":
            tokens, layers, heads, shared, depth = 60, (0, 1), 4, 2, 16
        taken = random_pass(rows, tokens, layers, heads, shared, depth, self.device, self.dtype)
        query = taken.tap.queries[0]
        results = {}
        base = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
        ways: dict[str, bool] = {"chunks": False}
        if kernels_work(query):
            ways["kernels"] = True
        for way, kernels in ways.items():
            streaming_rollout(taken, layers, heads="visual_max", kernels=kernels)

            def run(kernels: bool = kernels) -> torch.Tensor:
                return streaming_rollout(taken, layers, heads="visual_max", kernels=kernels)

            result, times, peak = measure(run, self.device, 3)
            results[way] = result
            self.records.put(
                f"{name}, {way}", seconds=sorted(times)[1], extra_gb=(peak - base) / 1e9, rows=rows
            )

        def whole() -> torch.Tensor:
            parts = []
            for row in range(rows):
                attentions = tuple(
                    whole_attention(
                        taken.tap.queries[layer][row : row + 1],
                        taken.tap.keys[layer][row : row + 1],
                        taken.tap.scaling[layer],
                    )
                    for layer in layers
                )
                parts.append(full_rollout(attentions, taken.visual[row : row + 1], layers, "visual_max"))
            return torch.cat(parts)

        expected, times, peak = measure(whole, self.device, 1)
        self.records.put(f"{name}, S x S", seconds=times[0], extra_gb=(peak - base) / 1e9, rows=rows)
        for way, result in results.items():
            self.records.put(f"{name}, {way} against S x S", largest_difference=difference(result, expected))

    # ------------------------------------------------------------------ a proposal

    def warm_up(self) -> None:
        """The first proposal of a process compiles kernels and captures the language model's steps."""
        steerseg = self.steerseg
        self._limit()
        if self.device.type == "cuda":
            self.records.put("weights", gb=torch.cuda.memory_allocated(self.device) / 1e9)
        self.records.timed(
            "warm-up: the first proposal", lambda: steerseg.propose(self.video, EXPRESSIONS[0])
        )
        self.records.put("warm-up: capturing", seconds=steerseg.lvlm.capture_seconds)
        self.records.timed("warm-up: capturing steps of tracking", steerseg.tracker.warm)
        steerseg.forget()

    def proposals(self) -> None:
        """Every stage, cold and for a further expression, and the whole: of expressions that were never read before."""
        steerseg = self.steerseg
        for state, expression in zip(("cold", "further"), EXPRESSIONS, strict=True):
            self._stages(state, expression)

        def cold() -> None:
            steerseg.forget()
            steerseg.propose(self.video, EXPRESSIONS[0])

        whole = self.records.timed
        _, self.cold = whole("cold: propose", cold, repeat=3)
        expressions = iter(FURTHER)
        _, self.further = whole(
            "further: propose", lambda: steerseg.propose(self.video, next(expressions)), repeat=len(FURTHER)
        )
        others = (expression.upper() for expression in FURTHER)  # as long, and never read before
        with discs_encoded(steerseg.tracker.segmenter.logits_side):
            whole("cold: propose, discs encoded", cold, repeat=3)
            whole(
                "further: propose, discs encoded",
                lambda: steerseg.propose(self.video, next(others)),
                repeat=len(FURTHER),
            )

    def long_answer(self) -> None:
        """The reasoning step at its full limit, which an answer of attributes does not come near."""
        steerseg = self.steerseg
        config = replace(steerseg.config, max_new_tokens=PipelineConfig().max_new_tokens)
        seen = steerseg.encode(self.video, config)
        for state, expression in zip(("cold", "further"), EXPRESSIONS, strict=True):
            work = functools.partial(steerseg.reason, seen, expression, config)
            self.records.timed(f"{config.max_new_tokens} tokens, {state}: reason", work)

    def _stages(self, state: str, expression: str) -> None:
        steerseg, config = self.steerseg, self.steerseg.config
        floors = Floors.of(steerseg.lvlm)
        timed = self.records.timed
        seen, first = timed(f"{state}: see", lambda: steerseg.encode(self.video, config))
        _, height, width = seen.context.frames.grid
        tokens = seen.context.video.tokens.shape[1]
        frames = len(seen.context.keyframes)
        floor = floors.see(tokens + frames * height * width) if state == "cold" else 0.0
        self.records.put(f"{state}: see, floor", seconds=floor)
        known = 0 if state == "cold" else tokens
        text = len(steerseg.texts.reasoning_question(expression)) + 40
        _, second = timed(
            f"{state}: reason",
            lambda: steerseg.reason(seen, expression, config).attributes,
            floor=floors.read(1, tokens + text, known=known) + floors.speak(config.max_new_tokens),
        )
        soft = 0 if steerseg.soft_prompts is None else len(steerseg.soft_prompts.frame)
        text = len(steerseg.texts.grounding_question(expression, ATTRIBUTES)) + 40 + soft
        known_picture = height * width if known else 0
        maps, third = timed(
            f"{state}: ground",
            lambda: steerseg.ground(seen, expression, ATTRIBUTES, config, steerseg.soft_prompts),
            floor=floors.read(1, tokens + text, known=known)
            + floors.read(frames, height * width + text, known=known_picture),
            prefixes_gb=steerseg._prefixes.nbytes / 1e9,
        )
        found, fourth = timed(
            f"{state}: find",
            lambda: steerseg.find_candidates(seen, maps, config),
            floor=frames * (SAM2_ENCODER if state == "cold" else 0.0) + frames * SAM2_STEP,
        )
        self.records.put(f"{state}: found", points=len(found.points), candidates=len(found))
        ranking, fifth = timed(f"{state}: rank", lambda: steerseg.rank(found, maps, config))
        rest = len(self.video) - frames if state == "cold" else 0
        _, sixth = timed(
            f"{state}: track",
            lambda: steerseg.track(seen, found, ranking),
            floor=rest * SAM2_ENCODER + len(self.video) * len(ranking) * SAM2_STEP,
        )
        self.records.put(f"{state}: all stages", seconds=first + second + third + fourth + fifth + sixth)

    def grounding_parts(self) -> None:
        """What share of its grounding pass the rollout takes."""
        steerseg = self.steerseg
        seen = steerseg.encode(self.video, steerseg.config)
        prompts = steerseg.soft_prompts
        assert prompts is not None
        tokens = seen.context.frames.tokens.shape[1]
        count = min(
            len(seen.context.frames), steerseg.lvlm.activations.rows_at_once(tokens, len(steerseg.layers))
        )
        self._grounding_part("video pass", seen.context.video, prompts.video)
        self._grounding_part("frame passes", seen.context.frames[:count], prompts.frame)

    def _grounding_part(self, name: str, vision: VisionFeatures, matrix: torch.Tensor) -> None:
        lvlm, layers = self.steerseg.lvlm, self.steerseg.layers
        texts = ["where is it?"] * len(vision)

        @torch.no_grad()
        def attend() -> RolloutInputs:
            return lvlm.attend(texts, vision, layers=layers, soft_prompt=matrix)

        attend()
        taken, reading = self.records.timed(f"grounding alone, {name}: read", attend, repeat=9)
        _, rolling = self.records.timed(
            f"grounding alone, {name}: roll",
            lambda: streaming_rollout(taken, layers, heads="visual_max"),
            repeat=9,
            floor=Floors.of(lvlm).roll(len(texts), taken.visual.shape[1], len(layers)),
        )
        self.records.put(
            f"grounding alone, {name}: rollout", share=rolling / (rolling + reading), rows=len(texts)
        )

    def straightforward(self) -> None:
        """The same by the straightforward implementation; maps and times side by side."""
        steerseg, lvlm, config = self.steerseg, self.steerseg.lvlm, self.steerseg.config
        prompts = steerseg.soft_prompts
        assert prompts is not None
        timed = self.records.timed
        steerseg.forget()
        seen = steerseg.encode(self.video, config)

        def ground() -> GroundingMaps:
            return steerseg.ground(seen, EXPRESSIONS[0], ATTRIBUTES, config, prompts)

        budget, steerseg._prefixes.budget = steerseg._prefixes.budget, 0
        ours, _ = timed("ground, no prefix kept", ground)
        steerseg._prefixes.budget = budget
        ground()
        again = ground()
        steerseg.forget()
        total = 0.0
        for purpose in ("reasoning", "grounding"):
            # As transformers does it.
            with pieces_in_turn(steerseg), separate_rotations(steerseg), resized_on_host():
                context, seconds = timed(
                    f"straightforward: see for {purpose}",
                    lambda: steerseg.encode_keyframes(self.video, config),
                )
            total += seconds
        question = steerseg.texts.reasoning_question(EXPRESSIONS[0])
        _, seconds = timed(
            "straightforward: reason",
            lambda: lvlm.answer(
                question, context.video, max_new_tokens=config.max_new_tokens, own_decoder=False
            ),
        )
        total += seconds
        question = steerseg.texts.grounding_question(EXPRESSIONS[0], ATTRIBUTES)
        with contextlib.ExitStack() as separate:
            for way in SEPARATE.values():
                separate.enter_context(way(steerseg))
            theirs, seconds = timed(
                "straightforward: ground",
                lambda: eager_maps(lvlm, context, question, prompts, steerseg.layers, config.heads),
            )
        total += seconds
        assert ours.frame is not None
        assert ours.video is not None
        assert theirs.frame is not None
        assert theirs.video is not None
        for name, a, b in (
            ("frame", ours.frame, theirs.frame),
            ("video", ours.video, theirs.video),
            ("fused", ours.fused, theirs.fused),
            ("frame, prefix kept against not", again.frame, ours.frame),
        ):
            assert a is not None
            correlation = float(np.corrcoef(a.flatten().numpy(), b.flatten().numpy())[0, 1])
            self.records.put(
                f"maps against straightforward: {name}",
                correlation=correlation,
                largest_difference=float((a - b).abs().max()),
                mean_difference=float((a - b).abs().mean()),
            )
        tracker = make_tracker(self.size, self.device, torch.float32)
        assert isinstance(tracker.segmenter, Sam2)
        tracker.segmenter.captures = tracker.segmenter.fused = tracker.propagator.in_blocks = False
        tracked, seconds = timed(
            "straightforward: find, rank and track",
            lambda: track_one_by_one(tracker, self.video, theirs, config, lvlm.family.temporal_merge),
        )
        total += seconds
        self.records.put("straightforward: found", candidates=tracked.candidates)
        self.records.put("straightforward: all stages", seconds=total)
        if self.cold:
            self.records.put("ratio to straightforward", cold=total / self.cold, further=total / self.further)

    def changes(self) -> None:
        """Stages with single measures left out."""
        measure_changes(self.records, self.steerseg, self.video)

    def profiles(self) -> None:
        """Kernels, launches and waits of the stages, in ``profiles.txt``."""
        profile_stages(self.records, self.steerseg, self.video, self.records.path.with_name("profiles.txt"))

    # ------------------------------------------------------------------ refinement

    def refinement(self) -> None:
        """One sample a step: a video pass and two frame passes, forwards and backwards."""
        steerseg = self.steerseg
        prompts = steerseg.soft_prompts
        assert prompts is not None
        steerseg.forget()
        sample = make_sample(steerseg, self.video)
        for name, checkpointing in (
            ("", None),
            ("all kept", False),
            ("recomputed", True),
            *((way, None) for way in SEPARATE),
        ):
            trainer = SoftPromptTrainer(
                steerseg.lvlm, steerseg.layers, prompts, TRAINING, checkpointing=checkpointing
            )
            rng = np.random.default_rng(0)
            step = f"refinement, a sample{', ' if name else ''}{name}"

            def run(trainer: SoftPromptTrainer = trainer, rng: np.random.Generator = rng) -> float:
                return trainer.step([sample], rng, frames_per_sample=2)

            def measured(name: str = name, step: str = step) -> None:
                with SEPARATE[name](steerseg) if name in SEPARATE else contextlib.nullcontext():
                    run()
                    loss, _ = self.records.timed(step, run, repeat=5)
                self.records.put(f"{step}: loss", value=loss)

            self.records.attempt(step, measured)

    # ------------------------------------------------------------------ scaling

    def scaling_keyframes(self) -> None:
        """Seeing and grounding by the number of keyframes."""
        steerseg = self.steerseg
        for count in (8, 16, 32, 64) if self.size == "full" else (2, 4):
            self.records.attempt(f"{count} keyframes", functools.partial(self._keyframes, count))
        steerseg.forget()

    def _keyframes(self, count: int) -> None:
        steerseg = self.steerseg
        config = replace(steerseg.config, keyframes=count)

        def look() -> VideoFeatures:
            steerseg.forget()
            return steerseg.encode(self.video, config)

        seen, _ = self.records.timed(f"{count} keyframes: see", look, keyframes=count)
        # Page-locked memory of the host for what is kept is made once, and used again from then on.
        for state, expression in zip(
            ("first", "cold", "further"), (EXPRESSIONS[0], *EXPRESSIONS), strict=True
        ):
            if state == "cold":
                seen = look()
            work = functools.partial(
                steerseg.ground, seen, expression, ATTRIBUTES, config, steerseg.soft_prompts
            )
            self.records.timed(f"{count} keyframes: ground, {state}", work, keyframes=count)

    def scaling_frames(self) -> None:
        """Tracking one object by the number of frames."""
        tracker = self.steerseg.tracker
        lengths = (80, 800, 5000) if self.size == "full" else (6, 12)
        pace = 0.0
        for count in lengths:
            name = f"{count} frames: encode and track one object"
            if pace * count > self.records.left:
                self.records.put(name, not_measured="no time was left", expected_seconds=pace * count)
                continue

            def measured(count: int = count, name: str = name) -> None:
                nonlocal pace
                encoded = tracker.open(make_video(count, self.size))
                start = tracker.start(encoded, [Prompt(0, ((0.5, 0.5),), (True,))])
                _, seconds = self.records.timed(
                    name, lambda: tracker.propagate(encoded, [start]), frames=count
                )
                pace = seconds / count

            self.records.attempt(name, measured)

    def compiled(self) -> None:
        """Encoding and tracking by SAM 2 as it is and compiled; the first time compiles and captures."""
        if self.device.type != "cuda":
            self.records.put("compiled SAM 2", not_measured="compiling is of use on a GPU")
            return
        if self.records.left < _COMPILING:
            self.records.put("compiled SAM 2", not_measured="no time was left")
            return
        for state in ("as it is", "compiled"):
            tracker = make_tracker(self.size, self.device, self.dtype)
            if state == "compiled":
                compile_tracker(tracker)

            def work(tracker: Tracker = tracker) -> None:
                encoded = tracker.open(self.video)
                tracker.propagate(encoded, [tracker.start(encoded, [Prompt(0, ((0.5, 0.5),), (True,))])])

            self.records.timed(f"SAM 2 {state}, first time", work)
            self.records.timed(f"SAM 2 {state}: encode and track one object", work, repeat=3)

    def quantised(self) -> None:
        """The stages with a 4-bit language model, made from the random one; needs an optional package."""
        if find_spec("bitsandbytes") is None:
            self.records.put("4-bit language model", not_measured="bitsandbytes is not installed")
            return
        quantise(self.steerseg.lvlm)
        self._limit()
        self._steerseg = SteerSeg(  # anew, since more memory is free
            self.steerseg.lvlm, self.steerseg.tracker, self.steerseg.preset, self.steerseg.soft_prompts
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            self.records.put("4-bit, weights", gb=torch.cuda.memory_allocated(self.device) / 1e9)
        self.steerseg.propose(self.video, EXPRESSIONS[0])
        self.steerseg.forget()
        for state, expression in zip(("4-bit, cold", "4-bit, further"), EXPRESSIONS, strict=True):
            work = functools.partial(self.steerseg.propose, self.video, expression)
            self.records.timed(f"{state}: propose", work)


def random_pass(
    rows: int,
    tokens: int,
    layers: Sequence[int],
    heads: int,
    shared: int,
    depth: int,
    device: torch.device,
    dtype: torch.dtype,
) -> RolloutInputs:
    """Queries and keys as a pass leaves them, all random."""
    tap = QueryKeyTap(layers)
    torch.manual_seed(0)
    for layer in layers:
        query = torch.randn(rows, heads, tokens, depth, device=device, dtype=dtype)
        key = torch.randn(rows, shared, tokens, depth, device=device, dtype=dtype)
        tap.note(layer, query, key, depth**-0.5)
    visual = torch.zeros(rows, tokens, dtype=torch.bool, device=device)
    visual[:, tokens // 20 : -tokens // 10] = True
    live = torch.ones_like(visual)
    cells = torch.arange(tokens // 20, tokens - tokens // 10, device=device).expand(rows, -1)
    return RolloutInputs(tap, cells, visual, live, padded=False, response=tokens - 1)


def whole_attention(query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    """(1, H, S, S) float32, causal."""
    size, groups = query.shape[2], query.shape[1] // key.shape[1]
    key = key.float().repeat_interleave(groups, dim=1)
    logits = query.float() @ key.transpose(-1, -2) * scaling
    hidden = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
    return logits.masked_fill(hidden, float("-inf")).softmax(dim=-1)


def difference(result: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((result - expected).abs().max() / expected.abs().max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure everything; returns 0 where nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder of results.jsonl and report.md"
    )
    parser.add_argument("--quick", action="store_true", help="leave out what takes minutes; done in six")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny models run on a CPU")
    parser.add_argument(
        "--only", nargs="+", choices=MEASUREMENTS, default=MEASUREMENTS, help="some of the measurements"
    )
    parser.add_argument(
        "--memory",
        type=float,
        help="GB: as on a smaller card; for warm_up and proposals, or for quantised alone",
    )
    parser.add_argument("--seconds", type=float, help="begin no measurement after so many")
    parser.add_argument("--report", action="store_true", help="only write the report of what is there")
    given = parser.parse_args(arguments)
    if given.report:
        write_report(given.output)
        return 0
    device = torch.device(given.device)
    seconds = given.seconds or (300.0 if given.quick else 1800.0)
    records = Records(given.output, device, seconds)
    records.put_environment(given.size, quick=given.quick, memory_gb=given.memory)
    bench = Bench(records, given.size, device, quick=given.quick, memory=given.memory)
    for name in MEASUREMENTS:
        if name in given.only:
            records.attempt(name, getattr(bench, name))
    write_report(given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
