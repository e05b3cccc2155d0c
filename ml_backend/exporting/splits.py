"""Which part of a dataset a video belongs to.

A hash of the video's identity decides, so that a video keeps its part in every export, whatever else is labelled, and
all tasks of one video are in the same part.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from steerseg.errors import ConfigError

TRAIN, VAL, TEST = "train", "val", "test"
PARTS = (TRAIN, VAL, TEST)


@dataclass(frozen=True)
class Split:
    """Fractions of a dataset's videos.

    Attributes:
        fractions: Of :data:`PARTS`, each in [0, 1], together 1. The first is above 0.
    """

    fractions: tuple[float, float, float]

    @classmethod
    def parse(cls, text: str) -> Split:
        """Read ``0.8/0.1/0.1`` (train, val, test) or ``0.8/0.2`` (train, val).

        Raises:
            ConfigError: It is something else.
        """
        try:
            numbers = [float(number) for number in text.split("/")]
        except ValueError:
            numbers = []
        if not (
            2 <= len(numbers) <= len(PARTS)
            and all(0 <= number <= 1 for number in numbers)
            and numbers[0] > 0
            and math.isclose(sum(numbers), 1, abs_tol=1e-6)
        ):
            raise ConfigError(
                f"{text!r} is no split; expected the fractions of train, val and test, which sum up to 1, such as "
                "0.8/0.1/0.1 or 0.8/0.2"
            )
        train, val, *test = numbers
        return cls((train, val, test[0] if test else 0.0))

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are wanted at all."""
        return tuple(part for part, fraction in zip(PARTS, self.fractions, strict=True) if fraction > 0)

    def part_of(self, identity: str) -> str:
        """The part of the video with an identity, by its hash."""
        drawn = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8]) / 2**64
        train, val, _ = self.fractions
        if drawn < train:
            return TRAIN
        # Rounding must not open a part that is not wanted.
        return VAL if drawn < train + val or TEST not in self.parts else TEST
