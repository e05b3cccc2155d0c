"""``python -m benchmarks.refinement``: correct tasks, refine, and measure what that gave.

python -m benchmarks.refinement                                      one run with 24 corrected tasks
python -m benchmarks.refinement --curve 8 16 24 48 --seeds 3         the learning curve
python -m benchmarks.refinement --offline -o artefacts/try --recipe '{"training": {"steps": 200}}'
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.refinement.annotator import Habits
from benchmarks.refinement.domain import Convention, Domain, samples_of
from benchmarks.refinement.findings import Findings
from benchmarks.refinement.loop import run_loop
from benchmarks.refinement.measuring import Measuring, load_prompts
from benchmarks.refinement.plots import write_plots
from benchmarks.refinement.presets import with_recipe
from benchmarks.refinement.records import Records
from benchmarks.refinement.report import report
from benchmarks.refinement.workplace import Workplace
from ml_backend.models.fingerprint import preset_version
from steerseg.errors import ConfigError, SteerSegError
from steerseg.evaluation import Sample, open_dataset
from steerseg.evaluation.runner import environment
from steerseg.presets import find_preset, load_preset

_OLD_SPLIT = "val"


@dataclass(frozen=True)
class Options:
    """The command line."""

    corrections: int
    curve: tuple[int, ...]
    seeds: int
    held_out: int
    old: int
    offline: bool
    preset: str
    recipe: dict[str, Any]
    domain: Domain
    habits: Habits
    device: str
    processes: int
    output: Path
    results: Path
    work: Path
    data: Path
    report_only: bool

    @property
    def sizes(self) -> list[int]:
        """Numbers of corrected tasks; 0 needs no run."""
        return sorted({size for size in (self.corrections, *self.curve) if size})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit status: 0, 2 for an error, 130 for Ctrl-C."""
    try:
        _run(_parse(arguments))
    except SteerSegError as error:
        print(f"benchmarks.refinement: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on with it.", file=sys.stderr)
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.refinement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--corrections", type=_count, default=24, help="tasks that are corrected (default: %(default)s)")
    add("--curve", type=_count, nargs="+", default=[], metavar="N", help="further such numbers, for a curve")
    add("--seeds", type=_positive, default=1, help="runs with different tasks (default: %(default)s)")
    add("--held-out", type=_positive, default=100, help="further tasks to measure (default: %(default)s)")
    add(
        "--old", type=_positive, default=40, help="tasks of sprites-ref val to measure (default: %(default)s)"
    )
    add("--offline", action="store_true", help="work at the backend's service, without any server")
    add("--preset", default="demo", help="name or folder (default: %(default)s)")
    add("--recipe", type=_object, default={}, metavar="JSON", help="fields of the recipe that differ")
    add("--word", default=Convention().word, help="the team's own word (default: %(default)s)")
    add("--means", default=Convention().means, help="noun of what it stands for (default: %(default)s)")
    add(
        "--share",
        type=_share,
        default=Domain().share,
        help="share of the tasks that use the word (default: %(default)s)",
    )
    add("--accept", type=float, default=Habits().accept, help="IoU of good proposals (default: %(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--processes", type=_positive, default=1, help="that measure (default: %(default)s)")
    add("-o", "--output", type=Path, default=Path("benchmarks/refinement"), help="folder of the report")
    add(
        "--results",
        type=Path,
        help="folder of measurements, which outputs may share (default: in the output)",
    )
    add("--work", type=Path, default=Path("artefacts/refinement"), help="folder of the servers' data")
    add("--data", type=Path, default=Path("data"), help="folder of rendered clips")
    add("--report-only", action="store_true", help="make tables and pictures anew from what is there")
    given = parser.parse_args(arguments)
    return Options(
        corrections=given.corrections,
        curve=tuple(given.curve),
        seeds=given.seeds,
        held_out=given.held_out,
        old=given.old,
        offline=given.offline,
        preset=given.preset,
        recipe=given.recipe,
        domain=Domain(Convention(given.word, given.means), given.share),
        habits=Habits(accept=given.accept),
        device=given.device,
        processes=given.processes,
        output=given.output,
        results=given.results or given.output / "results",
        work=given.work,
        data=given.data,
        report_only=given.report_only,
    )


def _run(options: Options) -> None:
    preset = _preset(options)
    records = Records(
        options.output / "results",
        {
            "mode": "offline" if options.offline else "server",
            "domain": options.domain.described(),
            "habits": asdict(options.habits),
            "base_version": preset_version(options.preset),
            "recipe": asdict(load_preset(find_preset(preset)).recipe),
        },
    )
    sprites = options.data / "sprites-ref"
    _tell("drawing the tasks")
    held_out = samples_of(options.domain.held_out(options.held_out), sprites, options.processes)
    if not options.report_only:
        _run_loops(options, preset, records, sprites, held_out)
    runs = [
        run for run in records.read().values() if run.tasks in options.sizes and run.seed <= options.seeds
    ]
    if not runs:
        raise ConfigError(f"{records.folder} holds no run of these sizes and seeds")

    measuring = Measuring(options.preset, options.device, options.processes, _Bar().update)
    prompts = load_prompts(runs, lambda run: records.prompts(run.seed, run.tasks))
    _tell(f"measuring {len(prompts) + 1} pairs of soft prompts on {len(held_out)} held-out tasks")
    team = measuring.measure("team", "held-out", held_out, prompts, options.results / "team")
    old = _old_domain(options)
    _tell(f"measuring them on {len(old)} tasks of the old domain")
    known = measuring.measure("sprites-ref", _OLD_SPLIT, old, prompts, options.results / "old")

    findings = Findings(runs, team, known, options.domain.convention.word, options.habits.accept)
    pictures = write_plots(options.output, findings, options.corrections)
    text = report(findings, records.settings, options.corrections, pictures)
    (options.output / "table.md").write_text(text, encoding="utf-8")
    print(text)


def _preset(options: Options) -> str | Path:
    """The preset with the recipe that was asked for."""
    if not options.recipe:
        return options.preset
    return with_recipe(options.preset, options.recipe, options.work / "preset")


def _run_loops(
    options: Options, preset: str | Path, records: Records, sprites: Path, held_out: Sequence[Sample]
) -> None:
    done = records.read()
    missing = [
        (seed, size)
        for seed in range(1, options.seeds + 1)
        for size in options.sizes
        if (seed, size) not in done
    ]
    if not missing:
        return
    with _workplace(options, preset, sprites) as workplace:
        for seed, size in missing:
            tasks = samples_of(options.domain.work(seed, max(options.sizes)), sprites, options.processes)[
                :size
            ]
            run = run_loop(
                workplace,
                seed,
                tasks,
                held_out,
                habits=options.habits,
                prompts=records.prompts(seed, size),
                machine=environment(options.device)["device"],
                tell=_tell,
            )
            records.add(run)


def _workplace(options: Options, preset: str | Path, sprites: Path) -> AbstractContextManager[Workplace]:
    if options.offline:
        from benchmarks.refinement.offline import OfflineWorkplace

        return OfflineWorkplace(options.work / "offline", preset, options.preset, sprites, options.device)
    from benchmarks.refinement.online import OnlineWorkplace

    return OnlineWorkplace(options.work / "server", preset, options.device, _tell)


def _old_domain(options: Options) -> list[Sample]:
    return open_dataset("sprites-ref", _OLD_SPLIT, options.data, options.processes)[: options.old]


class _Bar:
    """A bar for each measurement."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None

    def update(self, stage: str, fraction: float) -> None:
        if self._bar is None:
            self._bar = tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {elapsed}")
        self._bar.update(round(fraction * 100) - self._bar.n)
        if fraction >= 1:
            self._bar.close()
            self._bar = None


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is below 0")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{number} is not a share from 0 to 1")
    return number


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("expected a JSON object")
    return value


if __name__ == "__main__":
    sys.exit(main())
