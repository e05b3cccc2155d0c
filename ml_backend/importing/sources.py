"""Which videos are imported, and with which expressions: files, folders, patterns, or a table."""

from __future__ import annotations

import csv
import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_backend.importing.text_files import list_problems, read_text
from steerseg.errors import ConfigError, ExpressionError, VideoError
from steerseg.video import frame_files

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv"}
    | {".wmv", ".asf", ".ogv", ".3gp", ".gif"}
)


def expressions_of_sources(
    sources: Sequence[str | Path], expression: str | None
) -> dict[Path, list[str | None]]:
    """The expressions of each video, where one is given for all; ``None`` leaves it to the project.

    Raises:
        VideoError: A source leads to no video.
        ExpressionError: The expression is empty.
    """
    if expression is not None and not expression.strip():
        raise ExpressionError(
            "the expression is empty; say what to track, such as 'the red car that turns left'"
        )
    text = None if expression is None else " ".join(expression.split())
    found = {path: [text] for path in find_videos(sources)}
    return dict(found)


def find_videos(sources: Sequence[str | Path]) -> list[Path]:
    """Resolve files, folders and glob patterns to videos and folders of frames, each once, in order.

    Raises:
        VideoError: A source leads to nothing.
    """
    if not sources:
        raise VideoError("no video was given; name files, folders or patterns such as 'clips/*.mp4'")
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source).expanduser()
        if path.exists():
            matches = [path]
        else:
            matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        videos = [video for match in matches for video in _videos_at(match, named=path.exists())]
        if not videos:
            raise VideoError(f"{source} leads to no video; expected a file, a folder or a pattern")
        found.update(dict.fromkeys(video.resolve() for video in videos))
    return list(found)


def _videos_at(path: Path, named: bool) -> Iterator[Path]:
    if path.is_file():
        # A file that was named is taken whatever it is called; a pattern may also match other files.
        if named or path.suffix.lower() in VIDEO_SUFFIXES:
            yield path
        return
    videos = sorted(p for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
    if videos:
        yield from videos
    elif frame_files(path):
        yield path
    else:
        for folder in sorted(p for p in path.iterdir() if p.is_dir()):
            yield from _videos_at(folder, named=False)


def expressions_of_table(
    csv_file: Path, sources: Sequence[str | Path], expression: str | None
) -> dict[Path, list[str | None]]:
    """The expressions of each video, as a table with the columns ``video`` and ``expression`` lists them.

    Args:
        csv_file: The table; its paths are relative to it.
        sources: Must be empty: the table names the videos.
        expression: Must be ``None``: the table names the expressions.

    Raises:
        ConfigError: The file cannot be read, lacks a column, or something else is given beside it.
        ExpressionError: A row lacks its video or expression, or its video does not exist.
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
    listed: dict[Path, list[str | None]] = {}
    problems = []
    for number, row in enumerate(reader, start=2):
        video, text = (row["video"] or "").strip(), " ".join((row["expression"] or "").split())
        if not video and not text:
            continue
        path = (csv_file.parent / Path(video).expanduser()).resolve()
        if not video or not text:
            problems.append(f"row {number} lacks its {'expression' if video else 'video'}")
        elif not path.exists():
            problems.append(f"row {number}: {path} does not exist")
        else:
            listed.setdefault(path, []).append(text)
    if problems:
        raise ExpressionError(list_problems(f"{csv_file} cannot be used:", problems))
    if not listed:
        raise ExpressionError(f"{csv_file} has no rows below its first line")
    return {path: list(dict.fromkeys(texts)) for path, texts in listed.items()}
