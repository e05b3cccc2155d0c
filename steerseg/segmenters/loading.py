"""Load SAM 2: from a folder with its configuration, or by its hub id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerseg.errors import ModelError

_TRUSTED_TARGETS = ("sam2.", "steerseg.demo.sam2.")
"""Prefixes of the classes that a configuration may instantiate."""

_PUBLISHED_SETTINGS = {
    "_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor",
    "binarize_mask_from_pts_for_mem_enc": True,
    "sam_mask_decoder_extra_args": {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    },
}


def load_folder(folder: Path, device: torch.device) -> tuple[Any, str]:
    """Load SAM 2 from a folder.

    Args:
        folder: With a configuration and weights; see :meth:`steerseg.segmenters.sam2.Sam2.from_pretrained`.
        device: Where the weights go.

    Returns:
        A ``SAM2VideoPredictor``, and its version: the folder's name with a hash of configuration and weights.

    Raises:
        ModelError: Configuration or weights are missing or do not fit, or the configuration names other code.
    """
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config_path = _only(folder, ("config.yaml",), ("*.yaml",), "a SAM 2 configuration")
    weights_path = _only(folder, ("model.safetensors",), ("*.safetensors", "*.pt"), "SAM 2 weights")
    config = OmegaConf.load(config_path)
    if "model" not in config or "_target_" not in config.model:
        raise ModelError(f"{config_path} is no SAM 2 configuration: it has no model with a _target_")
    if config.model._target_ == "sam2.modeling.sam2_base.SAM2Base":
        # The published configurations; the package adds these settings when it builds a video predictor.
        config = OmegaConf.merge(config, OmegaConf.create({"model": _PUBLISHED_SETTINGS}))
    OmegaConf.resolve(config)
    for target in _targets(OmegaConf.to_container(config.model)):
        if not target.startswith(_TRUSTED_TARGETS):
            raise ModelError(
                f"{config_path} asks for {target}, which is not part of SAM 2; it will not be run"
            )
    model = instantiate(config.model, _recursive_=True)
    try:
        model.load_state_dict(_load_weights(weights_path))
    except RuntimeError as error:
        raise ModelError(f"{weights_path} does not fit {config_path}: {error}") from error
    return model.to(device), f"{folder.name}:{digest(config_path, weights_path)}"


def load_from_hub(name: str, device: torch.device) -> tuple[Any, str]:
    """Load a published SAM 2 by its hub id.

    Args:
        name: Such as ``facebook/sam2.1-hiera-large``.
        device: Where the weights go.

    Returns:
        A ``SAM2VideoPredictor``, and its version: the id with a hash of the weights.

    Raises:
        ModelError: No such model is published, or it could not be fetched.
    """
    from huggingface_hub import hf_hub_download
    from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES, build_sam2_video_predictor

    if name not in HF_MODEL_ID_TO_FILENAMES:
        known = ", ".join(sorted(HF_MODEL_ID_TO_FILENAMES))
        raise ModelError(
            f"{name!r} is neither a folder nor a published SAM 2; expected a folder or one of {known}"
        )
    config_name, weights_name = HF_MODEL_ID_TO_FILENAMES[name]
    try:
        weights = hf_hub_download(repo_id=name, filename=weights_name)
    except OSError as error:
        raise ModelError(
            f"{name} could not be fetched from the Hugging Face hub ({error}); check the network, or pass a "
            "folder with its configuration and weights"
        ) from error
    model = build_sam2_video_predictor(config_name, weights, device=str(device))
    return model, f"{name}:{digest(Path(weights))}"


def _only(folder: Path, names: Sequence[str], patterns: Sequence[str], what: str) -> Path:
    """The file of ``folder`` with one of ``names``, else the only one that matches a pattern."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for pattern in patterns for path in folder.glob(pattern))
    if len(found) != 1:
        listed = ", ".join(path.name for path in found) or "none"
        raise ModelError(f"expected {what} ({names[0]}) in {folder}, found {listed}")
    return found[0]


def _load_weights(path: Path) -> dict[str, Tensor]:
    """A state dict in float32, from safetensors or from the published ``{"model": …}`` checkpoints."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("model", state)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _targets(node: Any) -> Iterator[str]:
    """The names of all classes that a configuration would instantiate."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield str(node["_target_"])
        for child in node.values():
            yield from _targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from _targets(child)


def digest(*paths: Path) -> str:
    """A hash of the content of files, in their order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12]
