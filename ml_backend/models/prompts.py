"""A project's soft prompts on their way to the model process, and those that it has loaded."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from ml_backend.models.messages import SoftPromptsRef
from steerseg.errors import ConfigError

if TYPE_CHECKING:  # these come with torch, which only the model process loads
    from steerseg.soft_prompts import SoftPrompts

_LOADED = 16  # pairs that are kept in memory; one is below 4 MiB


class LoadedPrompts:
    """The pairs that a model process has read, by their digest."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, SoftPrompts] = OrderedDict()

    def load(self, ref: SoftPromptsRef | None) -> SoftPrompts | None:
        """Read a pair, or give it again; ``None`` for none.

        Raises:
            ConfigError: It is missing or damaged, or another one than it should be.
        """
        if ref is None:
            return None
        if ref.digest not in self._loaded:
            from steerseg.soft_prompts import SoftPrompts

            prompts = SoftPrompts.load(ref.folder)
            if prompts.digest != ref.digest:
                raise ConfigError(
                    f"the soft prompts in {ref.folder} have digest {prompts.digest} in place of {ref.digest}; "
                    "restore the folder from a backup, or run `steerseg-backend versions PROJECT rollback`"
                )
            self._loaded[ref.digest] = prompts
            while len(self._loaded) > _LOADED:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(ref.digest)
        return self._loaded[ref.digest]
