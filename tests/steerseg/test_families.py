"""Every family against its stock processor and model: chats, answers, grids, rollouts and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from steerseg.attention.rollout import reference_rollout, streaming_rollout
from steerseg.config import Heads
from steerseg.lvlm import LVLM, VisionFeatures
from steerseg.lvlm.families import FAMILIES
from steerseg.lvlm.vision import VisionKind
from tests.tiny_lvlms import TINY, save_tiny_lvlm

LAYERS = (1, 2, 3)
FRAMES = 3
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A wrapped tiny model beside the stock model and processor of the same weights."""

    lvlm: LVLM
    model: Any
    processor: Any

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
        self, texts: Sequence[str], frames: torch.Tensor, kind: VisionKind, soft: str = ""
    ) -> dict[str, Any]:
        """What the stock processor makes of the same chats and pixels."""
        chats = []
        for text in texts:
            content = [{"type": kind}, {"type": "text", "text": text}]
            chats.append(
                self.processor.apply_chat_template(
                    [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
                )
            )
        resizes = self.lvlm.family.model_type in ("llava_onevision", "internvl")
        common = {"do_resize": resizes, "padding": True, "return_tensors": "pt"}
        if kind == "video":
            merge = self.lvlm.family.temporal_merge
            metadata = [
                {
                    "total_num_frames": len(frames),
                    "fps": merge / 1.5,
                    "frames_indices": list(range(len(frames))),
                }
            ] * len(texts)
            inputs = self.processor(
                text=chats,
                videos=[frames] * len(texts),
                do_sample_frames=False,
                video_metadata=metadata,
                **common,
            )
            if self.lvlm.family.model_type == "qwen2_5_vl":
                inputs["second_per_grid_ts"] = torch.tensor([1.5] * len(texts))
        else:
            inputs = self.processor(text=chats, images=list(frames), **common)
        return dict(inputs)


@pytest.fixture(scope="module", params=sorted(TINY))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny_lvlm(folder, request.param)
    stock = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    lvlm = LVLM.from_pretrained(str(folder), device=CPU, dtype=torch.float32)
    return Case(lvlm, stock, AutoProcessor.from_pretrained(folder))


KINDS: tuple[VisionKind, ...] = ("image", "video")


def test_every_supported_family_is_tested() -> None:
    assert set(TINY) == set(FAMILIES)


@pytest.mark.parametrize("kind", KINDS)
def test_chats_are_the_stock_processors(case: Case, kind: VisionKind) -> None:
    vision = case.encode(kind)
    texts = ["what moves?"] if kind == "video" else ["what is it?", "and this?", "where?"]
    inputs = case.lvlm._inputs([case.lvlm.chat(text, vision) for text in texts], vision)
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
    assert case.lvlm.generate("name it", vision, max_new_tokens=12) == expected


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
    taken = case.lvlm.attend(texts, vision, layers=LAYERS)
    inputs = case.stock_inputs(texts, frames, kind)
    assert bool(inputs["attention_mask"].all()) != padded
    attentions = case.model.model(**inputs, use_cache=False, output_attentions=True).attentions
    for row in range(len(texts)):
        live = inputs["attention_mask"][row].bool()
        alone = [attentions[layer][row : row + 1, :, live][..., live] for layer in LAYERS]
        visual = taken.visual[row : row + 1, live]
        expected = reference_rollout(alone, visual, -1, heads)[0]
        for chunk in (7, 1000):
            got = streaming_rollout(taken, LAYERS, heads=heads, chunk=chunk)[row]
            assert (got[live] - expected).abs().max() <= 1e-5 * expected.abs().max()
            assert got[~live].abs().sum() == 0
