"""``steerseg train`` on small random models: alone, interrupted, and as several processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from steerseg import SteerSeg, load_video
from steerseg.cli.main import main
from steerseg.config import TrainingRecipe
from steerseg.errors import Cancelled, ConfigError
from steerseg.evaluation import Sample, open_dataset
from steerseg.evaluation.truth import Palette
from steerseg.lvlm import LVLM
from steerseg.presets import Preset, load_preset
from steerseg.runtime.distributed import Ranks
from steerseg.soft_prompts import SoftPrompts
from steerseg.training import BatchPlan, Examples, TrainingLog, data_order, train
from tests.support import public_layouts as public
from tests.support.torchrun import steerseg_in_two_processes

RECIPE = TrainingRecipe(tokens=3, batch=2, epochs=2, pictures=3, frames_per_sample=2, window=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public.ref_youtube_vos(tmp_path_factory.mktemp("ref-youtube-vos"), splits=("train",))


@pytest.fixture(scope="module")
def samples(dataset: Path) -> list[Sample]:
    return open_dataset("ref-youtube-vos", "train", root=dataset)


@pytest.fixture(scope="module")
def base(preset: Path) -> Preset:
    return load_preset(preset)


@pytest.fixture(scope="module")
def lvlm(base: Preset) -> LVLM:
    return LVLM.from_pretrained(base.lvlm, device=torch.device("cpu"), dtype=torch.float32)


def arguments(dataset: Path, preset: Path, out: Path, *more: str) -> list[str]:
    return [
        *("train", "--dataset", "ref-youtube-vos", "--root", str(dataset), "-o", str(out)),
        *("--preset", str(preset), "--device", "cpu", "--tokens", "3", "--epochs", "2", *more),
    ]


def test_two_processes_learn_what_one_learns_from_batches_twice_as_large(
    dataset: Path, preset: Path, tmp_path: Path
) -> None:
    # Three expressions: the last step of an epoch has one, so that one of the processes has nothing to do.
    more = ("--limit", "3", "--learning-rate", "0.02", "--batch")
    assert main(arguments(dataset, preset, tmp_path / "one", *more, "2")) == 0
    command = arguments(dataset, preset, tmp_path / "two", *more, "1")
    done = steerseg_in_two_processes(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("use it with --preset") == 1
    one, two = (SoftPrompts.load(tmp_path / name / "soft_prompts") for name in ("one", "two"))
    assert one.card["steps"] == two.card["steps"] == 4
    assert one.card["loss_last"] == pytest.approx(two.card["loss_last"], abs=2e-4)
    for matrix in ("frame", "video"):
        torch.testing.assert_close(getattr(two, matrix), getattr(one, matrix), rtol=1e-4, atol=1e-5)


def test_a_training_that_is_interrupted_goes_on_exactly(
    lvlm: LVLM, base: Preset, samples: list[Sample], tmp_path: Path
) -> None:
    whole = train(lvlm, base, samples, RECIPE, tmp_path / "whole")
    begun = train(lvlm, base, samples, replace(RECIPE, epochs=1), tmp_path / "begun")
    assert not torch.equal(whole.video, begun.video)

    def interrupt(stage: str, fraction: float) -> None:
        if fraction >= 0.5:
            raise Cancelled("enough")

    out = tmp_path / "broken"
    with pytest.raises(Cancelled):
        train(lvlm, base, samples, RECIPE, out, save_every=1, log_every=1, progress=interrupt)
    resumed = train(lvlm, base, samples, RECIPE, out, save_every=3, log_every=1)
    assert resumed.digest == whole.digest
    steps = [json.loads(line)["step"] for line in (out / "training" / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert train(lvlm, base, samples, RECIPE, out).digest == whole.digest  # nothing is left to do
    with pytest.raises(ConfigError, match=r"other settings \(recipe\)"):
        train(lvlm, base, samples, replace(RECIPE, seed=2), out)
    with pytest.raises(ConfigError, match=r"other settings \(batch, schedule\)"):
        train(lvlm, base, samples, replace(RECIPE, batch=4), out)


def test_the_preset_that_is_made_can_be_used(
    dataset: Path, preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "steered"
    more = ("--batch", "4", "--learning-rate", "0.01", "--attributes", "0", "--name", "small-steered")
    assert main(arguments(dataset, preset, out, *more)) == 0
    told = capsys.readouterr().out
    assert f"use it with --preset {out}" in told
    made = SteerSeg.from_pretrained(out, device="cpu")
    assert made.preset.name == "small-steered"
    assert made.preset.keyframes == 5
    assert made.soft_prompts is not None
    assert made.soft_prompts.frame.shape == (3, made.lvlm.hidden_size)
    assert made.soft_prompts.card["trained_on"]["samples"] == 4
    assert made.soft_prompts.digest in told
    video = load_video(dataset / "train" / "JPEGImages" / "003234408d", fps=6)
    assert made.propose(video, "the red square").versions["soft_prompts"] == made.soft_prompts.digest
    # A folder that holds somebody's preset is left alone.
    assert main(arguments(dataset, preset, preset)) == 2
    assert "holds a preset already" in capsys.readouterr().err


def test_what_cannot_be_trained_on_is_told(
    dataset: Path, preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public.ref_youtube_vos(tmp_path, splits=("valid",))
    assert main([*arguments(tmp_path, preset, tmp_path / "out"), "--split", "valid"]) == 2
    assert "only the dataset's server has it" in capsys.readouterr().err
    assert main(arguments(tmp_path, preset, tmp_path / "other")) == 2
    assert "Ref-YouTube-VOS layout" in capsys.readouterr().err


def test_every_expression_comes_once_an_epoch_near_those_of_its_clip() -> None:
    videos = [f"clip-{k // 3}" for k in range(60)]
    order = data_order(videos, seed=1, epoch=0, window=4)
    assert sorted(order) == list(range(60))
    assert order == data_order(videos, seed=1, epoch=0, window=4)
    assert order != data_order(videos, seed=1, epoch=1, window=4)
    assert order != data_order(videos, seed=2, epoch=0, window=4)
    for start in range(0, 60, 12):
        assert len({videos[index] for index in order[start : start + 12]}) == 4
    places = {index: place for place, index in enumerate(order)}
    apart = [abs(places[k] - places[k + 1]) for k in range(0, 60, 3)]
    assert max(apart) > 1  # but not one after the other


def test_samples_do_not_depend_on_what_was_made_before(
    lvlm: LVLM, base: Preset, samples: list[Sample]
) -> None:
    def examples(cache_bytes: int) -> Examples:
        return Examples(
            lvlm,
            base,
            samples,
            seed=1,
            pictures=3,
            frames_per_sample=2,
            attributes=0.5,
            cache_bytes=cache_bytes,
        )

    generous, forgetful = examples(1 << 30), examples(0)
    for index in (3, 0, 1, 0):
        kept, fresh = (one.make(one.read(index), epoch=1) for one in (generous, forgetful))
        assert kept.question == fresh.question
        assert torch.equal(kept.context.video.tokens, fresh.context.video.tokens)
        assert torch.equal(kept.context.frames.tokens, fresh.context.frames.tokens)
        assert torch.equal(kept.frame_target, fresh.frame_target)
        assert len(kept.context.frames) == len(kept.frame_target) == 2
        assert kept.teaches
    assert generous.read(0).frames is None
    assert forgetful.read(0).frames is not None
    # The clip's other expression has the very same tokens.
    again = generous.make(generous.read(0), epoch=0)
    assert again.context.video.tokens is generous.make(generous.read(1), epoch=0).context.video.tokens


def test_expressions_with_other_frames_of_a_clip_have_tokens_of_their_own(
    lvlm: LVLM, base: Preset, samples: list[Sample]
) -> None:
    whole = samples[0]
    assert isinstance(whole.truth, Palette)
    part = replace(whole, frames=whole.frames[:2], truth=replace(whole.truth, names=whole.frames[:2]))
    examples = Examples(
        lvlm,
        base,
        [whole, part],
        seed=1,
        pictures=5,
        frames_per_sample=5,
        attributes=0.0,
        cache_bytes=1 << 30,
    )
    made = [examples.make(examples.read(index), epoch=0) for index in range(2)]
    assert [one.context.keyframes for one in made] == [(0, 1, 2, 3, 4), (0, 1)]


def test_a_share_of_the_questions_has_the_models_own_attributes(
    lvlm: LVLM, base: Preset, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerseg.training.examples.attributes_of", lambda *given, **more: ("small", "red"))

    def steered(share: float) -> list[bool]:
        examples = Examples(
            lvlm,
            base,
            samples,
            seed=1,
            pictures=1,
            frames_per_sample=1,
            attributes=share,
            cache_bytes=1 << 30,
        )
        made = [examples.make(examples.read(index), epoch) for epoch in range(4) for index in range(4)]
        return ["Attributes: small, red" in sample.question for sample in made]

    assert not any(steered(0.0))
    assert all(steered(1.0))
    assert 0 < sum(steered(0.5)) < 16
    assert steered(0.5) == steered(0.5)


def test_images_show_the_object_where_any_do(lvlm: LVLM, base: Preset, dataset: Path) -> None:
    (sample, *_) = open_dataset("ref-youtube-vos", "train", root=dataset)
    assert sample.truth is not None
    late = replace(sample, truth=replace(sample.truth, objects=(3,)))  # from the third frame on
    never = replace(sample, truth=replace(sample.truth, objects=(9,)))
    examples = Examples(
        lvlm, base, [late, never], seed=1, pictures=5, frames_per_sample=2, attributes=0.0, cache_bytes=0
    )
    for epoch in range(4):
        assert examples.make(examples.read(0), epoch).frame_target.amax(dim=(1, 2)).min() > 0
    assert not examples.make(examples.read(1), 0).teaches


def test_a_step_without_anything_to_learn_is_passed_over(
    lvlm: LVLM, base: Preset, samples: list[Sample], tmp_path: Path
) -> None:
    assert samples[0].truth is not None
    never = [replace(s, truth=replace(s.truth, objects=(9,))) for s in samples[:2]]
    recipe = replace(RECIPE, batch=1, epochs=1, attributes=0.0, window=1)
    made = train(lvlm, base, [*never, samples[2]], recipe, tmp_path / "some")
    assert made.card["steps"] == 3
    nothing = train(lvlm, base, never, recipe, tmp_path / "none")
    assert nothing.card["loss_last"] is None


def test_the_record_has_lines_and_a_board_where_it_can(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = TrainingLog(tmp_path)
    assert record.boards
    for step in (1, 2):
        record.write(step, loss=1.0 / step)
    record.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2]
    assert np.allclose([event.value for event in board.Scalars("loss")], [1.0, 0.5])


def test_processes_share_every_batch_evenly_and_keep_the_expressions_of_a_clip_together() -> None:
    videos = [f"clip-{k // 4}" for k in range(96)]
    recipe = replace(RECIPE, batch=8, window=8)
    plans = [dict(enumerate(BatchPlan(videos, recipe, Ranks(rank, 2)).remaining(0))) for rank in range(2)]
    alone = BatchPlan(videos, replace(recipe, batch=16), Ranks())
    for step, (whole, epoch) in enumerate(alone.remaining(0)):
        shares = [plan[step][0] for plan in plans]
        assert sorted(index for share in shares for index in share) == sorted(whole)
        assert [plan[step][1] for plan in plans] == [epoch, epoch]
        assert len({len(share) for share in shares}) == 1
    seen = [
        {videos[index] for share, epoch in plan.values() if epoch == 0 for index in share} for plan in plans
    ]
    assert len(seen[0] & seen[1]) < 16  # nearly all 24 if they were dealt out by turns
