"""Results -> a report in Markdown: the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from steerseg.evaluation.datasets import DATASETS, halves_of
from steerseg.evaluation.metrics import Interval
from steerseg.evaluation.published import PUBLISHED, SOURCE
from steerseg.evaluation.results import Result, VariantResults, mean_of, paired_gain
from steerseg.evaluation.variants import ABLATIONS, MAIN, Group

RIGHT_MASK = 0.5
"""A mask counts as right above this J, as in the paper's diagnosis."""

_STAGES = {
    "keyframes": "once a clip: the LVLM's vision tower on the keyframes",
    "frames": "once a clip: SAM 2's encoder on all frames",
    "reasoning": "chain of thought: attributes",
    "grounding": "grounding passes and rollouts",
    "candidates": "SAM 2 on the keyframes, ranking",
    "tracking": "SAM 2 over the whole clip",
}
_TOLD_APART = ("motion", "spatial")


def report(
    measured: Mapping[str, VariantResults], notes: Iterable[str] = (), pictures: Iterable[str] = ()
) -> str:
    """The whole report as Markdown; ``pictures`` are the names of files that can be shown."""
    rows = {name: list(entry.results.values()) for name, entry in measured.items()}
    halves = dataset_halves(measured)
    shown = set(pictures)
    if not is_scored(measured):
        return "\n\n".join([_head(measured, notes), "## Time", time_table(rows)]) + "\n"
    sections = [_head(measured, notes), main_table(rows, halves)]
    if "steering.png" in shown:
        sections += ["![Attention before and after steering](steering.png)"]
    published = published_table(measured)
    if published:
        sections += ["## Beside the published figures", published]
    sections += ["## By kind of expression", kinds_table(rows, halves)]
    if "kinds.png" in shown:
        sections += ["![J&F by kind of expression](kinds.png)"]
    diagnosis = diagnosis_table(rows)
    if diagnosis:
        sections += ["## Diagnosis: what is named, and where attention lies", diagnosis]
    ablations = ablation_table(measured)
    if ablations:
        sections += ["## Ablations", ablations]
        sections += [
            f"![{alt}]({name})"
            for name, alt in (
                ("ablations.png", "J&F of each ablation"),
                ("frame-weight.png", "J&F by frame weight"),
            )
            if name in shown
        ]
    sections += ["## Time", time_table(rows)]
    return "\n\n".join(sections) + "\n"


def is_scored(measured: Mapping[str, VariantResults]) -> bool:
    """Whether any truth is known; without, the dataset's server scores the predictions."""
    return any(result.scored for entry in measured.values() for result in entry.results.values())


def dataset_halves(measured: Mapping[str, VariantResults]) -> tuple[str, ...]:
    """Kinds of expression whose means the dataset's figure is the mean of."""
    return halves_of(next(iter(measured.values())).run.dataset)


def ablation_rows(measured: Mapping[str, VariantResults]) -> dict[Group, dict[str, VariantResults]]:
    """By group, the ablations that were measured, by their labels; the method itself where it is one of them."""
    groups: dict[Group, dict[str, VariantResults]] = {}
    for variant in ABLATIONS:
        if variant.name in measured:
            groups.setdefault(variant.group, {})[variant.label] = measured[variant.name]
    if "granularity" in groups and "steerseg" in measured:
        groups["granularity"]["both maps"] = measured["steerseg"]
    known = {variant.name for variant in (*MAIN, *ABLATIONS)}
    prompts = {name: entry for name, entry in measured.items() if name not in known}
    if prompts:
        groups["soft prompts"] = {}
        if "cot" in measured:
            groups["soft prompts"]["none"] = measured["cot"]
        for name, entry in [*prompts.items(), ("the preset's", measured.get("steerseg"))]:
            if entry is not None and entry.run.soft_prompts is not None:
                own = entry.run.soft_prompts
                label = f"{name} ({own.tokens} tokens, {own.placement})"
                groups["soft prompts"][label] = entry
    return groups


def is_whole_method(entry: VariantResults, measured: Mapping[str, VariantResults]) -> bool:
    """Whether an ablation's setting is the one in use."""
    if "steerseg" not in measured:
        return False
    whole = measured["steerseg"].run
    return entry.run.config == whole.config and entry.run.soft_prompts == whole.soft_prompts


def sample_groups(results: Sequence[Result]) -> dict[str, Callable[[Result], bool]]:
    """Kinds of expression and other parts of a split, where it has them."""
    groups: dict[str, Callable[[Result], bool]] = {}
    for kind in sorted({result.kind for result in results if result.kind}):
        groups[kind] = _of_kind(kind)
    if any(result.twin for result in results):
        groups["without a namesake"] = lambda result: not result.twin
        groups["with a namesake"] = lambda result: result.twin
        groups["namesake, told apart by motion or place"] = lambda result: (
            result.twin and result.kind in _TOLD_APART
        )
    return {name: inside for name, inside in groups.items() if any(map(inside, results))}


def _of_kind(kind: str) -> Callable[[Result], bool]:
    return lambda result: result.kind == kind


def paired(
    results: Sequence[Result], baseline: Sequence[Result], halves: Sequence[str] = ()
) -> Interval | None:
    """The gain in J&F on the samples that both have."""
    others = {result.id: result for result in baseline}
    common = [result for result in results if result.id in others]
    if not common:
        return None
    return paired_gain(common, [others[result.id] for result in common], halves=halves)


def main_rows(rows: Mapping[str, list[Result]]) -> dict[str, tuple[str, list[Result]]]:
    """The main table's variants that were measured: name -> (label, results)."""
    return {v.name: (v.label, rows[v.name]) for v in MAIN if rows.get(v.name)}


def _head(measured: Mapping[str, VariantResults], notes: Iterable[str]) -> str:
    run = next(iter(measured.values())).run
    results = max((list(entry.results.values()) for entry in measured.values()), key=len)
    clips = len({result.video for result in results})
    lines = [
        f"# Preset `{run.preset}` on `{run.dataset}` {run.split}",
        "",
        f"{len(results)} clip–expression pairs of {clips} clips, the whole pipeline.",
    ]
    if is_scored(measured):
        lines[-1] += " J&F with 95 % bootstrap intervals over clips; gains are paired over the same samples."
    else:
        lines[-1] += " Only the dataset's server knows the truth: it scores the masks in the zip beside this."
    halves = dataset_halves(measured)
    if halves:
        lines.append(f"Figures over all expressions are means of the {' and the '.join(halves)} half.")
    if len(results) < run.samples:
        lines.append(f"The split has {run.samples} pairs; this is a part of it.")
    if len({len(entry.results) for entry in measured.values()}) > 1:
        lines.append("Not every row has all samples yet; gains are over those that both rows have.")
    # The preset's own prompts, not those of an ablation.
    rows = sorted(measured, key=lambda name: name not in ("steerseg", "soft"))
    prompts = next((measured[n].run.soft_prompts for n in rows if measured[n].run.soft_prompts), None)
    if prompts is not None:
        lines.append(
            f"Soft prompts: {prompts.digest}, {prompts.tokens} tokens, placed at {prompts.placement}."
        )
    lines += notes
    made_by = {tuple(sorted(m.items())) for entry in measured.values() for m in entry.made_by}
    for made in sorted(made_by):
        packages = dict(made)
        device = packages.pop("device")
        lines.append(f"Computed on {device} with {', '.join(f'{k} {v}' for k, v in packages.items())}.")
    return "\n".join(lines)


def main_table(rows: Mapping[str, list[Result]], halves: Sequence[str] = ()) -> str:
    """A row for each variant: accuracy, gain over raw attention, seconds; ``halves`` as in :func:`mean_of`."""
    lines = [
        "| | n | J&F [95 % interval] | J | F | gain over raw | seconds: first expression, each further |",
        "|---|---|---|---|---|---|---|",
    ]
    raw = rows.get("raw")
    for name, (label, results) in main_rows(rows).items():
        gain = paired(results, raw, halves) if raw and name not in ("raw", "click") else None
        further = float(np.mean([r.seconds.expression for r in results]))
        first = further + float(np.mean([r.seconds.clip for r in results]))
        bold = "**" if name == "steerseg" else ""
        lines.append(
            f"| {bold}{label}{bold} | {len(results)} | {bold}{mean_of(results, halves=halves)}{bold} | "
            f"{mean_of(results, 'j', halves).mean:.3f} | {mean_of(results, 'f', halves).mean:.3f} | "
            f"{_signed(gain)} | {first:.2f}, {further:.2f} |"
        )
    return "\n".join(lines)


def published_table(measured: Mapping[str, VariantResults]) -> str:
    """The results in percent, above those that others report for the dataset; "" for other datasets."""
    run = next(iter(measured.values())).run
    dataset = DATASETS.get(run.dataset)
    if dataset is None:
        return ""
    others = [row for row in PUBLISHED if dataset.name in row.figures]
    missing = (
        f"The public material of SteerSeg's authors ({SOURCE}) has no figures for {dataset.title}; those are in the "
        "paper."
    )
    if not others:
        return missing
    intro = "In percent. Those of the same language model are in bold."
    if all(row.source != SOURCE for row in others):
        intro = f"{missing} In percent."
    parts = [(half, f"{dataset.name}/{half}") for half in dataset.halves]
    lines = [
        intro,
        "",
        f"| {dataset.title} | language model | J&F | J | F |"
        + "".join(f" J&F {half} |" for half, _ in parts),
        "|---|---|---|---|---|" + "---|" * len(parts),
    ]
    for label, results in main_rows({n: list(e.results.values()) for n, e in measured.items()}).values():
        jf = mean_of(results, halves=dataset.halves)
        cells = [f"{100 * jf.mean:.1f} [{100 * jf.low:.1f}, {100 * jf.high:.1f}]"]
        cells += [f"{100 * mean_of(results, measure, dataset.halves).mean:.1f}" for measure in ("j", "f")]
        for half, _ in parts:
            inside = [result for result in results if result.kind == half]
            cells.append(f"{100 * mean_of(inside).mean:.1f}" if inside else "")
        lines.append(f"| here: {label.lstrip('+ ')} | `{run.preset}` | {' | '.join(cells)} |")
    for row in others:
        figure = row.figures[dataset.name]
        bold = "**" if row.lvlm and run.preset.startswith(row.lvlm) else ""
        known = [row.figures.get(name) for _, name in parts]
        values = [figure.jf, figure.j, figure.f, *(half.jf if half else None for half in known)]
        cells = ["" if value is None else f"{bold}{value:.1f}{bold}" for value in values]
        lines.append(f"| {row.method} ({row.source}) | {bold}{row.model}{bold} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kinds_table(rows: Mapping[str, list[Result]], halves: Sequence[str] = ()) -> str:
    """J&F of each variant by kind of expression and by namesakes."""
    shown = main_rows(rows)
    if not shown:
        return "No row of the main table was measured."
    largest = max((results for _, results in shown.values()), key=len)
    lines = [
        "| expressions | n | " + " | ".join(label for label, _ in shown.values()) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    for group, inside in {"all": lambda result: True, **sample_groups(largest)}.items():
        members = [[result for result in results if inside(result)] for _, results in shown.values()]
        cells = [str(mean_of(part, halves=halves)) if part else "" for part in members]
        lines.append(f"| {group} | {max(map(len, members))} | {' | '.join(cells)} |")
    return "\n".join(lines)


def diagnosis_table(rows: Mapping[str, list[Result]]) -> str:
    """Shares of samples whose target is named and pointed to, by variant; "" without maps."""
    shown = {name: row for name, row in main_rows(rows).items() if any(result.pointing for result in row[1])}
    if not shown:
        return ""

    def share(values: Iterable[float | bool | None]) -> str:
        known = [float(value) for value in values if value is not None]
        return f"{np.mean(known):.3f}" if known else ""

    def of_maps(field: str) -> Callable[[Sequence[Result]], str]:
        return lambda results: share(getattr(r.pointing, field) for r in results if r.pointing is not None)

    measures: dict[str, Callable[[Sequence[Result]], str]] = {
        "the model's answer is the target's name": lambda results: share(r.named for r in results),
        "highest cell on the target, frame map": of_maps("frame"),
        "highest cell on the target, video map": of_maps("video"),
        "highest cell on the target, fused map": of_maps("fused"),
        "highest cell of the whole clip on the target": of_maps("peak"),
        f"the chosen tracklet's J is above {RIGHT_MASK}": lambda results: share(
            r.j > RIGHT_MASK for r in results
        ),
    }
    lines = [
        "Shares: of samples, or of keyframes with a visible target for the three maps.",
        "",
        "| | " + " | ".join(label for label, _ in shown.values()) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for label, measure in measures.items():
        lines.append(f"| {label} | {' | '.join(measure(results) for _, results in shown.values())} |")
    return "\n".join([*lines, *_steered(rows)])


def _steered(rows: Mapping[str, list[Result]]) -> list[str]:
    """A cross table of raw against steered attention, over the samples whose target is named right."""
    name, label = next(
        ((v.name, v.label) for v in reversed(MAIN) if v.name in ("steerseg", "soft") and rows.get(v.name)),
        ("", ""),
    )
    if not name or not rows.get("raw"):
        return []
    after = {result.id: result for result in rows[name]}
    pairs = [(raw, after[raw.id]) for raw in rows["raw"] if raw.id in after and raw.named is not None]
    named = [pair for pair in pairs if pair[0].named]
    if not named:
        return []

    def right(result: Result) -> bool:
        return result.j > RIGHT_MASK

    def peak(result: Result) -> bool:
        return bool(result.pointing and result.pointing.peak)

    lines = [
        "",
        f"Of {len(pairs)} samples the model names the right object in {len(named)} "
        f"({len(named) / len(pairs):.0%}), asked without attributes. Of these:",
        "",
        f"| raw attention → {label.lstrip('+ ')} | both right | **missed → right** | right → missed | both miss "
        "| of the missed, recovered |",
        "|---|---|---|---|---|---|",
    ]
    tests: dict[str, Callable[[Result], bool]] = {
        "highest cell of the clip on the target": peak,
        f"mask right (J > {RIGHT_MASK})": right,
    }
    for question, test in tests.items():
        count = {(a, b): 0 for a in (True, False) for b in (True, False)}
        for before, then in named:
            count[test(before), test(then)] += 1
        missed = count[False, True] + count[False, False]
        recovered = f"{count[False, True] / missed:.0%}" if missed else ""
        lines.append(
            f"| {question} | {count[True, True]} | **{count[False, True]}** | {count[True, False]} | "
            f"{count[False, False]} | {recovered} |"
        )
    return lines


def ablation_table(measured: Mapping[str, VariantResults]) -> str:
    """Each ablation with its difference to the whole method; "" where none was measured."""
    groups = ablation_rows(measured)
    if not groups:
        return ""
    halves = dataset_halves(measured)
    whole = list(measured["steerseg"].results.values()) if "steerseg" in measured else []
    lines = [
        "Each changes one thing of the whole method.",
        "",
        "| | | n | J&F [95 % interval] | against the whole method |",
        "|---|---|---|---|---|",
    ]
    for group, entries in groups.items():
        for number, (label, entry) in enumerate(entries.items()):
            results = list(entry.results.values())
            if not results:
                continue
            gain = "in use" if is_whole_method(entry, measured) else _signed(paired(results, whole, halves))
            mean = mean_of(results, halves=halves)
            lines.append(f"| {group if number == 0 else ''} | {label} | {len(results)} | {mean} | {gain} |")
    return "\n".join(lines)


def time_table(rows: Mapping[str, list[Result]]) -> str:
    """Mean seconds of each stage."""
    shown = main_rows(rows)
    if not shown:
        return "No row of the main table was measured."
    frames = float(np.mean([r.frames for _, results in shown.values() for r in results]))
    lines = [
        f"Mean seconds; clips have {frames:.0f} frames on average. Processes that share a machine slow each "
        "other down.",
        "",
        "| stage | " + " | ".join(label for label, _ in shown.values()) + " |",
        "|---|" + "---|" * len(shown),
    ]
    for stage, meaning in _STAGES.items():
        means = [np.mean([getattr(r.seconds, stage) for r in results]) for _, results in shown.values()]
        lines.append(f"| {meaning} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
    return "\n".join(lines)


def _signed(gain: Interval | None) -> str:
    return "" if gain is None else f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
