"""A SAM 2 of a few thousand parameters, for tests and benchmarks of what does not depend on its masks."""

from __future__ import annotations

from steerseg.demo.sam2 import Sam2Size

SMALL_SAM2 = Sam2Size(
    image_size=64,
    width=8,
    stages=(1, 1, 2, 1),
    windows=(8, 4, 4, 2),
    global_blocks=(3,),
    channels=32,
    memory_channels=16,
    memory_layers=1,
    memory_frames=3,
    object_pointers=4,
)
