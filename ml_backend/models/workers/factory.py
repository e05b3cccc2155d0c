"""What a worker loads: a preset on a device, and the handler that answers with it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ml_backend.models.messages import ModelAnswer, ModelRequest
from ml_backend.models.process import Handler
from steerseg.runtime.startup import uncollected
from steerseg.video import VideoLimits


def with_import_advice(limits: VideoLimits) -> VideoLimits:
    """Limits whose messages say how a task's video comes within them."""
    advice = (
        "Import it again with `steerseg-backend import --stride {stride}`, or in parts with --split-pages, each of "
        "which is a task."
    )
    return replace(limits, advice=advice)


@dataclass(frozen=True)
class ModelFactory:
    """Loads a preset and builds the handler that answers with it. Picklable: the server never calls it.

    Attributes:
        preset: Name or folder.
        device: Where the models run.
        limits: Limits of the videos.
        memory_bytes: Bytes of videos and of the segmenter's features of them that are kept for further requests;
            a quarter as much again is kept of decoded frames.
        prefix_bytes: Bytes of the text model's work on a video that are kept; see
            :class:`steerseg.pipeline.SteerSeg`.
        compiled: Whether the segmenter is compiled first.
        threads: Cores that the models use on a CPU; ``None`` for all of them.
    """

    preset: str
    device: str
    limits: VideoLimits
    memory_bytes: int = 4 << 30
    prefix_bytes: int | None = None
    compiled: bool = False
    threads: int | None = None

    def __call__(self) -> Handler[ModelRequest, ModelAnswer]:
        """Load the models, and warm them up where that pays.

        Raises:
            SteerSegError: The preset or its models cannot be used.
        """
        with uncollected():
            # Only the model process imports torch, transformers and sam2.
            from ml_backend.models.handler import load_handler

            handler = load_handler(
                self.preset,
                self.device,
                with_import_advice(self.limits),
                memory_bytes=self.memory_bytes,
                prefix_bytes=self.prefix_bytes,
                threads=self.threads,
            )
        handler.warm_up(compiled=self.compiled)
        return handler
