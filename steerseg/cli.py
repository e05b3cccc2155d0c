"""The command line: ``steerseg segment VIDEO EXPRESSION -o DIR`` and ``steerseg evaluate -o DIR``.

Each subcommand is a pair of functions: ``_add_<name>`` declares its arguments, ``_<name>`` runs it and
returns the exit status. Heavy imports happen in the second, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

from steerseg import __version__
from steerseg.config import Granularity, Heads, PipelineConfig, Placement, Quantisation, RefineConfig
from steerseg.errors import SteerSegError

if TYPE_CHECKING:
    from steerseg.evaluation import MaskFolder, Sample
    from steerseg.pipeline import Proposal
    from steerseg.presets import Preset
    from steerseg.runtime.distributed import Ranks

_ERROR, _INTERRUPTED = 2, 130

_STAGES = {
    "download": "downloading",
    "decode": "decoding",
    "load": "loading models",
    "keyframes": "looking at keyframes",
    "reasoning": "reasoning",
    "grounding": "grounding",
    "candidates": "trying candidates",
    "tracking": "tracking",
    "save": "writing files",
    "evaluate": "evaluating",
    "others": "waiting for others",
    "pack": "packing masks",
    "train": "training",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name; the process's own when left out.

    Returns:
        0 on success, also when nothing was found; 2 on an error, which is told in one line; 130 on Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except SteerSegError as error:
        print(f"steerseg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _ERROR
    except KeyboardInterrupt:
        print("steerseg: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="steerseg",
        description="Track what a text expression refers to, as masks over a video.",
    )
    parser.add_argument("--version", action="version", version=f"steerseg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_segment(commands)  # a further command is one more line here
    _add_evaluate(commands)
    _add_train(commands)
    return parser


# --- segment -----------------------------------------------------------------------------------------------


def _add_segment(commands: Any) -> None:
    parser = commands.add_parser(
        "segment",
        help="track one expression over one video",
        description="Track what EXPRESSION refers to in VIDEO and write masks, an overlay video and a "
        "picture of the grounding maps.",
    )
    parser.add_argument("video", metavar="VIDEO", help="a video file, a folder of frames or an http(s) URL")
    parser.add_argument("expression", metavar="EXPRESSION", help='what to track, e.g. "the dog on the left"')
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the result"
    )
    _add_model_arguments(parser)
    _add_method_arguments(parser)
    reading = parser.add_argument_group("reading the video")
    reading.add_argument("--stride", type=_positive, default=1, help="keep every N-th frame (default: 1)")
    reading.add_argument("--fps", type=_positive_float, help="frame rate of a folder of frames (default: 25)")
    reading.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="let URLs lead to this machine and its local network",
    )
    parser.set_defaults(run=_segment)


def _segment(options: argparse.Namespace) -> int:
    from steerseg.reasoning import check_expression

    expression = check_expression(options.expression)
    _prepare_folder(options.output)

    from steerseg.runtime.startup import uncollected
    from steerseg.video import load_video

    with ProgressBar() as progress:
        video = load_video(
            options.video,
            stride=options.stride,
            fps=options.fps,
            allow_private_addresses=options.allow_private_addresses,
            progress=progress,
        )
        progress("load", 0.0)
        with uncollected():
            from steerseg.pipeline import SteerSeg

            steerseg = SteerSeg.from_pretrained(_preset(options), device=options.device)
        progress("load", 1.0)
        config = method_config(options, steerseg.config)
        proposal = steerseg.propose(video, expression, config=config, progress=progress)
        progress("save", 0.0)
        proposal.save(options.output)
        progress("save", 1.0)
    print(summary(proposal, options.output, steerseg.preset))
    return 0


def summary(proposal: Proposal, folder: Path, preset: Preset | None = None) -> str:
    """What was found and where it lies, in a few lines for a person; the preset says what an unsure score is."""
    from steerseg.masks import mask_area

    total = len(proposal.pts)
    visible = [sum(mask_area(rle) > 0 for rle in tracklet.rles) for tracklet in proposal.tracklets]
    if proposal.tracklets:
        score = f"score {proposal.best.score:.2f}"
        lines = [f'found "{proposal.expression}" on {visible[0]} of {total} frames ({score})']
    else:
        lines = [f'nothing found for "{proposal.expression}"; maps.png shows where the model looked']
    sure = bool(proposal.tracklets) and (preset is None or proposal.best.score >= preset.unsure_below)
    if preset is not None and not sure:
        if proposal.tracklets:
            lines.append(f"  unsure        clear matches score {preset.unsure_below:.2f} or more")
        if preset.hint:
            lines.append(f"  hint          {preset.hint}")
    if proposal.attributes:
        lines.append(f"  attributes    {', '.join(proposal.attributes)}")
    for rank, tracklet in enumerate(proposal.tracklets[1:], start=2):
        label = "alternatives" if rank == 2 else ""
        lines.append(
            f"  {label:<12}  #{rank} on {visible[rank - 1]} of {total} frames (score {tracklet.score:.2f})"
        )
    names = ["proposal.json", "maps.png"]
    if proposal.tracklets:
        names[1:1] = ["overlay.mp4", f"masks{os.sep} ({total} pictures)"]
    lines += [f"  {'files' if i == 0 else '':<12}  {folder / name}" for i, name in enumerate(names)]
    return "\n".join(lines)


def _prepare_folder(folder: Path) -> None:
    """Find out before the work, not after it, that the result cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SteerSegError(
            f"{folder} cannot be made a folder: {error.strerror}. Choose another -o."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SteerSegError(f"{folder} cannot be written. Choose another -o or change its permissions.")


# --- evaluate ----------------------------------------------------------------------------------------------


def _add_evaluate(commands: Any) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure J&F on a dataset",
        description="Propose for every expression of a split with the method and with parts of it left out, "
        "score the best tracklet against the ground truth, and write results, tables and plots. A run that "
        "was interrupted goes on where it stopped; results of the same settings from other machines can be "
        "copied into DIR/results. Started by torchrun, each process takes its part of the clips.",
    )
    _add_dataset_arguments(parser, "; sprites-ref, drawn on first use", default="sprites-ref")
    parser.add_argument("--split", help="which split (default: the one that is usually reported, val, ...)")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the result"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N expressions")
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=Path,
        default=Path("data"),
        help="where sprites-ref is kept (default: data)",
    )
    parser.add_argument(
        "--processes", type=_positive, default=1, metavar="N", help="how many work at once (default: 1)"
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
    parser.add_argument(
        "--example",
        metavar="ID",
        help="the sample whose attention is drawn before and after steering (default: the largest gain)",
    )
    _add_model_arguments(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    _prepare_folder(options.output)

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


def _measure(options: argparse.Namespace, results: Path, ranks: Ranks) -> list[str]:
    """Fill the folder of results; what a reader of the report should know."""
    from steerseg.evaluation import (
        MaskFolder,
        Models,
        choose_variants,
        default_split,
        describe_runs,
        evaluate,
        in_processes,
        in_this_process,
        open_dataset,
    )
    from steerseg.evaluation.datasets import SPRITES_REF
    from steerseg.evaluation.example import draw_example, largest_gain
    from steerseg.evaluation.runner import environment
    from steerseg.soft_prompts import SoftPrompts

    preset = _preset(options)
    own, others = preset.soft_prompts, {}
    for given in options.soft_prompts:
        name, separator, folder = given.rpartition("=")
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
    notes = [f"Left out for want of soft prompts: {', '.join(left_out)}."] if left_out else []
    split = options.split or default_split(options.dataset)
    models = Models(preset, ranks.device(options.device))
    work = in_this_process(models) if options.processes == 1 else in_processes(models, options.processes)
    with ProgressBar(shown=ranks.first) as progress, ranks.joined():
        with ranks.first_before_others():
            samples = open_dataset(options.dataset, split, options.data, options.processes, root=options.root)
        asked = samples[: options.limit]
        submitted = any(sample.truth is None for sample in asked)
        masks = MaskFolder(options.output / "masks") if options.masks or submitted else None
        measured = evaluate(
            asked,
            variants,
            describe_runs(options.dataset, split, samples, preset, variants),
            results,
            work=work,
            made_by=environment(options.device),
            progress=progress,
            masks=masks,
            ranks=ranks,
        )
        if not ranks.first:
            return []
        if submitted and masks is not None:
            whole = len(asked) == len(samples)
            notes += _pack(options, [v.name for v in variants], samples, masks, progress) if whole else []
        example = options.example or largest_gain(measured)
        if example is not None:
            draw_example(models.steerseg, samples, variants, measured, example, options.output)
    return notes


def _pack(
    options: argparse.Namespace,
    variants: Sequence[str],
    samples: Sequence[Sample],
    masks: MaskFolder,
    progress: ProgressBar,
) -> list[str]:
    """Write what the dataset's server takes; where it lies."""
    from steerseg.evaluation import DATASETS, write_submission

    packed = [options.output / f"submission-{name}.zip" for name in variants]
    for place, (name, path) in enumerate(zip(variants, packed, strict=True)):
        progress("pack", place / len(packed))
        write_submission(path, masks, name, samples, DATASETS[options.dataset].zip_folder)
    progress("pack", 1.0)
    return [f"For the dataset's server: {', '.join(str(path) for path in packed)}."]


# --- train -------------------------------------------------------------------------------------------------


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train soft prompts on a dataset",
        description="Train a preset's soft prompts from scratch, as the paper does, and write a preset folder "
        "that has them. Started by torchrun, the processes share every step. A run that was interrupted goes "
        "on from its last state.",
    )
    _add_dataset_arguments(parser, "", default="ref-youtube-vos")
    parser.add_argument("--split", default="train", help="which split (default: train)")
    parser.add_argument(
        "-o", "--output", metavar="PRESETDIR", type=Path, required=True, help="the preset that is made"
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N expressions")
    _add_model_arguments(parser)
    parser.add_argument("--name", help="what the preset is called (default: that of --preset, -trained)")
    learning = parser.add_argument_group("learning", "Batches and frames are of each process.")
    learning.add_argument("--tokens", type=_positive, default=64, help="length of each prompt (default: 64)")
    learning.add_argument(
        "--placement",
        choices=get_args(Placement),
        default="before_vision",
        help="where the prompts stand (default: before_vision)",
    )
    learning.add_argument(
        "--start",
        choices=("line-breaks", "words"),
        default="line-breaks",
        help="what they start as (default: line-breaks)",
    )
    learning.add_argument("--epochs", type=_positive, default=1, help="default: 1")
    learning.add_argument("--batch", type=_positive, default=8, help="expressions of a step (default: 8)")
    learning.add_argument(
        "--frames-per-sample", type=_positive, default=2, help="frame passes of an expression (default: 2)"
    )
    learning.add_argument(
        "--attributes",
        type=_share,
        default=0.5,
        metavar="SHARE",
        help="of questions that hold the model's own attributes, which take time (default: 0.5)",
    )
    learning.add_argument(
        "--learning-rate",
        type=_positive_float,
        default=RefineConfig.learning_rate,
        help="default: %(default)s",
    )
    learning.add_argument("--seed", type=int, default=1, help="default: 1")
    running = parser.add_argument_group("running")
    running.add_argument(
        "--rows",
        type=_positive,
        default=2,
        help="questions that go through the model at once; more are faster and take more memory (default: 2)",
    )
    running.add_argument(
        "--cache-gib", type=_positive_float, default=8.0, help="memory for visual tokens (default: 8)"
    )
    running.add_argument(
        "--save-every", type=_positive, default=50, metavar="STEPS", help="between states (default: 50)"
    )
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    _prepare_folder(options.output)

    from steerseg.evaluation import open_dataset
    from steerseg.lvlm import LVLM
    from steerseg.runtime.devices import resolve_device
    from steerseg.runtime.distributed import Ranks
    from steerseg.training import Recipe, train, write_preset

    preset = _preset(options)
    samples = open_dataset(options.dataset, options.split, root=options.root)
    recipe = Recipe(
        tokens=options.tokens,
        placement=options.placement,
        beginning=options.start,
        epochs=options.epochs,
        batch=options.batch,
        frames_per_sample=options.frames_per_sample,
        attributes=options.attributes,
        seed=options.seed,
    )
    schedule = replace(recipe.schedule, learning_rate=options.learning_rate, rows=options.rows)
    ranks = Ranks.from_environment()
    device, dtype = resolve_device(ranks.device(options.device))
    with ProgressBar(shown=ranks.first) as progress, ranks.joined(str(device)):
        progress("load", 0.0)
        lvlm = LVLM.from_pretrained(preset.lvlm, device=device, dtype=dtype, quantise=preset.quantise)
        progress("load", 1.0)
        prompts = train(
            lvlm,
            preset,
            samples[: options.limit],
            replace(recipe, schedule=schedule),
            options.output,
            ranks=ranks,
            cache_bytes=int(options.cache_gib * 2**30),
            save_every=options.save_every,
            progress=progress,
        )
        if ranks.first:
            write_preset(options.output, preset, prompts, options.name or f"{preset.name}-trained")
    if ranks.first:
        print(f"trained {prompts.digest}; use it with --preset {options.output}")
        print(f"  loss          {prompts.card['loss_first']} at first, {prompts.card['loss_last']} at last")
        print(f"  log           {options.output / 'training' / 'log.jsonl'}")
    return 0


# --- What several commands share ---------------------------------------------------------------------------


def _add_dataset_arguments(parser: argparse.ArgumentParser, others: str, *, default: str) -> None:
    parser.add_argument(
        "--dataset",
        default=default,
        metavar="NAME",
        help=f"ref-davis17, reasonvos, revos, mevis or ref-youtube-vos, with --root{others}; or a folder in "
        "Ref-YouTube-VOS layout (default: %(default)s)",
    )
    parser.add_argument("--root", metavar="DIR", type=Path, help="where that public dataset lies")


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("models")
    models.add_argument("--preset", default="demo", help="name or folder of a preset (default: demo)")
    models.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    models.add_argument(
        "--sam2",
        metavar="ID",
        help="another SAM 2 than the preset's: facebook/sam2-hiera-SIZE or facebook/sam2.1-hiera-SIZE with a SIZE "
        "of tiny, small, base-plus or large, or a folder",
    )
    models.add_argument(
        "--quantise",
        choices=get_args(Quantisation),
        help="load the language model with such weights; needs bitsandbytes (default: as the preset says)",
    )


def _preset(options: argparse.Namespace) -> Preset:
    from steerseg.presets import open_preset

    return open_preset(options.preset, sam2=options.sam2, quantise=options.quantise)


def _add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """The switches of :class:`PipelineConfig`; what is not given stays as the preset has it."""
    method = parser.add_argument_group("method", "What is not given is as the preset says.")
    method.add_argument("--no-reasoning", action="store_true", help="skip the step that names attributes")
    method.add_argument("--no-soft-prompts", action="store_true", help="use the model's attention unsteered")
    method.add_argument("--granularity", choices=get_args(Granularity), help="which grounding maps are used")
    method.add_argument("--heads", choices=get_args(Heads), help="how attention heads are averaged")
    method.add_argument("--keyframes", type=_positive, metavar="N", help="frames the language model sees")
    method.add_argument("--alternatives", type=_positive, metavar="N", help="most tracklets in the result")


def method_config(options: argparse.Namespace, base: PipelineConfig) -> PipelineConfig:
    """The preset's configuration with what the command line changes."""
    changes: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("granularity", "heads", "keyframes", "alternatives")
        if getattr(options, name) is not None
    }
    if options.no_reasoning:
        changes["reasoning"] = False
    if options.no_soft_prompts:
        changes["soft_prompts"] = False
    return replace(base, **changes)


class ProgressBar:
    """One bar a stage on standard error; silent where that is not a terminal.

    Args:
        shown: Whether there is one at all: of several processes only one shows its progress.
    """

    def __init__(self, shown: bool = True) -> None:
        self._shown = shown
        self._stage: str | None = None
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def __call__(self, stage: str, fraction: float) -> None:
        """Show that ``fraction`` in [0, 1] of ``stage`` is done."""
        if stage != self._stage:
            from tqdm import tqdm

            self._close()
            self._stage = stage
            self._bar = tqdm(
                total=1.0,
                desc=_STAGES.get(stage, stage),
                bar_format="{desc:<22}{percentage:3.0f}% {bar:30} {elapsed}",
                ncols=72,  # given, since terminals in containers often claim to have no width
                nrows=24,
                file=sys.stderr,
                disable=None if self._shown else True,
            )
        self._bar.update(max(0.0, min(1.0, fraction) - self._bar.n))

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._stage = self._bar = None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _positive_float(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return number


if __name__ == "__main__":
    sys.exit(main())
