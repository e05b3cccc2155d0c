"""A model and its processor, loaded by name, and what a GPU then computes by fewer kernels."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import transformers
from PIL.Image import Resampling
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from steerseg.config import Quantisation
from steerseg.errors import ModelError
from steerseg.lvlm.dynamic_frequencies import settle_frequencies
from steerseg.lvlm.families import family_of
from steerseg.lvlm.joined import join_projections
from steerseg.lvlm.layer_passes import fuse_gates
from steerseg.lvlm.norms import fuse_norms
from steerseg.lvlm.padding import pad_inner_widths
from steerseg.lvlm.quantised import bits_of, keep_differentiable, loading_options
from steerseg.lvlm.rotations import fuse_rotations
from steerseg.runtime.machine import installed_version

_FIRST_WITH_LANCZOS = (0, 27)  # of torchvision


def load_model(
    name: str, *, device: torch.device, dtype: torch.dtype, quantise: Quantisation | None
) -> tuple[Any, Any]:
    """Load a model and its processor by hub id or from a folder in Hugging Face's layout.

    Args:
        name: Hub id or folder.
        device: Where the weights go.
        dtype: Their precision.
        quantise: Bits of the text model's weights; ``None`` leaves them as they are saved.

    Returns:
        A ``*ForConditionalGeneration`` model on the device, and its processor.

    Raises:
        ModelError: The weights cannot be found or read, the family is not supported, or an optional package is missing.
    """
    bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # callers have a progress display of their own
    try:
        _check_packages(name, device)
        processor = AutoProcessor.from_pretrained(name)
        _check_filter(name, processor)
        options = loading_options(name, quantise, device, dtype)
        model = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"the vision-language model {name!r} could not be loaded: {error}. Expected a hub id that "
            "this machine can reach or has cached, or a folder saved by `save_pretrained`."
        ) from error
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    if bits_of(model):
        keep_differentiable(model)
    _end_with_turns(model, processor)
    return model if "device_map" in options else model.to(device), processor


def _check_packages(name: str, device: torch.device) -> None:
    """Check, before weights are downloaded, that what the family needs is installed, and what runs on the device."""
    family = family_of(AutoConfig.from_pretrained(name).model_type)
    for package, extra in family.packages.items():
        if find_spec(package) is None:
            raise ModelError(
                f"the vision-language model {name!r} needs {package}; install it with "
                f"`pip install '.[{extra}]'` in the source folder."
            )
    for package, installed in family.gpu_packages.items():
        if device.type != "cuda" and find_spec(package) is not None:
            raise ModelError(
                f"the vision-language model {name!r} computes by {package} where it is installed, and that runs on a "
                f"GPU alone; choose a GPU, or remove it with `pip uninstall {installed}`."
            )


def _check_filter(name: str, processor: Any) -> None:
    """Check that torchvision has the filter by which the processor resizes, where another would take its place."""
    if processor.image_processor.resample != Resampling.LANCZOS:
        return
    here = installed_version("torchvision")
    if here != "unknown" and tuple(int(part) for part in here.split(".")[:2]) < _FIRST_WITH_LANCZOS:
        raise ModelError(
            f"the vision-language model {name!r} has its frames resized by Lanczos' filter, which torchvision has from "
            f"0.27 on, and {here} is installed; install it with `pip install 'torchvision>=0.27'`."
        )


def _end_with_turns(model: Any, processor: Any) -> None:
    """Let answers end with their turn too: a checkpoint without generation settings names the end of a text only."""
    settings, end = model.generation_config, processor.tokenizer.eos_token_id
    named = settings.eos_token_id
    known = [] if named is None else [named] if isinstance(named, int) else list(named)
    if end is not None and end not in known:
        settings.eos_token_id = [end, *known]


def accelerate(model: Any, *, rotations: bool) -> None:
    """Let a model on a GPU compute by fewer and faster kernels, each where it is seen to be right.

    cuDNN's attention is switched off for the process: it makes a plan for each length of a chat, which takes up to a
    second of every new expression. :mod:`steerseg.runtime.planned_attention` has it where pictures come again.

    Args:
        model: Changed in place.
        rotations: Whether functions of transformers are replaced for the process; see
            :func:`steerseg.lvlm.rotations.fuse_rotations`.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    fuse_norms(model)
    settle_frequencies(model)
    if rotations:
        fuse_rotations(model)
    fuse_gates(model)
    pad_inner_widths(model)
    join_projections(model.get_decoder())
