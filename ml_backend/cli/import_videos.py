"""Videos -> tasks of a Label Studio project: pages as JPEG frames, videos that a browser plays.

Frames are numbered in decode order, page 0 first; every frame is taken, or one in ``stride``. Nothing is
dropped silently: a video with more pages than a task can show is an error that says which stride fits.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import glob
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml_backend.cli.options import add_setting, label_studio_client, positive, read_settings, read_text
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import Controls, VideoSide
from ml_backend.settings import ENV_PREFIX
from steerseg.errors import ConfigError, ExpressionError, VideoError
from steerseg.video import (
    DEFAULT_LIMITS,
    FileKind,
    Video,
    VideoLimits,
    file_kind,
    frame_files,
    load_video,
    write_video,
)

TaskKind = Literal["auto", "frames", "video", "both"]
Progress = Callable[[str, float], None]
"""Called with the name of a video and the fraction in [0, 1] of the whole import that is done."""

MAX_PAGES = 100
"""Pages a task: with more, Label Studio's editor freezes for seconds at every submit."""

JPEG_QUALITY = 92

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".flv"}
    | {".wmv", ".asf", ".ogv", ".3gp", ".gif"}
)

# What Chromium and Firefox both play.
_PLAYABLE: dict[str, dict[str, frozenset[str] | None]] = {
    "mp4": {"h264": frozenset({"yuv420p", "yuvj420p"}), "vp9": None, "av1": None},
    "webm": {"vp8": None, "vp9": None, "av1": None},
}


@dataclass(frozen=True)
class PreparedTask:
    """One task before it is imported.

    Attributes:
        source: The video that it was made from.
        data: The task's data.
        pages: Frames written, or 0 for a task without pages.
        note: What was done to the video, if anything ("re-encoded: ...").
    """

    source: Path
    data: dict[str, Any] = field(repr=False)
    pages: int
    note: str = ""


@dataclass(frozen=True)
class ImportReport:
    """What an import did."""

    tasks: tuple[int, ...]  # ids, in order
    prepared: tuple[PreparedTask, ...]
    warnings: tuple[str, ...] = ()  # what may keep annotators from seeing them

    def lines(self) -> list[str]:
        """What was done, for people."""
        lines = []
        for task, item in zip(self.tasks, self.prepared, strict=True):
            what = f"{item.pages} pages" if item.pages else "video"
            expression = item.data.get("expression", "")
            lines.append(
                f"task {task}: {item.source.name} ({what})"
                + (f' "{expression}"' if expression else "")
                + (f"; {item.note}" if item.note else "")
            )
        return lines


def import_videos(
    client: LabelStudioClient,
    project: int,
    sources: Sequence[str | Path] = (),
    *,
    media_dir: Path,
    document_root: Path,
    expression: str | None = None,
    csv_file: Path | None = None,
    kind: TaskKind = "auto",
    stride: int = 1,
    max_pages: int = MAX_PAGES,
    fps: float | None = None,
    expression_key: str = "expression",
    limits: VideoLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> ImportReport:
    """Import videos as tasks. No task is made before every video is prepared.

    Args:
        client: Connection to Label Studio.
        project: The project's id; its labelling configuration says what its tasks consist of.
        sources: Video files, folders (of videos or of frames) and glob patterns; empty with ``csv_file``.
        media_dir: Where frames and videos are written. The project's Local Files storage must cover it, which
            is what ``connect`` sees to.
        document_root: Label Studio's ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT`` as this machine sees it;
            ``media_dir`` lies below it.
        expression: What to track in all of them; ``None`` leaves it to the project's default.
        csv_file: Table with columns ``video`` and ``expression``; several rows with one video are several
            tasks. Paths are relative to the table.
        kind: Pages, videos or both; ``auto`` is what the project can show.
        stride: Take one frame in ``stride`` as a page.
        max_pages: Most pages of a task.
        fps: Frame rate of folders of frames (25 if not given); files have their own.
        expression_key: Key of the task's data that holds the expression.
        limits: What a video may cost.
        progress: Called now and then; may raise to stop.

    Raises:
        ConfigError: The project cannot show such tasks, or the folders do not fit each other.
        VideoError: Videos are missing, unreadable or too long; the message lists all of them.
        ExpressionError: An expression is empty, or the table lacks one.
        LabelStudioError: Label Studio refuses.
    """
    controls = parse_controls(str(client.projects.get(project)["label_config"]))
    prepared = prepare_tasks(
        controls,
        sources,
        media_dir=media_dir,
        document_root=document_root,
        expression=expression,
        csv_file=csv_file,
        kind=kind,
        stride=stride,
        max_pages=max_pages,
        fps=fps,
        expression_key=expression_key,
        limits=limits,
        progress=progress,
    )
    tasks = client.tasks.create(project, [{"data": task.data} for task in prepared])
    return ImportReport(tuple(tasks), tuple(prepared), _unserved(client, project, media_dir, document_root))


def _unserved(
    client: LabelStudioClient, project: int, media_dir: Path, document_root: Path
) -> tuple[str, ...]:
    """What to say where no storage of the project serves the media. Label Studio may see them under another root."""
    within = media_dir.resolve().relative_to(document_root.resolve())
    served = [PurePosixPath(str(storage["path"])) for storage in client.storages.of_project(project)]
    for folder in (within, *list(within.parents)[:-1]):
        if any(path.parts[-len(folder.parts) :] == folder.parts for path in served):
            return ()
    return (
        f"project {project} has no local storage for {media_dir}, without which Label Studio shows no frames; add it "
        f"with `steerseg-backend connect --project {project} --storage-path FOLDER`, that folder as Label Studio "
        "sees it",
    )


def prepare_tasks(
    controls: Controls,
    sources: Sequence[str | Path] = (),
    *,
    media_dir: Path,
    document_root: Path,
    expression: str | None = None,
    csv_file: Path | None = None,
    kind: TaskKind = "auto",
    stride: int = 1,
    max_pages: int = MAX_PAGES,
    fps: float | None = None,
    expression_key: str = "expression",
    limits: VideoLimits = DEFAULT_LIMITS,
    progress: Progress | None = None,
) -> list[PreparedTask]:
    """Write the media and build the tasks, without importing them; see :func:`import_videos`."""
    if stride < 1:
        raise ConfigError(f"stride is {stride}; expected 1 (every frame) or more")
    if max_pages < 1:
        raise ConfigError(f"the number of pages a task is {max_pages}; expected 1 or more")
    pages, video = _wanted(controls, kind)
    place = _Place(media_dir.resolve(), document_root.resolve())
    wanted = _read_csv(csv_file, sources, expression) if csv_file else _plain(sources, expression)
    problems: list[str] = []
    tasks: list[PreparedTask] = []
    for i, (source, expressions) in enumerate(wanted.items()):
        if progress is not None:
            progress(source.name, i / len(wanted))
        try:
            data, count, note = _prepare(
                source, controls, pages, video, place, stride, max_pages, fps, limits
            )
        except VideoError as error:
            problems.append(str(error))
            continue
        tasks += [
            PreparedTask(source, data if text is None else {expression_key: text, **data}, count, note)
            for text in expressions
        ]
    if problems:
        raise VideoError(_list(problems, "no task was imported, since some videos cannot be used:"))
    if progress is not None:
        progress("", 1.0)
    return tasks


# --- What is wanted ----------------------------------------------------------------------------------------


def _wanted(controls: Controls, kind: TaskKind) -> tuple[bool, bool]:
    """Whether tasks get pages, and whether they get a video."""
    pages = controls.frames is not None if kind == "auto" else kind in ("frames", "both")
    video = controls.video is not None if kind == "auto" else kind in ("video", "both")
    if pages and controls.frames is None:
        raise ConfigError(
            'the project\'s labelling configuration shows no frames; it needs <Image valueList="$frames"> '
            "and a mask control such as <BrushLabels>. Use label_config/frames.xml, or import with "
            "--kind video"
        )
    if video and controls.video is None:
        raise ConfigError(
            'the project\'s labelling configuration shows no video; it needs <Video value="$video"> and '
            "<VideoRectangle>. Use label_config/video.xml, or import with --kind frames"
        )
    return pages, video


def _plain(sources: Sequence[str | Path], expression: str | None) -> dict[Path, list[str | None]]:
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


def _read_csv(
    csv_file: Path, sources: Sequence[str | Path], expression: str | None
) -> dict[Path, list[str | None]]:
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
    wanted: dict[Path, list[str | None]] = {}
    problems = []
    for number, row in enumerate(reader, start=2):
        video, said = (row["video"] or "").strip(), " ".join((row["expression"] or "").split())
        if not video and not said:
            continue
        path = (csv_file.parent / Path(video).expanduser()).resolve()
        if not video or not said:
            problems.append(f"row {number} lacks its {'expression' if video else 'video'}")
        elif not path.exists():
            problems.append(f"row {number}: {path} does not exist")
        else:
            wanted.setdefault(path, []).append(said)
    if problems:
        raise ExpressionError(_list(problems, f"{csv_file} cannot be used:"))
    if not wanted:
        raise ExpressionError(f"{csv_file} has no rows below its first line")
    return {path: list(dict.fromkeys(said)) for path, said in wanted.items()}


# --- One video ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where media is written, and under which address Label Studio serves it."""

    media_dir: Path
    document_root: Path

    def __post_init__(self) -> None:
        if self.document_root not in self.media_dir.parents:
            raise ConfigError(
                f"{self.media_dir} does not lie below Label Studio's document root {self.document_root}; "
                "Label Studio serves only folders below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"
            )

    def url(self, path: Path) -> str:
        return f"/data/local-files/?d={quote(path.relative_to(self.document_root).as_posix())}"


def _prepare(
    source: Path,
    controls: Controls,
    pages: bool,
    video: bool,
    place: _Place,
    stride: int,
    max_pages: int,
    fps: float | None,
    limits: VideoLimits,
) -> tuple[dict[str, Any], int, str]:
    """Write a video's media; gives the task's data, its number of pages and what was done."""
    data: dict[str, Any] = {}
    count, note = 0, ""
    name = _media_name(source)
    if pages and controls.frames is not None:
        folder, manifest = _write_pages(source, name, place, stride, max_pages, fps, limits)
        count = len(manifest["frames"])
        data[controls.frames.data_key] = [place.url(folder / page) for page in manifest["frames"]]
        data |= {"fps": manifest["fps"], "stride": stride, "pts": manifest["pts"]}
    if video and controls.video is not None:
        path, rate, note = _write_playable(source, name, place, fps, limits)
        data[controls.video.data_key] = place.url(path)
        data |= _rates(controls.video, rate)
    return {**data, "source": source.name}, count, note


def _rates(side: VideoSide, fps: float) -> dict[str, float]:
    if side.frame_rate_key is not None:
        return {"fps": fps, side.frame_rate_key: fps}
    if not math.isclose(side.fps({}), fps, rel_tol=1e-3):
        # A wrong rate moves every box off its object, more with every second.
        raise VideoError(
            f"the video has {fps:g} frames a second, but the labelling configuration counts "
            f"{side.fps({}):g}; "
            f'write frameRate="$fps" into <Video name="{side.name}">'
        )
    return {"fps": fps}


def _media_name(source: Path) -> str:
    """A name from the file's own and its content: the same video is written once, two of one name apart."""
    digest = hashlib.sha256()
    for file in frame_files(source) if source.is_dir() else (source,):
        try:
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise VideoError(f"{file} cannot be read: {error.strerror}") from None
    stem = source.name if source.is_dir() else source.stem
    slug = re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-").lower()
    return f"{slug[:40] or 'video'}-{digest.hexdigest()[:10]}"


def _write_pages(
    source: Path,
    name: str,
    place: _Place,
    stride: int,
    max_pages: int,
    fps: float | None,
    limits: VideoLimits,
) -> tuple[Path, dict[str, Any]]:
    """Write the frames as ``00000.jpg``, ... with a manifest, or find them written."""
    suffix = (f"-s{stride}" if stride > 1 else "") + (f"-{fps:g}fps" if fps and source.is_dir() else "")
    folder = place.media_dir / "frames" / (name + suffix)
    manifest_file = folder / "manifest.json"
    if manifest_file.is_file():
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        if len(manifest["frames"]) <= max_pages:
            return folder, manifest
        raise VideoError(_too_many_pages(source, len(manifest["frames"]) * stride, stride, max_pages))
    if source.is_dir():
        total = len(frame_files(source))
        if math.ceil(total / stride) > max_pages:
            raise VideoError(_too_many_pages(source, total, stride, max_pages))
    try:
        # One page more than fits shows that there are too many, without decoding the rest.
        bounded = replace(limits, max_frames=max_pages + 1)
        video = load_video(source, stride=stride, fps=fps, limits=bounded)
    except VideoError:
        if source.is_dir() or _packets(source) <= max_pages * stride:
            raise
        raise VideoError(_too_many_pages(source, _packets(source), stride, max_pages)) from None
    if len(video) > max_pages:
        raise VideoError(_too_many_pages(source, _packets(source), stride, max_pages))
    manifest = {
        "source": source.name,
        "digest": video.digest,
        "fps": round(video.fps * stride, 6),
        "stride": stride,
        "width": video.width,
        "height": video.height,
        "frames": [f"{page:05d}.jpg" for page in range(len(video))],
        "frame_indices": [page * stride for page in range(len(video))],
        "pts": [round(float(seconds), 6) for seconds in video.pts],
    }
    with _appearing(folder) as building:
        building.mkdir()
        for page, frame in zip(manifest["frames"], video.frames, strict=True):
            Image.fromarray(frame).save(building / page, quality=JPEG_QUALITY)
        (building / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return folder, manifest


def _write_playable(
    source: Path, name: str, place: _Place, fps: float | None, limits: VideoLimits
) -> tuple[Path, float, str]:
    """Put a video that browsers play where Label Studio serves it; gives it, its frame rate and a note.

    The video is copied as it is, unless browsers cannot play its codec, or frame n is not at n / fps seconds
    in it: Label Studio numbers frames by time, so its boxes would stand on other frames than ours.
    """
    videos = place.media_dir / "videos"
    if source.is_dir():
        video = load_video(source, fps=fps, limits=limits)
        path = videos / f"{name}.mp4"
        _encode(path, video.frames, video.fps)
        return path, round(video.fps, 6), "encoded: a folder of frames is no video"
    kind = file_kind(source)
    container = _container(kind, source)
    # A hundred frames show the rate and whether it varies, without a long video in memory.
    sampling = max(1, kind.packets // 100)
    sample = load_video(source, stride=sampling, limits=limits)
    rate = sample.fps * sampling
    reason = ""
    if container is None:
        reason = f"browsers do not play {kind.codec} in {source.suffix or kind.container}"
    elif not _is_constant(sample, rate, sampling):
        reason = "its frame rate varies, but Label Studio counts frames by time"
    if not reason:
        path = videos / f"{name}.{container}"
        if not path.exists():
            with _appearing(path) as building:
                shutil.copyfile(source, building)
        return path, round(rate, 6), ""
    path = videos / f"{name}-h264.mp4"
    if not path.exists():
        video = sample if sampling == 1 else load_video(source, limits=limits)
        rate = video.fps
        _encode(path, video.frames, rate)
    return path, round(rate, 6), f"re-encoded: {reason}"


def _container(kind: FileKind, source: Path) -> str | None:
    """The suffix under which browsers play a file as it is, or ``None``."""
    if "mp4" in kind.container.split(","):
        suffix = "mp4"
    elif "webm" in kind.container.split(",") and source.suffix.lower() == ".webm":
        suffix = "webm"
    else:
        return None
    formats = _PLAYABLE[suffix]
    if kind.codec not in formats:
        return None
    pixels = formats[kind.codec]
    return suffix if pixels is None or kind.pixel_format in pixels else None


def _is_constant(video: Video, rate: float, stride: int) -> bool:
    """Whether every frame is the one that a player shows at its number divided by the rate."""
    expected = np.arange(len(video)) * stride / rate
    return bool(np.abs(video.pts - expected).max() < 0.5 / rate)


def _encode(path: Path, frames: NDArray[np.uint8], fps: float) -> None:
    if path.exists():
        return
    with _appearing(path) as building:
        write_video(building, frames, fps)


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A place to make a file or folder that takes its own place in one step, when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as folder:
        building = Path(folder) / path.name
        yield building
        try:
            os.replace(building, path)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be written ({error.strerror}); remove it, or choose another media folder"
            ) from None


def _packets(source: Path) -> int:
    return file_kind(source).packets


def _too_many_pages(source: Path, frames: int, stride: int, max_pages: int) -> str:
    fitting = max(stride + 1, math.ceil(frames / max_pages))
    return (
        f"{source.name} has about {frames} frames, which at stride {stride} are more than {max_pages} pages; "
        f"import it with --stride {fitting} ({math.ceil(frames / fitting)} pages), or cut it into shorter "
        "clips"
    )


def _list(problems: Iterable[str], title: str) -> str:
    problems = list(problems)
    more = f"\n- and {len(problems) - 20} more" if len(problems) > 20 else ""
    return title + "".join(f"\n- {problem}" for problem in problems[:20]) + more


def add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    parser.add_argument("sources", nargs="*", help="video files, folders (of videos or of frames), patterns")
    parser.add_argument("--expression", help="what to track in all of them (default: left to the project)")
    parser.add_argument("--csv", type=Path, help="table with the columns 'video' and 'expression' instead")
    parser.add_argument(
        "--kind",
        choices=("auto", "frames", "video", "both"),
        default="auto",
        help="what tasks consist of (default: what the project can show)",
    )
    parser.add_argument("--stride", type=positive, default=1, help="take one frame in so many as a page")
    parser.add_argument(
        "--max-pages", type=positive, default=100, help="most pages of a task (default: %(default)s)"
    )
    parser.add_argument("--fps", type=float, help="frame rate of folders of frames (default: 25)")
    parser.add_argument(
        "--document-root",
        type=Path,
        help="Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT as this machine sees it "
        f"[{ENV_PREFIX}LOCAL_FILES_ROOT]",
    )
    parser.add_argument(
        "--media-dir", type=Path, help="where frames and videos are written (default: its folder 'steerseg')"
    )
    for name in ("label_studio_url", "expression_key"):
        add_setting(parser, name)
    parser.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ml_backend.cli.import_videos import import_videos

    settings = read_settings(options)
    root = options.document_root or settings.local_files_root
    if root is None:
        raise ConfigError(
            "Label Studio serves imported frames from its local-files root, which is not known; give "
            "--document-root or set STEERSEG_LOCAL_FILES_ROOT"
        )
    if not root.is_dir():
        raise ConfigError(
            f"{root} is no folder; expected Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT as this machine "
            "sees it (--document-root, STEERSEG_LOCAL_FILES_ROOT)"
        )
    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {postfix}") as bar:

        def show(name: str, fraction: float) -> None:
            bar.set_postfix_str(name)
            bar.update(round(fraction * 100) - bar.n)

        report = import_videos(
            label_studio_client(settings),
            options.project,
            options.sources,
            media_dir=options.media_dir or root / "steerseg",
            document_root=root,
            expression=options.expression,
            csv_file=options.csv,
            kind=options.kind,
            stride=options.stride,
            max_pages=options.max_pages,
            fps=options.fps,
            expression_key=settings.expression_key,
            progress=show,
        )
    print("\n".join(report.lines()))
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0
