"""When something recurs: every day at a time, or every so many hours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta

EXPECTED = "a time of day such as 02:30, or a number of hours such as 6h"


@dataclass(frozen=True)
class Schedule:
    """A recurring time.

    Attributes:
        at: Time of day, by this machine's clock; ``None`` where ``every`` is set.
        every: Distance; ``None`` where ``at`` is set.
    """

    at: time | None = None
    every: timedelta | None = None

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read ``HH:MM`` or ``Nh``.

        Raises:
            ValueError: It is neither.
        """
        daily = re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text.strip())
        if daily:
            return cls(at=time(int(daily[1]), int(daily[2])))
        hourly = re.fullmatch(r"(\d+(?:\.\d+)?)\s*h", text.strip())
        if hourly and float(hourly[1]) > 0:
            return cls(every=timedelta(hours=float(hourly[1])))
        raise ValueError(f"expected {EXPECTED}")

    def due(self, last: datetime | None, now: datetime) -> bool:
        """Whether the time has come since ``last``; a time that was missed counts as come.

        Args:
            last: When it was done last; ``None`` for never.
            now: The present. Both know their time zones.
        """
        if last is None:
            return True
        if self.every is not None:
            return now - last >= self.every
        assert self.at is not None
        here = now.astimezone()
        latest = here.replace(hour=self.at.hour, minute=self.at.minute, second=0, microsecond=0)
        if latest > here:
            latest -= timedelta(days=1)
        return last < latest
