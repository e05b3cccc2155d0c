"""``steerseg doctor``: look at this machine, name the preset that fits, what is missing, and a first command."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # with torch, which --help does not need
    from steerseg.presets.fitting import Advice
    from steerseg.runtime.machine import Machine


def add_doctor(commands: Any) -> None:
    """Declare the subcommand."""
    parser = commands.add_parser(
        "doctor",
        help="name the preset that fits this machine",
        description="Look at GPUs, memory, disk and downloaded weights, and say which preset fits this machine, "
        "what is missing, and the first command. Nothing is downloaded. The exit status is 1 where something is "
        "missing.",
    )
    parser.set_defaults(run=run_doctor)


def run_doctor(options: argparse.Namespace) -> int:
    """Print the report; 1 where something is missing."""
    from steerseg.presets.fitting import advise
    from steerseg.runtime.machine import look_at_machine

    machine = look_at_machine()
    advice = advise(machine)
    print("\n".join(describe(machine, advice)))
    return 1 if advice.missing else 0


def describe(machine: Machine, advice: Advice) -> Iterator[str]:
    """The report, line by line."""
    gib = 2**30
    for gpu in machine.gpus:
        yield f"GPU      {gpu.device}: {gpu.name}, {gpu.total / gib:.1f} GiB, {gpu.free / gib:.1f} free"
    if not machine.gpus:
        yield "GPU      none that torch sees"
    memory = f", {machine.memory / gib:.1f} GiB of memory" if machine.memory else ""
    yield f"CPU      {machine.cores} core{'' if machine.cores == 1 else 's'}{memory}"
    yield f"disk     {machine.disk_free / 1e9:.0f} GB free in {machine.cache}"
    yield f"preset   {advice.need.preset}: {advice.reason}"
    for weights in advice.weights:
        yield f"weights  {weights.name}: {'here' if weights.here else 'not here; the first start downloads them'}"
    if not all(weights.here for weights in advice.weights):
        yield f"         {advice.need.download_gb:g} GB together"
    for note in advice.notes:
        yield f"note     {note}"
    for missing in advice.missing:
        yield f"missing  {missing}"
    yield f"first    {advice.command}"
