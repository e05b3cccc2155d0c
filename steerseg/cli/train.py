"""``steerseg train -o PRESETDIR``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from steerseg.cli.options import (
    add_dataset_options,
    add_model_options,
    in_output_folder,
    positive,
    positive_float,
    preset_from,
    share,
)
from steerseg.cli.progress import ProgressBar
from steerseg.config import Beginning, Placement, TrainingRecipe

_RECIPE = TrainingRecipe()


def add_train(commands: Any) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        "train",
        help="train soft prompts on a dataset",
        description="Train a preset's soft prompts from scratch, as the paper does, and write a preset folder "
        "that has them. Started by torchrun, the processes share every step. A run that was interrupted goes "
        "on from its last state.",
    )
    add_dataset_options(parser, "", default="ref-youtube-vos")
    parser.add_argument("--split", default="train", help="which split (default: train)")
    parser.add_argument(
        "-o", "--output", metavar="PRESETDIR", type=Path, required=True, help="the preset that is made"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N expressions")
    add_model_options(parser)
    parser.add_argument("--name", help="what the preset is called (default: that of --preset, -trained)")
    _add_learning_options(parser)
    running = parser.add_argument_group("running")
    running.add_argument(
        "--rows",
        type=positive,
        default=_RECIPE.schedule.rows,
        help="questions that go through the model at once; more are faster and take more memory "
        "(default: %(default)s)",
    )
    running.add_argument(
        "--cache-gib", type=positive_float, default=8.0, help="memory for visual tokens (default: 8)"
    )
    running.add_argument(
        "--save-every", type=positive, default=50, metavar="STEPS", help="between states (default: 50)"
    )
    parser.set_defaults(run=run_train)


def _add_learning_options(parser: argparse.ArgumentParser) -> None:
    """Add the choices of :class:`~steerseg.config.TrainingRecipe`, whose defaults they have."""
    learning = parser.add_argument_group("learning", "Batches and frames are of each process.")
    learning.add_argument(
        "--tokens", type=positive, default=_RECIPE.tokens, help="length of each prompt (default: %(default)s)"
    )
    learning.add_argument(
        "--placement",
        choices=get_args(Placement),
        default=_RECIPE.placement,
        help="where the prompts stand (default: %(default)s)",
    )
    learning.add_argument(
        "--start",
        choices=get_args(Beginning),
        default=_RECIPE.beginning,
        help="what they start as (default: %(default)s)",
    )
    learning.add_argument("--epochs", type=positive, default=_RECIPE.epochs, help="default: %(default)s")
    learning.add_argument(
        "--batch", type=positive, default=_RECIPE.batch, help="expressions of a step (default: %(default)s)"
    )
    learning.add_argument(
        "--frames-per-sample",
        type=positive,
        default=_RECIPE.frames_per_sample,
        help="frame passes of an expression (default: %(default)s)",
    )
    learning.add_argument(
        "--attributes",
        type=share,
        default=_RECIPE.attributes,
        metavar="SHARE",
        help="of questions that hold the model's own attributes, which take time (default: %(default)s)",
    )
    learning.add_argument(
        "--learning-rate",
        type=positive_float,
        default=_RECIPE.schedule.learning_rate,
        help="default: %(default)s",
    )
    learning.add_argument("--seed", type=int, default=_RECIPE.seed, help="default: %(default)s")


def _recipe(options: argparse.Namespace) -> TrainingRecipe:
    return replace(
        _RECIPE,
        tokens=options.tokens,
        placement=options.placement,
        beginning=options.start,
        epochs=options.epochs,
        batch=options.batch,
        frames_per_sample=options.frames_per_sample,
        attributes=options.attributes,
        seed=options.seed,
        schedule=replace(_RECIPE.schedule, learning_rate=options.learning_rate, rows=options.rows),
    )


@in_output_folder
def run_train(options: argparse.Namespace) -> int:
    """Train the soft prompts, write the preset and print what was made."""
    from steerseg.evaluation import open_dataset
    from steerseg.lvlm import LVLM
    from steerseg.runtime.devices import resolve_device
    from steerseg.runtime.distributed import Ranks
    from steerseg.training import train, write_preset

    preset = preset_from(options)
    samples = open_dataset(options.dataset, options.split, root=options.root)[: options.limit]
    ranks = Ranks.from_environment()
    if ranks.first:
        clips = len({sample.video for sample in samples})
        print(
            f"training soft prompts of {preset.name} on {len(samples)} expressions, {clips} clips of "
            f"{options.dataset} ({options.split}), {options.epochs} times over; the state is kept in "
            f"{options.output / 'training'}",
            file=sys.stderr,
            flush=True,
        )
    device, dtype = resolve_device(ranks.device(options.device))
    with ProgressBar(shown=ranks.first) as progress, ranks.joined(str(device)):
        progress("load", 0.0)
        lvlm = LVLM.from_pretrained(
            preset.language_model, device=device, dtype=dtype, quantise=preset.quantise
        )
        progress("load", 1.0)
        prompts = train(
            lvlm,
            preset,
            samples,
            _recipe(options),
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
