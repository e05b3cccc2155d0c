"""Published results in percent, to be printed beside a run.

Most are of the results table of steerseg.github.io (May 2026). Its authors' figures for MeViS and Ref-YouTube-VOS are
in the paper alone. DecAF's rows are as SteerSeg's authors reproduced them. (The README of the same authors gives
80.3 and 64.8 for SteerSeg with Qwen2.5-VL-7B on Ref-DAVIS17 and ReasonVOS.) Two further methods show where the field
stands: AgentRVOS chooses among concept tracks without training, VIRST is trained from end to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SOURCE = "steerseg.github.io"

Method = Literal["DecAF", "SteerSeg", "AgentRVOS", "VIRST"]


@dataclass(frozen=True)
class Figure:
    """J&F, J and F in percent; J and F only where they are reported."""

    jf: float
    j: float | None = None
    f: float | None = None


@dataclass(frozen=True)
class Published:
    """The results of one method with one language model.

    Attributes:
        method: "DecAF" and "AgentRVOS" have frozen models and no training.
        lvlm: The name of our preset with that model; "" where there is none.
        model: The model as its authors call it.
        figures: By dataset; halves of a dataset as "revos/referring".
        source: Who reports them.
    """

    method: Method
    lvlm: str
    model: str
    figures: dict[str, Figure]
    source: str = SOURCE


_COLUMNS = ("ref-davis17", "reasonvos", "revos", "revos/referring", "revos/reasoning")


def _row(method: Method, lvlm: str, model: str, *columns: tuple[float, float, float]) -> Published:
    figures = {name: Figure(*column) for name, column in zip(_COLUMNS, columns, strict=True)}
    return Published(method, lvlm, model, figures)


# fmt: off
PUBLISHED = (
    _row("DecAF", "llava-onevision-7b", "LLaVA-OneVision-7B",
         (59.4, 54.8, 64.0), (52.8, 49.3, 56.3), (40.0, 35.8, 44.1), (43.4, 39.1, 47.6), (36.6, 32.6, 40.7)),
    _row("SteerSeg", "llava-onevision-7b", "LLaVA-OneVision-7B",
         (70.0, 65.7, 74.3), (58.6, 55.7, 61.5), (49.2, 45.6, 52.8), (51.9, 48.4, 55.5), (47.0, 43.4, 50.6)),
    _row("DecAF", "internvl3-8b", "InternVL3-8B",
         (62.8, 56.9, 68.6), (58.9, 55.1, 62.7), (47.4, 43.7, 51.2), (51.7, 47.9, 55.5), (43.2, 39.5, 46.8)),
    _row("SteerSeg", "internvl3-8b", "InternVL3-8B",
         (66.1, 62.0, 70.1), (63.3, 60.6, 66.1), (52.5, 48.8, 56.2), (55.6, 51.9, 59.3), (49.5, 45.8, 53.1)),
    _row("DecAF", "qwen2-vl-7b", "Qwen2-VL-7B",
         (64.1, 59.4, 68.9), (52.5, 49.0, 56.0), (45.3, 41.6, 49.0), (52.7, 48.9, 56.4), (37.9, 34.3, 41.5)),
    _row("SteerSeg", "qwen2-vl-7b", "Qwen2-VL-7B",
         (77.8, 74.2, 81.4), (63.6, 60.8, 66.4), (53.8, 50.4, 57.1), (59.2, 56.2, 62.3), (48.3, 44.6, 52.0)),
    _row("DecAF", "qwen2.5-vl-7b", "Qwen2.5-VL-7B",
         (75.2, 70.9, 79.5), (63.9, 60.5, 67.2), (54.2, 50.1, 58.2), (58.7, 54.8, 62.6), (49.7, 45.4, 53.9)),
    _row("SteerSeg", "qwen2.5-vl-7b", "Qwen2.5-VL-7B",
         (81.4, 78.0, 84.8), (65.9, 63.1, 68.7), (56.6, 53.5, 59.8), (61.1, 58.2, 63.9), (52.4, 48.9, 55.9)),
    Published("AgentRVOS", "", "SAM 3 and the best of several", {
        "reasonvos": Figure(75.5), "revos": Figure(66.3), "mevis": Figure(73.1),
    }, "arXiv 2603.23489"),
    Published("VIRST", "", "VideoChat-Flash-Qwen2-7B, trained", {
        "ref-davis17": Figure(79.5), "revos": Figure(68.4, 66.3, 70.6),
        "revos/referring": Figure(70.8, 68.8, 72.8), "revos/reasoning": Figure(66.1, 63.9, 68.3),
    }, "arXiv 2603.27060"),
)
# fmt: on
