"""The variants that are measured, as data: the method, its parts left out, its ablations, an upper bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from steerseg.config import PipelineConfig
from steerseg.errors import ConfigError
from steerseg.soft_prompts import SoftPrompts

Group = Literal["main", "granularity", "heads", "frame weight", "background", "soft prompts"]


@dataclass(frozen=True)
class Variant:
    """One row of a table.

    Attributes:
        name: For files and the command line.
        label: For people.
        group: The main table, or the ablation that it belongs to.
        changes: Fields of :class:`PipelineConfig` that differ from the preset's.
        click: Whether a click on the true object replaces the language model: the upper bound of SAM 2 with
            perfect grounding.
        soft_prompts: Prompts that replace the preset's.
    """

    name: str
    label: str
    group: Group = "main"
    changes: Mapping[str, Any] = field(default_factory=dict)
    click: bool = False
    soft_prompts: SoftPrompts | None = None

    def config(self, base: PipelineConfig) -> PipelineConfig:
        """The pipeline's switches; one tracklet, since only the best is scored."""
        return replace(base, alternatives=1, **self.changes)

    def steered(self) -> bool:
        """Whether soft prompts take part."""
        return not self.click and bool(self.changes.get("soft_prompts", True))


def _parts(reasoning: bool, soft_prompts: bool) -> dict[str, bool]:
    return {"reasoning": reasoning, "soft_prompts": soft_prompts, "localisation": False, "motion": False}


_FULL = _parts(reasoning=True, soft_prompts=True)

CLICK = Variant("click", "one true click → SAM 2 (upper bound)", click=True)
RAW = Variant("raw", "raw attention", changes=_parts(False, False))
COT = Variant("cot", "+ CoT", changes=_parts(True, False))
SOFT = Variant("soft", "+ soft prompts", changes=_parts(False, True))
STEERSEG = Variant("steerseg", "+ both (SteerSeg)", changes=_FULL)

LOCALISED = Variant("localised", "+ stated positions (ours)", changes={**_FULL, "localisation": True})
MOVING = Variant("motion", "+ stated motions (ours)", changes={**LOCALISED.changes, "motion": True})

MAIN = (CLICK, RAW, COT, SOFT, STEERSEG, LOCALISED, MOVING)

# Each changes one thing of the whole method.
ABLATIONS = (
    Variant("frame-map", "frame map only", "granularity", {**_FULL, "granularity": "frame"}),
    Variant("video-map", "video map only", "granularity", {**_FULL, "granularity": "video"}),
    Variant("heads-mean", "heads: plain mean", "heads", {**_FULL, "heads": "mean"}),
    Variant("heads-visual-max", "heads: visual_max", "heads", {**_FULL, "heads": "visual_max"}),
    *(
        Variant(
            f"frame-weight-{tenth / 10:.1f}",
            f"{tenth / 10:.1f}",
            "frame weight",
            {**_FULL, "frame_weight": tenth / 10},
        )
        for tenth in range(11)
    ),
    Variant("background", "background taken away", "background", {**_FULL, "background": True}),
)


def with_soft_prompts(name: str, soft_prompts: SoftPrompts) -> Variant:
    """The whole method with other soft prompts than the preset's."""
    tokens = soft_prompts.frame.shape[0]
    label = f"{name} ({tokens} tokens, {soft_prompts.placement})"
    return Variant(name, label, "soft prompts", _FULL, soft_prompts=soft_prompts)


def choose_variants(
    names: Sequence[str] | None,
    *,
    compare: bool,
    ablations: bool,
    own: SoftPrompts | None,
    others: Mapping[str, SoftPrompts],
) -> tuple[list[Variant], list[str]]:
    """The variants of a run.

    Args:
        names: Rows of the main table; the usual ones if left out.
        compare: Whether the usual ones are all, or only the most complete one that the preset can show.
        ablations: Whether the ablations are added.
        own: The preset's soft prompts, if it has any.
        others: Further soft prompts by name; each becomes a variant.

    Returns:
        The variants, and the names of those left out because there are no soft prompts.

    Raises:
        ConfigError: A name is unknown or in use, a named variant needs soft prompts that are missing, or none is
            left.
    """
    known = {variant.name: variant for variant in (*MAIN, *ABLATIONS)}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ConfigError(f"unknown variant {unknown[0]!r}; there are {', '.join(known)}")
    clashing = [name for name in others if name in known]
    if clashing:
        raise ConfigError(f"{clashing[0]!r} is a variant already; give those soft prompts another name")
    if names is not None:
        wanted = [known[name] for name in dict.fromkeys(names)]
        needing = [variant.name for variant in wanted if variant.steered()]
        if needing and own is None:
            raise ConfigError(
                f"variant {needing[0]!r} needs soft prompts, which this preset does not have; give their "
                "folder with --soft-prompts DIR, or choose among click, raw and cot"
            )
    else:
        wanted = list(MAIN) if compare else [COT if own is None else STEERSEG]
    if ablations:
        wanted += [variant for variant in ABLATIONS if variant not in wanted]
    left_out = [variant.name for variant in wanted if variant.steered() and own is None]
    chosen = [variant for variant in wanted if variant.name not in left_out]
    chosen = [replace(variant, soft_prompts=own) if variant.steered() else variant for variant in chosen]
    return chosen + [with_soft_prompts(name, prompts) for name, prompts in others.items()], left_out
