from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from steerseg.errors import ConfigError
from steerseg.evaluation import (
    ABLATIONS,
    MAIN,
    Result,
    ResultFolder,
    Sample,
    VariantResults,
    choose_variants,
    evaluate,
    fingerprint,
    mean_of,
    paired_gain,
)
from steerseg.evaluation.diagnosis import Pointing, pointing, same_name
from steerseg.evaluation.results import Run, StageSeconds
from steerseg.evaluation.runner import clip_jobs
from steerseg.evaluation.stages import ClipJob, best_click
from steerseg.evaluation.tables import diagnosis_table, kinds_table, main_table
from steerseg.evaluation.truth import Palette
from steerseg.grounding import GroundingMaps
from steerseg.soft_prompts import SoftPrompts

RAW, COT, STEERSEG = MAIN[1], MAIN[2], MAIN[4]
MADE_BY = {"device": "a desk", "torch": "2"}


def make(identity: str, jf: float = 1.0, **changes: object) -> Result:
    video = identity.split("/")[0]
    result = Result(
        identity, video, "the dog", "motion", True, 9, jf, jf, 0.5, StageSeconds(1, 2, 0.1, 0.2, 0.3, 0.4)
    )
    return replace(result, **changes)  # type: ignore[arg-type]


def made_up_samples() -> list[Sample]:
    return [
        Sample(
            f"{video}/{k}",
            video,
            Path(video),
            ("00000",),
            6.0,
            "the dog",
            Palette(Path(video), ("00000",), (1,)),
        )
        for video in ("a", "b")
        for k in range(2)
    ]


def runs(**changes: object) -> dict[str, Run]:
    fields: dict[str, object] = {"preset": "p", "samples": 4, **changes}
    return {v.name: Run.model_validate({"variant": v.name, **fields}) for v in (RAW, COT)}


class Recorder:
    """Does jobs without models and notes them; may stop after a number of clips."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.jobs: list[ClipJob] = []

    def __call__(self, jobs: Sequence[ClipJob]) -> Iterator[list[tuple[str, Result]]]:
        for job in jobs:
            if self.stop is not None and len(self.jobs) == self.stop:
                raise KeyboardInterrupt
            self.jobs.append(job)
            yield [(variant.name, make(sample.id)) for sample, variants in job.wanted for variant in variants]


def test_clips_are_taken_whole_and_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    def go(variants: Sequence[object], work: Recorder, **changes: object) -> dict[str, VariantResults]:
        return evaluate(
            made_up_samples(),
            variants,
            runs(**changes),
            tmp_path,
            work=work,
            made_by=MADE_BY,  # type: ignore[arg-type]
        )

    with pytest.raises(KeyboardInterrupt):
        go((RAW, COT), Recorder(stop=1))
    again = Recorder()
    measured = go((RAW, COT), again)
    assert [[sample.id for sample, _ in job.wanted] for job in again.jobs] == [["b/0", "b/1"]]
    assert list(measured["raw"].results) == ["a/0", "a/1", "b/0", "b/1"]
    assert measured["raw"].made_by == (MADE_BY,)
    nothing = Recorder()
    assert go((RAW, COT), nothing) == measured
    assert not nothing.jobs
    with pytest.raises(ConfigError, match=r"other settings \(preset\)"):
        go((RAW, COT), Recorder(), preset="q")
    (tmp_path / "z-copied.jsonl").write_text('{"run": {"variant": "soft", "preset": "q"}, "made_by": {}}\n')
    with pytest.raises(
        ConfigError, match=r"copied.jsonl holds results of other settings \(preset, samples\)"
    ):
        ResultFolder(tmp_path).read()


def test_expressions_with_other_frames_of_a_clip_are_measured_apart() -> None:
    first, second, *_ = made_up_samples()
    whole = replace(first, id="a/2", frames=("00000", "00001"))
    (one, two) = clip_jobs([first, whole, second], (RAW,), {"raw": set()})
    assert [[sample.id for sample, _ in job.wanted] for job in (one, two)] == [["a/0", "a/1"], ["a/2"]]


def test_no_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no samples"):
        evaluate([], [RAW], {}, tmp_path, work=Recorder(), made_by=MADE_BY)


def test_damage_inside_a_file_is_told_and_a_half_written_end_is_not(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    for identity in ("a/0", "b/0"):
        folder.append(runs()["raw"], MADE_BY, make(identity, pointing=Pointing(0.5, None, 1.0, True)))
    folder.close()
    (path,) = tmp_path.iterdir()
    whole = path.read_text()
    assert ResultFolder(tmp_path).read()["raw"].results["a/0"].pointing == Pointing(0.5, None, 1.0, True)
    path.write_text(whole[:-30])
    assert list(ResultFolder(tmp_path).read()["raw"].results) == ["a/0"]
    path.write_text(whole.replace('"id": "a/0"', '"id": "a/0'))
    with pytest.raises(ConfigError, match="line 2, is damaged"):
        ResultFolder(tmp_path).read()


def test_variants_that_lack_prompts_are_left_out_or_refused() -> None:
    prompts = SoftPrompts(torch.zeros(2, 4), torch.zeros(2, 4))
    usual = {"compare": True, "ablations": True, "others": {}}
    chosen, left_out = choose_variants(None, own=prompts, **usual)  # type: ignore[arg-type]
    assert [v.name for v in chosen] == [v.name for v in (*MAIN, *ABLATIONS)]
    assert not left_out
    assert {v.name: v.soft_prompts is not None for v in chosen[:5]} == {
        "click": False, "raw": False, "cot": False, "soft": True, "steerseg": True
    }  # fmt: skip
    chosen, left_out = choose_variants(None, own=None, **usual)  # type: ignore[arg-type]
    assert [v.name for v in chosen] == ["click", "raw", "cot"]
    assert left_out[:2] == ["soft", "steerseg"]
    others = {"compare": False, "ablations": False, "others": {"tokens-2": prompts}}
    assert [v.name for v in choose_variants(None, own=None, **others)[0]] == ["cot", "tokens-2"]  # type: ignore[arg-type]
    assert [v.name for v in choose_variants(["raw"], own=None, **others)[0]] == ["raw", "tokens-2"]  # type: ignore[arg-type]
    for names, message in ((["best"], "unknown variant"), (["soft"], "needs soft prompts")):
        with pytest.raises(ConfigError, match=message):
            choose_variants(names, own=None, **usual)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="another name"):
        choose_variants(None, own=None, compare=True, ablations=False, others={"raw": prompts})


def test_a_paired_gain_refuses_different_samples() -> None:
    results = [make("a/0", 0.9), make("b/0", 0.7)]
    assert mean_of(results).mean == pytest.approx(0.8)
    assert paired_gain(results, [make("a/0", 0.5), make("b/0", 0.3)]).low == pytest.approx(0.4)
    with pytest.raises(ValueError, match="same samples"):
        paired_gain(results, results[:1])


def test_tables_pair_gains_and_cross_what_is_named_with_where_attention_lies() -> None:
    def row(hits: Sequence[bool], named: Sequence[bool]) -> list[Result]:
        return [
            make(f"{i}/0", float(hit), named=name, pointing=Pointing(1.0, 0.5, 0.25, hit))
            for i, (hit, name) in enumerate(zip(hits, named, strict=True))
        ]

    rows = {
        "raw": row([True, False, False, False], [True, True, True, False]),
        "steerseg": row([True, True, False, True], [True] * 4),
    }
    table = main_table(rows)
    assert "| raw attention | 4 | 0.250 [" in table
    assert "| +0.500 [" in table
    assert "| 4.00, 1.00 |" in table  # three seconds once a clip
    assert "| namesake, told apart by motion or place | 4 |" in kinds_table(rows)
    diagnosis = diagnosis_table(rows)
    assert "names the right object in 3 (75%)" in diagnosis
    assert diagnosis.count("| 1 | **1** | 0 | 1 | 50% |") == 2
    assert "| highest cell on the target, video map | 0.500 | 0.500 |" in diagnosis
    assert diagnosis_table({"click": rows["raw"][:0]}) == ""


def test_pointing_asks_for_the_highest_cells_centre() -> None:
    truth = np.zeros((4, 40, 60), dtype=bool)
    truth[0, 10:20, 20:30] = truth[2, 10:20, 20:30] = True  # frame 3 has no target
    frame = torch.zeros(3, 4, 6)
    frame[:, 1, 2] = 1  # its centre lies on the target of frames 0 and 2
    frame[1, 1, 2], frame[1, 0, 0] = 0.0, 1.0
    video = torch.zeros(2, 2, 3)
    video[0, 0, 1] = 1  # the centre (30, 10) is just beside the target
    video[1, 0, 0] = 1
    fused = frame.clone()
    fused[1, 0, 0] = 2
    found = pointing(GroundingMaps((0, 2, 3), frame, video, fused), truth)
    assert found == Pointing(frame=0.5, video=0.0, fused=0.5, peak=False)
    hidden = pointing(GroundingMaps((0, 2, 3), frame, None, fused), truth & False)
    assert hidden == Pointing(None, None, None, None)


@pytest.mark.parametrize(
    ("answer", "same"), [("Dog.", True), ("the dog", True), ("hot dog", False), ("", False)]
)
def test_names_are_compared_without_case_and_article(answer: str, same: bool) -> None:
    assert same_name(answer, "dog") is same


def test_the_best_click_is_far_from_every_border() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[0:21, 0:21] = True
    mask[10, 20:60] = True  # a thin arm draws a centre of mass aside
    x, y = best_click(mask)
    assert (x * 60, y * 40) == pytest.approx((10.5, 10.5), abs=1.01)


def test_a_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    assert fingerprint("some/hub-id") == fingerprint(tmp_path) == ""
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * 100)
    before = fingerprint(tmp_path)
    weights.write_bytes(b"a" * 99 + b"b")
    assert before != fingerprint(tmp_path) != ""
