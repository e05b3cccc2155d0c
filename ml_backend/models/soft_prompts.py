"""In the model process: the soft prompts of projects, read from disk and kept."""

from __future__ import annotations

from ml_backend.models.messages import SoftPromptsRef
from steerseg.errors import ConfigError
from steerseg.runtime.lru import LruCache
from steerseg.soft_prompts import SoftPrompts

_LOADED = 16  # pairs that are kept in memory; one is below 4 MiB


class SoftPromptCache:
    """The pairs that a model process has read, by their digest."""

    def __init__(self) -> None:
        self._loaded: LruCache[str, SoftPrompts] = LruCache(_LOADED)

    def load(self, ref: SoftPromptsRef | None) -> SoftPrompts | None:
        """Read a pair, or give it again; ``None`` for none.

        Raises:
            ConfigError: It is missing or damaged, or another one than it should be.
        """
        if ref is None:
            return None
        known = self._loaded.get(ref.digest)
        if known is not None:
            return known
        prompts = SoftPrompts.load(ref.folder)
        if prompts.digest != ref.digest:
            raise ConfigError(
                f"the soft prompts in {ref.folder} have digest {prompts.digest} in place of {ref.digest}; "
                "restore the folder from a backup, or run `steerseg-backend versions PROJECT rollback`"
            )
        self._loaded.put(ref.digest, prompts)
        return prompts
