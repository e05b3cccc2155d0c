"""Several processes that share one piece of work, as ``torchrun`` starts them. Alone, every call is a no-op.

``torchrun`` numbers the processes by the environment (RANK, WORLD_SIZE, LOCAL_RANK) and ends all of them when one
fails, so nothing here waits for a process that is gone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from steerseg.errors import ConfigError, SteerSegError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# Processes wait for the slowest one's share of a dataset, which may take a day.
_TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """One process among those that work together.

    Attributes:
        rank: Its number, from 0; the first one reports to people.
        size: Number of processes.
        local: Its number on this machine, which is the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read what ``torchrun`` sets; one process alone without it.

        Raises:
            ConfigError: The environment holds a part of it only.
        """
        names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
        given = [name for name in names if name in os.environ]
        if "WORLD_SIZE" not in given or os.environ["WORLD_SIZE"] == "1":
            return cls()
        missing = [name for name in names if name not in given]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE is set but {', '.join(missing)} is not; start several processes by torchrun, or "
                "unset WORLD_SIZE to run one alone"
            )
        rank = int(os.environ["RANK"])
        return cls(rank, int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", rank)))

    @property
    def first(self) -> bool:
        """Whether this is the process that reports to people."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """The name of this process's device: its own GPU where "auto" or "cuda" could mean several."""
        import torch

        gpus = torch.cuda.device_count()
        if self.size == 1 or device not in ("auto", "cuda") or not gpus:
            return device
        return f"cuda:{self.local % gpus}"

    @contextmanager
    def joined(self, device: str = "cpu") -> Iterator[None]:
        """Inside, the processes can exchange tensors: by gloo on a CPU, by NCCL on a GPU."""
        if self.size == 1:
            yield
            return
        import torch
        import torch.distributed as dist

        on_gpu = device.startswith("cuda")
        if on_gpu:
            torch.cuda.set_device(torch.device(device))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            rank=self.rank,
            world_size=self.size,
            timeout=_TIMEOUT,
        )
        try:
            yield
        finally:
            dist.destroy_process_group()

    def add_up(self, values: torch.Tensor) -> None:
        """Sum a tensor over the processes, in place. All get the same."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(values)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            import torch

            self.add_up(torch.zeros(1))

    def from_first(self, make: Callable[[], T]) -> T:
        """Call ``make`` in the first process, and hand its result to all.

        Raises:
            SteerSegError: ``make`` raised it; it is raised in all processes.
        """
        if self.size == 1:
            return make()
        import torch
        import torch.distributed as dist

        message: list[Any] = [None, None]
        if self.first:
            try:
                message[0] = make()
            except SteerSegError as error:
                message[1] = error
        dist.broadcast_object_list(message, src=0, device=torch.device("cpu"))
        if message[1] is not None:
            raise message[1]
        value: T = message[0]
        return value

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process goes through alone, then the others together."""
        if not self.first:
            self.wait()
        try:
            yield
        finally:
            if self.first:
                self.wait()
