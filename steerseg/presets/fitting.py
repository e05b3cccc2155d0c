"""Which preset fits a machine, what is missing for it, and the first command."""

from __future__ import annotations

from dataclasses import dataclass

from steerseg.presets import Preset, find_preset, load_preset
from steerseg.runtime.machine import GIB, Gpu, Machine, are_weights_here, has_package

_ROOM = 1.2  # a download is there twice for a moment, in part


@dataclass(frozen=True)
class Need:
    """What a preset takes.

    Attributes:
        preset: Its name.
        gpu_gib: Memory of the smallest GPU in GiB; 0 for none.
        download_gb: Size of its weights on the hub, in GB.
    """

    preset: str
    gpu_gib: float
    download_gb: float


NEEDS = (
    Need("qwen2.5-vl-7b", 22, 17.5),
    Need("qwen3-vl-4b", 15, 9.2),
    Need("qwen3-vl-2b", 7.5, 4.5),
    Need("clicks-edgetam", 0, 0.1),
)
"""The best first. A card is sold by a rounded number, of which the driver takes a part."""


@dataclass(frozen=True)
class Weights:
    """The weights of one model of a preset.

    Attributes:
        name: Hub id or folder.
        here: Whether they are on this machine.
    """

    name: str
    here: bool


@dataclass(frozen=True)
class Advice:
    """The preset that fits a machine.

    Attributes:
        need: The preset, with what it takes.
        device: Where it runs.
        reason: Why this one, for a person.
        weights: Its weights.
        missing: What has to be done first, each a sentence with what to do.
        notes: What is worth knowing beside that.
        command: The first command.
    """

    need: Need
    device: str
    reason: str
    weights: tuple[Weights, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    command: str


def advise(machine: Machine) -> Advice:
    """The best preset that fits a machine, with what is missing for it.

    Args:
        machine: The machine.
    """
    gpu = max(machine.gpus, key=lambda gpu: gpu.total, default=None)
    need = next(
        need for need in NEEDS if (gpu is not None and need.gpu_gib * GIB <= gpu.total) or not need.gpu_gib
    )
    device = "cpu" if gpu is None else gpu.device
    preset = load_preset(find_preset(need.preset))
    weights = weights_of(preset)
    return Advice(
        need=need,
        device=device,
        reason=_reason(need, gpu),
        weights=weights,
        missing=_missing(machine, need, preset, weights),
        notes=_notes(machine, need, gpu),
        command=f"steerseg-backend serve --preset {need.preset} --device {device}",
    )


def weights_of(preset: Preset) -> tuple[Weights, ...]:
    """The models of a preset, and whether their weights are on this machine."""
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

    from steerseg.segmenters.choice import PUBLISHED

    segmenter = PUBLISHED.get(preset.segmenter_source, preset.segmenter_source)
    files = (HF_MODEL_ID_TO_FILENAMES[segmenter][1],) if segmenter in HF_MODEL_ID_TO_FILENAMES else ()
    known = [] if preset.lvlm is None else [Weights(preset.lvlm, are_weights_here(preset.lvlm))]
    return (*known, Weights(segmenter, are_weights_here(segmenter, files)))


def _reason(need: Need, gpu: Gpu | None) -> str:
    if gpu is None:
        return "there is no GPU, and published language models need one; clicks and boxes do not"
    if not need.gpu_gib:
        return f"{gpu.total / GIB:.0f} GiB are too few for a language model; clicks and boxes alone fit"
    return f"it runs on a GPU from {need.gpu_gib:g} GiB on, and this one has {gpu.total / GIB:.0f}"


def _missing(machine: Machine, need: Need, preset: Preset, weights: tuple[Weights, ...]) -> tuple[str, ...]:
    missing = []
    if preset.segmenter_source == "edgetam" and not has_package("timm"):
        missing.append("EdgeTAM's image encoder takes the package timm: pip install '.[edgetam]'")
    absent = [one.name for one in weights if not one.here]
    if absent and machine.disk_free < _ROOM * need.download_gb * 1e9:
        missing.append(
            f"the weights take {need.download_gb:g} GB, and {machine.disk_free / 1e9:.1f} GB are free in "
            f"{machine.cache}: make room, or set HF_HUB_CACHE to a folder on another disk"
        )
    return tuple(missing)


def _notes(machine: Machine, need: Need, gpu: Gpu | None) -> tuple[str, ...]:
    notes = []
    if machine.driver and not machine.gpus:
        notes.append(
            "a GPU's driver is here, but this torch sees no GPU: install torch with GPU support, by `make venv` "
            "without TORCH_INDEX"
        )
    if gpu is not None and gpu.free < need.gpu_gib * GIB:
        notes.append(
            f"other processes hold {(gpu.total - gpu.free) / GIB:.1f} GiB of {gpu.device}; end them before you start"
        )
    return tuple(notes)
