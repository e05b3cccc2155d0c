"""Datasets on disk as samples, one function for each public layout.

Every layout is a ``meta_expressions.json`` with the clips' frames and expressions, folders of JPEG frames, and
masks of one of the forms in :mod:`steerseg.evaluation.truth`. Pickled masks, which some projects pass around
beside the public files, are not read: the pictures or JSON they were made from are.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from steerseg.errors import ConfigError
from steerseg.evaluation.sample import Sample, split_digest
from steerseg.evaluation.truth import Palette, RunLengths, Silhouettes, Truth

__all__ = [
    "Sample",
    "is_davis",
    "read_davis",
    "read_mevis",
    "read_reasonvos",
    "read_ref_davis17",
    "read_ref_youtube_vos",
    "read_revos",
    "split_digest",
]

DAVIS_FPS = 24.0
DAVIS_VOID = 255
"""Value of pixels in DAVIS's annotations that its evaluation leaves out."""
DAVIS_RESOLUTION = "Full-Resolution"
"""Folder of pictures and masks as they were annotated, not made smaller."""
DAVIS_WRITERS = (
    ("Davis17_annot1.txt", "utf-8", "annotator 1, first frame"),
    ("Davis17_annot1_full_video.txt", "utf-8", "annotator 1, full video"),
    ("Davis17_annot2.txt", "latin-1", "annotator 2, first frame"),
    ("Davis17_annot2_full_video.txt", "latin-1", "annotator 2, full video"),
)
"""File, encoding and name of Ref-DAVIS17's four sets of expressions, in the order of their expression ids."""
# Clips that the annotators have misspelt.
DAVIS_MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}

REVOS_KINDS = {0: "referring", 1: "reasoning"}
"""By ``type_id``. Type 2 asks for what is not there; no published J&F counts it, so it is not read."""

UNKNOWN_FPS = 6.0
"""Frame rate of datasets without one; only the times in the language model's input depend on it."""


def read_ref_youtube_vos(
    root: str | Path, split: str, *, fps: float = 6.0, truth: bool = True
) -> list[Sample]:
    """Samples of a split in Ref-YouTube-VOS layout.

    Expects ``<root>/<split>/JPEGImages/<video>/<frame>.jpg``,
    ``<root>/<split>/Annotations/<video>/<frame>.png`` and
    ``<root>/meta_expressions/<split>/meta_expressions.json``. Beyond the public format an expression may
    have ``obj_ids``, ``kind``, ``name``, ``attributes`` and ``twin``, and a video ``fps``. An expression's own
    ``frames`` stand in place of its video's.

    Args:
        root: The dataset's folder.
        split: For instance "train".
        fps: Frame rate of videos without one of their own (Ref-YouTube-VOS annotates 6 frames a second).
        truth: Whether the split has masks. Without, clips that ``meta_expressions/test`` lists are left out:
            the public "valid" file lists those of the test split too.

    Raises:
        ConfigError: If a file is missing or has no ground truth.
    """
    root = Path(root)
    path = root / "meta_expressions" / split / "meta_expressions.json"
    if not path.is_file():
        raise ConfigError(
            f"no {path}; give the root of a dataset in Ref-YouTube-VOS layout and one of its splits"
        )
    videos = _videos(path)
    tested = root / "meta_expressions" / "test" / "meta_expressions.json"
    if not truth and split != "test" and tested.is_file():
        elsewhere = _videos(tested)
        videos = {video: entry for video, entry in videos.items() if video not in elsewhere}
    with _entries_of(path):
        return list(_palette_samples(root / split, "", videos, path, fps, truth))


def read_davis(root: str | Path, split: str) -> list[Sample]:
    """Samples of a dataset in DAVIS layout with expressions, such as ``steerseg-backend export`` writes.

    Expects ``<root>/JPEGImages/Full-Resolution/<video>/<frame>.jpg``,
    ``<root>/Annotations/Full-Resolution/<video>/<frame>.png`` and
    ``<root>/meta_expressions/<split>/meta_expressions.json`` as in Ref-YouTube-VOS layout. An expression's own
    ``frames`` are those on which its object is known as a whole. Older exports name the video's alone; pixels of 255
    count for nothing there.

    Raises:
        ConfigError: If a file is missing or has no ground truth.
    """
    root = Path(root)
    path = root / "meta_expressions" / split / "meta_expressions.json"
    if not path.is_file():
        raise ConfigError(f"no {path}; give one of the dataset's splits")
    videos = _videos(path)
    with _entries_of(path):
        return list(_palette_samples(root, DAVIS_RESOLUTION, videos, path, DAVIS_FPS, True, void=DAVIS_VOID))


def is_davis(root: str | Path) -> bool:
    """Whether a folder has the layout that :func:`read_davis` reads."""
    root = Path(root)
    return (root / "Annotations" / DAVIS_RESOLUTION).is_dir() and (root / "meta_expressions").is_dir()


def _palette_samples(
    folder: Path,
    resolution: str,
    videos: dict[str, Any],
    path: Path,
    fps: float,
    truth: bool,
    *,
    void: int | None = None,
) -> Iterator[Sample]:
    for video, entry in videos.items():
        images = _frames_folder(folder / "JPEGImages" / resolution, video, path)
        for key, expression in entry["expressions"].items():
            # An export knows this object as a whole on its own frames: void pixels are of others there.
            known = "frames" in expression
            frames = tuple((expression if known else entry)["frames"])
            objects: tuple[int, ...] = ()
            masks: Truth | None = None
            if truth:
                objects = _objects(expression, f"{video}, expression {key} of {path.name}")
                masks = Palette(
                    folder / "Annotations" / resolution / video, frames, objects, None if known else void
                )
            yield Sample(
                id=f"{video}/{key}",
                video=video,
                folder=images,
                frames=frames,
                fps=float(entry.get("fps", fps)),
                expression=expression["exp"],
                truth=masks,
                objects=objects,
                kind=expression.get("kind", ""),
                name=expression.get("name", ""),
                attributes=tuple(expression.get("attributes", ())),
                twin=bool(expression.get("twin", False)),
            )


def read_ref_davis17(root: str | Path, split: str = "valid") -> list[Sample]:
    """Ref-DAVIS17: four expressions for each object, of two annotators who saw the first frame or the video.

    Two layouts are known. The one that most projects convert to is Ref-YouTube-VOS's, with the splits "train"
    and "valid". The one that is downloaded holds ``DAVIS/JPEGImages/480p/<video>``,
    ``DAVIS/Annotations_unsupervised/480p/<video>``, ``DAVIS/ImageSets/2017/{train,val}.txt`` and
    ``davis_text_annotations/Davis17_annot{1,2}{,_full_video}.txt`` with lines such as
    ``blackswan 1 "a black swan"``. Ids of expressions are the same in both.

    Raises:
        ConfigError: If a file is missing or damaged.
    """
    root = Path(root)
    if (root / "meta_expressions").is_dir():
        samples = [
            replace(sample, truth=replace(sample.truth, void_id=DAVIS_VOID))
            if isinstance(sample.truth, Palette)
            else sample
            for sample in read_ref_youtube_vos(root, split, fps=DAVIS_FPS)
        ]
        per_clip = Counter(sample.video for sample in samples)
        return [
            replace(sample, kind=_davis_writer(sample.id)) if per_clip[sample.video] % 4 == 0 else sample
            for sample in samples
        ]
    return _read_downloaded_davis(root, split)


def _davis_writer(identity: str) -> str:
    """The annotator of an expression: they take turns."""
    key = identity.rpartition("/")[2]
    return DAVIS_WRITERS[int(key) % 4][2] if key.isdecimal() else ""


def _read_downloaded_davis(root: Path, split: str) -> list[Sample]:
    listed = root / "DAVIS" / "ImageSets" / "2017" / f"{'val' if split == 'valid' else split}.txt"
    texts = root / "davis_text_annotations"
    if not listed.is_file() or not texts.is_dir():
        raise ConfigError(
            f"{root} is not Ref-DAVIS17: expected either meta_expressions/{split}/meta_expressions.json, or "
            f"{listed.relative_to(root)} and {texts.name}/ as they are downloaded"
        )
    written = [_read_davis_texts(texts / name, encoding) for name, encoding, _ in DAVIS_WRITERS]
    masks = root / "DAVIS" / "Annotations_unsupervised" / "480p"
    if not masks.is_dir():
        masks = root / "DAVIS" / "Annotations" / "480p"
    samples = []
    for video in listed.read_text().split():
        folder = _frames_folder(root / "DAVIS" / "JPEGImages" / "480p", video, listed)
        frames = tuple(sorted(file.stem for file in folder.glob("*.jpg")))
        numbers = sorted(written[0].get(video, {}))
        if not numbers or any(sorted(one.get(video, {})) != numbers for one in written):
            raise ConfigError(
                f"the four files in {texts} do not describe the same objects of {video}; complete the dataset"
            )
        for index, number in enumerate(numbers):
            for writer, (_, _, kind) in enumerate(DAVIS_WRITERS):
                samples.append(
                    Sample(
                        id=f"{video}/{4 * index + writer}",
                        video=video,
                        folder=folder,
                        frames=frames,
                        fps=DAVIS_FPS,
                        expression=written[writer][video][number],
                        truth=Palette(masks / video, frames, (number,), DAVIS_VOID),
                        objects=(number,),
                        kind=kind,
                    )
                )
    return samples


def _read_davis_texts(path: Path, encoding: str) -> dict[str, dict[int, str]]:
    """Clip -> object -> expression."""
    texts: dict[str, dict[int, str]] = defaultdict(dict)
    try:
        lines = path.read_text(encoding=encoding).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; complete the dataset") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = line.split(maxsplit=2)
        if len(parts) < 3 or not parts[1].isdecimal():
            raise ConfigError(f'{path}, line {number}, is not: clip object "expression"')
        texts[DAVIS_MISSPELT.get(parts[0], parts[0])][int(parts[1])] = parts[2].strip()[1:-1]
    return texts


def read_mevis(root: str | Path, split: str = "valid_u") -> list[Sample]:
    """MeViS: ``<root>/<split>/{JPEGImages/<video>/<frame>.jpg, meta_expressions.json, mask_dict.json}``.

    An expression names any number of targets (``anno_id``: keys of ``mask_dict.json``); in version 2 also none.
    The split "valid" has no masks: the dataset's server scores it.

    Raises:
        ConfigError: If a file is missing or damaged.
    """
    folder = Path(root) / split
    path = folder / "meta_expressions.json"
    if not path.is_file():
        raise ConfigError(f"no {path}; give MeViS's root and one of its splits (train, valid_u, valid)")
    masks = folder / "mask_dict.json"
    return _read_run_lengths(path, folder / "JPEGImages", masks if masks.is_file() else None)


def read_revos(root: str | Path, split: str = "valid") -> list[Sample]:
    """ReVOS: ``<root>/{JPEGImages/<video>/<frame>.jpg, meta_expressions_<split>_.json, mask_dict.json}``.

    Names of clips have slashes. Kinds are "referring" and "reasoning".

    Raises:
        ConfigError: If a file is missing or damaged.
    """
    root = Path(root)
    path = root / f"meta_expressions_{split}_.json"
    if not path.is_file():
        raise ConfigError(f"no {path}; give ReVOS's root and one of its splits (train, valid)")
    masks = root / "mask_dict.json"
    if not masks.is_file():
        raise ConfigError(f"no {masks}; complete the dataset")
    return _read_run_lengths(path, root / "JPEGImages", masks, kinds=REVOS_KINDS)


def _read_run_lengths(
    path: Path, images: Path, masks: Path | None, *, kinds: Mapping[int, str] | None = None
) -> list[Sample]:
    videos = _videos(path)
    with _entries_of(path):
        return list(_run_length_samples(videos, path, images, masks, kinds))


def _run_length_samples(
    videos: dict[str, Any], path: Path, images: Path, masks: Path | None, kinds: Mapping[int, str] | None
) -> Iterator[Sample]:
    for video, entry in videos.items():
        folder = _frames_folder(images, video, path)
        frames = tuple(entry["frames"])
        for key, expression in entry["expressions"].items():
            if kinds is not None and expression["type_id"] not in kinds:
                continue
            objects: tuple[int, ...] = ()
            truth: Truth | None = None
            if masks is not None:
                objects = _objects(expression, f"{video}, expression {key} of {path.name}")
                truth = RunLengths(masks, tuple(str(key) for key in expression["anno_id"]), len(frames))
            yield Sample(
                id=f"{video}/{key}",
                video=video,
                folder=folder,
                frames=frames,
                fps=UNKNOWN_FPS,
                expression=expression["exp"],
                truth=truth,
                objects=objects,
                kind="" if kinds is None else kinds[expression["type_id"]],
            )


def read_reasonvos(root: str | Path, split: str = "test") -> list[Sample]:
    """ReasonVOS: clips, ``meta_expressions.json``, and a folder of masks for each object.

    Frames are ``<root>/JPEGImages/<video>/<frame>.jpg``, masks
    ``<root>/Annotations/<source>_<video>_<object>/<frame>.png``.

    ``expressions`` is a list of ``{exp_id, exp_text, obj_id, is_sent}``, whose ``exp_id`` are not unique; so
    expressions go by their index in it. DecAF's ``meta_expressions_v2.json``, a dict of
    ``{exp, obj_id: [...], anno_id: [...]}``, is read where the other is not there. The whole is one split.

    Raises:
        ConfigError: If a file is missing or damaged.
    """
    root = Path(root)
    paths = [root / name for name in ("meta_expressions.json", "meta_expressions_v2.json")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ConfigError(f"no {paths[0]}; give ReasonVOS's root")
    videos = _videos(path)
    with _entries_of(path):
        return list(_reasonvos_samples(root, videos, path))


def _reasonvos_samples(root: Path, videos: dict[str, Any], path: Path) -> Iterator[Sample]:
    for video, entry in videos.items():
        folder = _frames_folder(root / "JPEGImages", video, path)
        frames = tuple(entry["frames"])
        listed = entry["expressions"]
        for key, expression in listed.items() if isinstance(listed, dict) else enumerate(listed):
            ids = expression["obj_id"]
            numbers = ids if isinstance(ids, list) else [ids]
            names = expression.get("anno_id") or [f"{entry['source']}_{video}_{number}" for number in numbers]
            folders = tuple(_mask_folder(root / "Annotations", name) for name in names)
            yield Sample(
                id=f"{video}/{key}",
                video=video,
                folder=folder,
                frames=frames,
                fps=UNKNOWN_FPS,
                expression=expression.get("exp_text") or expression["exp"],
                truth=Silhouettes(folders, frames),
                objects=tuple(int(number) for number in numbers if str(number).isdecimal()),
                kind=_reasonvos_kind(expression.get("is_sent", entry.get("is_sent"))),
            )


def _reasonvos_kind(is_sentence: Any) -> str:
    return "" if is_sentence is None else "sentence" if is_sentence else "phrase"


def _mask_folder(annotations: Path, name: str) -> Path:
    """The folder of a target; sources are written in lower case in some releases' folder names."""
    for spelt in (name, name[: name.find("_")].lower() + name[name.find("_") :]):
        if (annotations / spelt).is_dir():
            return annotations / spelt
    raise ConfigError(f"no masks at {annotations / name}, which an expression names; complete the dataset")


def _videos(path: Path) -> dict[str, Any]:
    try:
        videos = json.loads(path.read_text(encoding="utf-8"))["videos"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a meta_expressions file: {error}") from error
    if not isinstance(videos, dict):
        raise ConfigError(f"{path} is not a meta_expressions file: 'videos' is not an object")
    return videos


@contextmanager
def _entries_of(path: Path) -> Iterator[None]:
    """Name the file in errors about its entries."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"an entry without {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(f"{path} is damaged or of another layout: {what}; complete the dataset") from error


def _frames_folder(images: Path, video: str, listed_in: Path) -> Path:
    name = PurePosixPath(video)
    if name.is_absolute() or ".." in name.parts:
        raise ConfigError(f"{listed_in} names a clip {video!r} outside the dataset; expected a relative path")
    folder = images / video
    if not folder.is_dir():
        raise ConfigError(f"no frames at {folder}, which {listed_in.name} lists; complete the dataset")
    return folder


def _objects(expression: dict[str, Any], where: str) -> tuple[int, ...]:
    ids = expression.get("obj_ids", expression.get("obj_id"))
    if ids is None:
        raise ConfigError(
            f"{where} names no object (obj_id); this split comes without ground truth, use one that has it"
        )
    return tuple(int(i) for i in (ids if isinstance(ids, list) else [ids]))
