"""Training of the demo's vision-language model, with a tiny model on a CPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from steerseg.demo import prompts
from tools.demo_models.lvlm import PRESET_FOLDER, demo_config, load_weights
from tools.demo_models.lvlm_data import BatchMaker, layout_of, training_spec
from tools.demo_models.lvlm_dense import cell_shares, dense_targets
from tools.demo_models.lvlm_fast import Layout
from tools.demo_models.muon import Muon, orthogonalise
from tools.demo_models.tokenizer import special_ids
from tools.demo_models.train_lvlm import Run, losses, parse, rate_factor


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped tokenizer with a tiny model's configuration."""
    folder = tmp_path_factory.mktemp("preset")
    for path in PRESET_FOLDER.glob("*.json*"):
        shutil.copy(path, folder)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    demo_config(2560, special_ids(tokenizer), tiny=True).save_pretrained(folder)
    return folder


def _settings(preset: Path, out: Path, *more: str) -> list[str]:
    fixed = ["--preset", str(preset), "--out", str(out), "--device", "cpu", "--workers", "0", "--rows", "2"]
    # The budget counts from the process's start, and other tests may have run for long in this one.
    fixed += ["--minutes", "1000"]
    return [*fixed, "--length", "384", "--validation-clips", "6", "--warmup", "1", "--log-every", "0", *more]


def _events(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_prompts_are_those_of_the_preset() -> None:
    texts = json.loads((PRESET_FOLDER.parent / "preset.json").read_text())["prompts"]
    assert prompts.reasoning_text("the dog") == texts["reasoning"].format(expression="the dog")
    assert prompts.grounding_text("the dog") == texts["grounding_without_attributes"].format(
        expression="the dog"
    )
    assert prompts.grounding_text("the dog", ["dog", "red"]) == texts["grounding"].format(
        expression="the dog", attributes="dog, red"
    )


@pytest.mark.parametrize("mode", ["video", "frame"])
def test_batches_are_what_the_processor_writes(mode: str) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(PRESET_FOLDER)
    maker = BatchMaker(PRESET_FOLDER, 3, 512, training_spec())
    batch = maker.batch(np.random.default_rng(0), (270, 480), mode)  # type: ignore[arg-type]
    assert batch.layout == layout_of((270, 480), mode)  # type: ignore[arg-type]
    assert batch.ids.shape == (3, 512 - batch.layout.prefix)
    assert maker.vocabulary.header == processor.tokenizer("<|im_start|>user\n")["input_ids"]
    checked = 0
    for ids, segments, labels in zip(batch.ids, batch.segments, batch.labels, strict=True):
        for number in np.unique(segments[segments > 0]):
            mine = segments == number
            said = labels[mine]
            # A label is the next token, from the last prompt token on.
            places = np.flatnonzero(said >= 0)
            assert (ids[mine][places[:-1] + 1] == said[places[:-1]]).all()
            assert said[places[-1]] == processor.tokenizer.eos_token_id
            text = processor.tokenizer.decode(ids[mine][: places[0] + 1])
            question = text.removesuffix("<|im_end|>\n<|im_start|>assistant\n")
            kind = "image" if mode == "frame" else mode
            turn = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": question}]}]
            chat = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            # Behind the placeholder and `<|vision_end|>` the stock processor writes the same tokens.
            whole = processor.tokenizer(chat)["input_ids"]
            assert whole[len(maker.vocabulary.header) + 3 :] == ids[mine][: places[0] + 1].tolist()
            checked += 1
    assert checked >= 12


def test_dense_targets_say_what_is_under_a_token() -> None:
    layout = Layout(1, 2, 2, False)
    ids = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    ids[0, 0, :8, 8:] = 2  # the second object fills the upper right cell
    ids[0, 0, 8:, :4] = 1  # the first one half of the lower left
    shares = cell_shares(ids, layout, 3)
    assert shares[0, 0, 0, 1].tolist() == [0, 1, 0]
    centres = torch.tensor([[[[0.125, 0.75], [0.75, 0.25], [0.0, 0.0]]]])
    targets = dense_targets(
        shares,
        layout,
        torch.tensor([[11, 22, 0]]),
        torch.tensor([[-1, 4, -1]]),
        centres,
        torch.full((1, 1, 3), 0.5),
    )
    assert targets.weight.tolist() == [[0.0, 1.0, 0.5, 0.0]]
    assert targets.names[0, 1:3].tolist() == [22, 11]
    assert targets.colours[0, 1:3].tolist() == [4, -1]
    assert torch.allclose(targets.offset[0, 1], torch.zeros(2))
    assert torch.allclose(targets.offset[0, 2], torch.tensor([-1.25, 0.0]))


def test_muon_orthogonalises_and_learns() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 32, 16)))
    assert values.min() > 0.5
    assert values.max() < 1.4
    layer = nn.Linear(16, 48, bias=False)
    goal = torch.randn(48, 16)
    optimiser = Muon([layer.weight], lr=0.05, stacked={id(layer.weight): 3})
    first = None
    for _ in range(60):
        x = torch.randn(64, 16)
        loss = (layer(x) - x @ goal.T).square().mean()
        first = first if first is not None else loss.item()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert loss.item() < 0.5 * first


def test_rate_warms_up_and_follows_the_cosine(tmp_path: Path) -> None:
    settings = parse(["--out", str(tmp_path), "--warmup", "10", "--lr-begin", "0.8", "--lr-end", "0.2"])
    assert rate_factor(0.0, 0, settings) == pytest.approx(0.08)
    assert rate_factor(0.0, 50, settings) == pytest.approx(0.8)
    assert rate_factor(0.5, 50, settings) == pytest.approx(0.5)
    assert rate_factor(1.0, 50, settings) == pytest.approx(0.2)


def test_training_overfits_saves_and_resumes(preset: Path, tmp_path: Path) -> None:
    out, state = tmp_path / "out", tmp_path / "state"
    steps = ["--steps", "2", "--dense-seconds", "0", "--state", str(state)]
    steps += ["--lr", "0.02", "--lr-vector", "0.01"]  # a tiny model learns at higher rates
    run = Run(parse(_settings(preset, out, *steps)))
    loaded = run.painter.load(run.feeder.next(), rng=None)
    curve = []
    for _ in range(25):
        total, _ = losses(run.fast, run.heads, loaded, dense=1.0, language=True)
        total.backward()
        for optimiser in run.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        curve.append(total.item())
    assert curve[-1] < 0.6 * curve[0]
    run.train()
    events = _events(out)
    assert {"start", "train", "validation", "end"} <= {str(event["event"]) for event in events}
    assert not [event for event in events if event["event"] == "note"]
    kept = load_weights(out)
    again = Run(parse(_settings(preset, tmp_path / "second", "--resume", str(out), *steps)))
    for name, parameter in again.model.named_parameters():
        assert torch.equal(parameter.detach(), kept[name])
    # From the state folder the optimisers come too; from the weights alone they start afresh.
    assert all(optimiser.state for optimiser in again.optimisers)
    fresh = Run(parse(_settings(preset, tmp_path / "third", "--resume", str(out), "--steps", "1")))
    assert not any(optimiser.state for optimiser in fresh.optimisers)
    fresh.train()


def test_recovers_from_weights_that_are_not_finite(preset: Path, tmp_path: Path) -> None:
    run = Run(parse(_settings(preset, tmp_path, "--steps", "2", "--dense-seconds", "0")))
    good = tmp_path / "good"
    run._save_weights(good, torch.float32)
    with torch.no_grad():
        run.model.lm_head.weight.fill_(float("nan"))
    run._recover(good)
    assert all(bool(parameter.isfinite().all()) for parameter in run.model.parameters())
    assert run.calm == 0.5
