"""Reports on the work of a model process while it goes on, and the request that it make way."""

from __future__ import annotations

from typing import Protocol

from steerseg.video import Progress


class YieldRequested(Exception):  # noqa: N818 - a request, no fault
    """Something more urgent came; the work is to be begun again later."""


class Reporter(Protocol):
    """Receives reports on one job. The work calls it often, from the thread that it was called in."""

    def progress(self, stage: str, fraction: float) -> None:
        """Report how far the work is.

        Args:
            stage: Name of the stage.
            fraction: Part of the stage that is done, in [0, 1].

        Raises:
            Cancelled: The job was cancelled.
        """
        ...

    def frames(self, count: int) -> None:
        """Report how many frames the video of the job has."""
        ...

    @property
    def should_yield(self) -> bool:
        """Whether a more urgent job waits."""
        ...


class SilentReporter:
    """A reporter for work that nobody watches, cancels or waits behind."""

    def progress(self, stage: str, fraction: float) -> None:
        """Report to nobody."""

    def frames(self, count: int) -> None:
        """Report to nobody."""

    @property
    def should_yield(self) -> bool:
        """Never."""
        return False


def yielding_progress(reporter: Reporter) -> Progress:
    """Report progress, and raise :class:`YieldRequested` where something more urgent waits."""

    def report(stage: str, fraction: float) -> None:
        reporter.progress(stage, fraction)
        if reporter.should_yield:
            raise YieldRequested

    return report
