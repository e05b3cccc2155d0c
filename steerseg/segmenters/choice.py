"""A segmenter by its name, its hub id or its folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES

from steerseg.config import SegmenterConfig
from steerseg.errors import ModelError
from steerseg.segmenters.base import Segmenter
from steerseg.segmenters.hf import KINDS, VideoModel
from steerseg.segmenters.hf_loading import WEIGHTS, fetch, load_weights
from steerseg.segmenters.sam2 import Sam2

PUBLISHED = {"edgetam": "yonigozlan/EdgeTAM-hf", "sam3": "facebook/sam3"}
"""Hub ids of segmenters that a preset may call by a name. SAM 2 comes in many sizes and has none."""


def load_segmenter(
    source: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: SegmenterConfig = SegmenterConfig(),  # noqa: B008 (frozen)
) -> Segmenter:
    """Load a segmenter.

    Args:
        source: A name of :data:`PUBLISHED`, a hub id, or a folder: with a SAM 2 as
            :meth:`steerseg.segmenters.sam2.Sam2.from_pretrained` takes it, or with a video model of ``transformers``
            (``config.json`` and ``*.safetensors``).
        device: Where to run.
        dtype: ``torch.bfloat16`` runs a GPU under autocast; a CPU goes by ``config``.
        config: How frames and clicks reach the model.

    Raises:
        ModelError: Nothing usable is there, weights and configuration do not fit, or a package is missing.
    """
    name = PUBLISHED.get(str(source), str(source))
    folder = Path(name)
    # A folder with a YAML file holds SAM 2 in its own layout, whatever else is there.
    in_own_layout = folder.is_dir() and (any(folder.glob("*.yaml")) or not (folder / "config.json").is_file())
    if in_own_layout or name in HF_MODEL_ID_TO_FILENAMES:
        return Sam2.from_pretrained(name, device, dtype, config)
    if not folder.is_dir():
        folder = fetch(name, WEIGHTS, sorted([*PUBLISHED, *HF_MODEL_ID_TO_FILENAMES]))
    return _load_video_model(folder, name, torch.device(device), dtype, config)


def _load_video_model(
    folder: Path, name: str, device: torch.device, dtype: torch.dtype, config: SegmenterConfig
) -> VideoModel:
    """A video model of ``transformers`` from its folder; every weight has to be there."""
    import transformers  # seconds that SAM 2 does not need

    try:
        model_type = json.loads((folder / "config.json").read_bytes()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder / 'config.json'} is no model's configuration: {error}") from error
    if model_type not in KINDS:
        raise ModelError(
            f"{name} is a {model_type!r}, which is no segmenter; expected one of {', '.join(KINDS)}"
        )
    kind = KINDS[model_type]
    architecture = getattr(transformers, kind.architecture)
    model, version = load_weights(architecture, folder, name)
    return kind(model.to(device), version=version, dtype=dtype, config=config)
