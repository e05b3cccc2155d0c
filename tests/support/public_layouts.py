"""Small clips of moving squares in the public datasets' layouts, as their files really look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH, COUNT = 42, 64, 5
NAMES = tuple(f"{5 * t:05d}" for t in range(COUNT))
COLOURS = ((230, 40, 40), (40, 200, 60), (60, 80, 230))


def square(number: int, t: int) -> NDArray[np.bool_]:
    """The mask of object 1, 2 or 3 in a frame; the third appears late."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    if number < 3 or t >= 2:
        top = (2, 15, 28)[number - 1]
        mask[top : top + 12, 4 + 5 * t : 18 + 5 * t] = True
    return mask


def masks(*numbers: int) -> NDArray[np.bool_]:
    """Several objects together, (T, H, W)."""
    return np.stack([np.any([square(n, t) for n in numbers], axis=0) for t in range(COUNT)])


def write_frames(folder: Path, names: Sequence[str] = NAMES) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for t, name in enumerate(names):
        picture = rng.integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for number, colour in enumerate(COLOURS, start=1):
            picture[square(number, t)] = colour
        Image.fromarray(picture).save(folder / f"{name}.jpg", quality=95)


def write_palette(folder: Path, names: Sequence[str] = NAMES) -> None:
    """Object ids as palette PNGs, as DAVIS and YouTube-VOS have them."""
    folder.mkdir(parents=True)
    for t, name in enumerate(names):
        ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
        for number in (1, 2, 3):
            ids[square(number, t)] = number
        picture = Image.fromarray(ids, mode="P")
        picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
        picture.save(folder / f"{name}.png")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def rle(mask: NDArray[np.bool_]) -> dict[str, Any] | None:
    """As ``mask_dict.json`` has it: nothing where nothing is."""
    if not mask.any():
        return None
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def mask_lists(first: int) -> dict[str, list[Any]]:
    """Entries for the three objects from a key on."""
    return {str(first + n - 1): [rle(square(n, t)) for t in range(COUNT)] for n in (1, 2, 3)}


def ref_youtube_vos(root: Path, *, splits: Sequence[str] = ("train", "valid")) -> Path:
    """Two clips with two expressions each; "valid" has no masks and lists the test split's clip too."""
    if "train" in splits:
        videos = {}
        for video in ("003234408d", "0043f083b5"):
            write_frames(root / "train" / "JPEGImages" / video)
            write_palette(root / "train" / "Annotations" / video)
            videos[video] = {
                "expressions": {
                    "0": {"exp": "the red square on top", "obj_id": "1"},
                    "1": {"exp": "a green square in the middle", "obj_id": "2"},
                },
                "frames": list(NAMES),
            }
        write_json(root / "meta_expressions" / "train" / "meta_expressions.json", {"videos": videos})
    if "valid" in splits:
        plain = {
            "expressions": {"0": {"exp": "a red square"}, "1": {"exp": "a green square"}},
            "frames": list(NAMES),
        }
        for video in ("0062f687f1", "00f88c4f0a"):
            write_frames(root / "valid" / "JPEGImages" / video)
        names = ("0062f687f1", "00f88c4f0a", "0a49f5265b")
        meta = root / "meta_expressions"
        write_json(meta / "valid" / "meta_expressions.json", {"videos": dict.fromkeys(names, plain)})
        write_json(meta / "test" / "meta_expressions.json", {"videos": {names[2]: plain}})
    return root


DAVIS_FILES = (
    "Davis17_annot1.txt",
    "Davis17_annot1_full_video.txt",
    "Davis17_annot2.txt",
    "Davis17_annot2_full_video.txt",
)


def davis_expression(file: int, number: int) -> str:
    return f"square {number} caf\xe9 by {file}" if file > 1 else f"square {number} by {file}"


def ref_davis17_downloaded(root: Path) -> Path:
    """As the archives unpack; the second annotator's files are Latin-1 and misspell a clip."""
    davis = root / "DAVIS"
    (davis / "ImageSets" / "2017").mkdir(parents=True)
    (davis / "ImageSets" / "2017" / "val.txt").write_text("blackswan\nclassic-car\n")
    texts = root / "davis_text_annotations"
    texts.mkdir()
    for video in ("blackswan", "classic-car"):
        names = [f"{t:05d}" for t in range(COUNT)]
        write_frames(davis / "JPEGImages" / "480p" / video, names)
        write_palette(davis / "Annotations_unsupervised" / "480p" / video, names)
    for file, name in enumerate(DAVIS_FILES):
        spelt = "clasic-car" if file == 1 else "classic-car"
        lines = [
            f'{video} {number} "{davis_expression(file, number)}"'
            for video in (spelt, "blackswan", "not-of-this-split")
            for number in (2, 1)
        ]
        (texts / name).write_text("\n".join(lines) + "\n", encoding="latin-1" if file > 1 else "utf-8")
    return root


def ref_davis17_converted(root: Path) -> Path:
    """The same as most projects convert it: expressions take turns over the four files."""
    videos = {}
    for video in ("blackswan", "classic-car"):
        names = [f"{t:05d}" for t in range(COUNT)]
        write_frames(root / "valid" / "JPEGImages" / video, names)
        write_palette(root / "valid" / "Annotations" / video, names)
        expressions = {
            str(4 * (number - 1) + file): {"exp": davis_expression(file, number), "obj_id": str(number)}
            for number in (1, 2)
            for file in range(4)
        }
        videos[video] = {"expressions": expressions, "frames": names}
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": videos})
    return root


def mevis(root: Path) -> Path:
    """Several targets an expression, one without any (version 2), and the server's split."""
    clip = "0ab4afe7fb46"
    expressions = {
        "0": {"exp": "The squares on top and at the bottom", "obj_id": [0, 2], "anno_id": [7, 9]},
        "1": {"exp": "the green one", "obj_id": [1], "anno_id": [8]},
        "2": {"exp": "a dog", "obj_id": [], "anno_id": []},
    }
    video = {"expressions": expressions, "vid_id": 3, "frames": list(NAMES)}
    write_frames(root / "valid_u" / "JPEGImages" / clip)
    write_json(root / "valid_u" / "meta_expressions.json", {"videos": {clip: video}})
    write_json(root / "valid_u" / "mask_dict.json", mask_lists(7))
    plain = {"expressions": {"0": {"exp": "moving right"}}, "vid_id": 0, "frames": list(NAMES)}
    write_frames(root / "valid" / "JPEGImages" / clip)
    write_json(root / "valid" / "meta_expressions.json", {"videos": {clip: plain}})
    return root


def revos(root: Path) -> Path:
    """Clips with slashes in their names, both halves, and an expression that nothing answers."""
    videos: dict[str, Any] = {}
    lists: dict[str, Any] = {}
    for number, video in enumerate(
        ("UVO/all/-CiPki3XuVI", "TAO/val/YFCC100M/v_f69ebe5b731d3e87c1a3992ee39c3b7e")
    ):
        first = 10 * number
        expressions = {
            "0": {"exp": "the red square", "obj_id": [0], "anno_id": [first], "type_id": 0},
            "1": {
                "exp": "Which ones are cold?",
                "obj_id": [1, 2],
                "anno_id": [first + 1, first + 2],
                "type_id": 1,
            },
            "2": {"exp": "the elephant", "obj_id": [], "anno_id": [], "type_id": 2},
        }
        videos[video] = {
            "vid_id": number,
            "height": HEIGHT,
            "width": WIDTH,
            "frames": list(NAMES),
            "expressions": expressions,
        }
        lists |= mask_lists(first)
        write_frames(root / "JPEGImages" / video)
    write_json(root / "meta_expressions_valid_.json", {"videos": videos})
    write_json(root / "mask_dict.json", lists)
    return root


def reasonvos(root: Path, *, reformatted: bool = False) -> Path:
    """Expressions as a list whose ids repeat, objects whose ids begin with noughts, a source in capitals."""
    videos: dict[str, Any] = {}
    for source, video, ids in (
        ("vipseg", "82_xz40b41FHfs", ("000000001", "000000002")),
        ("BURST", "clip_2", (1, 2)),
    ):
        write_frames(root / "JPEGImages" / video)
        for number, identity in enumerate(ids, start=1):
            folder = root / "Annotations" / f"{source.lower()}_{video}_{identity}"
            folder.mkdir(parents=True)
            for t, name in enumerate(NAMES):
                Image.fromarray(square(number, t).astype(np.uint8) * 255).save(folder / f"{name}.png")
        told = [
            {"exp_id": 0, "exp_text": "Which one would stop you?", "obj_id": ids[0], "is_sent": True},
            {"exp_id": 0, "exp_text": "go ahead", "obj_id": ids[1], "is_sent": False},
        ]
        videos[video] = {"source": source, "frames": list(NAMES), "expressions": told}
        if reformatted:
            videos[video]["expressions"] = {
                str(place): {
                    "exp": one["exp_text"],
                    "obj_id": [one["obj_id"]],
                    "anno_id": [f"{source}_{video}_{one['obj_id']}"],
                    "is_sent": one["is_sent"],
                }
                for place, one in enumerate(told)
            }
    name = "meta_expressions_v2.json" if reformatted else "meta_expressions.json"
    write_json(root / name, {"videos": videos})
    return root
