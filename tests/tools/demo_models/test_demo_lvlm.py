"""The demo's tokenizer, processor, weight files and fast training forward against the stock classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from steerseg.demo import prompts
from steerseg.errors import ConfigError
from steerseg.lvlm.families.base import video_grid
from tools.demo_models.lvlm import (
    SECOND_PER_GRID,
    VIDEO_TOKENS,
    build_model,
    export,
    load_config,
    load_into,
    load_weights,
    own_state,
    save_weights,
)
from tools.demo_models.lvlm_fast import FastLVLM, Layout, attention_bias, rollout
from tools.demo_models.tokenizer import save_preset, train_tokenizer


def _texts() -> list[str]:
    words = ["dog", "hot air balloon", "brown", "the one on the left"]
    return [
        text
        for word in words
        for text in (
            prompts.reasoning_text(word),
            prompts.reasoning_answer([word, "red"]),
            prompts.grounding_text(word, ["red"]),
        )
        for _ in range(3)
    ]


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lvlm")
    save_preset(folder, train_tokenizer(_texts(), 700), tiny=True)
    model = build_model(load_config(folder), seed=3)
    with torch.no_grad():  # biases and norms away from their neutral start, or a mix-up would go unseen
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_weights(own_state(model), folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def parts(preset: Path) -> tuple[Any, Any]:
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    processor = AutoProcessor.from_pretrained(preset)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(preset, dtype=torch.float32).eval()
    return processor, model


def test_processor_is_qwens_and_writes_every_text(parts: tuple[Any, Any]) -> None:
    processor, _ = parts
    assert type(processor).__name__ == "Qwen2_5_VLProcessor"
    text = "Ünïcode 😀 привет zwölf\n  “42”"
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text
    assert len(processor.tokenizer("<|quad_start|>" * 3)["input_ids"]) == 3


def test_video_grid_follows_the_aspect_ratio() -> None:
    assert video_grid(270, 480, VIDEO_TOKENS) == (6, 10)
    assert video_grid(480, 270, VIDEO_TOKENS) == (10, 6)
    assert video_grid(256, 256, VIDEO_TOKENS) == (8, 8)
    assert video_grid(480, 640, VIDEO_TOKENS) == (6, 9)


def test_a_gap_moves_the_picture_as_soft_tokens_do(parts: tuple[Any, Any]) -> None:
    _, model = parts
    fast, layout = FastLVLM(model), Layout(1, 2, 3, False)
    offsets = torch.arange(4)[None]
    plain, moved = (torch.atan2(*fast.rope(layout, offsets, gap)[::-1]) for gap in (0, 2))
    # The slowest angles do not wrap: the header stays, everything behind it moves by the same two positions.
    shift = (moved - plain)[0, 0, :, -1]
    assert torch.all(shift[:3] == 0)
    assert torch.allclose(shift[3:], shift[3].expand(layout.prefix + 4 - 3), atol=1e-5)
    assert shift[3] > 0


@pytest.mark.parametrize("video", [True, False])
def test_fast_forward_equals_the_stock_model(parts: tuple[Any, Any], video: bool) -> None:
    processor, model = parts
    layout = Layout(pairs=2, rows=3, columns=5, video=True) if video else Layout(1, 3, 5, False)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 4 if video else 1, layout.height, layout.width, 3), dtype=np.uint8)
    questions = [
        [
            (prompts.reasoning_text("the dog"), prompts.reasoning_answer(["dog", "red"])),
            (prompts.grounding_text("it"), "dog"),
        ],
        [(prompts.grounding_text("something to eat", ["red", "on the left"]), "hot air balloon")],
    ]
    kind = "video" if video else "image"
    tokenizer = processor.tokenizer
    space = 170
    ids = torch.zeros(2, space, dtype=torch.long)
    segments, offsets = torch.zeros_like(ids), torch.zeros_like(ids)
    stock: list[list[torch.Tensor]] = []
    spans: list[list[slice]] = []
    for row, pairs in enumerate(questions):
        start = 0
        stock.append([])
        spans.append([])
        for number, (question, answer) in enumerate(pairs, start=1):
            turn = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": question}]}]
            text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False) + answer
            media = {"videos": [pixels[row]]} if video else {"images": [pixels[row, 0]]}
            inputs = processor(text=[text], **media, return_tensors="pt")
            if video:
                inputs["second_per_grid_ts"] = torch.tensor([SECOND_PER_GRID])
            with torch.no_grad():
                stock[row].append(model(**inputs).logits[0, layout.prefix :])
            mine = inputs["input_ids"][0, layout.prefix :]
            span = slice(start, start + len(mine))
            ids[row, span], segments[row, span] = mine, number
            offsets[row, span] = torch.arange(len(mine))
            spans[row].append(span)
            start += len(mine)
            # The prefix that all questions share is what the fast forward builds by itself.
            assert inputs["input_ids"][0, layout.prefix - 1] == model.config.vision_end_token_id
            positions, _ = model.model.get_rope_index(
                inputs["input_ids"],
                inputs["mm_token_type_ids"],
                image_grid_thw=inputs.get("image_grid_thw"),
                video_grid_thw=inputs.get("video_grid_thw"),
                second_per_grid_ts=inputs.get("second_per_grid_ts"),
            )
            fast_positions = FastLVLM(model)._positions(layout)
            assert torch.equal(positions[:, 0, : layout.prefix], fast_positions)
            assert torch.equal(
                positions[0, 0, layout.prefix :], fast_positions[0, -1] + 1 + torch.arange(len(mine))
            )
    fast = FastLVLM(model)
    fast.set_header(tokenizer("<|im_start|>user\n")["input_ids"])
    processing = processor.image_processor
    mean, std = torch.tensor(processing.image_mean), torch.tensor(processing.image_std)
    frames = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 1, 4, 2, 3)
    with torch.no_grad():
        visual = fast.see(frames, layout)
        hidden, _ = fast.think(fast.embed(visual, ids), layout, offsets, segments, middle=2)
        logits = fast.logits(hidden)[:, layout.prefix :]
    for row in range(2):
        for span, expected in zip(spans[row], stock[row], strict=True):
            torch.testing.assert_close(logits[row, span], expected, rtol=1e-4, atol=1e-4)


def test_rollout_is_a_distribution_over_what_the_token_saw() -> None:
    torch.manual_seed(0)
    queries = [torch.randn(2, 4, 12, 8) for _ in range(3)]
    keys = [torch.randn(2, 2, 12, 8) for _ in range(3)]
    bias = attention_bias(torch.ones(2, 6, dtype=torch.long), 6, torch.float32)
    full = rollout(queries, keys, bias, torch.tensor([11, 8]), slice(0, 12))
    assert (full >= 0).all()
    assert torch.all(full[1, 9:] == 0)
    assert torch.all(full.sum(-1) <= 1 + 1e-5)


def test_export_writes_bfloat16_that_loads(parts: tuple[Any, Any], preset: Path, tmp_path: Path) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration

    _, model = parts
    save_weights(own_state(model), tmp_path / "trained", torch.float32)
    folder = tmp_path / "preset"
    folder.mkdir()
    (folder / "config.json").write_text((preset / "config.json").read_text())
    export(tmp_path / "trained", folder)
    loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    for (name, ours), (_, theirs) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        torch.testing.assert_close(theirs, ours.bfloat16().float(), msg=name)


def test_weights_of_another_model_are_refused(parts: tuple[Any, Any], tmp_path: Path) -> None:
    _, model = parts
    state = own_state(model)
    state.pop("model.language_model.norm.weight")
    save_weights(state, tmp_path, torch.float32)
    with pytest.raises(ConfigError, match="another model"):
        load_into(model, load_weights(tmp_path), source=tmp_path)
    with pytest.raises(ConfigError, match="weight files"):
        load_weights(tmp_path / "nothing")
