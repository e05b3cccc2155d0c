"""SAM 3's concepts: phrases -> the objects in some frames that they name, each tracked over those frames.

The library's own session detects, tracks and associates; it keeps what it computed for every frame and object. So it
gets few frames, the keyframes, and finds at most :data:`MOST_OBJECTS` objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Sam3VideoModel, Sam3VideoProcessor

from steerseg.errors import ModelError
from steerseg.segmenters.hf_loading import WEIGHTS, fetch, load_weights

MOST_OBJECTS = 32
"""Each takes about 2 MB a frame at SAM 3's usual size: 1 GB for 16 keyframes."""

_MOST_TOKENS = 32  # of a phrase; the text encoder has no more positions
_ABSENT = -10.0  # logit of an object where it was not tracked


@dataclass(frozen=True, eq=False)
class ConceptTrack:
    """One object of a phrase on F frames.

    Attributes:
        phrase: What it was found by.
        score: Probability in [0, 1] of its first detection.
        logits: (F, h, w) float32 low-resolution mask logits on the CPU; the grid covers the whole frame.
        presence: (F,) float32 probability in [0, 1] that the object is visible; 0 before it was found.
    """

    phrase: str
    score: float
    logits: Tensor = field(repr=False)
    presence: NDArray[np.float32] = field(repr=False)


class ConceptSegmenter:
    """Frozen SAM 3, asked for phrases.

    Args:
        model: As :class:`Sam3Concepts`, on its device.
        processor: Brings frames and phrases into the model's form.
        version: Name and hash of configuration and weights.
    """

    def __init__(self, model: Sam3Concepts, processor: Any, *, version: str) -> None:
        self.model = model.eval().requires_grad_(False)
        # Otherwise the library fetches code for the GPU from the hub, and does without where it cannot.
        model.det_nms_thresh = 0.0
        model.fill_hole_area = 0
        model.max_num_objects = MOST_OBJECTS
        self._processor = processor
        self.version = version

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "facebook/sam3",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> ConceptSegmenter:
        """Load SAM 3.

        Args:
            source: Hub id, or a folder with model and processor as ``transformers`` saves them.
            device: Where to run.
            dtype: Of weights and computation.

        Raises:
            ModelError: Nothing usable is there, or weights and configuration do not fit.
        """
        name = str(source)
        folder = Path(name)
        if not folder.is_dir():
            folder = fetch(name, (*WEIGHTS, "*.json", "*.txt"), ["facebook/sam3"])
        model, version = load_weights(Sam3Concepts, folder, name, dtype)
        try:
            processor = Sam3VideoProcessor.from_pretrained(folder)
        except (OSError, ValueError, ImportError, TypeError) as error:
            raise ModelError(f"the processor of {name} could not be loaded: {error}") from error
        return cls(model.to(device), processor, version=version)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def can_read(self, phrase: str) -> bool:
        """Whether a phrase is short enough for the text encoder."""
        return len(self._processor.tokenizer(phrase).input_ids) <= _MOST_TOKENS

    @torch.inference_mode()
    def track(
        self,
        frames: NDArray[np.uint8],
        phrases: Sequence[str],
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> list[ConceptTrack]:
        """Find the objects that phrases name, and track each from the frame that it is found on.

        Args:
            frames: (F, H, W, 3) uint8 RGB.
            phrases: At least one; each as :meth:`can_read` allows.
            progress: Called with the fraction in [0, 1] that is done, after each frame. May raise
                :class:`steerseg.errors.Cancelled`.

        Returns:
            The objects in the order in which they are found; an object that two phrases name is there twice.
        """
        session = self._processor.init_video_session(
            video=frames, inference_device=self.device, video_storage_device="cpu", dtype=self.model.dtype
        )
        self._processor.add_text_prompt(session, list(phrases))
        seen: dict[int, _Seen] = {}
        for index in range(len(frames)):
            # As its `propagate_in_video_iterator` does, which would hold the first frames back and show no progress.
            output = self.model(inference_session=session, frame_idx=index)
            for key in output.removed_obj_ids:
                seen.pop(key, None)
            hidden = output.suppressed_obj_ids or ()
            for key, mask in output.obj_id_to_mask.items():
                if key in output.removed_obj_ids:
                    continue
                if key not in seen:
                    phrase = session.prompts[session.obj_id_to_prompt_id[key]]
                    seen[key] = _Seen(phrase, float(output.obj_id_to_score[key]))
                if key not in hidden:
                    seen[key].masks[index] = mask[0].float().cpu()
                    seen[key].presence[index] = self.model.presence.get(key, seen[key].score)
            progress((index + 1) / len(frames))
        return [seen[key].track(len(frames)) for key in sorted(seen) if seen[key].masks]


@dataclass(frozen=True)
class _Seen:
    """An object as far as it was tracked, by index of the frame."""

    phrase: str
    score: float
    masks: dict[int, Tensor] = field(default_factory=dict)
    presence: dict[int, float] = field(default_factory=dict)

    def track(self, frames: int) -> ConceptTrack:
        """The object on all frames."""
        absent = torch.full_like(next(iter(self.masks.values())), _ABSENT)
        logits = torch.stack([self.masks.get(index, absent) for index in range(frames)])
        presence = np.array([self.presence.get(index, 0.0) for index in range(frames)], dtype=np.float32)
        return ConceptTrack(self.phrase, self.score, logits, presence)


class Sam3Concepts(Sam3VideoModel):
    """SAM 3, with masks and scores under the right objects on every frame.

    On a frame where it drops an object, transformers 5.24 gives the objects after that one each other's masks and
    scores: it drops the object from the list, but not its row from the masks, before it brings the two together.

    Attributes:
        presence: Object -> probability in [0, 1] that it is visible on the last frame; of tracked objects alone.
    """

    presence: Mapping[int, float]

    def run_tracker_propagation(
        self, inference_session: Any, frame_idx: int, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        """Track all objects to a frame; the rows of the answer are remembered."""
        tracked = list(inference_session.obj_ids)
        masks, scores = super().run_tracker_propagation(inference_session, frame_idx, reverse)
        self.presence = dict(zip(tracked, scores.flatten().float().sigmoid().tolist(), strict=True))
        return masks, scores

    def build_outputs(
        self,
        inference_session: Any,
        det_out: dict[str, Tensor],
        tracker_low_res_masks_global: Tensor,
        tracker_update_plan: dict[str, Any],
        reconditioned_obj_ids: set[int] | None = None,
    ) -> dict[int, Tensor]:
        """The masks by object, without the rows of those that were dropped just now."""
        dropped = tracker_update_plan["obj_ids_newly_removed"]
        rows = [row for row, key in enumerate(self.presence) if key not in dropped]
        masks: dict[int, Tensor] = super().build_outputs(
            inference_session,
            det_out,
            tracker_low_res_masks_global[rows],
            tracker_update_plan,
            reconditioned_obj_ids,
        )
        return masks
