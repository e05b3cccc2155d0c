"""How the refinements of a project stand."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ml_backend.refinement.store import Refinement


@dataclass(frozen=True)
class RefinementStatus:
    """How the refinements of a project stand.

    Attributes:
        project_id: The project.
        champion: Name of the prompt version in use; ``None`` for the preset's own soft prompts.
        new_corrections: Corrections that became usable since the last refinement began.
        refine_after: After how many of them the next one begins by itself; 0 for never.
        current: The refinement that waits or runs, if there is one.
        history: Those that ended, newest first.
    """

    project_id: int
    champion: str | None
    new_corrections: int
    refine_after: int
    current: Refinement | None
    history: tuple[Refinement, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; times in ISO format."""
        return {
            "project": self.project_id,
            "champion": self.champion,
            "new_corrections": self.new_corrections,
            "refine_after": self.refine_after,
            "current": None if self.current is None else _to_json(self.current),
            "history": [_to_json(refinement) for refinement in self.history],
        }


def _to_json(refinement: Refinement) -> dict[str, Any]:
    """A refinement as JSON; of the gate's metrics, the sums."""
    fields = asdict(refinement)
    fields["state"] = str(refinement.state)
    fields["metrics"] = refinement.metrics.summary().to_json()
    for name in ("created_at", "started_at", "finished_at"):
        fields[name] = None if fields[name] is None else fields[name].isoformat()
    fields["left_out"] = sorted(refinement.left_out)
    return fields
