"""Which videos are imported, and with which expressions: files, folders, patterns, or a table."""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ml_backend.importing.strides import Stride, read_stride
from ml_backend.importing.text_files import list_problems, read_text
from steerseg.errors import ConfigError, ExpressionError, VideoError
from steerseg.video import IMAGE_SUFFIXES, frame_files

VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".264", ".h265"}
    | {
        ".265",
        ".hevc",
        ".ivf",
        ".m1v",
        ".m2t",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mj2",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mod",
    }
    | {
        ".mov",
        ".mp4",
        ".mp4v",
        ".mpe",
        ".mpeg",
        ".mpg",
        ".mpv",
        ".mts",
        ".mxf",
        ".nut",
        ".obu",
        ".ogm",
        ".ogv",
    }
    | {".qt", ".rm", ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m"}
)
"""Endings of the files that are taken from folders, in lower case."""


@dataclass(frozen=True)
class Source:
    """One video to import.

    Attributes:
        path: The file, or a folder of frames.
        expressions: One task is made for each; ``None`` leaves it to the project.
        stride: Its own stride, where it has one.
    """

    path: Path
    expressions: tuple[str | None, ...]
    stride: Stride | None = None


@dataclass(frozen=True)
class Sources:
    """What was found.

    Attributes:
        videos: In order, each once.
        passed_over: Files that are not imported and nobody named, each with the reason.
        problems: What was named, but cannot be imported.
    """

    videos: tuple[Source, ...]
    passed_over: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass
class _Search:
    """What a search has found so far."""

    videos: dict[Path, None] = field(default_factory=dict)
    passed_over: dict[Path, str] = field(default_factory=dict)


def sources_with_expression(sources: Sequence[str | Path], expression: str | None) -> Sources:
    """The videos that files, folders and patterns lead to, where one expression is given for all.

    Raises:
        VideoError: No source was given, or they lead to no video.
        ExpressionError: The expression is empty.
    """
    if expression is not None and not expression.strip():
        raise ExpressionError(
            "the expression is empty; say what to track, such as 'the red car that turns left'"
        )
    text = None if expression is None else " ".join(expression.split())
    found = find_videos(sources)
    return Sources(
        tuple(Source(path.path, (text,)) for path in found.videos), found.passed_over, found.problems
    )


def find_videos(sources: Sequence[str | Path]) -> Sources:
    """Resolve files, folders and glob patterns to videos and folders of frames, each once, in order.

    Folders are searched with all that lies below them. A folder of pictures is a folder of frames, unless a video lies
    in it or below it.

    Raises:
        VideoError: No source was given, or they lead to no video.
    """
    if not sources:
        raise VideoError("no video was given; name files, folders or patterns such as 'clips/*.mp4'")
    search = _Search()
    problems = []
    for source in sources:
        found = _search_source(Path(source).expanduser())
        if not found.videos:
            problems.append(f"{source} leads to no video; expected a file, a folder or a pattern")
        search.videos |= found.videos
        search.passed_over |= found.passed_over
    passed = tuple(f"{p}: {reason}" for p, reason in search.passed_over.items() if p not in search.videos)
    if not search.videos:
        raise VideoError(list_problems("there is nothing to import:", [*problems, *passed]))
    return Sources(tuple(Source(path, ()) for path in search.videos), passed, tuple(problems))


def _search_source(path: Path) -> _Search:
    """What one file, folder or pattern leads to."""
    search = _Search()
    if path.is_file():
        search.videos[path.resolve()] = None  # whatever it is called
    elif path.exists():
        _search_folder(path, search)
    else:
        for match in map(Path, sorted(glob.glob(str(path), recursive=True))):
            if match.is_file():
                _sort(match, search, "its name does not end as those of videos do")
            else:
                _search_folder(match, search)
    return search


def _sort(path: Path, search: _Search, reason: str) -> None:
    if path.suffix.lower() in VIDEO_SUFFIXES and path.name[0] != ".":
        search.videos.setdefault(path.resolve())
    else:
        search.passed_over.setdefault(path.resolve(), reason)


def _search_folder(folder: Path, search: _Search) -> None:
    """Find all that lies in a folder and below it."""
    try:
        entries = sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError as error:
        search.passed_over[folder.resolve()] = f"the folder cannot be read ({error.strerror})"
        return
    before = len(search.videos)
    files = [path for path in entries if path.is_file()]
    for path in files:
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name[0] == ".":
            _sort(
                path, search, "its name does not end as those of videos do; name the file itself to import it"
            )
    for path in entries:
        if path.is_symlink() and path.is_dir():
            search.passed_over[path.resolve()] = f"{path} is a link to a folder; name the folder itself"
        elif path.is_dir():
            _search_folder(path, search)
        elif not path.exists():
            search.passed_over[path.absolute()] = "a link that leads nowhere"
    pictures = frame_files(folder)
    if pictures and len(search.videos) == before:
        search.videos.setdefault(folder.resolve())
        return
    for path in pictures:
        search.passed_over.setdefault(
            path.resolve(), "a picture beside videos; a folder of frames holds no videos"
        )


def sources_of_table(csv_file: Path, sources: Sequence[str | Path], expression: str | None) -> Sources:
    """The videos that a table with the columns ``video``, ``expression`` and perhaps ``stride`` lists.

    Args:
        csv_file: The table; its paths are relative to it.
        sources: Must be empty: the table names the videos.
        expression: Must be ``None``: the table names the expressions.

    Raises:
        ConfigError: The file cannot be read, lacks a column, or something else is given beside it.
        ExpressionError: No row can be used.
    """
    if sources or expression is not None:
        raise ConfigError("a CSV names videos and expressions; give no further videos or expression with it")
    text = read_text(csv_file, encoding="utf-8-sig")
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    columns = [name.strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    if "video" not in columns or "expression" not in columns:
        raise ConfigError(
            f"{csv_file} has the columns {', '.join(columns) or '(none)'}; expected 'video' and 'expression' "
            "in its first line"
        )
    listed: dict[tuple[Path, Stride | None], list[str]] = {}
    problems = []
    for number, row in enumerate(reader, start=2):
        if not (row["video"] or "").strip() and not (row["expression"] or "").strip():
            continue
        try:
            path, text, stride = _read_row(row, csv_file.parent)
        except ValueError as error:
            problems.append(f"{csv_file.name}, row {number} {error}")
        else:
            listed.setdefault((path, stride), []).append(text)
    if not listed and problems:
        raise ExpressionError(list_problems(f"{csv_file} cannot be used:", problems))
    if not listed:
        raise ExpressionError(f"{csv_file} has no rows below its first line")
    return Sources(
        tuple(Source(path, tuple(dict.fromkeys(texts)), stride) for (path, stride), texts in listed.items()),
        problems=tuple(problems),
    )


def _read_row(row: dict[str, str | None], folder: Path) -> tuple[Path, str, Stride | None]:
    """The video, the expression and the stride of a row.

    Raises:
        ValueError: Something is missing or wrong.
    """
    video, text = (row["video"] or "").strip(), " ".join((row["expression"] or "").split())
    if not video or not text:
        raise ValueError(f"lacks its {'expression' if video else 'video'}")
    path = (folder / Path(video).expanduser()).resolve()
    if not path.exists():
        raise ValueError(f"names {path}, which does not exist")
    stride = (row.get("stride") or "").strip()
    try:
        return path, text, read_stride(stride) if stride else None
    except ValueError:
        raise ValueError(f"has the stride {stride!r}; expected 1 or more, or auto") from None
