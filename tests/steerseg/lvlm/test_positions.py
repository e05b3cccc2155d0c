"""Positions of Qwen2-VL and Qwen2.5-VL: text begins after the vision in every dimension, wherever chats are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from steerseg.attention.rollout import reference_rollout, streaming_rollout
from steerseg.grounding import slice_seconds
from steerseg.lvlm import LVLM, VisionFeatures
from steerseg.lvlm.families.positions import text_after_vision
from steerseg.lvlm.prefix import PrefixStore, VideoPrefixes
from steerseg.lvlm.vision import VisionKind
from tests.support.qwen_positions import positions_of
from tests.support.tiny_lvlms import save_tiny_lvlm

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = (1, 2)
KEYFRAMES = 16
DURATIONS = (1, 2, 3, 5, 8, 11, 13, 14, 14.5, 15, 17, 20, 30, 47.3, 60, 95, 180, 333.3, 600)
SIZES = {"wide": (480, 854), "square": (512, 512), "tall": (854, 480), "strip": (90, 1280)}


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen2_5_vl"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp(request.param)
    save_tiny_lvlm(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def lvlm(folder: Path) -> LVLM:
    return LVLM.from_pretrained(str(folder), device=torch.device("cpu"), dtype=torch.float32)


def features(lvlm: LVLM, kind: VisionKind, size: tuple[int, int], seconds: float = 1.0) -> VisionFeatures:
    """What a video of a real size and length would be to the model, without running the tower over it."""
    sizes = lvlm.family.sizes(*size, video_tokens=400, frame_tokens=1600)
    height, width = sizes.video if kind == "video" else sizes.picture
    grid = (KEYFRAMES // 2 if kind == "video" else 1, height // 28, width // 28)
    count = grid[0] * grid[1] * grid[2]
    tokens = torch.zeros(1, count, lvlm.hidden_size)
    return VisionFeatures(kind, tokens, grid, seconds, lvlm.family.token(kind) * count)


def small_video(lvlm: LVLM, duration: float, kind: VisionKind = "video") -> VisionFeatures:
    """Noise on a grid of 2 x 3 tokens, 3 slices of a video or 1 picture."""
    generator = torch.Generator().manual_seed(7)
    shape = (6 if kind == "video" else 1, 3, 56, 84)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return lvlm.encode_vision(pixels, kind, seconds_per_slice=slice_seconds(duration, 6, 2))


def placed(lvlm: LVLM, vision: VisionFeatures, texts: list[str], soft_tokens: int = 0) -> dict[str, Any]:
    chats = [lvlm.chats.write(text, vision, soft_tokens=soft_tokens) for text in texts]
    return dict(lvlm.chats.with_positions(lvlm.chats.inputs(chats, vision)))


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_positions_of_videos_follow_the_published_rule(lvlm: LVLM, size: tuple[int, int]) -> None:
    for duration in DURATIONS:
        vision = features(lvlm, "video", size, slice_seconds(duration, KEYFRAMES, 2))
        inputs = placed(lvlm, vision, ["where is it?"])
        assert torch.equal(inputs["position_ids"], positions_of(lvlm.model, inputs)), duration


@pytest.mark.parametrize("size", SIZES.values(), ids=list(SIZES))
def test_positions_of_pictures_follow_the_published_rule(lvlm: LVLM, size: tuple[int, int]) -> None:
    inputs = placed(lvlm, features(lvlm, "image", size).expand(3), ["where is it?"] * 3, soft_tokens=5)
    assert torch.equal(inputs["position_ids"], positions_of(lvlm.model, inputs))


def test_text_after_a_minute_of_video_begins_after_the_minute(lvlm: LVLM) -> None:
    vision = features(lvlm, "video", SIZES["wide"], slice_seconds(60, KEYFRAMES, 2))
    inputs = placed(lvlm, vision, ["where is it?"])
    begin = int((inputs["mm_token_type_ids"] == 2).nonzero()[0, 1])
    last = int((inputs["mm_token_type_ids"] == 2).nonzero()[-1, 1])
    # 7 further slices of 7.5 s at two positions a second; Qwen2-VL counts slices, and 26 columns are more than 8.
    length = {"qwen2_5_vl": 106, "qwen2_vl": 26}[lvlm.family.model_type]
    assert inputs["position_ids"][:, 0, last + 1].tolist() == [begin + length] * 3


@pytest.mark.parametrize("kind", ["image", "video"])
def test_rows_with_padding_follow_the_rule_too(lvlm: LVLM, kind: VisionKind) -> None:
    vision = small_video(lvlm, 60, kind).expand(2)
    inputs = placed(lvlm, vision, ["where?", "and where is the other one, that moves away?"])
    assert inputs["attention_mask"] is not None
    assert torch.equal(inputs["position_ids"], positions_of(lvlm.model, inputs))


def test_positions_that_are_right_already_stay(lvlm: LVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a release of transformers that counts by the rule."""
    vision = small_video(lvlm, 600)
    expected = placed(lvlm, vision, ["where?"])["position_ids"]

    def right(model: object, **inputs: Any) -> tuple[torch.Tensor, None]:
        return positions_of(lvlm.model, inputs), None

    monkeypatch.setattr(type(lvlm.model.model), "get_rope_index", right)
    inputs = placed(lvlm, vision, ["where?"])
    assert torch.equal(inputs["position_ids"], expected)
    assert torch.equal(inputs["position_ids"], positions_of(lvlm.model, inputs))


def test_only_text_after_the_vision_is_moved() -> None:
    # padding, text, 2 slices of one token six positions apart, text counted on from the grid's side
    counted = torch.tensor([[0, 0, 1, 7, 2, 3], [0, 0, 1, 1, 2, 3], [0, 0, 1, 1, 2, 3]])[:, None]
    types = torch.tensor([[0, 0, 2, 2, 0, 0]])
    moved = text_after_vision(counted, types)
    assert moved[:, 0].tolist() == [[0, 0, 1, 7, 8, 9], [0, 0, 1, 1, 8, 9], [0, 0, 1, 1, 8, 9]]
    assert torch.equal(text_after_vision(moved, types), moved)


# --- what the text model is given


@contextmanager
def read_positions(lvlm: LVLM) -> Iterator[list[torch.Tensor]]:
    """Positions (3, B, S) of each pass of the text model inside the block."""
    passes: list[torch.Tensor] = []

    def note(module: object, args: object, kwargs: dict[str, Any]) -> None:
        passes.append(kwargs["position_ids"].detach().clone()[-3:])

    hook = lvlm.text_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        hook.remove()


def expected_positions(lvlm: LVLM, vision: VisionFeatures, text: str, soft_tokens: int = 0) -> torch.Tensor:
    return positions_of(lvlm.model, placed(lvlm, vision, [text], soft_tokens))


def test_grounding_and_training_read_them(lvlm: LVLM) -> None:
    vision = small_video(lvlm, 60)
    prompt = torch.randn(4, lvlm.hidden_size)
    for steering in (prompt, prompt.clone().requires_grad_()):
        with read_positions(lvlm) as passes:
            lvlm.attend(["where?"], vision, layers=LAYERS, soft_prompt=steering)
        (read,) = passes
        assert torch.equal(read, expected_positions(lvlm, vision, "where?", 4))


@torch.no_grad()
def test_a_kept_prefix_is_read_on_from_them(lvlm: LVLM) -> None:
    vision = small_video(lvlm, 60)
    slot = VideoPrefixes(PrefixStore(1 << 30), "video").slot("pair", 0)
    expected = expected_positions(lvlm, vision, "where?")
    with read_positions(lvlm) as passes:
        lvlm.attend(["where?"], vision, layers=LAYERS, prefix=slot)
        lvlm.attend(["where?"], vision, layers=LAYERS, prefix=slot)
    prefix, rest, again = passes
    assert torch.equal(torch.cat([prefix, rest], dim=-1), expected)
    assert torch.equal(again, rest)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("own_steps", [False, True])
@pytest.mark.parametrize("duration", [1, 60, 600])
def test_answers_go_on_from_them(lvlm: LVLM, own_steps: bool, kept: bool, duration: float) -> None:
    """Each further token is one position after the one before it, in every dimension."""
    vision = small_video(lvlm, duration)
    slot = VideoPrefixes(PrefixStore(1 << 30), "video").slot("reasoning", 0) if kept else None
    with read_positions(lvlm) as passes:
        lvlm.answer("what moves?", vision, max_new_tokens=6, own_decoder=own_steps, prefix=slot)
    chat = expected_positions(lvlm, vision, "what moves?")
    steps = passes[2:] if kept and own_steps else passes[1:]
    assert torch.equal(torch.cat(passes[: len(passes) - len(steps)], dim=-1), chat)
    following = chat[..., -1:] + torch.arange(1, len(steps) + 1)
    assert len(steps) == 5
    assert torch.equal(torch.cat(steps, dim=-1), following)


@pytest.mark.parametrize("heads", ["mean", "visual_max"])
@torch.no_grad()
def test_the_rollout_is_that_of_the_stock_model_at_the_published_positions(
    lvlm: LVLM, folder: Path, heads: Any
) -> None:
    stock = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    vision = small_video(lvlm, 60)
    inputs = placed(lvlm, vision, ["where is it?"])
    inputs["position_ids"] = positions_of(stock, inputs)
    attentions = stock.model(**inputs, use_cache=False, output_attentions=True).attentions
    read = lvlm.attend(["where is it?"], vision, layers=LAYERS)
    expected = reference_rollout([attentions[layer] for layer in LAYERS], read.visual, read.response, heads)
    got = streaming_rollout(read, LAYERS, heads=heads)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
