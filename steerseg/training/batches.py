"""The samples of each step of a training: the order of an epoch, and the share of each process."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from steerseg.config import TrainingRecipe
from steerseg.runtime.distributed import Ranks
from steerseg.training.examples import ORDER_STREAM, Examples, SampleFiles

_READERS = 4  # threads that read files; decoding of pictures lets others work


def data_order(videos: Sequence[str], *, seed: int, epoch: int, window: int) -> list[int]:
    """The order of an epoch: each sample once, by its index.

    Clips are shuffled, and so are the expressions of every ``window`` clips that follow each other. That is close
    to a shuffle of everything, yet a clip's expressions come near enough to share its visual tokens.

    Args:
        videos: The clip of each sample.
        seed: Of the run.
        epoch: From 0.
        window: Clips that are mixed.
    """
    rng = np.random.default_rng([seed, epoch, ORDER_STREAM])
    members: dict[str, list[int]] = {}
    for index, video in enumerate(videos):
        members.setdefault(video, []).append(index)
    clips = list(members.values())
    shuffled = [clips[index] for index in rng.permutation(len(clips))]
    order: list[int] = []
    for start in range(0, len(shuffled), window):
        mixed = [index for clip in shuffled[start : start + window] for index in clip]
        order += rng.permutation(mixed).tolist()
    return order


class BatchPlan:
    """The samples of each step, and this process's share of them.

    Args:
        videos: The clip of each sample.
        recipe: Size of a batch, epochs, order.
        ranks: The processes that share every batch.

    Attributes:
        size: Expressions of a step, of all processes together.
        steps: Of the whole training.
    """

    def __init__(self, videos: Sequence[str], recipe: TrainingRecipe, ranks: Ranks) -> None:
        self._videos = videos
        self._recipe = recipe
        self._ranks = ranks
        self.size = recipe.batch * ranks.size
        self._per_epoch = -(-len(videos) // self.size)
        self.steps = recipe.epochs * self._per_epoch

    def remaining(self, done: int) -> Iterator[tuple[list[int], int]]:
        """Indices of this process's samples, and the epoch, of every step after the first ``done``."""
        order: list[int] = []
        planned = -1
        for step in range(done, self.steps):
            epoch, index = divmod(step, self._per_epoch)
            if epoch != planned:
                order = data_order(
                    self._videos, seed=self._recipe.seed, epoch=epoch, window=self._recipe.window
                )
                planned = epoch
            batch = order[index * self.size : (index + 1) * self.size]
            yield self._shares(batch)[self._ranks.rank], epoch

    def _shares(self, batch: Sequence[int]) -> list[list[int]]:
        """As many samples for each process; those of a clip for the process with its visual tokens, if they can."""
        count = self._ranks.size
        shares: list[list[int]] = [[] for _ in range(count)]
        quotas = [len(batch[rank::count]) for rank in range(count)]
        left = []
        for index in batch:
            home = zlib.crc32(self._videos[index].encode()) % count
            if len(shares[home]) < quotas[home]:
                shares[home].append(index)
            else:
                left.append(index)
        for share, quota in zip(shares, quotas, strict=True):
            while len(share) < quota:
                share.append(left.pop())
        return shares

    def read_ahead(self, examples: Examples, done: int) -> Iterator[tuple[list[SampleFiles], int]]:
        """Files of this process's samples, and the epoch, of the remaining steps; they are read one step ahead."""
        with ThreadPoolExecutor(_READERS) as readers:

            def read(indices: list[int]) -> list[Future[SampleFiles]]:
                return [readers.submit(examples.read, index) for index in indices]

            waiting: tuple[list[Future[SampleFiles]], int] | None = None
            try:
                for indices, epoch in self.remaining(done):
                    following = (read(indices), epoch)
                    if waiting is not None:
                        yield [future.result() for future in waiting[0]], waiting[1]
                    waiting = following
                if waiting is not None:
                    yield [future.result() for future in waiting[0]], waiting[1]
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
