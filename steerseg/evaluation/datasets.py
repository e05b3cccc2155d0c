"""The datasets that are measured on, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from steerseg.errors import ConfigError
from steerseg.evaluation.readers import (
    is_davis,
    read_davis,
    read_mevis,
    read_reasonvos,
    read_ref_davis17,
    read_ref_youtube_vos,
    read_revos,
)
from steerseg.evaluation.sample import Sample

SPRITES_REF = "sprites-ref"
_USUAL_SPLIT = "val"  # of sprites-ref and of folders


@dataclass(frozen=True)
class Dataset:
    """A public dataset.

    Attributes:
        name: On the command line.
        title: As papers write it.
        splits: Names of its splits and how each is read. The first is the one that papers report, as far as
            its masks are public.
        halves: Kinds of expression whose means the dataset's figure is the mean of; where empty, the figure is
            the mean over all expressions.
        zip_folder: Folder that a submission for its server begins with; "" for none.
    """

    name: str
    title: str
    splits: dict[str, Callable[[Path], list[Sample]]]
    halves: tuple[str, ...] = ()
    zip_folder: str = ""


def _splits(read: Callable[..., list[Sample]], *names: str) -> dict[str, Callable[[Path], list[Sample]]]:
    return {name: partial(read, split=name) for name in names}


DATASETS = {
    dataset.name: dataset
    for dataset in (
        # One figure over objects and annotators: all four sets have every object, so it is the mean over all.
        Dataset("ref-davis17", "Ref-DAVIS17", _splits(read_ref_davis17, "valid", "train")),
        Dataset("reasonvos", "ReasonVOS", _splits(read_reasonvos, "test")),
        Dataset("revos", "ReVOS", _splits(read_revos, "valid", "train"), halves=("referring", "reasoning")),
        Dataset("mevis", "MeViS", _splits(read_mevis, "valid_u", "valid", "train")),
        Dataset(
            "ref-youtube-vos",
            "Ref-YouTube-VOS",
            {
                "valid": partial(read_ref_youtube_vos, split="valid", truth=False),
                "train": partial(read_ref_youtube_vos, split="train"),
            },
            zip_folder="Annotations",
        ),
    )
}


def default_split(dataset: str) -> str:
    """The split that is meant where none is named."""
    return next(iter(DATASETS[dataset].splits)) if dataset in DATASETS else _USUAL_SPLIT


def halves_of(dataset: str) -> tuple[str, ...]:
    """See :class:`Dataset`; none for other datasets."""
    return DATASETS[dataset].halves if dataset in DATASETS else ()


def open_dataset(
    dataset: str,
    split: str,
    data: str | Path = "data",
    workers: int = 1,
    *,
    root: str | Path | None = None,
) -> list[Sample]:
    """Samples of a public dataset, of a dataset's folder, or of `sprites-ref`, which is drawn where missing.

    Args:
        dataset: A name of ``DATASETS``, "sprites-ref", or the root of a dataset in Ref-YouTube-VOS layout, or in DAVIS
            layout with expressions.
        split: Name of the split.
        data: Folder of `sprites-ref`.
        workers: Processes that draw it.
        root: Folder of a public dataset.

    Raises:
        ConfigError: If the dataset or split does not exist.
    """
    if dataset in DATASETS:
        known = DATASETS[dataset].splits
        if root is None:
            raise ConfigError(f"say where {dataset} lies, with --root DIR")
        if split not in known:
            raise ConfigError(f"{dataset} has no split {split!r}; there are {', '.join(known)}")
        return known[split](Path(root))
    if root is not None:
        raise ConfigError(f"--root goes with one of {', '.join(DATASETS)}; {dataset!r} is none of them")
    if dataset != SPRITES_REF:
        if not Path(dataset).is_dir():
            raise ConfigError(
                f"no dataset {dataset!r}; there are {SPRITES_REF}, {', '.join(DATASETS)}, and folders in "
                "Ref-YouTube-VOS layout, or as an export in DAVIS layout"
            )
        return read_davis(dataset, split) if is_davis(dataset) else read_ref_youtube_vos(dataset, split)
    from steerseg.demo.dataset import load_manifest, write_split  # only this dataset needs the renderer

    folder = Path(data) / SPRITES_REF
    write_split(load_manifest(split), folder, workers)
    return read_ref_youtube_vos(folder, split)
