"""``steerseg sinks CLIP... --preset NAME``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from steerseg.cli.options import add_method_options, add_model_options, method_config, preset_from
from steerseg.cli.progress import ProgressBar

_EXPRESSION = "the main object"


def add_sinks(commands: Any) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        "sinks",
        help="measure how much attention lies on borders and corners",
        description="Ask a preset's language model for an object of each CLIP, and print how much of its grounding "
        "maps lies on the border and in the corners of the picture, beside what an even map has there. SAM 2 is not "
        "loaded.",
    )
    parser.add_argument(
        "clips", nargs="+", metavar="CLIP", help="video files, folders of frames or http(s) URLs"
    )
    parser.add_argument(
        "-e",
        "--expression",
        default=_EXPRESSION,
        metavar="TEXT",
        help="what is asked for (default: %(default)s)",
    )
    add_model_options(parser, segmenter=False)
    add_method_options(parser, ranked=False)
    parser.set_defaults(run=run_sinks)


def run_sinks(options: argparse.Namespace) -> int:
    """Measure the clips and print a table."""
    from steerseg.reasoning import check_expression

    expression = check_expression(options.expression)
    preset = preset_from(options)

    from steerseg.evaluation.sinks import SinkMeter, SinkShares, sinks_table
    from steerseg.lvlm import LVLM
    from steerseg.runtime.devices import resolve_device
    from steerseg.soft_prompts import SoftPrompts
    from steerseg.video import load_video

    config = method_config(options, preset.config)
    steering = None
    if config.soft_prompts and preset.soft_prompts is not None:
        steering = SoftPrompts.load(preset.soft_prompts)
    device, dtype = resolve_device(options.device)
    measured: dict[str, dict[str, SinkShares]] = {}
    with ProgressBar() as progress:
        progress("load", 0.0)
        lvlm = LVLM.from_pretrained(
            preset.language_model, device=device, dtype=dtype, quantise=preset.quantise
        )
        progress("load", 1.0)
        meter = SinkMeter(lvlm, preset, steering, config)
        for index, clip in enumerate(options.clips):
            video = load_video(clip, progress=progress)
            name = Path(clip).name if Path(clip).name not in measured else clip
            measured[name] = meter.measure(
                video,
                expression,
                tick=lambda fraction, index=index: progress(  # type: ignore[misc]
                    "grounding", (index + fraction) / len(options.clips)
                ),
            )
    attention = "raw attention" if steering is None else f"steered by soft prompts {steering.digest}"
    print(f"preset {preset.name}, {config.keyframes} keyframes, “{expression}”, {attention}\n")
    print(sinks_table(measured))
    return 0
