"""Models of ``transformers`` from a folder or the hub, with every weight in its place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from steerseg.errors import ModelError
from steerseg.segmenters.loading import digest

WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")
"""Files of a model."""


def fetch(name: str, files: Sequence[str], known: Sequence[str]) -> Path:
    """The folder of a model's files, fetched from the hub where they are not there yet.

    Args:
        name: Hub id.
        files: Patterns of the files.
        known: What else may be named, for the error.

    Raises:
        ModelError: They cannot be fetched.
    """
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{name!r} is neither a folder nor a published segmenter that can be fetched ({error}); expected a "
            f"folder, the hub id of a video model, or one of {', '.join(known)}. Weights may have terms to accept "
            "first."
        ) from error


@contextlib.contextmanager
def without_progress_bar() -> Iterator[None]:
    """Inside, the library shows none: callers have a progress display of their own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_weights(
    architecture: Any, folder: Path, name: str, dtype: torch.dtype = torch.float32
) -> tuple[Any, str]:
    """A model from its folder.

    Args:
        architecture: Its class in ``transformers``.
        folder: With :data:`WEIGHTS`.
        name: Of the model, for versions and errors.
        dtype: Of its weights.

    Returns:
        The model, and its version: the name with a hash of configuration and weights.

    Raises:
        ModelError: Weights and configuration do not fit, or a package is missing.
    """
    try:
        with without_progress_bar():
            model, report = architecture.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except ImportError as error:
        raise ModelError(
            f"the segmenter {name} needs another package: {error}. EdgeTAM's is installed with "
            "`pip install '.[edgetam]'` in the source folder."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"the segmenter {name} could not be loaded: {error}") from error
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if missing:
        raise ModelError(
            f"the weights of {name} do not fit its configuration: {len(missing)} are missing or of another size, "
            f"such as {missing[0]}"
        )
    weights = sorted(folder.glob("*.safetensors"))
    short = name if Path(name) != folder else folder.name
    return model, f"{short}:{digest(folder / 'config.json', *weights)}"
