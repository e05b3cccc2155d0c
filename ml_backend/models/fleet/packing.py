"""A request crosses to another host: its media and soft prompts go by digest, and its paths become that host's.

What a field means shows by its type, so that requests of a new kind travel without a word here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ml_backend.models.fleet.messages import PackedRequest, PromptFiles
from ml_backend.models.fleet.shared_media import SharedMedia
from ml_backend.models.messages import MediaFile, ModelRequest, SoftPromptsRef, video_of
from steerseg.errors import ConfigError
from steerseg.prompt_files import FILES


def needs_data_folder(request: Any) -> bool:
    """Whether a request names folders of the server: slices of a refinement read and write there."""
    return any(
        (isinstance(value, Path) and name != "media") or (_is_nested(value) and needs_data_folder(value))
        for name, value in _fields_of(request)
    )


def pack(request: ModelRequest, shared: SharedMedia) -> PackedRequest:
    """Make a request ready for another host.

    Args:
        request: The request.
        shared: What hosts get media from.

    Raises:
        VideoError: Its media cannot be read.
        ConfigError: Its soft prompts cannot be read, or the place of shared media not be written.
    """
    media = video_of(request)
    refs = {ref.digest: ref for ref in _prompts_of(request)}
    return PackedRequest(
        request,
        None if media is None else shared.offer(media),
        tuple(_read_prompts(ref) for ref in refs.values()),
    )


def unpacked(request: ModelRequest, media: Path | None, prompts: Mapping[str, Path]) -> ModelRequest:
    """The request with the paths of this host.

    Args:
        request: The request; its paths are the server's.
        media: Its media here.
        prompts: The folders of its soft prompts here, by digest.
    """
    rewritten: ModelRequest = _rewritten(request, media, prompts)
    return rewritten


def _rewritten(value: Any, media: Path | None, prompts: Mapping[str, Path]) -> Any:
    changed: dict[str, Any] = {}
    for name, part in _fields_of(value):
        match part:
            case SoftPromptsRef() as ref:
                changed[name] = replace(ref, folder=prompts[ref.digest])
            case MediaFile() as file:
                changed[name] = file if media is None else replace(file, path=media)
            case Path() if name == "media" and media is not None:
                changed[name] = media
            case _ if _is_nested(part):
                changed[name] = _rewritten(part, media, prompts)
    return replace(value, **changed) if changed else value


def _prompts_of(value: Any) -> list[SoftPromptsRef]:
    found = []
    for _, part in _fields_of(value):
        if isinstance(part, SoftPromptsRef):
            found.append(part)
        elif _is_nested(part):
            found += _prompts_of(part)
    return found


def _fields_of(value: Any) -> list[tuple[str, Any]]:
    return [(one.name, getattr(value, one.name)) for one in fields(value)]


def _is_nested(value: Any) -> bool:
    """Whether a field holds a part of the request with fields of its own."""
    return is_dataclass(value) and not isinstance(value, MediaFile | SoftPromptsRef | type)


def _read_prompts(ref: SoftPromptsRef) -> PromptFiles:
    try:
        files = {name: (ref.folder / name).read_bytes() for name in FILES if (ref.folder / name).is_file()}
    except OSError as error:
        raise ConfigError(f"the soft prompts in {ref.folder} cannot be read: {error.strerror}") from error
    return PromptFiles(ref.digest, files)
