import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steerseg.errors import ConfigError
from steerseg.evaluation import read_ref_youtube_vos


def public_layout(root: Path, expression: dict[str, str]) -> None:
    """One two-frame video as Ref-YouTube-VOS publishes it: frames named by number, objects by string."""
    for folder, suffix, shade in (("JPEGImages", "jpg", 90), ("Annotations", "png", 2)):
        (root / "train" / folder / "vid").mkdir(parents=True)
        for name in ("00000", "00005"):
            pixels = np.full((8, 12), shade, dtype=np.uint8)
            pixels[:4] = 0
            Image.fromarray(pixels).save(root / "train" / folder / "vid" / f"{name}.{suffix}")
    meta = root / "meta_expressions" / "train"
    meta.mkdir(parents=True)
    videos = {"vid": {"expressions": {"0": expression}, "frames": ["00000", "00005"]}}
    (meta / "meta_expressions.json").write_text(json.dumps({"videos": videos}))


def test_the_public_format_reads(tmp_path: Path) -> None:
    public_layout(tmp_path, {"exp": "a dog", "obj_id": "2"})
    (sample,) = read_ref_youtube_vos(tmp_path, "train")
    assert sample.id == "vid/0"
    assert sample.objects == (2,)
    assert sample.fps == 6.0
    masks = sample.masks()
    assert masks.shape == (2, 8, 12)
    assert masks[:, 4:].all()
    assert not masks[:, :4].any()


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Ref-YouTube-VOS layout"):
        read_ref_youtube_vos(tmp_path, "train")
    public_layout(tmp_path, {"exp": "a dog"})
    with pytest.raises(ConfigError, match="without ground truth"):
        read_ref_youtube_vos(tmp_path, "train")


def test_a_missing_annotation_and_missing_frames_are_named(tmp_path: Path) -> None:
    public_layout(tmp_path, {"exp": "a dog", "obj_id": "2"})
    (sample,) = read_ref_youtube_vos(tmp_path, "train")
    (tmp_path / "train" / "Annotations" / "vid" / "00005.png").unlink()
    with pytest.raises(ConfigError, match=r"00005\.png is missing"):
        sample.masks()
    (sample.folder).rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no frames"):
        read_ref_youtube_vos(tmp_path, "train")


def test_a_damaged_meta_file_is_named(tmp_path: Path) -> None:
    public_layout(tmp_path, {"exp": "a dog", "obj_id": "2"})
    (tmp_path / "meta_expressions" / "train" / "meta_expressions.json").write_text("[1, 2")
    with pytest.raises(ConfigError, match="not a meta_expressions file"):
        read_ref_youtube_vos(tmp_path, "train")
