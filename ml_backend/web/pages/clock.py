"""Times and spans as pages show them, in the reader's own time zone.

A browser tells its zone by a cookie, which the pages' script sets. Without it times are in UTC, and the page says so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from flask import Request, g, request

COOKIE = "steerseg_zone"


def reader_zone() -> ZoneInfo:
    """The zone of whoever asked for the page; UTC where the browser tells none, or none that is known here."""
    if "zone" not in g:
        g.zone = _zone_of(request)
    zone: ZoneInfo = g.zone
    return zone


def _zone_of(asked: Request) -> ZoneInfo:
    name = asked.cookies.get(COOKIE, "UTC")
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):  # no such zone, no name of one, or no zones on this machine
        return ZoneInfo("UTC")


def zone_name() -> str:
    """The zone for a person, such as ``Europe/Berlin``."""
    return reader_zone().key


def minute(value: datetime) -> str:
    """A time to the minute."""
    return value.astimezone(reader_zone()).strftime("%Y-%m-%d %H:%M")


def second(value: datetime) -> str:
    """The time of day to the second; with its day where that is not today."""
    local = value.astimezone(reader_zone())
    today = datetime.now(UTC).astimezone(reader_zone()).date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M:%S")


def full(value: datetime) -> str:
    """A time to the second with its zone."""
    return value.astimezone(reader_zone()).strftime("%Y-%m-%d %H:%M:%S %Z")


def span(seconds: float) -> str:
    """How long something took, such as ``4:07`` minutes or ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
