"""What a stage takes at least: its multiplications at the chip's rate, or its bytes at the memory's, the larger one.

Rates are those of one H100 in bf16 as measured by plain matrix products and copies; other devices have others, and the
floors are given for orientation.
"""

from __future__ import annotations

from dataclasses import dataclass

from steerseg.lvlm import LVLM

FLOPS = 790e12
BYTES = 3.0e12
SAM2_ENCODER = 2.3e-3  # seconds a frame, SAM 2.1-L at 1024 x 1024
SAM2_STEP = 0.5e-3  # seconds an object and frame: memory attention over seven frames and pointers


@dataclass(frozen=True)
class Floors:
    """Floors of one model.

    Attributes:
        text: Parameters of the text layers.
        head: Parameters of the output layer.
        vision: Parameters of the vision tower.
        layers: Text layers.
        width: Heads times channels of a text layer's attention.
        size: Bytes of a parameter.
    """

    text: int
    head: int
    vision: int
    layers: int
    width: int
    size: int

    @classmethod
    def of(cls, lvlm: LVLM) -> Floors:
        """Counted from the loaded model."""
        model = lvlm.model.model
        text = lvlm.model.config.get_text_config()
        return cls(
            sum(p.numel() for p in lvlm.text_model.layers.parameters()),
            lvlm.model.lm_head.weight.numel(),
            sum(p.numel() for p in model.visual.parameters()),
            text.num_hidden_layers,
            text.hidden_size,
            lvlm.dtype.itemsize,
        )

    def see(self, tokens: int) -> float:
        """The vision tower for so many visual tokens of four patches each, without its attention."""
        return 2 * self.vision * 4 * tokens / FLOPS

    def read(self, rows: int, tokens: int, *, known: int = 0) -> float:
        """The text layers for rows of so many tokens, of which some are known already."""
        new = tokens - known
        linear = 2 * self.text * rows * new
        attention = 4 * self.layers * self.width * rows * (tokens**2 - known**2) / 2
        return max((linear + attention) / FLOPS, self.text * self.size / BYTES)

    def speak(self, tokens: int) -> float:
        """New tokens one after the other: every weight is read for each."""
        return tokens * (self.text + self.head) * self.size / BYTES

    def roll(self, rows: int, tokens: int, layers: int) -> float:
        """One pass over the products of queries and keys."""
        return 2 * layers * self.width * rows * tokens**2 / 2 / FLOPS
