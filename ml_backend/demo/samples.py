"""The sample videos of the demonstration: rendered clips with several objects, and one real clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from steerseg.errors import ConfigError, VideoError

SPLIT = "test"
"""The rendered clips come from this split of sprites-ref: no weight was trained on or chosen by them."""

RENDERED: tuple[tuple[str, str, int], ...] = (
    ("sailboat", "test-0016", 1),
    ("globe", "test-0009", 1),
    ("raccoon", "test-0036", 1),
    ("sushi", "test-0006", 0),
)
"""Name of what is asked for, clip of the split, and the index of the clip's expression: one each by place, by colour,
by use and by motion. The first is the one that a person tries first, so it is the one that is answered best."""

REAL_FILE = "opossum_snow.mp4"
REAL_EXPRESSION = "the animal with a green sweater"
_REAL_FRAMES = range(790, 862, 2)  # one shot of the film
_REAL_SIZE = (640, 360)  # width, height


@dataclass(frozen=True)
class Sample:
    """A video file and what to track in it."""

    path: Path
    expression: str


def find_real_clip(label_studio: Path) -> Path | None:
    """The film that Label Studio's own package brings along, if this installation has it.

    Args:
        label_studio: The ``label-studio`` command of the installation.
    """
    environment = label_studio.resolve().parent.parent
    places = "lib/python*/site-packages/label_studio/core/static/samples"
    return next(iter(sorted(environment.glob(f"{places}/{REAL_FILE}"))), None)


def write_samples(
    directory: Path, label_studio: Path, report: Callable[[str], None], *, rendered: int = len(RENDERED)
) -> list[Sample]:
    """Write the sample videos; those that are there already are left alone.

    Args:
        directory: Where the MP4 files go.
        label_studio: The ``label-studio`` command, whose installation has the real clip.
        report: Called with a line for a person now and then.
        rendered: How many rendered clips.

    Raises:
        VideoError: A video cannot be read or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    samples = [*_rendered(directory, report, RENDERED[:rendered])]
    film = find_real_clip(label_studio)
    if film is None:
        report(f"This Label Studio brings no {REAL_FILE}: the demo goes on without a real clip.")
        return samples
    path = directory / "opossum.mp4"
    if not path.is_file():
        report(f"Cutting {path.name}")
        _write(path, _cut(film), fps=15)
    samples.append(Sample(path, REAL_EXPRESSION))
    return samples


def _rendered(
    directory: Path, report: Callable[[str], None], wanted: tuple[tuple[str, str, int], ...]
) -> Iterator[Sample]:
    # Torch and the atlas take a second or two: not before they are needed.
    from steerseg.demo.dataset import load_manifest, render_scene, scene_of
    from steerseg.demo.sprites import load_atlas

    manifest = load_manifest(SPLIT)
    entries = {entry.video: entry for entry in manifest.clips}
    for name, video, index in wanted:
        if video not in entries or index >= len(entries[video].expressions):
            raise ConfigError(
                f"the split {SPLIT!r} has no clip {video!r} with expression {index}; "
                "RENDERED in ml_backend/demo/samples.py no longer fits its manifest."
            )
        path = directory / f"{name}.mp4"
        if not path.is_file():
            report(f"Rendering {path.name}")
            scene = scene_of(manifest, entries[video])
            frames, _ = render_scene(scene, load_atlas(manifest.world.styles))
            _write(path, iter(frames), fps=scene.fps)
        yield Sample(path, entries[video].expressions[index].text)


def _cut(film: Path) -> Iterator[NDArray[np.uint8]]:
    width, height = _REAL_SIZE
    try:
        with av.open(str(film)) as container:
            for index, frame in enumerate(container.decode(video=0)):
                if index >= _REAL_FRAMES.stop:
                    return
                if index in _REAL_FRAMES:
                    yield frame.reformat(width, height, "rgb24").to_ndarray()
    except av.FFmpegError as error:
        raise VideoError(f"{film} cannot be read: {error}.") from error


def _write(path: Path, frames: Iterator[NDArray[np.uint8]], fps: float) -> None:
    from steerseg.video import write_video

    partial = path.with_suffix(".part")
    write_video(partial, frames, fps)
    partial.replace(path)
