"""What each measure brings of a proposal, beside its lines: what buys next to nothing is deleted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import __file__ as _BENCHMARKS

_ROOT = Path(_BENCHMARKS).parents[1] / "steerseg"
_LEAST = 0.02  # of a proposal: what brings less is not worth its lines

Pair = tuple[str, str]
"""Names of rows: with the measure, and without it. A name that ends in ``*`` stands for the median of all that begin
so."""


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: For a person.
        files: The modules that are there for it alone, below ``steerseg``.
        both: Pairs of rows that count for every proposal.
        cold: Pairs that count for the first proposal of a video only.
        further: Pairs that count for a further expression only.
    """

    name: str
    files: tuple[str, ...] = ()
    both: tuple[Pair, ...] = ()
    cold: tuple[Pair, ...] = ()
    further: tuple[Pair, ...] = ()


def _pass(name: str) -> tuple[Pair, ...]:
    """A way that the vision tower and the text layers have in common."""
    return (
        ("changes, see", f"changes, see: {name}"),
        ("changes, cold ground", f"changes, cold ground: {name}"),
    )


def _tracking(without: str) -> tuple[Pair, ...]:
    return tuple((f"changes, {stage}", f"changes, {stage}: {without}") for stage in ("find", "track"))


_FURTHER = ("changes, further reason: length*", "changes, further ground: length*")
_ANSWER = ("changes, answer", "changes, answer: by transformers")
_MEASURES = (
    Measure("rollout kernels", ("attention/kernels.py",), cold=_pass("rollout by chunks")[1:]),
    Measure("norms of one kernel", ("lvlm/norms.py",), cold=_pass("norms of many kernels")),
    Measure(
        "rotations of one kernel",
        ("lvlm/rotations.py", "lvlm/rotation_kernels.py"),
        cold=_pass("rotations of many kernels"),
    ),
    Measure(
        "layers in few passes",
        ("lvlm/layer_passes.py", "lvlm/layer_kernels.py"),
        both=((_ANSWER[0], "changes, answer: passes of torch"),),
        cold=_pass("passes of torch"),
    ),
    Measure(
        "windows in tiles",
        ("runtime/window_attention.py", "runtime/window_attention_kernels.py"),
        cold=(
            _pass("windows by torch")[0],
            ("changes, encode", "changes, encode: windows by torch"),
        ),
    ),
    Measure(
        "attention planned by cuDNN",
        ("runtime/planned_attention.py",),
        cold=(
            _pass("nothing planned")[0],
            ("changes, encode", "changes, encode: nothing planned"),
        ),
    ),
    Measure("windows as a batch", ("lvlm/vision_attention.py",), cold=_pass("windows in turn")[:1]),
    Measure(
        "padded inner widths",
        ("lvlm/padding.py",),
        cold=(("changes, products: padded", "changes, products: not padded"),),
    ),
    Measure("frames encoded in gaps", cold=(("changes, cold", "changes, cold: nothing in gaps"),)),
    Measure("pictures resized on the GPU", cold=_pass("resized on the host")[:1]),
    Measure(
        "kept prefixes",
        ("lvlm/prefix.py", "lvlm/prefix_reader.py", "lvlm/static_cache.py"),
        further=((_FURTHER[1], "changes, cold ground"),),
    ),
    Measure(
        "captured passes of the text model",
        ("runtime/cuda_graphs.py",),
        further=tuple((name, name.replace("length", "nothing captured, length")) for name in _FURTHER),
    ),
    Measure(
        "cuDNN's attention left out",
        further=tuple((name, name.replace("length", "planned by cuDNN, length")) for name in _FURTHER),
    ),
    Measure(
        "captured answers",
        ("lvlm/generation.py",),
        both=(("changes, answer", "changes, answer: by transformers"),),
    ),
    Measure(
        "joint projections",
        ("lvlm/joined.py",),
        both=(("changes, answer", "changes, answer: projected apart"),),
    ),
    Measure(
        "answers attend by kernels",
        ("lvlm/one_query.py", "lvlm/one_query_kernels.py"),
        both=(("changes, answer", "changes, answer: attending by products"),),
    ),
    Measure(
        "passes of SAM 2 fused",
        (
            "segmenters/sam2_image_encoder.py",
            "segmenters/memory_attention.py",
            "segmenters/fused.py",
            "segmenters/fused_kernels.py",
        ),
        both=_tracking("the package's own passes"),
        cold=(("changes, encode", "changes, encode: the package's own passes"),),
    ),
    Measure("captured steps of tracking", ("runtime/cuda_graphs.py",), both=_tracking("nothing captured")),
    Measure(
        "masks in blocks",
        ("tracking/host_transfer.py",),
        both=_tracking("each answer brought at once"),
    ),
)


def measures_table(results: Sequence[dict[str, Any]]) -> str:
    """One row a measure; empty where nothing was measured without any."""
    seconds = {result["name"]: float(result["seconds"]) for result in results if "seconds" in result}
    if not any(name.startswith("changes, ") for name in seconds):
        return ""
    whole = {kind: seconds.get(f"{kind}: propose") for kind in ("cold", "further")}
    lines = [
        f"Seconds that a proposal takes longer without a measure. Less than {_LEAST:.0%} of both is marked: it is not "
        "worth its lines. Lines are those of the modules that are there for it alone; some serve two measures. "
        "Refinement is not counted.",
        "",
        "| measure | lines | cold: saves (s) | of it | further: saves (s) | of it | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for measure in _MEASURES:
        saved = {
            "cold": _saved(seconds, (*measure.both, *measure.cold)),
            "further": _saved(seconds, (*measure.both, *measure.further)),
        }
        shares = {kind: _share(saved[kind], whole[kind]) for kind in saved}
        cells = [cell for kind in saved for cell in (_seconds(saved[kind]), _percent(shares[kind]))]
        known = [share for share in shares.values() if share is not None]
        verdict = "below 2 %" if known and max(known) < _LEAST else "" if known else "not measured"
        lines.append(f"| {measure.name} | {_lines(measure.files)} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines) + "\n"


def _saved(seconds: dict[str, float], pairs: Sequence[Pair]) -> float | None:
    """The sum over all pairs; ``None`` where a row is missing."""
    each = [(_row(seconds, one), _row(seconds, other)) for one, other in pairs]
    if any(one is None or other is None for one, other in each):
        return None
    return sum(other - one for one, other in each if one is not None and other is not None)


def _row(seconds: dict[str, float], name: str) -> float | None:
    if not name.endswith("*"):
        return seconds.get(name)
    found = [value for known, value in seconds.items() if known.startswith(name[:-1])]
    return statistics.median(found) if found else None


def _share(saved: float | None, whole: float | None) -> float | None:
    return None if saved is None or not whole else saved / whole


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _lines(files: Sequence[str]) -> str:
    return str(sum(len((_ROOT / file).read_text().splitlines()) for file in files)) if files else "a few"
