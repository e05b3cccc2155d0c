"""J&F and time per stage of the demo preset on this machine, with the method's two parts switched on and off.

``python -m benchmarks.demo_model.run`` takes the 100 clips of ``sprites-ref`` val through the whole pipeline and
writes ``table.md`` beside this file. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from steerseg import SteerSeg, Video
from steerseg.evaluation import evaluate_method, mean_of, open_dataset, paired_gain, table
from steerseg.evaluation.readers import Sample
from steerseg.evaluation.runner import Method, Prediction, Result, fingerprint, proposing

HERE = Path(__file__).parent

VARIANTS = {
    "raw attention": {"reasoning": False, "soft_prompts": False},
    "+ CoT": {"reasoning": True, "soft_prompts": False},
    "+ soft prompts": {"reasoning": False, "soft_prompts": True},
    "+ both (SteerSeg)": {"reasoning": True, "soft_prompts": True},
}
STAGES = {
    "keyframes": "the LVLM's vision tower on the keyframes",
    "reasoning": "chain of thought: attributes",
    "grounding": "grounding passes and rollouts",
    "candidates": "SAM 2 on the keyframes",
    "tracking": "SAM 2 over the whole video",
}


class StageClock:
    """A progress callback that books the time since its last call to the stage that reports."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._last = 0.0

    def start(self) -> None:
        """Begin a new proposal."""
        self._last = time.perf_counter()
        for stage in STAGES:
            self.seconds[stage].append(0.0)

    def __call__(self, stage: str, fraction: float) -> None:
        now = time.perf_counter()
        if stage in STAGES:
            self.seconds[stage][-1] += now - self._last
        self._last = now


def cold(steerseg: SteerSeg, method: Method, clock: StageClock, lengths: list[int]) -> Method:
    """The method with a cold start for every clip, so that each stage is there to be timed."""

    def predict(video: Video, sample: Sample) -> Prediction:
        steerseg.forget()
        clock.start()
        lengths.append(len(video))
        return method(video, sample)

    return predict


def processor() -> str:
    """The name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--limit", type=int, default=100, help="how many clips")
    parser.add_argument("--split", default="val")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--data", default="data", help="where sprites-ref is kept")
    parser.add_argument(
        "--variants", nargs="+", choices=list(VARIANTS), help="default: all that the preset can show"
    )
    parser.add_argument("--results", type=Path, default=Path("artefacts/demo_model"))
    parser.add_argument("-o", "--output", type=Path, default=HERE / "table.md")
    options = parser.parse_args()

    begun = time.perf_counter()
    steerseg = SteerSeg.from_pretrained(options.preset, device="cpu")
    loading = time.perf_counter() - begun
    samples = open_dataset("sprites-ref", options.split, options.data, workers=2)[: options.limit]
    weights = {part: fingerprint(getattr(steerseg.preset, part)) for part in ("lvlm", "sam2")}
    prompts = "none" if steerseg.soft_prompts is None else steerseg.soft_prompts.digest

    names = options.variants or [
        name
        for name, parts in VARIANTS.items()
        if steerseg.soft_prompts is not None or not parts["soft_prompts"]
    ]
    timed = names[-1]  # the most complete one

    clock = StageClock()
    lengths: list[int] = []
    outcomes: dict[str, list[Result]] = {}
    for name in names:
        config = replace(steerseg.config, alternatives=1, **VARIANTS[name])
        method = proposing(steerseg, config)
        if name == timed:
            method = cold(steerseg, proposing(steerseg, config, clock), clock, lengths)

        bar = tqdm(total=1.0, desc=name, bar_format="{l_bar}{bar}| {elapsed}<{remaining}")
        outcomes[name] = evaluate_method(
            method,
            samples,
            run={"variant": name, "weights": weights, "soft_prompts": prompts, "split": options.split},
            results=options.results / f"{name.strip('+ ').replace(' ', '-')}.jsonl",
            progress=lambda stage, fraction: bar.update(fraction - bar.n),  # noqa: B023
        )
        bar.close()

    threads = torch.get_num_threads()
    lines = [
        "# The demo preset, measured",
        "",
        f"`sprites-ref` {options.split}, {len(samples)} clip–expression pairs through the whole pipeline, on "
        f"{threads} threads of {processor()}, torch {torch.__version__}. Soft prompts: {prompts}.",
        "",
        "| | J&F [95 % interval over clips] | paired gain over raw |",
        "|---|---|---|",
    ]
    for name, results in outcomes.items():
        raw = outcomes.get("raw attention")
        gain = f"{paired_gain(results, raw)}" if raw is not None and results is not raw else ""
        lines.append(f"| {name} | {mean_of(results)} | {gain} |")
    best = outcomes.get(timed)
    if best is not None:
        lines += ["", f"## By kind of expression: {timed}", "", table(best).strip()]
    if lengths:
        total = sum(sum(clock.seconds[stage]) for stage in STAGES) / len(lengths)
        lines += [
            "",
            f"## Time per stage, cold, one expression: {timed}",
            "",
            f"Means over {len(lengths)} clips of {np.mean(lengths):.0f} frames on average; loading the models took "
            f"{loading:.1f} s.",
            "",
            "| stage | seconds | share |",
            "|---|---|---|",
        ]
        for stage, meaning in STAGES.items():
            mean = float(np.mean(clock.seconds[stage]))
            lines.append(f"| {meaning} | {mean:.2f} | {mean / total:.0%} |")
        lines.append(f"| all | {total:.2f} | |")
    options.output.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
