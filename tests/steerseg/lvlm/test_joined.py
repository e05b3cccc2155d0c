"""Joint projections give what the layers give by themselves, and only where a single token is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from steerseg.lvlm import LVLM
from steerseg.lvlm.joined import join_projections
from tests.support.tiny_lvlms import TINY, save_tiny_lvlm

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", sorted(TINY))
@torch.no_grad()
def test_answers_are_those_of_layers_by_themselves(family: str, tmp_path: Path) -> None:
    save_tiny_lvlm(tmp_path, family)
    lvlm = LVLM.from_pretrained(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32)
    sizes = lvlm.family.sizes(100, 150, video_tokens=6, frame_tokens=TINY[family].frame_tokens)
    pixels = torch.randint(0, 256, (3, 3, *sizes.video), generator=torch.manual_seed(3), dtype=torch.uint8)
    vision = lvlm.encode_vision(pixels, "video", seconds_per_slice=1.5)
    questions = [(question, vision, None) for question in ("where is it?", "what moves?")]

    def answers() -> list[list[float]]:
        found = lvlm.answer_together(questions, max_new_tokens=12, complete=lambda _: False)
        return [[chance for _, chance in answer.tokens] for answer in found]

    weights = {name: weight.clone() for name, weight in lvlm.model.state_dict().items()}
    expected = answers()
    decoder = lvlm.model.get_decoder()
    layers = lvlm.model.config.get_text_config().num_hidden_layers
    assert join_projections(decoder) >= layers
    assert join_projections(decoder) == 0, "once"
    for given, alone in zip(answers(), expected, strict=True):
        assert given == pytest.approx(alone, rel=1e-4)
    assert all(torch.equal(weight, weights[name]) for name, weight in lvlm.model.state_dict().items())


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 6), nn.Linear(8, 2), nn.Linear(8, 2)


@torch.no_grad()
def test_each_projection_is_right_in_whatever_order_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    attention = _Attention()
    first, other = torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    names = ("q_proj", "k_proj", "v_proj")
    expected = {(name, x): getattr(attention, name)(x) for name in names for x in (first, other)}
    assert join_projections(attention) == 2
    for name, x in (
        ("k_proj", first),
        ("q_proj", first),
        ("k_proj", other),
        ("v_proj", first),
        ("v_proj", first),
        ("q_proj", other),
        ("v_proj", other),
    ):
        assert torch.allclose(getattr(attention, name)(x), expected[name, x], atol=1e-6)


def test_layers_that_differ_stay_apart() -> None:
    attention = _Attention()
    attention.v_proj = nn.Linear(8, 2, bias=False)
    assert join_projections(attention) == 0
    longer = _Attention()
    text = torch.randn(1, 5, 8)
    expected = longer.k_proj(text)
    join_projections(longer)
    assert torch.equal(longer.k_proj(text), expected)
