"""The choices of published code: what each does, and that training and proposals share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.utils.misc import _load_img_as_tensor

from steerseg.config import OWN, PUBLISHED
from steerseg.errors import ConfigError
from steerseg.evaluation import Sample, open_dataset
from steerseg.evaluation.runner import describe_runs
from steerseg.evaluation.variants import STEERSEG
from steerseg.grounding import frame_map_from, rolled_map, smooth, video_map_from
from steerseg.lvlm import LVLM
from steerseg.lvlm.families.base import GridRule
from steerseg.pipeline import SteerSeg
from steerseg.presets import BUILT_IN, Preset, find_preset, load_preset
from steerseg.reasoning import expression_as
from steerseg.segmenters.pixels import preprocess_bicubic
from steerseg.soft_prompts import SoftPrompts
from steerseg.tracking import Tracker
from steerseg.training import Examples
from steerseg.training.losses import map_loss
from steerseg.training.sample import image_row, video_row
from steerseg.training.trainer import SoftPromptTrainer
from tests.support import public_layouts as public

pytestmark = pytest.mark.usefixtures("one_thread")
ANOTHER = "What moves: The RED one"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    root = public.ref_youtube_vos(tmp_path_factory.mktemp("ref-youtube-vos"), splits=("train",))
    return [replace(one, expression=ANOTHER) for one in open_dataset("ref-youtube-vos", "train", root=root)]


@pytest.fixture(scope="module")
def lvlm(preset: Path) -> LVLM:
    return LVLM.from_pretrained(load_preset(preset).lvlm, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def tracker(preset: Path) -> Tracker:
    return Tracker.from_pretrained(load_preset(preset).sam2)


def with_choice(preset: Path, **pipeline: Any) -> Preset:
    """The small preset, with some fields of its pipeline."""
    base = load_preset(preset)
    return base.model_copy(
        update={"pipeline": {**base.pipeline, **pipeline}, "seconds_per_slice": None, "video_tokens": 64}
    )


# --- presets


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_presets_of_the_papers_models_are_as_published(name: str) -> None:
    preset = load_preset(find_preset(name))
    papers = not name.startswith(("demo", "qwen3", "smolvlm2", "clicks-edgetam"))
    expected = PUBLISHED if papers else OWN
    told = expected.pipeline.seconds_per_slice if papers else preset.seconds_per_slice
    changed = {**preset.pipeline, "keyframes": preset.keyframes, "seconds_per_slice": told}
    assert preset.config == replace(expected.pipeline, **changed)
    assert preset.segmenter_config == replace(expected.segmenter, **preset.segmenter_settings)
    assert preset.config.correction == ("frame" if name == "demo" else "memory")
    assert preset.recipe.training.borders == preset.config.borders


def test_a_presets_own_fields_come_on_top_of_its_settings(preset: Path) -> None:
    base = load_preset(preset).model_copy(
        update={"settings": "published", "pipeline": {"borders": "normalised"}}
    )
    assert base.config.borders == "normalised"
    assert base.config.conditioning == "mask"
    wrong = base.model_copy(update={"segmenter_settings": {"resample": "bicubic"}})
    with pytest.raises(ConfigError, match="SegmenterConfig"):
        _ = wrong.segmenter_config


def test_results_under_own_choices_keep_their_identity(preset: Path, samples: list[Sample]) -> None:
    """They had no name for these choices before."""
    own = describe_runs("d", "train", samples, load_preset(preset), [STEERSEG])["steerseg"]
    newer = {"grid", "enlarge", "borders", "correction", "conditioning", "motion", "motion_weight"}
    assert not newer & own.config.keys()
    published = load_preset(preset).model_copy(update={"settings": "published"})
    other = describe_runs("d", "train", samples, published, [STEERSEG])["steerseg"]
    assert (other.config["grid"], other.config["borders"]) == ("smart_resize", "zero")
    like_sam2 = {"resampling": "bicubic", "clicks": "shifted", "mask_memory": "logits"}
    assert other.as_json()["segmenter"] == like_sam2
    settings = {"clicks": "shifted", "cpu_precision": "native"}
    native = load_preset(preset).model_copy(update={"segmenter_settings": settings})
    third = describe_runs("d", "train", samples, native, [STEERSEG])["steerseg"]
    assert third.as_json()["segmenter"] == {"resampling": "bilinear", **settings}


# --- what each choice does


@pytest.mark.parametrize(
    ("height", "width", "published", "own"),
    [(480, 854, (14, 26), (14, 26)), (720, 1280, (14, 26), (15, 26)), (240, 320, (9, 11), (17, 23))],
)
def test_grids_are_those_of_the_published_code(
    height: int, width: int, published: tuple[int, int], own: tuple[int, int]
) -> None:
    def grid(rule: GridRule) -> tuple[int, int]:
        return rule.rows_and_columns(height, width, 400, 28)

    assert grid(GridRule("smart_resize", enlarge=False)) == published
    assert grid(GridRule()) == own


@pytest.mark.parametrize("rule", ["aspect", "smart_resize"])
def test_only_small_videos_are_enlarged(rule: Any) -> None:
    large, small = (1080, 1920), (120, 160)
    assert GridRule(rule, True).rows_and_columns(*large, 400, 28) == GridRule(rule, False).rows_and_columns(
        *large, 400, 28
    )
    enlarged, plain = (np.prod(GridRule(rule, on).rows_and_columns(*small, 400, 28)) for on in (True, False))
    assert plain < 30
    assert 300 < enlarged <= 400


@pytest.mark.parametrize("kernel", [3, 7])
def test_a_zero_padded_blur_darkens_the_borders(kernel: int) -> None:
    even = torch.ones(1, 9, 9)
    assert torch.allclose(smooth(even, kernel), even)
    dark = smooth(even, kernel, "zero")
    assert dark[0, 4, 4] == pytest.approx(1.0, abs=1e-6)
    assert dark[0, 0, 4] < 0.8
    assert dark[0, 0, 0] == pytest.approx(float(dark[0, 0, 4]) ** 2, abs=1e-3)


@pytest.mark.parametrize(
    ("typed", "asked"),
    [("The Dog", "the dog."), ("Which Dog runs?", "which dog runs?"), ("a dog.", "a dog.")],
)
def test_an_expression_becomes_a_sentence(typed: str, asked: str) -> None:
    assert expression_as("sentence", typed) == asked
    assert expression_as("typed", typed) == typed


def test_frames_are_resampled_as_sam2_loads_them(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 45, 70, 3), dtype=np.uint8)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for frame, ours in zip(frames, preprocess_bicubic(frames, 64), strict=True):
        Image.fromarray(frame).save(tmp_path / "frame.png")
        expected, _, _ = _load_img_as_tensor(tmp_path / "frame.png", 64)
        torch.testing.assert_close(ours, ((expected - mean) / std).float())


# --- proposals and training share them


def grids(pipeline: SteerSeg, sample: Sample) -> Any:
    return pipeline.encode_keyframes(sample.load(), pipeline.config)


@pytest.mark.parametrize(
    "choice", [{"seconds_per_slice": 1.0}, {"grid": "smart_resize"}, {"enlarge": False}, {}], ids=str
)
def test_training_sees_what_proposals_see(
    preset: Path, tracker: Tracker, lvlm: LVLM, samples: list[Sample], choice: dict[str, Any]
) -> None:
    changed = with_choice(preset, **choice)
    sample = samples[0]
    shown = grids(SteerSeg(lvlm, tracker, changed), sample)
    made = examples(lvlm, changed, samples).make(_files(lvlm, changed, samples), 0)
    assert made.context.video.layout == shown.video.layout
    torch.testing.assert_close(made.context.video.tokens, shown.video.tokens)
    assert made.context.frames.grid == shown.frames.grid
    plain = grids(SteerSeg(lvlm, tracker, with_choice(preset)), sample)
    assert (plain.video.layout == shown.video.layout) == (not choice)


def examples(lvlm: LVLM, preset: Preset, samples: Sequence[Sample]) -> Examples:
    return Examples(
        lvlm, preset, samples, seed=1, pictures=3, frames_per_sample=2, attributes=0.0, cache_bytes=0
    )


def _files(lvlm: LVLM, preset: Preset, samples: Sequence[Sample]) -> Any:
    return examples(lvlm, preset, samples).read(0)


@pytest.mark.parametrize("form", ["typed", "sentence"])
def test_training_asks_what_proposals_ask(
    preset: Path,
    tracker: Tracker,
    lvlm: LVLM,
    samples: list[Sample],
    form: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = with_choice(preset, expression_form=form)
    steerseg = SteerSeg(lvlm, tracker, changed)
    asked: list[str] = []
    monkeypatch.setattr(
        "steerseg.pipeline.ground", lambda lvlm, context, question, *_, **__: asked.append(question)
    )
    features = steerseg.encode(samples[0].load(), steerseg.config)
    steerseg.ground(features, ANOTHER, (), steerseg.config, None)
    made = examples(lvlm, changed, samples).make(_files(lvlm, changed, samples), 0)
    assert made.question == asked[0]
    assert (ANOTHER in asked[0]) == (form == "typed")


@pytest.mark.parametrize("borders", ["normalised", "zero"])
def test_training_maps_are_those_of_proposals(
    preset: Path, lvlm: LVLM, samples: list[Sample], borders: Any
) -> None:
    """The loss is that of the maps that a proposal would be made from."""
    changed = with_choice(preset, borders=borders)
    made = examples(lvlm, changed, samples).make(_files(lvlm, changed, samples), 0)
    start = load_preset(preset)
    assert start.soft_prompts is not None
    prompts = SoftPrompts.load(start.soft_prompts)
    schedule = replace(changed.recipe.training, ranking_weight=0.0)
    trainer = SoftPromptTrainer(lvlm, (2, 3), prompts, schedule)
    for row, normalised in ((video_row(made), video_map_from), (image_row(made, 0), frame_map_from)):
        rolled = rolled_map(
            lvlm, [made.question], row.vision, layers=(2, 3), heads=schedule.heads, soft_prompts=prompts
        )[0]
        expected = map_loss(normalised(rolled, borders=borders)[None], row.target[None])
        torch.testing.assert_close(trainer._row_losses([row]), expected)
