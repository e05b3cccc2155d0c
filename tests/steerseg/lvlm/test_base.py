"""The LVLM wrapper against the stock processor and model, and the rollout against eager attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from steerseg.attention.rollout import reference_rollout, streaming_rollout
from steerseg.config import Heads, Placement
from steerseg.errors import ModelError
from steerseg.lvlm import LVLM, VisionFeatures
from tests.support.qwen_positions import with_positions

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = (1, 2, 3)


def pictures(count: int, height: int = 56, width: int = 84) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def stock(tiny_lvlm_folder: Path) -> tuple[Qwen2_5_VLForConditionalGeneration, object]:
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tiny_lvlm_folder, attn_implementation="eager"
    ).eval()
    return model, AutoProcessor.from_pretrained(tiny_lvlm_folder)


def test_chat_and_inputs_equal_the_processors(tiny_lvlm: LVLM, stock) -> None:
    _, processor = stock
    frames = pictures(4)
    vision = tiny_lvlm.encode_vision(frames, "video", seconds_per_slice=1.5)
    inputs = tiny_lvlm.chats.inputs([tiny_lvlm.chats.write("what moves?", vision)], vision)
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "what moves?"}]}]
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = processor(
        text=[text], videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pt"
    )
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["mm_token_type_ids"], expected["mm_token_type_ids"])
    assert torch.equal(inputs["video_grid_thw"], expected["video_grid_thw"])


@pytest.mark.parametrize("kind", ["image", "video"])
def test_generation_equals_the_stock_models(tiny_lvlm: LVLM, stock, kind: str) -> None:
    model, processor = stock
    frames = pictures(4 if kind == "video" else 1)
    vision = tiny_lvlm.encode_vision(frames, kind, seconds_per_slice=1.0)
    text = tiny_lvlm.chats.write("name it", vision)
    single = text.replace("<|video_pad|>" * vision.tokens.shape[1], "<|video_pad|>").replace(
        "<|image_pad|>" * vision.tokens.shape[1], "<|image_pad|>"
    )
    if kind == "video":
        expected = processor(
            text=[single], videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pt"
        )
        expected["second_per_grid_ts"] = torch.tensor([1.0])
    else:
        expected = processor(text=[single], images=[frames[0]], do_resize=False, return_tensors="pt")
    expected.pop("video_metadata", None)
    expected = with_positions(model, expected)
    ids = model.generate(**expected, max_new_tokens=12, do_sample=False)[0, expected["input_ids"].shape[1] :]
    assert (
        tiny_lvlm.answer("name it", vision, max_new_tokens=12).text
        == processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
    )


def eager_attentions(model, lvlm: LVLM, texts: list[str], vision: VisionFeatures) -> tuple[torch.Tensor, ...]:
    inputs = lvlm.chats.inputs([lvlm.chats.write(text, vision) for text in texts], vision)
    inputs = with_positions(model, inputs)
    return model.model(**inputs, use_cache=False, output_attentions=True).attentions


@pytest.mark.parametrize("heads", ["mean", "visual_max"])
@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("chunk", [7, 1000])
def test_streaming_rollout_equals_the_full_product(
    tiny_lvlm: LVLM, stock, heads: Heads, kind: str, chunk: int
) -> None:
    model, _ = stock
    vision = tiny_lvlm.encode_vision(pictures(3), kind)
    texts = ["where is it?"] * (1 if kind == "video" else 3)
    taken = tiny_lvlm.attend(texts, vision, layers=LAYERS)
    attentions = eager_attentions(model, tiny_lvlm, texts, vision)
    expected = reference_rollout([attentions[i] for i in LAYERS], taken.visual, taken.response, heads)
    got = streaming_rollout(taken, LAYERS, heads=heads, chunk=chunk)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.allclose(got.sum(dim=1), torch.ones(len(texts)), atol=1e-4) or heads == "visual_max"


@pytest.mark.parametrize("heads", ["mean", "visual_max"])
def test_a_padded_batch_equals_single_rows(tiny_lvlm: LVLM, heads: Heads) -> None:
    vision = tiny_lvlm.encode_vision(pictures(2), "image")
    texts = ["short", "a question that is a good deal longer"]
    both = tiny_lvlm.attend(texts, vision, layers=LAYERS)
    batched = streaming_rollout(both, LAYERS, heads=heads)
    for i, text in enumerate(texts):
        alone = tiny_lvlm.attend([text], vision[i : i + 1], layers=LAYERS)
        single = streaming_rollout(alone, LAYERS, heads=heads)
        assert torch.allclose(batched[i][both.visual[i]], single[0][alone.visual[0]], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("placement", ["before_vision", "start", "after_vision"])
@pytest.mark.parametrize("kind", ["image", "video"])
def test_soft_prompts_take_part_and_their_gradient_is_the_full_products(
    tiny_lvlm: LVLM, placement: Placement, kind: str
) -> None:
    vision = tiny_lvlm.encode_vision(pictures(2), kind)
    texts = ["where is it?"] * (1 if kind == "video" else 2)
    prompt = torch.randn(
        5, tiny_lvlm.hidden_size, generator=torch.Generator().manual_seed(1)
    ).requires_grad_()

    def attend():
        return tiny_lvlm.attend(texts, vision, layers=LAYERS, soft_prompt=prompt, placement=placement)

    taken = attend()
    streamed = streaming_rollout(taken, LAYERS, heads="visual_max", chunk=9)[taken.visual]
    weights = torch.linspace(0, 1, streamed.numel())
    (gradient,) = torch.autograd.grad((streamed * weights).sum(), prompt)

    taken = attend()
    size = taken.visual.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool).tril()
    attentions = []
    for layer in LAYERS:
        query, key = taken.tap.queries[layer], taken.tap.keys[layer].repeat_interleave(2, dim=1)
        logits = query @ key.transpose(-1, -2) * taken.tap.scaling[layer]
        attentions.append(logits.masked_fill(~causal, float("-inf")).softmax(-1))
    full = reference_rollout(attentions, taken.visual, taken.response, "visual_max")[taken.visual]
    (expected,) = torch.autograd.grad((full * weights).sum(), prompt)
    assert torch.allclose(streamed, full, rtol=1e-4, atol=1e-7)
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()
    assert expected.norm() > 0
    plain = tiny_lvlm.attend(texts, vision, layers=LAYERS)
    unsteered = streaming_rollout(plain, LAYERS, heads="visual_max")[plain.visual]
    assert not torch.allclose(unsteered, streamed, rtol=1e-3)


def test_an_answer_is_not_touched_by_an_earlier_soft_prompt(tiny_lvlm: LVLM) -> None:
    vision = tiny_lvlm.encode_vision(pictures(2), "video")
    before = tiny_lvlm.answer("what?", vision, max_new_tokens=6).text
    tiny_lvlm.attend(["what?"], vision, layers=LAYERS, soft_prompt=torch.randn(4, tiny_lvlm.hidden_size))
    assert tiny_lvlm.answer("what?", vision, max_new_tokens=6).text == before


def test_missing_weights_are_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Expected a hub id"):
        LVLM.from_pretrained(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32)


def test_weights_never_require_gradients(tiny_lvlm: LVLM) -> None:
    assert not any(parameter.requires_grad for parameter in tiny_lvlm.model.parameters())


def test_a_longer_question_finds_the_buffers_that_a_shorter_one_made(tiny_lvlm: LVLM) -> None:
    """On a GPU a step is captured for each size of buffers, which takes longer than the answer itself."""
    vision = tiny_lvlm.encode_vision(pictures(2), "video")
    buffers = tiny_lvlm.decoder._buffers
    buffers.clear()
    for words in (1, 15, 1):
        tiny_lvlm.answer("what is it? " * words, vision, max_new_tokens=3, own_decoder=True)
        assert len(buffers) == 1
    for words in (100, 300, 600, 900, 1):  # much longer ones get their own, and few are kept
        tiny_lvlm.answer("what is it? " * words, vision, max_new_tokens=3, own_decoder=True)
    assert len(buffers) == 3
