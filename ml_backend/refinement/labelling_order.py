"""What to label next: tasks whose correction tells a refinement most, each with the reason.

An order mixes uncertainty (how sure the newest proposal is) and diversity (words that many open tasks use and few
corrections, videos that nobody corrected). Each pick counts as corrected for the next one, as in greedy submodular
selection (Wei, Iyer and Bilmes, *Submodularity in data subset selection and active learning*, 2015; our choice).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from steerseg.words.learning import terms_in


@dataclass(frozen=True)
class OrderWeights:
    """What counts how much.

    Attributes:
        words: The need for corrections of a task's words, against uncertainty.
        video: A video without corrections.
        enough: Corrections after which a word needs no more.
    """

    words: float = 1.0
    video: float = 0.25
    enough: int = 8


WEIGHTS = OrderWeights()


@dataclass(frozen=True)
class OpenTask:
    """A task that has a proposal and no annotation.

    Attributes:
        id: Its number in Label Studio.
        expression: Its expression.
        video: Its video, whose parts count as one.
        certainty: How sure its newest proposal is: the best score, or its distance to the second if smaller, in
            [-1, 1].
    """

    id: int
    expression: str
    video: str
    certainty: float


@dataclass(frozen=True)
class CorrectedTask:
    """What was corrected already.

    Attributes:
        expression: Its expression.
        video: Its video, whose parts count as one.
    """

    expression: str
    video: str


@dataclass(frozen=True)
class NextTask:
    """A task in the order.

    Attributes:
        task: The task.
        rank: Its place, from 1.
        reasons: Why it comes here, for a person; the weightiest first.
    """

    task: OpenTask
    rank: int
    reasons: tuple[str, ...]

    @property
    def text(self) -> str:
        """Rank and reasons as one text that sorts as text does."""
        return f"{self.rank:03d} · {'; '.join(self.reasons)}"


class _Need:
    """How much corrections of words are needed: frequent among open tasks, unsure there, and seldom corrected."""

    def __init__(
        self, tasks: Sequence[OpenTask], corrected: Collection[CorrectedTask], weights: OrderWeights
    ) -> None:
        self._weights = weights
        self.terms = {task.id: sorted(terms_in(task.expression)) for task in tasks}
        doubts: dict[str, list[float]] = defaultdict(list)
        for task in tasks:
            for term in self.terms[task.id]:
                doubts[term].append(doubt(task))
        self._weight = {term: sum(found) / len(tasks) for term, found in doubts.items()}
        self.open = {term: len(found) for term, found in doubts.items()}
        self.corrected = Counter(term for one in corrected for term in terms_in(one.expression))
        self.videos = Counter(one.video for one in corrected)
        self._picked: Counter[str] = Counter()
        self._picked_videos: Counter[str] = Counter()

    def of_term(self, term: str) -> float:
        """In [0, 1]."""
        count = self.corrected[term] + self._picked[term]
        return self._weight[term] * max(0.0, 1.0 - count / self._weights.enough)

    def of_words(self, task: OpenTask) -> tuple[float, str]:
        """The greatest need of a task's words, and the word; 0 and no word where none is needed."""
        found = [(self.of_term(term), term) for term in self.terms[task.id]]
        need, term = max(found, default=(0.0, ""))
        return need, term if need > 0 else ""

    def of_video(self, task: OpenTask) -> float:
        return 1.0 / (1 + self.videos[task.video] + self._picked_videos[task.video])

    def pick(self, task: OpenTask) -> None:
        self._picked.update(self.terms[task.id])
        self._picked_videos[task.video] += 1


def doubt(task: OpenTask) -> float:
    """How unsure a task's proposal is, in [0, 1]."""
    return 1.0 - min(max(task.certainty, 0.0), 1.0)


def order_tasks(
    tasks: Sequence[OpenTask],
    corrected: Collection[CorrectedTask],
    limit: int,
    weights: OrderWeights = WEIGHTS,
) -> list[NextTask]:
    """The tasks to label next, the most telling first.

    Args:
        tasks: The open tasks.
        corrected: What was corrected already.
        limit: Most tasks of the order.
        weights: What counts how much.
    """
    need = _Need(tasks, corrected, weights)
    left = {task.id: task for task in tasks}
    ordered: list[NextTask] = []

    def value(task: OpenTask) -> float:
        return doubt(task) + weights.words * need.of_words(task)[0] + weights.video * need.of_video(task)

    while left and len(ordered) < limit:
        best = max(left.values(), key=lambda task: (value(task), -task.id))
        ordered.append(NextTask(best, len(ordered) + 1, _reasons(best, need, weights)))
        need.pick(best)
        del left[best.id]
    return ordered


def _reasons(task: OpenTask, need: _Need, weights: OrderWeights) -> tuple[str, ...]:
    unsure = "nothing was found" if task.certainty <= -1 else f"certainty {max(task.certainty, 0.0):.2f}"
    reasons = [(doubt(task), unsure)]
    wanted, term = need.of_words(task)
    if term:
        of_open, known = need.open[term], need.corrected[term]
        tasks = f"“{term}” is in {of_open} open task{'' if of_open == 1 else 's'}"
        text = f"{tasks}, in {known} corrected" if known else f"{tasks}, in none that was corrected"
        reasons.append((weights.words * wanted, text))
    if not need.videos[task.video]:
        reasons.append((weights.video * need.of_video(task), "nobody corrected its video yet"))
    return tuple(text for _, text in sorted(reasons, key=lambda reason: -reason[0]))
