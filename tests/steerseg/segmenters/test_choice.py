"""Segmenters by name and folder, and the presets that name them."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from steerseg.errors import ConfigError, ModelError
from steerseg.pipeline import SteerSeg
from steerseg.presets import load_preset, open_preset, portable_card
from steerseg.segmenters import hf_loading
from steerseg.segmenters.choice import PUBLISHED, load_segmenter
from steerseg.segmenters.hf import EdgeTam, Sam3Tracker, VideoModel
from steerseg.segmenters.sam2 import Sam2
from steerseg.tracking import Prompt, Tracker
from steerseg.video import Video, video_from_frames
from tests.support.tiny_video_models import tiny_video_model

KINDS = {"sam2": VideoModel, "edgetam": EdgeTam, "sam3": Sam3Tracker}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models in the layout of the library, each in a folder of its name."""
    root = tmp_path_factory.mktemp("models")
    for name in KINDS:
        tiny_video_model(name).save_pretrained(root / name)
    return root


def film(frames: int = 6) -> Video:
    pictures = np.random.default_rng(0).integers(0, 255, (frames, 45, 70, 3), dtype=np.uint8)
    return video_from_frames(pictures, fps=8.0)


@pytest.mark.parametrize("name", list(KINDS))
def test_a_folder_tells_which_model_it_holds(folders: Path, name: str) -> None:
    segmenter = load_segmenter(folders / name)
    assert type(segmenter) is KINDS[name]
    assert segmenter.version.startswith(f"{name}:")
    assert not any(parameter.requires_grad for parameter in segmenter.model.parameters())
    assert segmenter.frame_bytes == sum(
        2 * level.numel() for level in segmenter.encode_frames(film(1).frames)[0]
    )
    tracker = Tracker(segmenter)
    encoded = tracker.open(film())
    prompts = [Prompt(2, points=((0.5, 0.5),), labels=(True,)), Prompt(4, box=(0.2, 0.2, 0.3, 0.3))]
    (tracklet,) = tracker.track(encoded, [tracker.start(encoded, prompts)])
    assert tracklet.masks.shape == (6, 45, 70)


def test_a_name_stands_for_published_weights(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def snapshot(name: str, **_: object) -> str:
        fetched.append(name)
        return str(folders / "edgetam")

    monkeypatch.setattr(hf_loading, "snapshot_download", snapshot)
    segmenter = load_segmenter("edgetam")
    assert isinstance(segmenter, EdgeTam)
    assert fetched == [PUBLISHED["edgetam"]]
    assert segmenter.version.startswith(f"{PUBLISHED['edgetam']}:")


def test_the_checkpoint_of_sam3_holds_its_tracker(folders: Path, tmp_path: Path) -> None:
    """The published one has the detector beside it, and names the tracker's weights and configuration as a part."""
    parts = json.loads((folders / "sam3" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam3_video", "tracker_config": parts}))
    expected = tiny_video_model("sam3").state_dict()
    published = {_published_name(name): value for name, value in expected.items()}
    published["detector_model.extra"] = torch.zeros(1)
    save_file(published, tmp_path / "model.safetensors", metadata={"format": "pt"})
    segmenter = load_segmenter(tmp_path)
    assert isinstance(segmenter, Sam3Tracker)
    given = segmenter.model.state_dict()
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], value) for name, value in expected.items())


def _published_name(name: str) -> str:
    if name.startswith("vision_encoder.backbone."):
        return f"detector_model.{name}"
    if name.startswith("vision_encoder.neck."):
        return name.replace("vision_encoder.neck.", "tracker_neck.")
    return f"tracker_model.{name}"


def test_weights_that_do_not_fit_are_an_error(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "edgetam", tmp_path / "model")
    state = load_file(folders / "edgetam" / "model.safetensors")
    del state["no_object_pointer"]
    save_file(state, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 are missing or of another size, such as no_object_pointer"):
        load_segmenter(tmp_path / "model")


def test_other_models_are_no_segmenters(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="'bert', which is no segmenter"):
        load_segmenter(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="no model's configuration"):
        load_segmenter(tmp_path)


@pytest.mark.skipif(find_spec("timm") is None, reason="EdgeTAM's image encoder needs timm")
def test_edgetams_own_image_encoder(tmp_path: Path) -> None:
    tiny_video_model("edgetam-repvit").save_pretrained(tmp_path)
    segmenter = load_segmenter(tmp_path)
    assert [level.shape[-1] for level in segmenter.encode_frames(film(1).frames)[0]] == [16, 8, 4]


@pytest.mark.skipif(find_spec("timm") is None, reason="EdgeTAM's image encoder needs timm")
def test_joined_branches_of_edgetams_image_encoder_give_the_same() -> None:
    model = tiny_video_model("edgetam-repvit")
    torch.manual_seed(0)
    for module in model.vision_encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after a training
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model.vision_encoder(pixels).fpn_hidden_states
        blocks = sum(1 for _ in model.vision_encoder.modules())
        EdgeTam(model, version="-")
        given = model.vision_encoder(pixels).fpn_hidden_states
    assert sum(1 for _ in model.vision_encoder.modules()) < blocks
    for one, other in zip(given, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


# --- presets


def write_preset(folder: Path, **fields: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "preset.json").write_text(json.dumps({"name": "x", "lvlm": "a", **fields}))
    return folder


def test_presets_name_a_segmenter(tmp_path: Path) -> None:
    folder = write_preset(tmp_path, segmenter="edgetam")
    (tmp_path / "edgetam").mkdir()
    (tmp_path / "mine").mkdir()
    assert load_preset(folder).segmenter_source == "edgetam"
    assert portable_card(load_preset(folder))["segmenter"] == "edgetam"
    beside = load_preset(write_preset(tmp_path, segmenter="mine"))
    assert beside.segmenter_source == str(tmp_path / "mine")
    sam2 = load_preset(write_preset(tmp_path, sam2="facebook/sam2.1-hiera-tiny"))
    assert sam2.segmenter_source == "facebook/sam2.1-hiera-tiny"
    assert open_preset(folder, segmenter="sam3").segmenter_source == "sam3"
    assert open_preset(write_preset(tmp_path, segmenter="edgetam"), sam2="b").segmenter_source == "b"


def test_settings_of_older_preset_files_are_read(tmp_path: Path) -> None:
    older = load_preset(write_preset(tmp_path, sam2="b", segmenter={"clicks": "shifted"}))
    assert older.segmenter_config.clicks == "shifted"
    assert older.segmenter_source == "b"
    newer = load_preset(write_preset(tmp_path, segmenter="edgetam", segmenter_settings={"clicks": "shifted"}))
    assert newer.segmenter_config.clicks == "shifted"


def test_a_preset_without_a_segmenter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'sam2' is missing"):
        load_preset(write_preset(tmp_path))
    with pytest.raises(ConfigError, match="names no SAM 2"):
        open_preset(write_preset(tmp_path, segmenter="edgetam"), segmenter="sam2")


def test_a_preset_proposes_by_its_segmenter(folders: Path, preset: Path, tmp_path: Path) -> None:
    card = json.loads((preset / "preset.json").read_text())
    del card["sam2"]
    paths = {key: str(preset / card[key]) for key in ("lvlm", "soft_prompts")}
    write_preset(tmp_path, **{**card, **paths, "segmenter": str(folders / "edgetam")})
    steerseg = SteerSeg.from_pretrained(tmp_path, device="cpu")
    assert isinstance(steerseg.tracker.segmenter, EdgeTam)
    proposal = steerseg.propose(film(), "the square")
    assert proposal.versions["tracker"].startswith("edgetam:")
    assert all(tracklet.masks.shape == (6, 45, 70) for tracklet in proposal.tracklets)


def test_a_folder_in_the_packages_layout_is_sam2(preset: Path) -> None:
    assert isinstance(load_segmenter(preset / "sam2"), Sam2)
