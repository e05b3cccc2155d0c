"""Every family against its stock processor and model: chats, answers, grids, rollouts and their gradients."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL.Image import Resampling
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.llava_onevision.modeling_llava_onevision import (
    get_anyres_image_grid_shape,
    unpad_image,
)

from steerseg import SteerSeg
from steerseg.attention.rollout import reference_rollout, streaming_rollout, visual_map
from steerseg.config import Heads, PipelineConfig, Placement
from steerseg.demo.sam2 import build_sam2, save_sam2
from steerseg.errors import ConfigError, ModelError
from steerseg.keyframes import timing_of
from steerseg.lvlm import LVLM, VisionFeatures, loading
from steerseg.lvlm.families import FAMILIES, Family, family_of, qwen_vl
from steerseg.lvlm.families.qwen_vl import Qwen2VL
from steerseg.lvlm.tap import RolloutInputs, tapped
from steerseg.lvlm.vision import VisionKind
from steerseg.presets import BUILT_IN, open_preset
from steerseg.soft_prompts import SoftPrompts
from steerseg.video import keyframe_indices, video_from_frames
from tests.conftest import SMALL_SAM2
from tests.support.qwen_positions import with_positions
from tests.support.tiny_lvlms import TINY, byte_tokenizer, eager_attentions, save_tiny_lvlm

pytestmark = pytest.mark.usefixtures("one_thread")

FRAMES = 3
CPU = torch.device("cpu")

SYSTEM_TURNS = {
    # Written by the templates of the published checkpoints themselves.
    "qwen2_vl": "",
    "qwen2_5_vl": "",
    # The models have none.
    "qwen3_vl": "",
    "qwen3_5": "",
    "smolvlm": "",
    # As LLaVA's and InternVL's own conversations have it, and DecAF; the converted checkpoints' templates have none.
    "llava_onevision": "You are a helpful assistant.",
    "internvl": "你是书生·万象，英文名是InternVL，"
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
}


TEMPLATE_ARGUMENTS = {
    "qwen3_5": {"enable_thinking": False}
}  # the questions ask for the thoughts that are wanted


@dataclass(frozen=True)
class Case:
    """A wrapped tiny model beside the stock model and processor of the same weights."""

    lvlm: LVLM
    model: Any
    processor: Any

    @property
    def layers(self) -> tuple[int, ...]:
        """Of a rollout."""
        return TINY[self.lvlm.family.model_type].layers

    def frames(self, kind: VisionKind, count: int = FRAMES) -> torch.Tensor:
        """Noise at the size that the family gives for a 3 : 2 video."""
        budget = TINY[self.lvlm.family.model_type].frame_tokens
        sizes = self.lvlm.family.sizes(100, 150, video_tokens=6, frame_tokens=budget)
        generator = torch.Generator().manual_seed(count)
        shape = (count, 3, *(sizes.video if kind == "video" else sizes.picture))
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)

    def encode(self, kind: VisionKind, count: int = FRAMES) -> VisionFeatures:
        return self.lvlm.encode_vision(self.frames(kind, count), kind, seconds_per_slice=1.5)

    def stock_inputs(
        self,
        texts: Sequence[str],
        frames: torch.Tensor,
        kind: VisionKind,
        soft: str = "",
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """What the stock processor makes of the same chats and pixels; of a video with such metadata where given."""
        name = self.lvlm.family.model_type
        system = [{"role": "system", "content": [{"type": "text", "text": SYSTEM_TURNS[name]}]}]
        chats = []
        for text in texts:
            content = [{"type": kind}, {"type": "text", "text": text}]
            turns = [*(system if SYSTEM_TURNS[name] else []), {"role": "user", "content": content}]
            chat = self.processor.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **TEMPLATE_ARGUMENTS.get(name, {})
            )
            if name in ("qwen3_vl", "qwen3_5"):  # the wrappers of the slices stand in place of the template's
                chat = chat.replace("<|vision_start|><|video_pad|><|vision_end|>", "<|video_pad|>")
            chats.append(chat)
        resizes = name in ("llava_onevision", "internvl", "smolvlm")
        common = {"do_resize": resizes, "padding": True, "return_tensors": "pt"}
        if kind == "video":
            merge = self.lvlm.family.temporal_merge
            metadata = metadata or {
                "total_num_frames": len(frames),
                "fps": merge / 1.5,
                "duration": len(frames) * 1.5 / merge,
                "frames_indices": list(range(len(frames))),
            }
            inputs = self.processor(
                text=chats,
                videos=[frames] * len(texts),
                do_sample_frames=False,
                video_metadata=[metadata] * len(texts),
                **common,
            )
            if name == "qwen2_5_vl":
                inputs["second_per_grid_ts"] = torch.tensor([1.5] * len(texts))
        else:
            inputs = self.processor(text=chats, images=[[frame] for frame in frames], **common)
        return with_positions(self.model, inputs)


def load_case(family: str, folder: Path) -> Case:
    save_tiny_lvlm(folder, family)
    stock = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    lvlm = LVLM.from_pretrained(str(folder), device=CPU, dtype=torch.float32)
    return Case(lvlm, stock, AutoProcessor.from_pretrained(folder))


@pytest.fixture(scope="module", params=sorted(TINY))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return load_case(request.param, tmp_path_factory.mktemp(request.param))


KINDS: tuple[VisionKind, ...] = ("image", "video")


def test_every_supported_family_is_tested() -> None:
    assert set(TINY) == set(FAMILIES)


@pytest.mark.parametrize("kind", KINDS)
def test_chats_are_the_stock_processors(case: Case, kind: VisionKind) -> None:
    vision = case.encode(kind)
    texts = ["what moves?"] if kind == "video" else ["what is it?", "and this?", "where?"]
    inputs = case.lvlm.chats.inputs([case.lvlm.chats.write(text, vision) for text in texts], vision)
    expected = case.stock_inputs(texts, case.frames(kind), kind)
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    for name in ("mm_token_type_ids", "image_grid_thw", "video_grid_thw"):
        if name in expected:
            assert torch.equal(inputs[name], expected[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_stock_models(case: Case, kind: VisionKind) -> None:
    frames = case.frames(kind, FRAMES if kind == "video" else 1)
    vision = case.lvlm.encode_vision(frames, kind, seconds_per_slice=1.5)
    inputs = case.stock_inputs(["name it"], frames, kind)
    ids = case.model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    expected = case.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert case.lvlm.answer("name it", vision, max_new_tokens=12).text == expected


@pytest.mark.parametrize("heads", ["mean", "visual_max"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_streaming_rollout_equals_the_full_product_of_eager_attentions(
    case: Case, heads: Heads, kind: VisionKind, padded: bool
) -> None:
    """From pixels on: the stock processor and model see the same frames and chats."""
    texts = ["where is it?"] * FRAMES
    if padded:
        texts[1] = "and where is the other one, that moves away?"
    frames = case.frames(kind)
    vision = case.lvlm.encode_vision(frames, kind, seconds_per_slice=1.5)
    taken = case.lvlm.attend(texts, vision, layers=case.layers)
    inputs = case.stock_inputs(texts, frames, kind)
    assert bool(inputs["attention_mask"].all()) != padded
    attentions = eager_attentions(case.model, inputs)
    for row in range(len(texts)):
        live = inputs["attention_mask"][row].bool()
        alone = [attentions[layer][row : row + 1, :, live][..., live] for layer in case.layers]
        visual = taken.visual[row : row + 1, live]
        expected = reference_rollout(alone, visual, -1, heads)[0]
        for chunk in (7, 1000):
            got = streaming_rollout(taken, case.layers, heads=heads, chunk=chunk)[row]
            assert (got[live] - expected).abs().max() <= 1e-5 * expected.abs().max()
            assert got[~live].abs().sum() == 0


@pytest.mark.parametrize("heads", ["mean", "visual_max"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_the_soft_prompt_are_those_of_the_full_product(
    case: Case, heads: Heads, kind: VisionKind
) -> None:
    """Through the stock model, whose eager attentions are multiplied out, in a batch with padding."""
    texts = ["where is it?", "and where is the other one?", "it?"]
    vision = case.encode(kind)
    lvlm = case.lvlm
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randn(4, lvlm.hidden_size, generator=generator).requires_grad_()
    taken = lvlm.attend(texts, vision, layers=case.layers, soft_prompt=prompt)
    streamed = visual_map(
        streaming_rollout(taken, case.layers, heads=heads, chunk=23), taken.token_indices, vision.grid
    )
    weights = torch.linspace(0, 1, streamed.numel()).view_as(streamed)
    (gradient,) = torch.autograd.grad((streamed * weights).sum(), prompt)

    inputs = lvlm.chats.inputs([lvlm.chats.write(text, vision, soft_tokens=4) for text in texts], vision)
    soft = lvlm.chats.token_id(lvlm.family.soft_token(kind))

    def place(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        embedded = output.clone()
        for row in range(len(texts)):
            embedded[row, args[0][row] == soft] = prompt
        return embedded

    hook = case.model.get_input_embeddings().register_forward_hook(place)
    inputs = with_positions(case.model, inputs)
    attentions = eager_attentions(case.model, inputs)
    hook.remove()
    maps = []
    for row in range(len(texts)):
        live = taken.live[row]
        alone = [attentions[layer][row : row + 1, :, live][..., live] for layer in case.layers]
        full = reference_rollout(alone, taken.visual[row : row + 1, live], -1, heads)[0]
        maps.append(
            torch.zeros(len(live)).masked_scatter(live, full)[taken.token_indices[row]].view(vision.grid)
        )
    expected_maps = torch.stack(maps)
    (expected,) = torch.autograd.grad((expected_maps * weights).sum(), prompt)
    assert (streamed - expected_maps).abs().max() <= 1e-5 * expected_maps.abs().max()
    assert expected.norm() > 0
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("placement", ["before_vision", "start", "after_vision"])
@pytest.mark.parametrize("kind", KINDS)
def test_soft_tokens_are_all_that_a_steered_chat_has_more(
    case: Case, kind: VisionKind, placement: Placement
) -> None:
    vision = case.encode(kind)
    lvlm = case.lvlm
    soft = lvlm.chats.token_id(lvlm.family.soft_token(kind))
    plain, steered = (
        lvlm.chats.inputs(
            [lvlm.chats.write("where?", vision[:1], soft_tokens=n, placement=placement)], vision[:1]
        )
        for n in (0, 5)
    )
    ids, visual = steered["input_ids"][0], lvlm.chats.vision_ids[kind]
    places = (ids == soft).nonzero().flatten()
    assert torch.equal(ids[ids != soft], plain["input_ids"][0])
    assert len(places) == 5
    assert places[-1] - places[0] == 4
    tokens = (ids == visual).nonzero().flatten()
    if placement == "after_vision":
        assert places[0] > tokens[-1]
    else:
        assert places[-1] < tokens[0]
    assert (places[0] == 0) == (placement == "start")


def blind(model: nn.Module) -> None:
    """Without the output of its attention, a vision tower's tokens depend on their own pixels only."""
    for name, parameter in model.named_parameters():
        if any(tower in name for tower in ("visual.", "vision_tower.", "vision_model.")) and any(
            part in name for part in ("attn.proj.", "self_attn.out_proj.", "attention.projection_layer.")
        ):
            nn.init.zeros_(parameter)


@pytest.mark.parametrize("shape", [(100, 150), (60, 150), (150, 70)])
@pytest.mark.parametrize("kind", KINDS)
def test_each_place_of_the_grid_has_the_token_of_its_pixels(
    case: Case, tmp_path: Path, kind: VisionKind, shape: tuple[int, int]
) -> None:
    """Timestamps, newlines, tiles, thumbnails and padding: a changed spot changes the token of its place most."""
    case.model.save_pretrained(tmp_path)
    case.processor.save_pretrained(tmp_path)
    lvlm = LVLM.from_pretrained(str(tmp_path), device=CPU, dtype=torch.float32)
    blind(lvlm.model)
    budget = TINY[lvlm.family.model_type].frame_tokens
    sizes = lvlm.family.sizes(*shape, video_tokens=6, frame_tokens=budget)
    height, width = sizes.video if kind == "video" else sizes.picture
    frames = torch.full((4 if kind == "video" else 1, 3, height, width), 90, dtype=torch.uint8)
    before = lvlm.encode_vision(frames, kind)
    cells = lvlm.family.token_indices(before)
    time, rows, columns = before.grid
    places = [(t, y, x) for t in (0, time - 1) for y in (0, rows // 2, rows - 1) for x in (0, columns - 1)]
    for t, y, x in places:
        merge = len(frames) // time
        spot = frames.clone()
        spot[
            t * merge : (t + 1) * merge,
            :,
            round((y + 0.4) * height / rows) : round((y + 0.6) * height / rows),
            round((x + 0.4) * width / columns) : round((x + 0.6) * width / columns),
        ] = 250
        change = (lvlm.encode_vision(spot, kind).tokens - before.tokens).norm(dim=-1)[0, cells]
        assert change.argmax() == (t * rows + y) * columns + x


# --- sizes and budgets


def published(name: str) -> Family:
    """A family with the geometry of its published checkpoints, but no weights."""
    config = {
        "qwen2_vl": transformers.Qwen2VLConfig,
        "qwen2_5_vl": transformers.Qwen2_5_VLConfig,
        "qwen3_vl": transformers.Qwen3VLConfig,
        "qwen3_5": transformers.Qwen3_5Config,
        "llava_onevision": transformers.LlavaOnevisionConfig,
        "internvl": transformers.InternVLConfig,
        "smolvlm": transformers.SmolVLMConfig,
    }[name]()
    sizes = {"size": {"longest_edge": 1536}, "max_image_size": {"longest_edge": 384}}  # SmolVLM2's
    processor = SimpleNamespace(
        image_seq_length=256,
        image_seq_len=81,
        image_processor=transformers.SmolVLMImageProcessor(**sizes),
        video_processor=transformers.SmolVLMVideoProcessor(**sizes),
    )
    return family_of(name)(SimpleNamespace(config=config), processor)


@pytest.mark.parametrize(
    ("name", "preset", "video", "picture"),
    [
        ("qwen2_vl", "qwen2-vl-7b", (14 * 28, 26 * 28), (28 * 28, 52 * 28)),
        ("qwen2_5_vl", "qwen2.5-vl-7b", (14 * 28, 26 * 28), (28 * 28, 52 * 28)),
        ("qwen3_vl", "qwen3-vl-8b", (14 * 32, 26 * 32), (28 * 32, 52 * 32)),
        ("qwen3_5", "qwen3.5-4b", (14 * 32, 26 * 32), (28 * 32, 52 * 32)),
        ("llava_onevision", "llava-onevision-7b", (384, 384), (math.ceil(46 * 384 / 27), 3 * 384)),
        ("internvl", "internvl3-8b", (448, 448), (448, 2 * 448)),
        ("smolvlm", "smolvlm2-2.2b", (864, 1536), (864, 1536)),
    ],
)
def test_the_sizes_of_an_854x480_video(
    name: str, preset: str, video: tuple[int, int], picture: tuple[int, int]
) -> None:
    """14 x 26 and 28 x 52 places (DecAF); two rows and three columns of LLaVA's tiles without their padding."""
    budgets = open_preset(preset)
    sizes = published(name).sizes(
        480,
        854,
        video_tokens=budgets.video_tokens,
        frame_tokens=budgets.frame_tokens or 4 * budgets.video_tokens,
    )
    assert (sizes.video, sizes.picture) == (video, picture)


@pytest.mark.parametrize("shape", [(480, 854), (1080, 1920), (854, 480), (300, 300), (90, 800), (2000, 60)])
@pytest.mark.parametrize("budget", [700, 1458, 3000, 6561, 100_000])
def test_llava_pictures_fill_whole_places_of_the_canvas_that_the_stock_processor_takes(
    shape: tuple[int, int], budget: int
) -> None:
    family = published("llava_onevision")
    height, width = family.sizes(*shape, video_tokens=196, frame_tokens=budget).picture
    pinpoints = family.model.config.image_grid_pinpoints
    tiles = get_anyres_image_grid_shape((height, width), pinpoints, 384)
    rows, columns = unpad_image(torch.empty(1, 27 * tiles[0], 27 * tiles[1]), (height, width)).shape[1:]
    assert (height, width) == (math.ceil(rows * 384 / 27), math.ceil(columns * 384 / 27))
    assert rows * columns <= max(min(budget, 6561), 729)
    # The aspect ratio is kept as far as whole places, as many on both sides of the padding, allow.
    assert abs(height / width - shape[0] / shape[1]) <= 1.6 * (1 / min(rows, columns)) * (shape[0] / shape[1])


def test_a_larger_budget_gives_internvl_more_tiles() -> None:
    family = published("internvl")
    pictures = [family.sizes(1080, 1920, video_tokens=256, frame_tokens=256 * n).picture for n in (1, 4, 12)]
    assert pictures == [(448, 448), (448, 896), (896, 1792)]


def test_smolvlm_has_as_many_tiles_along_the_longer_edge_as_the_budget_allows() -> None:
    """1, 2 x 2, 3 x 2 and 4 x 3 tiles of 81 visual tokens for a 16 : 9 picture; never more than in training."""
    family = published("smolvlm")
    budgets = (10, 81, 4 * 81, 11 * 81, 12 * 81, 100 * 81)
    pictures = [family.sizes(1080, 1920, video_tokens=81, frame_tokens=budget).picture for budget in budgets]
    two, three, four = (432, 768), (648, 1152), (864, 1536)
    assert pictures == [(216, 384), (216, 384), two, three, four, four]
    assert family.sizes(1920, 1080, video_tokens=81, frame_tokens=81).picture == (384, 216)


# --- SmolVLM2's own processor, which brings text and two steps of resizing along


@pytest.fixture(scope="module")
def smolvlm(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return load_case("smolvlm", tmp_path_factory.mktemp("smolvlm"))


@pytest.mark.parametrize("shape", [(60, 150), (150, 70), (91, 37), (270, 480)])
@pytest.mark.parametrize("kind", KINDS)
def test_smolvlm_sees_what_the_stock_processor_makes_of_the_same_frames(
    smolvlm: Case, kind: VisionKind, shape: tuple[int, int]
) -> None:
    """With its own sizes: frames of the family's size pass its first step unchanged, and all others happen in it."""
    sizes = smolvlm.lvlm.family.sizes(*shape, video_tokens=4, frame_tokens=9 * 4)
    generator = torch.Generator().manual_seed(3)
    size = sizes.video if kind == "video" else sizes.picture
    frames = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    vision = smolvlm.lvlm.encode_vision(frames, kind, seconds_per_slice=1.5)
    texts = ["what is it?"] * (1 if kind == "video" else 2)
    inputs = smolvlm.stock_inputs(texts, frames, kind)
    ours = smolvlm.lvlm.chats.inputs([smolvlm.lvlm.chats.write(text, vision) for text in texts], vision)
    assert torch.equal(ours["input_ids"], inputs["input_ids"])
    with torch.no_grad():
        output = smolvlm.model.model.get_image_features(
            inputs["pixel_values"], inputs["pixel_attention_mask"], return_dict=True
        )
        logits = [smolvlm.model(**given).logits for given in (ours, inputs)]
    assert torch.allclose(vision.tokens, torch.stack(output.pooler_output), rtol=1e-5, atol=1e-6)
    assert torch.allclose(*logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_smolvlm_sees_frames_of_a_video_as_the_stock_processor_resizes_them(
    smolvlm: Case, kind: VisionKind
) -> None:
    """By Lanczos' filter in both steps; a bicubic one in the first moves a third of the pixels' values."""
    frames = np.random.default_rng(4).integers(0, 256, (2, 37, 91, 3), dtype=np.uint8)
    assert smolvlm.lvlm.family.filter == Resampling.LANCZOS
    sizes = smolvlm.lvlm.family.sizes(37, 91, video_tokens=4, frame_tokens=9 * 4)
    size = sizes.video if kind == "video" else sizes.picture
    vision = smolvlm.lvlm.encode_vision(smolvlm.lvlm.resize(frames, *size), kind, seconds_per_slice=1.5)
    whole = torch.from_numpy(frames).permute(0, 3, 1, 2)
    inputs = smolvlm.stock_inputs(["what is it?"] * (1 if kind == "video" else 2), whole, kind)
    with torch.no_grad():
        output = smolvlm.model.model.get_image_features(
            inputs["pixel_values"], inputs["pixel_attention_mask"], return_dict=True
        )
    assert torch.allclose(vision.tokens, torch.stack(output.pooler_output), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chosen", ["even", "uneven"])
@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_vl", "smolvlm"])
def test_keyframes_have_the_times_that_the_stock_processor_writes(
    name: str, chosen: str, tmp_path: Path
) -> None:
    """A minute at 25 frames a second: 58.0 seconds for the last pair of 16, where the mean step says 54.4."""
    case = load_case(name, tmp_path)
    pts = np.arange(1500) / 25
    keyframes = keyframe_indices(1500, 16) if chosen == "even" else (0, 3, 200, 201, 700, 1400, 1499)
    merge = case.lvlm.family.temporal_merge
    timing = timing_of(pts, 60.0, keyframes, PipelineConfig(), merge)
    frames = case.frames("video", len(keyframes))
    vision = case.lvlm.encode_vision(frames, "video", timing=timing)
    told = {
        "total_num_frames": 1500,
        "fps": 25.0,
        "duration": 60.0,
        "frames_indices": list(keyframes),
    }
    stock = case.stock_inputs(["what moves?"], frames, "video", metadata=told)
    ours = case.lvlm.chats.inputs([case.lvlm.chats.write("what moves?", vision)], vision)
    assert torch.equal(ours["input_ids"], stock["input_ids"])


def test_processors_that_are_not_the_same_on_a_gpu_stay_on_the_host(case: Case) -> None:
    family = case.lvlm.family
    lanczos = family.model_type == "smolvlm"
    assert family.filter == (Resampling.LANCZOS if lanczos else Resampling.BICUBIC)
    assert family.processes_on_gpu != lanczos


def test_smolvlm_is_told_what_it_was_trained_with(smolvlm: Case) -> None:
    tile = "<image>" * 4
    frame = f"<fake_token_around_image><global-img>{tile}<fake_token_around_image>"
    video = smolvlm.lvlm.encode_vision(smolvlm.frames("video", 2), "video", seconds_per_slice=65.0)
    assert smolvlm.lvlm.chats.write("what moves?", video) == (
        "<|im_start|>User: You are provided the following series of two frames from a 0:02:10 [H:MM:SS] video.\n"
        f"\nFrame from 00:00:{frame}\nFrame from 01:05:{frame}\n\nwhat moves?<end_of_utterance>\nAssistant:"
    )
    rows = [
        "".join(f"<fake_token_around_image><row_{row}_col_{column}>{tile}" for column in (1, 2, 3)) + "\n"
        for row in (1, 2)
    ]
    picture = smolvlm.lvlm.encode_vision(smolvlm.frames("image", 1), "image")
    assert smolvlm.lvlm.chats.write("what is it?", picture) == (
        f"<|im_start|>User:{''.join(rows)}\n{frame}what is it?<end_of_utterance>\nAssistant:"
    )


def test_a_soft_prompt_before_a_video_leaves_the_space_with_the_text(smolvlm: Case) -> None:
    """Between "User:" and " You", where tokens of words begin."""
    video = smolvlm.lvlm.encode_vision(smolvlm.frames("video", 2), "video")
    written = smolvlm.lvlm.chats.write("what?", video, soft_tokens=1)
    assert written.startswith("<|im_start|>User:<|reserved_special_token_0|> You are provided")


def test_a_missing_package_is_told_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_lvlm(tmp_path, "smolvlm")
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs num2words; .* `pip install '\.\[smolvlm\]'`"):
        LVLM.from_pretrained(str(tmp_path), device=CPU, dtype=torch.float32)


def test_a_torchvision_without_the_processors_filter_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_lvlm(tmp_path, "smolvlm")
    monkeypatch.setattr(loading, "installed_version", lambda package: "0.26.1+cpu")
    with pytest.raises(ModelError, match=r"Lanczos.* 0\.27 on, .* `pip install 'torchvision>=0\.27'`"):
        LVLM.from_pretrained(str(tmp_path), device=CPU, dtype=torch.float32)


def test_a_package_for_gpus_alone_is_told_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_lvlm(tmp_path, "qwen3_5")
    monkeypatch.setattr(loading, "find_spec", lambda name: object() if name == "fla" else None)
    with pytest.raises(ModelError, match=r"by fla .* on a GPU alone; .* `pip uninstall flash-linear"):
        LVLM.from_pretrained(str(tmp_path), device=CPU, dtype=torch.float32)


# --- what has gone wrong before


def rolled(lvlm: LVLM, inputs: dict[str, Any], taken: RolloutInputs) -> torch.Tensor:
    """The rollout of a pass over changed inputs."""
    layers = TINY[lvlm.family.model_type].layers
    with torch.no_grad(), tapped(layers) as tap:
        lvlm.model.model(**inputs, use_cache=False)
    return streaming_rollout(replace(taken, tap=tap), layers, heads="mean")


def test_positions_of_plain_text_would_give_another_rollout(case: Case) -> None:
    """Without token types Qwen2.5-VL takes positions of one dimension without a word; the others refuse."""
    vision = case.encode("image")
    taken = case.lvlm.attend(["where?"] * FRAMES, vision, layers=case.layers)
    inputs = case.lvlm.chats.inputs([case.lvlm.chats.write("where?", vision)] * FRAMES, vision)
    if not isinstance(case.lvlm.family, Qwen2VL):  # positions of one dimension are these families' own
        assert "mm_token_type_ids" not in inputs
        return
    kept = rolled(case.lvlm, inputs, taken)
    assert torch.allclose(kept, streaming_rollout(taken, case.layers, heads="mean"))
    del inputs["mm_token_type_ids"]
    if case.lvlm.family.model_type != "qwen2_5_vl":
        with pytest.raises(ValueError, match="mm_token_type_ids"):
            rolled(case.lvlm, inputs, taken)
    else:
        assert not torch.allclose(rolled(case.lvlm, inputs, taken), kept, rtol=1e-2)


def test_time_reaches_the_families_that_are_told_it(case: Case) -> None:
    frames = case.frames("video", 5)
    slow, fast = (case.lvlm.encode_vision(frames, "video", seconds_per_slice=s) for s in (4.0, 0.5))
    name = case.lvlm.family.model_type
    if name in ("qwen3_vl", "qwen3_5"):  # an odd number of frames: the last is repeated
        assert re.findall(r"<([\d.]+) seconds>", slow.text) == ["1.0", "5.0", "8.0"]
        return
    if name == "smolvlm":
        assert re.findall(r"Frame from 00:(\d\d)", slow.text) == ["00", "04", "08", "12", "16"]
        assert slow.text.startswith("You are provided the following series of five frames from a 0:00:20 ")
        return
    assert slow.text == fast.text
    rollouts = [
        streaming_rollout(case.lvlm.attend(["where?"], vision, layers=case.layers), case.layers, heads="mean")
        for vision in (slow, fast)
    ]
    assert torch.equal(*rollouts) == (name != "qwen2_5_vl")
    if name == "qwen2_5_vl":
        taken = case.lvlm.attend(["where?"], slow, layers=case.layers)
        inputs = case.lvlm.chats.inputs([case.lvlm.chats.write("where?", slow)], slow)
        del inputs["second_per_grid_ts"]
        assert not torch.allclose(rolled(case.lvlm, inputs, taken), rollouts[0], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_places_are_not_simply_the_first_to_the_last_visual_token(case: Case, kind: VisionKind) -> None:
    """Timestamps stand between slices, newlines behind rows, tiles one after the other, thumbnails at an end."""
    vision = case.encode(kind, 4)
    taken = case.lvlm.attend(["where?"] * (1 if kind == "video" else 4), vision, layers=case.layers)
    count = math.prod(vision.grid)
    assert taken.token_indices.shape[1] == count
    assert taken.visual.sum(dim=1).eq(count).all()
    start = int(taken.visual[0].int().argmax())
    contiguous = torch.equal(taken.token_indices[0], torch.arange(start, start + count))
    name = case.lvlm.family.model_type
    between = {
        ("qwen3_vl", "video"),
        ("qwen3_5", "video"),
        ("internvl", "video"),
        ("internvl", "image"),
        ("smolvlm", "video"),
        ("smolvlm", "image"),
        ("llava_onevision", "image"),
    }
    assert contiguous == ((name, kind) not in between)
    extra = {("llava_onevision", "video"): 1, ("llava_onevision", "image"): 25 + vision.grid[1]}
    extra[("internvl", "image")] = extra[("smolvlm", "image")] = 4
    assert vision.tokens.shape[1] == count + extra.get((name, kind), 0)


def test_features_handed_over_give_bitwise_what_pixels_give(case: Case) -> None:
    frames = case.frames("image")
    vision = case.lvlm.encode_vision(frames, "image")
    inputs = case.lvlm.chats.inputs([case.lvlm.chats.write("where?", vision)] * FRAMES, vision)
    stock = {**case.stock_inputs(["where?"] * FRAMES, frames, "image"), "attention_mask": None}
    for unused in ("batch_num_images", "num_patches"):
        stock.pop(unused, None)
    with torch.no_grad():
        ours, expected = (
            case.lvlm.model.model(**given, use_cache=False).last_hidden_state for given in (inputs, stock)
        )
    assert torch.equal(ours, expected)


def test_rows_of_one_length_need_no_mask(case: Case) -> None:
    vision = case.encode("image", 2)

    def mask(texts: Sequence[str]) -> torch.Tensor | None:
        return case.lvlm.chats.inputs([case.lvlm.chats.write(text, vision) for text in texts], vision)[
            "attention_mask"
        ]

    assert mask(["one", "two"]) is None
    padded = mask(["one", "three"])
    assert padded is not None
    assert padded.sum(dim=1).tolist() == [padded.shape[1] - 2, padded.shape[1]]


def test_an_answer_keeps_the_prompts_queries_and_keys(case: Case) -> None:
    """Decoding steps come later and do not overwrite them; the vision tower leaves none."""
    with tapped(case.layers) as tap:
        vision = case.encode("video")
        assert not tap.queries
        case.lvlm.answer("what?", vision, max_new_tokens=3)
    length = case.lvlm.chats.inputs([case.lvlm.chats.write("what?", vision)], vision)["input_ids"].shape[1]
    assert {query.shape[2] for query in tap.queries.values()} == {length}
    assert {key.shape[2] for key in tap.keys.values()} == {length}


def test_the_gradient_survives_gradient_checkpointing(case: Case) -> None:
    vision = case.encode("image", 2)
    lvlm, text_model = case.lvlm, case.lvlm.text_model
    prompt = torch.randn(3, lvlm.hidden_size, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def gradient() -> torch.Tensor:
        taken = lvlm.attend(["where?"] * 2, vision, layers=case.layers, soft_prompt=prompt)
        maps = visual_map(
            streaming_rollout(taken, case.layers, heads="mean"), taken.token_indices, vision.grid
        )
        return torch.autograd.grad(maps[..., 0].sum(), prompt)[0]

    expected = gradient()
    text_model.activation_checkpointing_enable()
    lvlm.model.train()
    try:
        again = gradient()
    finally:
        lvlm.model.eval()
        text_model.activation_checkpointing_disable()
    assert torch.allclose(again, expected, rtol=1e-4, atol=1e-7)


def test_a_grounding_pass_makes_no_logits(case: Case) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("words were asked for in a grounding pass")

    hook = case.lvlm.model.lm_head.register_forward_pre_hook(refuse)
    case.lvlm.attend(["where?"], case.encode("video"), layers=case.layers)
    hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_that_are_typed_are_text(case: Case, kind: VisionKind) -> None:
    """The typed chat is, token by token, the one of harmless text with other words in its middle."""
    lvlm, vision = case.lvlm, case.encode(kind, 1)
    tokenizer = lvlm.processor.tokenizer
    special = sorted({str(token) for token in tokenizer.added_tokens_decoder.values()})
    assert lvlm.family.token(kind) in special
    assert lvlm.family.soft_token(kind) in special
    prompt = torch.zeros(2, lvlm.hidden_size)
    harmless, typed = (
        lvlm.chats.inputs([lvlm.chats.write(f"the {text} dog", vision, soft_tokens=2)], vision)["input_ids"][
            0
        ]
        for text in ("", "".join(special) * 2)
    )
    ids = torch.tensor(sorted(tokenizer.added_tokens_decoder))
    assert torch.equal(typed[torch.isin(typed, ids)], harmless[torch.isin(harmless, ids)])
    text = tokenizer.decode(typed[~torch.isin(typed, ids)])
    for token in special:
        assert f"{token[0]} {token[1:]}" in text
    assert lvlm.attend(
        [f"the {special[0]}"], vision, layers=case.layers, soft_prompt=prompt
    ).token_indices.numel()
    assert isinstance(lvlm.answer(f"the {special[0]}", vision, max_new_tokens=2).text, str)


def test_a_processor_that_writes_too_few_tokens_is_an_error(case: Case) -> None:
    vision = case.encode("image", 1)
    fewer = replace(vision, text=vision.text.replace(case.lvlm.family.token("image"), "", 1))
    with pytest.raises(ModelError, match="use the processor that belongs to the model"):
        case.lvlm.attend(["where?"], fewer, layers=case.layers)


def test_a_checkpoint_that_attends_within_a_window_is_refused(case: Case) -> None:
    attention = case.lvlm.text_model.layers[case.layers[0]].self_attn
    if case.lvlm.family.model_type in ("qwen3_vl", "qwen3_5", "smolvlm"):
        assert not hasattr(attention, "sliding_window")  # none of these families' has one
        return
    before = attention.sliding_window
    attention.sliding_window = 4
    try:
        with pytest.raises(ModelError, match="sliding windows"):
            case.lvlm.attend(["where?"], case.encode("video"), layers=case.layers)
    finally:
        attention.sliding_window = before


def test_layers_without_attention_are_none_of_the_rollouts(case: Case) -> None:
    lvlm = case.lvlm
    recurrent = {0, 2} if lvlm.family.model_type == "qwen3_5" else set()
    attending = tuple(sorted({0, 1, 2, 3} - recurrent))
    assert lvlm.attending_layers == attending
    assert lvlm.rollout_layers(None, "mine") == tuple(layer for layer in attending if layer >= 2)
    assert lvlm.rollout_layers((3, 1), "mine") == (3, 1)
    with pytest.raises(ConfigError, match=r"'mine' asks for layer 4, but .* has 4 layers, counted from 0"):
        lvlm.rollout_layers((1, 4), "mine")
    if recurrent:
        with pytest.raises(ConfigError, match=r"asks for layer 2, but it is a recurrent one .* are 1, 3"):
            lvlm.rollout_layers((1, 2, 3), "mine")


def test_an_unknown_family_and_a_foreign_tokenizer_are_told(case: Case) -> None:
    with pytest.raises(ModelError, match="supported types are: internvl, llava_onevision, qwen2_5_vl"):
        family_of("mystery")
    foreign = SimpleNamespace(**{**vars(case.processor), "tokenizer": byte_tokenizer(["<|im_end|>"])})
    with pytest.raises(ModelError, match="does not know"):
        LVLM(case.model, foreign, "x")


# --- the whole way


def test_a_proposal_with_every_family(case: Case, tmp_path: Path) -> None:
    (tmp_path / "lvlm").mkdir()
    case.model.save_pretrained(tmp_path / "lvlm")
    case.processor.save_pretrained(tmp_path / "lvlm")
    torch.manual_seed(1)
    sam2 = build_sam2(SMALL_SAM2)
    sam2.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(8.0)
    save_sam2(sam2.state_dict(), SMALL_SAM2, tmp_path / "sam2")
    generator = torch.Generator().manual_seed(2)
    pair = [torch.randn(3, case.lvlm.hidden_size, generator=generator) for _ in range(2)]
    SoftPrompts(*pair).save(tmp_path / "soft_prompts")
    card = {
        "name": "tiny",
        "lvlm": "lvlm",
        "sam2": "sam2",
        "soft_prompts": "soft_prompts",
        "keyframes": 5,
        "video_tokens": 8,
        "frame_tokens": TINY[case.lvlm.family.model_type].frame_tokens,
        "pipeline": {"max_new_tokens": 3, "alternatives": 2, "max_candidates": 2},
    }
    (tmp_path / "preset.json").write_text(json.dumps(card))
    steerseg = SteerSeg.from_pretrained(tmp_path, device="cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (6, 40, 60, 3), dtype=np.uint8)
    proposal = steerseg.propose(video_from_frames(pixels, fps=5), "the thing that moves")
    assert proposal.best.masks.shape == (6, 40, 60)
    maps = proposal.maps
    assert maps.frame is not None
    assert maps.video is not None
    slices = math.ceil(5 / steerseg.lvlm.family.temporal_merge)
    assert (maps.frame.shape[0], maps.video.shape[0], maps.fused.shape[0]) == (5, slices, 5)
    assert maps.fused.shape == maps.frame.shape
    assert -1 <= proposal.best.score <= 1


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def test_the_layout_of_patches_is_what_the_tower_would_count(
    family: str, kind: VisionKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_lvlm(tmp_path, family)
    lvlm = LVLM.from_pretrained(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for height, width in ((100, 150), (150, 100), (100, 150)):
        sizes = lvlm.family.sizes(height, width, video_tokens=24, frame_tokens=96)
        shape = (3, 3, *(sizes.video if kind == "video" else sizes.picture))
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        told = lvlm.encode_vision(pixels, kind)
        with monkeypatch.context() as patch:
            patch.setattr(qwen_vl, "patch_layout", lambda *_: {})
            counted = lvlm.encode_vision(pixels, kind)
        assert torch.equal(told.tokens, counted.tokens)


# --- what docs/adding-a-backbone.md promises


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_is_at_most_eighty_lines(family: str) -> None:
    lines = inspect.getsource(inspect.getmodule(FAMILIES[family]) or FAMILIES[family]).splitlines()
    code = [line for line in lines if line.strip() and not line.strip().startswith(("#", '"""'))]
    assert len(code) <= 80


def test_every_family_and_preset_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "adding-a-backbone.md").read_text()
    for name in (*FAMILIES, *BUILT_IN):
        assert f"`{name}`" in page
