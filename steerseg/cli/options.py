"""Shared by the subcommands: groups of options, types of values, the folder of results."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from steerseg.config import CandidateSource, Granularity, Heads, PipelineConfig, Quantisation
from steerseg.errors import SteerSegError

if TYPE_CHECKING:  # with pydantic, which --help does not need
    from steerseg.presets import Preset


def add_dataset_options(parser: argparse.ArgumentParser, others: str, *, default: str) -> None:
    """Add ``--dataset`` and ``--root``; ``others`` continues the list of names."""
    parser.add_argument(
        "--dataset",
        default=default,
        metavar="NAME",
        help=f"ref-davis17, reasonvos, revos, mevis or ref-youtube-vos, with --root{others}; or a folder in "
        "Ref-YouTube-VOS layout (default: %(default)s)",
    )
    parser.add_argument("--root", metavar="DIR", type=Path, help="folder of that public dataset")


def add_model_options(parser: argparse.ArgumentParser, *, segmenter: bool = True) -> None:
    """Add the options that choose preset, device and models; ``segmenter`` for commands that use SAM 2."""
    models = parser.add_argument_group("models")
    models.add_argument("--preset", default="demo", help="name or folder of a preset (default: demo)")
    models.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.set_defaults(sam2=None, segmenter=None, candidates=None)
    if segmenter:
        either = models.add_mutually_exclusive_group()
        either.add_argument(
            "--sam2",
            metavar="ID",
            help="another SAM 2 than the preset's: facebook/sam2-hiera-SIZE or facebook/sam2.1-hiera-SIZE with a "
            "SIZE of tiny, small, base-plus or large, or a folder",
        )
        either.add_argument(
            "--segmenter",
            metavar="ID",
            help="another segmenter than the preset's: edgetam, sam3, or the hub id or folder of such a model",
        )
        models.add_argument(
            "--candidates",
            choices=get_args(CandidateSource),
            help="concepts: what SAM 3 finds by the expression's nouns, in place of point prompts (default: as the "
            "preset says)",
        )
    models.add_argument(
        "--quantise",
        choices=get_args(Quantisation),
        help="load the language model with such weights; needs bitsandbytes (default: as the preset says)",
    )


def preset_from(options: argparse.Namespace) -> Preset:
    """The preset that :func:`add_model_options` chose.

    Raises:
        ConfigError: It cannot be used.
    """
    from steerseg.presets import open_preset

    return open_preset(
        options.preset,
        sam2=options.sam2,
        segmenter=options.segmenter,
        quantise=options.quantise,
        candidates=options.candidates,
    )


def add_method_options(parser: argparse.ArgumentParser, *, ranked: bool = True) -> None:
    """Add the switches of :class:`PipelineConfig`; what is not given stays as the preset has it.

    Args:
        parser: Of the subcommand.
        ranked: Whether the subcommand goes on from the maps, and reasons before them.
    """
    method = parser.add_argument_group("method", "What is not given is as the preset says.")
    parser.set_defaults(no_reasoning=False, alternatives=None)
    if ranked:
        method.add_argument("--no-reasoning", action="store_true", help="skip the step that names attributes")
    method.add_argument("--no-soft-prompts", action="store_true", help="use the model's attention unsteered")
    method.add_argument("--granularity", choices=get_args(Granularity), help="which grounding maps are used")
    method.add_argument("--heads", choices=get_args(Heads), help="how attention heads are averaged")
    method.add_argument(
        "--background",
        action="store_true",
        help="take away what a question about the background looks at; against attention sinks, takes longer",
    )
    method.add_argument("--keyframes", type=positive, metavar="N", help="frames the language model sees")
    if ranked:
        method.add_argument("--alternatives", type=positive, metavar="N", help="most tracklets in the result")


def method_config(options: argparse.Namespace, base: PipelineConfig) -> PipelineConfig:
    """The preset's configuration with what :func:`add_method_options` changes."""
    changes: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("granularity", "heads", "keyframes", "alternatives")
        if getattr(options, name) is not None
    }
    if options.no_reasoning:
        changes["reasoning"] = False
    if options.no_soft_prompts:
        changes["soft_prompts"] = False
    if options.background:
        changes["background"] = True
    return replace(base, **changes)


def in_output_folder(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Let a command begin with its folder of results (``options.output``) made and found writable.

    A command that fails before it writes anything leaves no empty folder behind.
    """

    @functools.wraps(run)
    def prepared(options: argparse.Namespace) -> int:
        missing = [path for path in (options.output, *options.output.parents) if not path.exists()]
        try:
            _prepare_folder(options.output)
            return run(options)
        finally:
            for path in missing:
                with contextlib.suppress(OSError):  # it holds something, or was never made
                    path.rmdir()

    return prepared


def _prepare_folder(folder: Path) -> None:
    """Make the folder of results, and find out before the work that it cannot be written.

    Raises:
        SteerSegError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SteerSegError(
            f"{folder} cannot be made a folder: {error.strerror}. Choose another -o."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SteerSegError(f"{folder} cannot be written. Choose another -o or change its permissions.")


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def positive_float(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return number


def share(text: str) -> float:
    """A number in [0, 1]."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return number
