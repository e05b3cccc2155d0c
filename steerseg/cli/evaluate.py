"""``steerseg evaluate -o DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerseg.cli.options import (
    add_dataset_options,
    add_model_options,
    in_output_folder,
    positive,
    preset_from,
)
from steerseg.cli.progress import ProgressBar
from steerseg.errors import SteerSegError

if TYPE_CHECKING:  # with torch, which --help does not need
    from steerseg.evaluation import MaskFolder, Sample, Variant
    from steerseg.presets import Preset
    from steerseg.runtime.distributed import Ranks


def add_evaluate(commands: Any) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        "evaluate",
        help="measure J&F on a dataset",
        description="Propose for every expression of a split with the method and with parts of it left out, "
        "score the best tracklet against the ground truth, and write results, tables and plots. A run that "
        "was interrupted goes on where it stopped; results of the same settings from other machines can be "
        "copied into DIR/results. Started by torchrun, each process takes its part of the clips.",
    )
    add_dataset_options(parser, "; sprites-ref, drawn on first use", default="sprites-ref")
    parser.add_argument("--split", help="which split (default: the one that is usually reported, val, ...)")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the result"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N expressions")
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=Path("data"),
        help="where sprites-ref is kept (default: data)",
    )
    parser.add_argument(
        "--processes", type=positive, default=1, metavar="N", help="how many work at once (default: 1)"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="write tables and plots of what DIR/results holds"
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="keep predicted masks as pictures in DIR/masks; always done, and packed as submission-VARIANT.zip, "
        "where only the dataset's server knows the truth",
    )
    _add_variant_options(parser)
    parser.add_argument(
        "--example",
        metavar="ID",
        help="the sample whose attention is drawn before and after steering (default: the largest gain)",
    )
    add_model_options(parser)
    parser.set_defaults(run=run_evaluate)


def _add_variant_options(parser: argparse.ArgumentParser) -> None:
    measured = parser.add_argument_group("what is measured")
    measured.add_argument(
        "--variants",
        nargs="+",
        metavar="NAME",
        help="of click (an upper bound), raw, cot, soft and steerseg, and names of ablations (default: these "
        "five for sprites-ref, steerseg for other datasets)",
    )
    measured.add_argument("--ablations", action="store_true", help="maps, heads and frame weights as well")
    measured.add_argument(
        "--soft-prompts",
        nargs="+",
        default=[],
        metavar="[NAME=]DIR",
        help="with a name: prompts to measure as a variant of their own; without: in place of the preset's",
    )


@in_output_folder
def run_evaluate(options: argparse.Namespace) -> int:
    """Measure what is missing, write the report and print it."""
    from steerseg.evaluation.report import write_report
    from steerseg.evaluation.results import ResultFolder
    from steerseg.runtime.distributed import Ranks

    results = options.output / "results"
    ranks = Ranks.from_environment()
    notes = [] if options.report_only else _measure(options, results, ranks)
    if not ranks.first:
        return 0
    measured = ResultFolder(results).read()
    if not measured:
        raise SteerSegError(f"{results} holds no results; run without --report-only first.")
    print(write_report(options.output, measured, notes), end="")
    return 0


@dataclass(frozen=True)
class _Split:
    """The samples of a split, and those that the command measures."""

    name: str
    samples: list[Sample]
    measured: list[Sample]

    @property
    def submitted(self) -> bool:
        """Whether only the dataset's server can score it."""
        return any(sample.truth is None for sample in self.measured)


def _measure(options: argparse.Namespace, results: Path, ranks: Ranks) -> list[str]:
    """Fill the folder of results; return notes for the reader of the report."""
    from steerseg.evaluation import (
        MaskFolder,
        Models,
        describe_runs,
        evaluate,
        in_processes,
        in_this_process,
    )
    from steerseg.evaluation.example import draw_example, largest_gain
    from steerseg.evaluation.runner import environment

    preset = preset_from(options)
    variants, notes = _variants(options, preset)
    models = Models(preset, ranks.device(options.device))
    work = in_this_process(models) if options.processes == 1 else in_processes(models, options.processes)
    with ProgressBar(shown=ranks.first) as progress, ranks.joined():
        split = _open_split(options, ranks)
        if ranks.first:
            print(_describe(options, split, variants, results), file=sys.stderr, flush=True)
        masks = MaskFolder(options.output / "masks") if options.masks or split.submitted else None
        measured = evaluate(
            split.measured,
            variants,
            describe_runs(options.dataset, split.name, split.samples, preset, variants),
            results,
            work=work,
            made_by=environment(options.device),
            progress=progress,
            masks=masks,
            ranks=ranks,
        )
        if not ranks.first:
            return []
        whole = len(split.measured) == len(split.samples)
        if split.submitted and masks is not None and whole:
            notes += _pack(options, [v.name for v in variants], split.samples, masks, progress)
        example = options.example or largest_gain(measured)
        if example is not None:
            draw_example(models.steerseg, split.samples, variants, measured, example, options.output)
    return notes


def _describe(options: argparse.Namespace, split: _Split, variants: Sequence[Variant], results: Path) -> str:
    """What the command is about to do, as a line."""
    clips = len({sample.video for sample in split.measured})
    return (
        f"measuring {', '.join(variant.name for variant in variants)} on {len(split.measured)} of "
        f"{len(split.samples)} expressions, {clips} clips of {options.dataset} ({split.name}); results are kept in "
        f"{results}"
    )


def _variants(options: argparse.Namespace, preset: Preset) -> tuple[list[Variant], list[str]]:
    """The variants that the options name, and notes for the reader of the report."""
    from steerseg.evaluation import choose_variants
    from steerseg.evaluation.datasets import SPRITES_REF
    from steerseg.soft_prompts import SoftPrompts

    own, others = preset.soft_prompts, {}
    for value in options.soft_prompts:
        name, separator, folder = value.rpartition("=")
        if separator:
            others[name] = SoftPrompts.load(folder)
        else:
            own = folder
    variants, left_out = choose_variants(
        options.variants,
        compare=Path(options.dataset).name == SPRITES_REF,
        ablations=options.ablations,
        own=None if own is None else SoftPrompts.load(own),
        others=others,
    )
    return variants, [f"Left out for want of soft prompts: {', '.join(left_out)}."] if left_out else []


def _open_split(options: argparse.Namespace, ranks: Ranks) -> _Split:
    from steerseg.evaluation import default_split, open_dataset

    name = options.split or default_split(options.dataset)
    with ranks.first_before_others():
        samples = open_dataset(options.dataset, name, options.data, options.processes, root=options.root)
    return _Split(name, samples, samples[: options.limit])


def _pack(
    options: argparse.Namespace,
    variants: Sequence[str],
    samples: Sequence[Sample],
    masks: MaskFolder,
    progress: ProgressBar,
) -> list[str]:
    """Write the zip files for the dataset's server; return the note that names them."""
    from steerseg.evaluation import DATASETS, write_submission

    packed = [options.output / f"submission-{name}.zip" for name in variants]
    for index, (name, path) in enumerate(zip(variants, packed, strict=True)):
        progress("pack", index / len(packed))
        write_submission(path, masks, name, samples, DATASETS[options.dataset].zip_folder)
    progress("pack", 1.0)
    return [f"For the dataset's server: {', '.join(str(path) for path in packed)}."]
