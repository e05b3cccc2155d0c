"""The public datasets' layouts, from small folders that look like them."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from steerseg.errors import ConfigError, VideoError
from steerseg.evaluation import DATASETS, MaskFolder, default_split, open_dataset, write_submission
from steerseg.evaluation.truth import MaskDict, RunLengths, mask_dict
from tests.support import public_layouts as public


@pytest.mark.parametrize("layout", [public.ref_davis17_converted, public.ref_davis17_downloaded])
def test_ref_davis17_has_four_expressions_for_each_object(
    layout: Callable[[Path], Path], tmp_path: Path
) -> None:
    samples = open_dataset("ref-davis17", "valid", root=layout(tmp_path))
    assert [s.id for s in samples[:8]] == [f"blackswan/{k}" for k in range(8)]
    assert len(samples) == 16
    assert [s.objects for s in samples[:8]] == [(1,)] * 4 + [(2,)] * 4
    assert samples[6].expression == public.davis_expression(2, 2)  # written in Latin-1
    assert [s.kind for s in samples[:4]] == [
        "annotator 1, first frame",
        "annotator 1, full video",
        "annotator 2, first frame",
        "annotator 2, full video",
    ]
    assert samples[0].fps == 24
    assert (samples[4].masks() == public.masks(2)).all()
    assert (samples[-1].masks((0, 3)) == public.masks(2)[[0, 3]]).all()


@pytest.mark.parametrize("layout", [public.ref_davis17_converted, public.ref_davis17_downloaded])
def test_void_pixels_of_davis_are_of_no_mask(layout: Callable[[Path], Path], tmp_path: Path) -> None:
    root = layout(tmp_path)
    (file,) = root.rglob("blackswan/00001.png")
    ids = np.array(Image.open(file))
    ids[3:9, 5:20] = 255
    Image.fromarray(ids).save(file)
    samples = open_dataset("ref-davis17", "valid", root=root)
    expected = np.zeros((public.COUNT, public.HEIGHT, public.WIDTH), dtype=bool)
    expected[1, 3:9, 5:20] = True
    void = samples[0].void()
    assert void is not None
    assert (void == expected).all()
    assert not (samples[0].masks() & expected).any()
    only = samples[0].void((1,))
    assert only is not None
    assert (only == expected[[1]]).all()
    nothing = samples[-1].void()
    assert nothing is not None
    assert not nothing.any()


def test_other_datasets_have_no_void_pixels(tmp_path: Path) -> None:
    for name, split, write in (("mevis", "valid_u", public.mevis), ("revos", "valid", public.revos)):
        sample = open_dataset(name, split, root=write(tmp_path / name))[0]
        assert sample.void() is None


def test_mevis_joins_the_targets_of_an_expression(tmp_path: Path) -> None:
    several, one, none = open_dataset("mevis", "valid_u", root=public.mevis(tmp_path))
    assert several.objects == (0, 2)
    assert (several.masks() == public.masks(1, 3)).all()
    assert [target.any(axis=(1, 2)).sum() for target in several.targets()] == [5, 3]
    assert (one.masks((4,)) == public.masks(2)[[4]]).all()
    assert none.masks().shape == (public.COUNT, public.HEIGHT, public.WIDTH)
    assert not none.masks().any()


def test_revos_has_two_halves_and_leaves_out_what_is_not_there(tmp_path: Path) -> None:
    samples = open_dataset("revos", "valid", root=public.revos(tmp_path))
    assert [s.kind for s in samples] == ["referring", "reasoning"] * 2
    assert samples[0].id == "UVO/all/-CiPki3XuVI/0"
    assert (samples[3].masks() == public.masks(2, 3)).all()
    assert len(samples[1].load()) == public.COUNT
    assert DATASETS["revos"].halves == ("referring", "reasoning")


@pytest.mark.parametrize("reformatted", [False, True])
def test_reasonvos_keeps_every_expression(reformatted: bool, tmp_path: Path) -> None:
    samples = open_dataset("reasonvos", "test", root=public.reasonvos(tmp_path, reformatted=reformatted))
    assert [s.id for s in samples] == [f"{clip}/{k}" for clip in ("82_xz40b41FHfs", "clip_2") for k in (0, 1)]
    assert samples[0].expression == "Which one would stop you?"
    assert [s.kind for s in samples[:2]] == ["sentence", "phrase"]
    assert (samples[1].masks() == public.masks(2)).all()
    assert (samples[2].masks((1, 2)) == public.masks(1)[1:3]).all()


def test_ref_youtube_vos_has_masks_for_training_and_none_for_the_server(tmp_path: Path) -> None:
    root = public.ref_youtube_vos(tmp_path)
    training = open_dataset("ref-youtube-vos", "train", root=root)
    assert (training[1].masks() == public.masks(2)).all()
    assert default_split("ref-youtube-vos") == "valid"
    valid = open_dataset("ref-youtube-vos", "valid", root=root)
    # The file of "valid" lists the clips of "test" too, which have no frames here.
    assert [s.id for s in valid] == ["0062f687f1/0", "0062f687f1/1", "00f88c4f0a/0", "00f88c4f0a/1"]
    assert valid[0].truth is None
    with pytest.raises(ConfigError, match="only the dataset's server has it"):
        valid[0].masks()


def test_only_frames_that_are_listed_are_read(tmp_path: Path) -> None:
    (sample, *_) = open_dataset("mevis", "valid_u", root=public.mevis(tmp_path))
    Image.new("RGB", (9, 9)).save(sample.folder / "00001.jpg")  # between the listed ones
    assert sample.load().frames.shape == (public.COUNT, public.HEIGHT, public.WIDTH, 3)
    assert np.array_equal(sample.load((1, 4)).frames, sample.load().frames[[1, 4]])
    (sample.folder / "00010.jpg").unlink()
    with pytest.raises(VideoError, match=r"00010\.jpg cannot be read"):
        sample.load()


def test_samples_travel_to_other_processes_without_their_masks(tmp_path: Path) -> None:
    (sample, *_) = open_dataset("mevis", "valid_u", root=public.mevis(tmp_path))
    sample.masks()
    content = pickle.dumps(sample)
    assert len(content) < 2000
    assert (pickle.loads(content).masks() == sample.masks()).all()


def test_masks_are_found_in_a_large_file_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "mask_dict.json"
    # Run lengths may hold any of the signs that JSON is made of, but no quotation mark.
    odd = {"size": [42, 64], "counts": "[]{}\\:,0`_^"}
    other = {"size": [42, 64], "counts": [10, 5, 42 * 64 - 15]}
    path.write_text(json.dumps({"0": [None, odd], "12": [other, None], "3": []}, indent=1))
    lists = MaskDict(path)
    assert len(lists) == 3
    assert lists.read("0") == [None, odd]
    assert lists.read("3") == []
    # Uncompressed run lengths are read too.
    (masks,) = RunLengths(path, ("12",), 2).targets((0, 1), (42, 64))
    expected = coco_mask.decode(coco_mask.frPyObjects(other, 42, 64)).astype(bool)
    assert (masks[0] == expected).all()
    assert expected.sum() == 5
    assert not masks[1].any()


def test_mask_dicts_that_do_not_fit_are_named(tmp_path: Path) -> None:
    root = public.mevis(tmp_path)
    path = root / "valid_u" / "mask_dict.json"

    def first(content: str) -> None:
        path.write_text(content)
        mask_dict.cache_clear()
        open_dataset("mevis", "valid_u", root=root)[0].masks()

    lists = public.mask_lists(7)
    with pytest.raises(ConfigError, match="has no annotation 9"):
        first(json.dumps({key: lists[key] for key in ("7", "8")}))
    with pytest.raises(ConfigError, match="has 4 masks of annotation 7, the clip 5 frames"):
        first(json.dumps({**lists, "7": lists["7"][:4]}))
    with pytest.raises(ConfigError, match="masks of 9x9, but the frames are 64x42"):
        first(json.dumps({**lists, "7": [{"size": [9, 9], "counts": "Q3"}] * 5}))
    with pytest.raises(ConfigError, match="is damaged at annotation 9"):
        first(json.dumps(lists)[:-30])
    with pytest.raises(ConfigError, match="has no lists of masks"):
        first("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        first("")


@pytest.mark.parametrize(
    ("dataset", "split", "message"),
    [
        ("ref-davis17", "valid", "is not Ref-DAVIS17"),
        ("reasonvos", "test", "ReasonVOS's root"),
        ("revos", "valid", "ReVOS's root"),
        ("mevis", "valid_u", "MeViS's root"),
        ("mevis", "test", "there are valid_u, valid, train"),
        ("ref-youtube-vos", "train", "Ref-YouTube-VOS layout"),
    ],
)
def test_a_folder_of_another_layout_is_told(dataset: str, split: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        open_dataset(dataset, split, root=tmp_path)


def test_names_are_told_from_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--root"):
        open_dataset("revos", "valid")
    with pytest.raises(ConfigError, match="no dataset 'ref-davis'; there are sprites-ref, ref-davis17"):
        open_dataset("ref-davis", "valid")
    with pytest.raises(ConfigError, match="--root goes with one of"):
        open_dataset(str(tmp_path), "valid", root=tmp_path)


def test_damaged_datasets_are_named(tmp_path: Path) -> None:
    root = public.revos(tmp_path / "revos")
    meta = root / "meta_expressions_valid_.json"
    videos = json.loads(meta.read_text())["videos"]
    clip = next(iter(videos))

    def read(change: Callable[[dict[str, object]], object]) -> None:
        changed = json.loads(json.dumps(videos[clip]))
        change(changed)
        public.write_json(meta, {"videos": {clip: changed}})
        open_dataset("revos", "valid", root=root)

    with pytest.raises(ConfigError, match="an entry without 'frames'"):
        read(lambda video: video.pop("frames"))
    with pytest.raises(ConfigError, match="an entry without 'anno_id'"):
        read(lambda video: video["expressions"]["0"].pop("anno_id"))  # type: ignore[index]
    public.write_json(meta, {"videos": {"../elsewhere": videos[clip]}})
    with pytest.raises(ConfigError, match="outside the dataset"):
        open_dataset("revos", "valid", root=root)

    root = public.reasonvos(tmp_path / "reasonvos")
    (root / "Annotations" / "burst_clip_2_1").rename(root / "Annotations" / "burst_clip_2_9")
    with pytest.raises(ConfigError, match=r"no masks at .*BURST_clip_2_1"):
        open_dataset("reasonvos", "test", root=root)

    root = public.ref_davis17_downloaded(tmp_path / "davis")
    texts = root / "davis_text_annotations" / "Davis17_annot2.txt"
    texts.write_text(
        texts.read_text(encoding="latin-1").replace("blackswan 1", "blackswan 3"), encoding="latin-1"
    )
    with pytest.raises(ConfigError, match="do not describe the same objects of blackswan"):
        open_dataset("ref-davis17", "valid", root=root)


def test_a_submission_has_every_frame_of_every_expression(tmp_path: Path) -> None:
    samples = open_dataset("ref-youtube-vos", "valid", root=public.ref_youtube_vos(tmp_path / "data"))
    folder = MaskFolder(tmp_path / "masks")
    for sample in samples[:-1]:
        folder.write("steerseg", sample, public.masks(1))
    path = tmp_path / "submission.zip"
    with pytest.raises(ConfigError, match="lacks 1 of 4 predictions, for instance 00f88c4f0a/1"):
        write_submission(path, folder, "steerseg", samples, "Annotations")
    assert not path.exists()
    folder.write("steerseg", samples[-1], public.masks(2))
    folder.write("steerseg", samples[0], public.masks(3))  # measured again: the later one counts
    write_submission(path, folder, "steerseg", samples, "Annotations")
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == sorted(
            f"Annotations/{s.id}/{name}.png" for s in samples for name in public.NAMES
        )
        with archive.open("Annotations/0062f687f1/0/00020.png") as file, Image.open(file) as picture:
            assert picture.mode == "L"
            assert (np.asarray(picture) == public.masks(3)[4] * 255).all()
    write_submission(path, folder, "steerseg", samples)  # MeViS packs the clips' folders directly
    with zipfile.ZipFile(path) as archive:
        assert "0062f687f1/0/00020.png" in archive.namelist()
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".zip"] == ["submission.zip"]
