"""What a machine has for models: GPUs, cores, memory, disk, and the weights in the hub's cache."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache

from steerseg.runtime.cores import usable_cores

GIB = 2**30
_WEIGHTS = ("model.safetensors.index.json", "model.safetensors")


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees.

    Attributes:
        device: Its name for ``--device``.
        name: Its maker's name.
        total: Bytes of its memory.
        free: Bytes that nobody has taken.
    """

    device: str
    name: str
    total: int
    free: int


@dataclass(frozen=True)
class Machine:
    """A machine, as far as models care.

    Attributes:
        gpus: The GPUs that torch sees.
        driver: Whether a GPU's driver is installed, whatever torch sees.
        cores: Cores that this process may use.
        memory: Bytes of main memory; 0 where the system does not say.
        cache: Folder of the hub's cache.
        disk_free: Bytes that are free there.
    """

    gpus: tuple[Gpu, ...]
    driver: bool
    cores: int
    memory: int
    cache: Path
    disk_free: int


def look_at_machine() -> Machine:
    """This machine. It loads torch, and no model."""
    import torch

    gpus = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        gpus.append(Gpu(f"cuda:{index}", torch.cuda.get_device_name(index), total, free))
    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    return Machine(
        gpus=tuple(gpus),
        driver=shutil.which("nvidia-smi") is not None,
        cores=usable_cores(),
        memory=_main_memory(),
        cache=cache,
        disk_free=shutil.disk_usage(there).free,
    )


def _main_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def has_package(name: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(name) is not None


def installed_version(package: str) -> str:
    """A package's version; "unknown" where it runs from a folder that was never installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def are_weights_here(name: str, files: tuple[str, ...] = ()) -> bool:
    """Whether a model's weights are on this machine: in a folder, or whole in the hub's cache.

    Args:
        name: Folder or hub id.
        files: Files that hold the weights; safetensors in the usual layout where left out.
    """
    if Path(name).is_dir():
        return True
    if files:
        return all(_cached(name, file) is not None for file in files)
    found = next((path for file in _WEIGHTS if (path := _cached(name, file)) is not None), None)
    if found is None or found.name != _WEIGHTS[0]:
        return found is not None
    parts = set(json.loads(found.read_bytes())["weight_map"].values())
    return all(_cached(name, part) is not None for part in parts)


def _cached(name: str, file: str) -> Path | None:
    found = try_to_load_from_cache(name, file)
    return Path(found) if isinstance(found, str) else None
