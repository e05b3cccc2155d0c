"""The sample that steering helps most, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from steerseg.errors import ConfigError
from steerseg.evaluation.results import VariantResults
from steerseg.evaluation.sample import Sample
from steerseg.evaluation.variants import RAW, STEERSEG, Variant
from steerseg.output.figure import save_figure, steering_figure
from steerseg.pipeline import SteerSeg

PICTURE = "steering.png"


def largest_gain(measured: Mapping[str, VariantResults]) -> str | None:
    """The id of the sample with the largest gain in J&F over raw attention; ``None`` where none has both."""
    if RAW.name not in measured or STEERSEG.name not in measured:
        return None
    raw, steered = measured[RAW.name].results, measured[STEERSEG.name].results
    common = [identity for identity, result in steered.items() if identity in raw and result.scored]
    return max(common, key=lambda i: steered[i].jf - raw[i].jf, default=None)


def draw_example(
    steerseg: SteerSeg,
    samples: Sequence[Sample],
    variants: Sequence[Variant],
    measured: Mapping[str, VariantResults],
    identity: str,
    folder: str | Path,
) -> Path:
    """Propose once more for a sample, with raw attention and by the whole method, and draw both.

    Args:
        steerseg: The loaded pipeline.
        samples: Samples of the split.
        variants: "raw" and "steerseg" are among them.
        measured: Their results.
        identity: Id of the sample.
        folder: Folder of ``steering.png``.

    Raises:
        ConfigError: The sample was not measured.
    """
    sample = next((sample for sample in samples if sample.id == identity), None)
    chosen = {variant.name: variant for variant in variants if variant.name in (RAW.name, STEERSEG.name)}
    if sample is None or any(identity not in measured[name].results for name in chosen) or len(chosen) < 2:
        raise ConfigError(
            f"no example can be drawn of {identity!r}; choose an id of the split, such as {samples[0].id!r}, "
            "that raw and steerseg were measured on"
        )
    video = sample.load()
    raw, steered = (
        steerseg.propose(
            video,
            sample.expression,
            config=chosen[name].config(steerseg.config),
            soft_prompts=chosen[name].soft_prompts,
        )
        for name in (RAW.name, STEERSEG.name)
    )
    accuracy = {name: measured[name].results[identity].jf for name in chosen}
    path = Path(folder) / PICTURE
    verdicts = (f"J&F {accuracy[RAW.name]:.2f}", f"J&F {accuracy[STEERSEG.name]:.2f}")
    save_figure(steering_figure(raw, steered, video, verdicts), path)
    return path
