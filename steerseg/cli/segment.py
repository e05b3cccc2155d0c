"""``steerseg segment VIDEO EXPRESSION -o DIR``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerseg.cli.options import (
    add_method_options,
    add_model_options,
    in_output_folder,
    method_config,
    positive,
    positive_float,
    preset_from,
)
from steerseg.cli.progress import ProgressBar

if TYPE_CHECKING:  # with torch, which --help does not need
    from steerseg.presets import Preset
    from steerseg.proposal import Proposal
    from steerseg.tracking import Tracklet


def add_segment(commands: Any) -> None:
    """Declare the subcommand."""
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
    add_model_options(parser)
    add_method_options(parser)
    reading = parser.add_argument_group("reading the video")
    reading.add_argument("--stride", type=positive, default=1, help="keep every N-th frame (default: 1)")
    reading.add_argument("--fps", type=positive_float, help="frame rate of a folder of frames (default: 25)")
    reading.add_argument(
        "--allow-private-addresses",
        action="store_true",
        help="let URLs lead to this machine and its local network",
    )
    parser.set_defaults(run=run_segment)


@in_output_folder
def run_segment(options: argparse.Namespace) -> int:
    """Make a proposal, write it and print a summary."""
    from steerseg.reasoning import check_expression

    expression = check_expression(options.expression)

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

            steerseg = SteerSeg.from_pretrained(preset_from(options), device=options.device)
        progress("load", 1.0)
        config = method_config(options, steerseg.config)
        proposal = steerseg.propose(video, expression, config=config, progress=progress)
        progress("save", 0.0)
        proposal.save(options.output)
        progress("save", 1.0)
    print(summary(proposal, options.output, steerseg.preset))
    return 0


def summary(proposal: Proposal, folder: Path, preset: Preset | None = None) -> str:
    """The best tracklet, the alternatives and the files, in a few lines for a person.

    Args:
        proposal: The proposal.
        folder: Its folder.
        preset: Gives the least sure score and the hint.
    """
    from steerseg.masks import mask_area

    total = len(proposal.pts)
    visible = [sum(mask_area(rle) > 0 for rle in tracklet.rles) for tracklet in proposal.tracklets]
    lines = _findings(proposal, visible)
    if preset is not None:
        lines += _doubts(proposal, preset)
    if proposal.note:
        lines.append(f"  note          {proposal.note}")
    if proposal.attributes:
        lines.append(f"  attributes    {', '.join(proposal.attributes)}")
    shown = proposal.shown or (0,)
    others = [rank for rank in range(len(proposal.tracklets)) if rank not in shown]
    for rank in others:
        label = "alternatives" if rank == others[0] else ""
        score = proposal.tracklets[rank].score
        figures = f"score {score:.2f}{_opinion(proposal.tracklets[rank])}"
        lines.append(f"  {label:<12}  #{rank + 1} on {visible[rank]} of {total} frames ({figures})")
    names = ["proposal.json", "maps.png"]
    if proposal.shown:
        names[1:1] = ["overlay.mp4", f"masks{os.sep} ({total} pictures)"]
    lines += [f"  {'files' if i == 0 else '':<12}  {folder / name}" for i, name in enumerate(names)]
    return "\n".join(lines)


def _findings(proposal: Proposal, visible: Sequence[int]) -> list[str]:
    """Lines about what is shown; ``visible`` has the number of frames that show each tracklet."""
    total = len(proposal.pts)
    if not proposal.tracklets:
        return [f'nothing found for "{proposal.expression}"; maps.png shows where the model looked']
    if proposal.presence.refused:
        likely = f"presence {proposal.presence.value:.2f}"
        found = (
            f"; what comes closest looks like {proposal.presence.found!r}" if proposal.presence.found else ""
        )
        return [f'"{proposal.expression}" is hardly in the video ({likely}), so no masks are written{found}']
    if len(proposal.shown) == 1:
        sure = proposal.presence.confidence
        figures = f"score {proposal.best.score:.2f}" if sure is None else f"confidence {sure:.2f}"
        figures += _opinion(proposal.best)
        return [f'found "{proposal.expression}" on {visible[0]} of {total} frames ({figures})']
    return [f'found {len(proposal.shown)} objects for "{proposal.expression}"'] + [
        f"  object {number:<6} #{rank + 1} on {visible[rank]} of {total} frames"
        f" (score {proposal.tracklets[rank].score:.2f}{_opinion(proposal.tracklets[rank])})"
        for number, rank in enumerate(proposal.shown, start=1)
    ]


def _opinion(tracklet: Tracklet) -> str:
    """What the model thinks of a candidate, such as ``, rejected: a cat``; empty where it was not asked."""
    return "" if tracklet.opinion is None else f", {tracklet.opinion}"


def _doubts(proposal: Proposal, preset: Preset) -> list[str]:
    """Lines for a proposal whose best tracklet is unsure, or that holds nothing."""
    from steerseg.presence.confidence import EVEN

    sure = proposal.presence.confidence
    if sure is not None:
        certain = sure >= EVEN
    else:
        certain = bool(proposal.tracklets) and proposal.best.score >= preset.unsure_below
    if certain:
        return []
    lines = []
    if sure is not None:
        lines.append("  unsure        it is more likely wrong than right")
    elif proposal.tracklets:
        lines.append(f"  unsure        clear matches score {preset.unsure_below:.2f} or more")
    if preset.hint:
        lines.append(f"  hint          {preset.hint}")
    return lines
