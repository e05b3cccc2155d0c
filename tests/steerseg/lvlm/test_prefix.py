"""What is kept of a chat for the next question changes nothing but the time that it takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from steerseg.attention.rollout import streaming_rollout
from steerseg.config import Placement
from steerseg.lvlm import LVLM, VisionFeatures
from steerseg.lvlm.answer import AskedChat
from steerseg.lvlm.prefix import (
    KeptQueries,
    Prefix,
    PrefixSize,
    PrefixStore,
    VideoPrefixes,
    default_host_budget,
)
from steerseg.lvlm.prefix_reader import PrefixReader
from steerseg.lvlm.vision import VisionKind
from tests.support.reruns import Rerun
from tests.support.tiny_lvlms import TINY, save_tiny_lvlm

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTIONS = ("where is it?", "and where is the other one?")
KINDS: tuple[VisionKind, ...] = ("image", "video")


@pytest.fixture(scope="module", params=sorted(TINY))
def lvlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LVLM:
    folder: Path = tmp_path_factory.mktemp(request.param)
    save_tiny_lvlm(folder, request.param)
    return LVLM.from_pretrained(str(folder), device=torch.device("cpu"), dtype=torch.float32)


def layers_of(lvlm: LVLM) -> tuple[int, ...]:
    """Two layers of a rollout."""
    return TINY[lvlm.family.model_type].layers[:2]


def seen(lvlm: LVLM, kind: VisionKind) -> VisionFeatures:
    budget = TINY[lvlm.family.model_type].frame_tokens
    sizes = lvlm.family.sizes(100, 150, video_tokens=6, frame_tokens=budget)
    generator = torch.Generator().manual_seed(3)
    shape = (3, 3, *(sizes.video if kind == "video" else sizes.picture))
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return lvlm.encode_vision(pixels, kind, seconds_per_slice=1.5)


@pytest.mark.parametrize("placement", ["before_vision", "start", "after_vision"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_kept_prefix_gives_the_same_rollout(lvlm: LVLM, kind: VisionKind, placement: Placement) -> None:
    vision = seen(lvlm, kind)
    slot = VideoPrefixes(PrefixStore(1 << 30), "video").slot("pair", kind)
    prompt = torch.randn(4, lvlm.hidden_size, generator=torch.Generator().manual_seed(1))
    for question in QUESTIONS:
        texts = [question] * len(vision)
        whole, continued = (
            lvlm.attend(
                texts, vision, layers=layers_of(lvlm), soft_prompt=prompt, placement=placement, prefix=where
            )
            for where in (None, slot)
        )
        expected, got = (
            streaming_rollout(taken, layers_of(lvlm), heads="visual_max") for taken in (whole, continued)
        )
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
    kept = slot.store.find(slot.owner, slot.part)
    assert kept is not None
    assert len(kept.past) == max(layers_of(lvlm)) + 1


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_texts_that_are_filled_up_and_replayed_give_the_same(
    lvlm: LVLM, kind: VisionKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two videos in turn, texts of several lengths, rollouts and answers: all of them in one room."""
    reading = PrefixReader(lvlm.text_model, padded_to=32)
    reading.calls = Rerun(reading._pass, sights=1, filled=False, fresh=False)
    monkeypatch.setattr(lvlm.reader, "prefix_reader", reading)
    first = seen(lvlm, kind)
    shelf = PrefixStore(1 << 30)
    prompt = torch.randn(4, lvlm.hidden_size, generator=torch.Generator().manual_seed(1))
    for round_, question in enumerate((*QUESTIONS, QUESTIONS[0], "what?")):
        for video, vision in (("a", first), ("b", first[[2, 0, 1]] if kind == "image" else first)):
            texts = [question] * len(vision)
            slot = VideoPrefixes(shelf, video).slot("pair", kind)
            whole, continued = (
                streaming_rollout(
                    lvlm.attend(texts, vision, layers=layers_of(lvlm), soft_prompt=prompt, prefix=where),
                    layers_of(lvlm),
                    heads="visual_max",
                )
                for where in (None, slot)
            )
            assert (continued - whole).abs().max() <= 1e-5 * whole.abs().max()
        if kind == "video":
            expected, answer = (
                lvlm.answer(question, first, max_new_tokens=5, own_decoder=True, prefix=where)
                for where in (None, VideoPrefixes(shelf, "a").slot("reasoning", kind))
            )
            assert answer.text == expected.text
        assert round_ == 0 or reading.calls.replays > 0


@torch.no_grad()
def test_expressions_on_one_video_leave_what_is_kept_as_it_was(lvlm: LVLM) -> None:
    """Keys, values and states: rollouts, answers and smaller batches in turn go on from copies."""
    shelf = VideoPrefixes(PrefixStore(1 << 30), "video")
    layers = layers_of(lvlm)
    pictures, video = seen(lvlm, "image"), seen(lvlm, "video")
    attended, answered = shelf.slot("pair", 0), shelf.slot("reasoning", 0)
    lvlm.attend(["what?"] * 3, pictures, layers=layers, prefix=attended)
    lvlm.answer("what?", video, max_new_tokens=3, own_decoder=True, prefix=answered)
    kept = [slot.store.find(slot.owner, slot.part) for slot in (attended, answered)]
    before = [
        [part.clone() for pair in prefix.past for part in pair] for prefix in kept if prefix is not None
    ]
    first = lvlm.answer(QUESTIONS[0], video, max_new_tokens=8, own_decoder=True, prefix=answered)
    for question in (*QUESTIONS, "who?"):
        lvlm.attend([question] * 3, pictures, layers=layers, prefix=attended)
        lvlm.attend([question], pictures[:1], layers=layers, prefix=shelf.slot("pair", 1))
        lvlm.answer(question, video, max_new_tokens=8, own_decoder=True, prefix=answered)
    assert kept == [slot.store.find(slot.owner, slot.part) for slot in (attended, answered)]
    after = [[part for pair in prefix.past for part in pair] for prefix in kept if prefix is not None]
    assert len(after) == 2
    assert all(
        torch.equal(a, b)
        for old, new in zip(before, after, strict=True)
        for a, b in zip(old, new, strict=True)
    )
    assert lvlm.answer(QUESTIONS[0], video, max_new_tokens=8, own_decoder=True, prefix=answered) == first


@torch.no_grad()
def test_a_prefix_takes_the_memory_that_was_counted(lvlm: LVLM) -> None:
    slot = VideoPrefixes(PrefixStore(1 << 30), "video").slot("pair", 0)
    lvlm.attend(["where?"] * 3, seen(lvlm, "image"), layers=layers_of(lvlm), prefix=slot)
    kept = slot.store.find(slot.owner, slot.part)
    assert kept is not None
    queries = sum(query.nbytes for query in kept.queries.restore(kept.length).values())
    assert kept.size.device == queries + sum(part.nbytes for pair in kept.past for part in pair)


@torch.no_grad()
def test_another_soft_prompt_is_not_answered_from_the_prefix_of_the_first(lvlm: LVLM) -> None:
    vision = seen(lvlm, "video")
    slot = VideoPrefixes(PrefixStore(1 << 30), "video").slot("pair", 0)
    for seed in (1, 2):
        prompt = torch.randn(4, lvlm.hidden_size, generator=torch.Generator().manual_seed(seed))
        whole, continued = (
            lvlm.attend(["where?"], vision, layers=layers_of(lvlm), soft_prompt=prompt, prefix=where)
            for where in (None, slot)
        )
        expected, got = (
            streaming_rollout(taken, layers_of(lvlm), heads="mean") for taken in (whole, continued)
        )
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@torch.no_grad()
def test_positions_that_begin_anew_after_the_prefix_would_give_another_rollout(
    lvlm: LVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the prefix's remedy is for: positions come from the whole chat."""
    vision = seen(lvlm, "video")
    slot = VideoPrefixes(PrefixStore(1 << 30), "video").slot("pair", 0)
    expected = streaming_rollout(
        lvlm.attend(["where?"], vision, layers=layers_of(lvlm)), layers_of(lvlm), heads="mean"
    )
    positions = type(lvlm.family).positions

    def anew(family: object, ids: torch.Tensor, inputs: dict[str, object]) -> torch.Tensor:
        whole = positions(family, ids, inputs)  # type: ignore[arg-type]
        after = int((ids == lvlm.chats.vision_ids["video"]).nonzero()[-1, 1]) + 1
        return torch.cat([whole[..., :after], whole[..., : whole.shape[-1] - after]], dim=-1)

    monkeypatch.setattr(type(lvlm.family), "positions", anew)
    wrong = lvlm.attend(["where?"], vision, layers=layers_of(lvlm), prefix=slot)
    assert not torch.allclose(streaming_rollout(wrong, layers_of(lvlm), heads="mean"), expected, rtol=1e-3)


@torch.no_grad()
def test_without_room_chats_are_read_as_a_whole(lvlm: LVLM) -> None:
    vision = seen(lvlm, "image")
    slot = VideoPrefixes(PrefixStore(100), "video").slot("pair", 0)
    whole, read = (
        lvlm.attend(["where?"] * 3, vision, layers=layers_of(lvlm), prefix=where) for where in (None, slot)
    )
    assert slot.store.nbytes == 0
    assert torch.equal(*(streaming_rollout(taken, layers_of(lvlm), heads="mean") for taken in (whole, read)))


def test_a_pass_ends_after_the_last_layer_that_is_read(lvlm: LVLM) -> None:
    ran: list[int] = []
    layers = lvlm.text_model.layers
    hooks = [
        layer.mlp.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
        for index, layer in enumerate(layers)
    ]
    lvlm.attend(["where?"], seen(lvlm, "video"), layers=layers_of(lvlm))
    for hook in hooks:
        hook.remove()
    assert ran == list(range(max(layers_of(lvlm))))


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_answers_step_by_step_are_those_of_generate(
    lvlm: LVLM, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lvlm.model.generation_config, "repetition_penalty", penalty)
    vision = seen(lvlm, "video")
    slot = VideoPrefixes(PrefixStore(1 << 30), "video").slot("reasoning", 0)
    for question in QUESTIONS:
        expected = lvlm.answer(question, vision, max_new_tokens=20, own_decoder=False)
        for where in (None, slot):
            got = lvlm.answer(question, vision, max_new_tokens=20, own_decoder=True, prefix=where)
            assert got.text == expected.text
            assert [text for text, _ in got.tokens] == [text for text, _ in expected.tokens]
            assert [chance for _, chance in got.tokens] == pytest.approx(
                [chance for _, chance in expected.tokens], rel=1e-4
            )
            assert all(0 < chance <= 1 for _, chance in got.tokens)
    assert slot.store.nbytes > 0


def test_an_answer_ends_where_the_model_ends_it(lvlm: LVLM, monkeypatch: pytest.MonkeyPatch) -> None:
    vision = seen(lvlm, "video")
    inputs = lvlm.chats.inputs([lvlm.chats.write("what?", vision)], vision)
    chat = AskedChat(inputs, vision)
    (whole,) = lvlm.decode([chat], 20)
    end = whole[9][0]
    monkeypatch.setattr(lvlm.model.generation_config, "eos_token_id", [end])
    assert lvlm.decode([chat], 20) == [whole[: [token for token, _ in whole].index(end)]]


def test_an_answer_ends_with_its_turn_without_generation_settings(tmp_path: Path) -> None:
    """As checkpoints whose configuration names the end of a text only, such as some of Qwen3.5."""
    save_tiny_lvlm(tmp_path, "qwen3_5")
    (tmp_path / "generation_config.json").unlink()
    card = json.loads((tmp_path / "config.json").read_text())
    card["text_config"]["eos_token_id"] = card["text_config"]["pad_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(card))
    loaded = LVLM.from_pretrained(str(tmp_path), device=torch.device("cpu"), dtype=torch.float32)
    turn, text = loaded.chats.token_id("<|im_end|>"), loaded.chats.token_id("<|endoftext|>")
    assert loaded.model.generation_config.eos_token_id == [turn, text]


@pytest.mark.parametrize("own_decoder", [True, False])
def test_an_answer_ends_once_it_is_complete(lvlm: LVLM, own_decoder: bool) -> None:
    vision = seen(lvlm, "video")
    whole = lvlm.answer("what?", vision, max_new_tokens=40, own_decoder=own_decoder)
    enough = len(whole.text) // 2
    cut = lvlm.answer(
        "what?", vision, max_new_tokens=40, own_decoder=own_decoder, complete=lambda text: len(text) >= enough
    )
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert 0 < len(cut.tokens) < len(whole.tokens)


def test_questions_about_several_videos_are_answered_together(lvlm: LVLM) -> None:
    """Questions and videos of other lengths, with and without a kept prefix; some answers end before others."""
    budget = TINY[lvlm.family.model_type].frame_tokens
    sizes = lvlm.family.sizes(100, 150, video_tokens=6, frame_tokens=budget)
    frames = torch.randint(0, 256, (3, 3, *sizes.video), generator=torch.manual_seed(5), dtype=torch.uint8)
    other = lvlm.encode_vision(frames[[2, 1, 0, 1]], "video", seconds_per_slice=1.0)
    store = PrefixStore(1 << 30)
    asked = [
        (QUESTIONS[0], seen(lvlm, "video"), VideoPrefixes(store, "a").slot("reasoning", 0)),
        (QUESTIONS[1], other, VideoPrefixes(store, "b").slot("reasoning", 0)),
        ("what?", seen(lvlm, "video"), None),
    ]
    alone = [
        lvlm.answer(text, vision, max_new_tokens=30, own_decoder=True, prefix=slot)
        for text, vision, slot in asked
    ]
    length = sorted(len(answer.text) for answer in alone)[1]
    for enough in (length // 2, 2 * length):
        together = lvlm.answer_together(
            asked, max_new_tokens=30, complete=lambda text, most=enough: len(text) >= most
        )
        for (text, vision, slot), got in zip(asked, together, strict=True):
            expected = lvlm.answer(
                text,
                vision,
                max_new_tokens=30,
                own_decoder=True,
                prefix=slot,
                complete=lambda said, most=enough: len(said) >= most,
            )
            assert got.text == expected.text
            assert [chance for _, chance in got.tokens] == pytest.approx(
                [chance for _, chance in expected.tokens], rel=1e-4
            )
    assert len({answer.text for answer in alone}) == 3


def test_what_others_keep_makes_room_first_and_the_own_never() -> None:
    size = PrefixSize(100, host=0)

    def prefix() -> Prefix:
        return Prefix(torch.zeros(1, 1), None, (), KeptQueries({}), size)

    store = PrefixStore(300)
    shelves = [VideoPrefixes(store, name) for name in "ab"]
    for shelf in shelves:
        slot = shelf.slot("pair", 0)
        assert store.make_room(slot.owner, slot.part, size)
        store.keep(slot.owner, slot.part, prefix())
    slot = shelves[1].slot("pair", 1)
    assert store.make_room(slot.owner, slot.part, PrefixSize(200, host=0))
    assert store.find(shelves[0].slot("pair", 0).owner, 0) is None
    assert store.find(slot.owner, 0) is not None
    assert not store.make_room(slot.owner, slot.part, PrefixSize(300, host=0))
    store.drop("b")
    assert store.nbytes == 0


def test_memory_of_the_host_is_a_limit_of_its_own() -> None:
    store = PrefixStore(1000, host_budget=100)
    slot = VideoPrefixes(store, "a").slot("pair", 0)
    size = PrefixSize.of(10, 2 * 33, 2, offloaded=True)
    assert size == PrefixSize(10, host=128)  # page-locked memory is given in powers of two
    assert not store.make_room(slot.owner, slot.part, size)
    store.host_budget = 128
    assert store.make_room(slot.owner, slot.part, size)
    assert PrefixSize.of(10, 66, 2, offloaded=False) == PrefixSize(76, host=0)


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
@pytest.mark.parametrize("offloaded", [False, True])
def test_queries_come_back_as_they_were_kept(device: str, offloaded: bool) -> None:
    queries = {
        layer: torch.randn(3, 50, 4, 16, device=device).transpose(1, 2) for layer in (5, 7)
    }  # as a model lays them out
    kept = KeptQueries(queries, offloaded=offloaded)
    expected = {layer: query.cpu() for layer, query in queries.items()}
    del queries
    for _ in range(2):
        brought = kept.restore(60)
        kept.wait()
        for layer, query in expected.items():
            assert brought[layer].shape == (3, 4, 60, 16)
            assert torch.equal(brought[layer][:, :, :50].cpu(), query)


@torch.no_grad()
def test_copies_are_waited_for_where_memory_runs_out_meanwhile(
    lvlm: LVLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tensors are given up then, and the copies must not write into what others are given."""
    calls: list[str] = []

    def full(*_: object) -> None:
        calls.append("read")
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(lvlm.reader.prefix_reader, "queries_and_keys", full)
    monkeypatch.setattr(KeptQueries, "wait", lambda self: calls.append("wait"))
    slot = VideoPrefixes(PrefixStore(1 << 30), "video").slot("pair", "video")
    with pytest.raises(torch.OutOfMemoryError):
        lvlm.attend(["what?"], seen(lvlm, "video"), layers=layers_of(lvlm), prefix=slot)
    assert calls == ["read", "wait"]


def test_a_container_has_less_of_the_host_for_prefixes(tmp_path: Path) -> None:
    whole = default_host_budget(tmp_path / "no limit")
    assert whole > 0
    limit = tmp_path / "memory.max"
    for told, expected in (("max\n", whole), ("4000000\n", 1_000_000), (f"{8 * whole}\n", whole)):
        limit.write_text(told)
        assert default_host_budget(limit) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_captured_passes_give_the_same_rollout(
    lvlm: LVLM, kind: VisionKind, dtype: torch.dtype, tmp_path: Path
) -> None:
    save_tiny_lvlm(tmp_path, lvlm.family.model_type)
    there = LVLM.from_pretrained(str(tmp_path), device=torch.device("cuda"), dtype=dtype)
    vision = seen(there, kind)
    slot = VideoPrefixes(PrefixStore(1 << 30, 1 << 30), "video").slot("pair", kind)
    for question in (*QUESTIONS, *QUESTIONS):
        whole, continued = (
            streaming_rollout(
                there.attend([question] * len(vision), vision, layers=layers_of(lvlm), prefix=where),
                layers_of(lvlm),
                heads="visual_max",
            )
            for where in (None, slot)
        )
        most = 1e-4 if dtype == torch.float32 else 5e-2
        assert (continued - whole).abs().max() <= most * whole.abs().max()
    assert there.reader.prefix_reader.calls.enabled
    assert there.reader.prefix_reader.calls.replays == 4
