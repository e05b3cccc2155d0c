"""Proposals on disk, from a small made-up proposal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from steerseg.errors import SteerSegError
from steerseg.output.drawing import RANK_COLOURS, draw_tracklets, heat_overlay
from steerseg.output.figure import maps_figure
from steerseg.output.proposal import SCHEMA, load_proposal, proposal_to_json, save_proposal
from steerseg.points import PointPrompt
from steerseg.presence.signals import Presence
from steerseg.proposal import Proposal
from steerseg.video import load_video

HEIGHT, WIDTH, COUNT = 45, 80, 12
MakeProposal = Callable[..., Proposal]


def test_everything_is_written_and_read_back(tmp_path: Path, make_proposal: MakeProposal) -> None:
    proposal = replace(make_proposal(), presence=Presence(0.8, confidence=0.7))
    proposal.save(tmp_path / "new" / "out")
    folder = tmp_path / "new" / "out"
    assert sorted(path.name for path in folder.iterdir()) == [
        "maps.png",
        "maps.safetensors",
        "masks",
        "overlay.mp4",
        "proposal.json",
    ]
    back = load_proposal(folder)
    assert back.expression == proposal.expression
    assert back.attributes == proposal.attributes
    assert back.versions == proposal.versions
    assert back.points == proposal.points
    assert back.presence == proposal.presence
    assert (back.fps, back.height, back.width) == (proposal.fps, HEIGHT, WIDTH)
    np.testing.assert_array_equal(back.pts, proposal.pts)
    for read, written in zip(back.tracklets, proposal.tracklets, strict=True):
        assert (read.rles, read.prompt, read.score) == (written.rles, written.prompt, written.score)
        np.testing.assert_allclose(read.frame_scores, written.frame_scores, atol=1e-6)
    assert back.maps.keyframes == proposal.maps.keyframes
    for name in ("frame", "video", "fused"):
        assert torch.equal(getattr(back.maps, name), getattr(proposal.maps, name))


def test_json_says_what_the_documentation_says(make_proposal: MakeProposal) -> None:
    proposal = make_proposal()
    data = json.loads(json.dumps(proposal_to_json(proposal, proposal.video)))
    assert data["schema"] == SCHEMA
    assert data["video"] == {
        "frames": COUNT,
        "width": WIDTH,
        "height": HEIGHT,
        "fps": 14.3,
        "pts": proposal.pts.tolist(),
        "source": "clip.mp4",
        "digest": "d1ge57",
        "stride": 1,
    }
    assert [item["rank"] for item in data["tracklets"]] == [1, 2]
    best = data["tracklets"][0]
    assert best["prompt"] == {"frame": 0, "x": 0.15, "y": 0.2, "value": 1.0}
    assert best["boxes"][0] == [4, 4, 16, 14]
    assert best["boxes"][5] is None
    assert len(best["boxes"]) == len(best["scores"]) == len(best["masks"]) == COUNT
    assert best["masks"][0]["size"] == [HEIGHT, WIDTH]


def test_masks_are_the_best_tracklet_black_and_white(tmp_path: Path, make_proposal: MakeProposal) -> None:
    proposal = make_proposal()
    proposal.save(tmp_path)
    names = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert names == [f"{i:05d}.png" for i in range(COUNT)]
    for index, name in enumerate(names):
        with Image.open(tmp_path / "masks" / name) as image:
            assert image.mode == "L"
            mask = np.asarray(image)
        np.testing.assert_array_equal(mask, proposal.best.masks[index] * np.uint8(255))


def test_overlay_plays_with_the_video_s_own_times_and_shows_the_object(
    tmp_path: Path, make_proposal: MakeProposal
) -> None:
    proposal = make_proposal()
    proposal.save(tmp_path)
    with av.open(str(tmp_path / "overlay.mp4")) as container:
        stream: Any = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    overlay = load_video(tmp_path / "overlay.mp4")
    np.testing.assert_allclose(overlay.pts, proposal.pts, atol=1e-4)
    shown = overlay.frames[0, 10, 12].astype(int)
    assert shown[2] - shown[0] > 40  # tinted with the blue of rank 1
    hidden = overlay.frames[5, 10, 30].astype(int)
    assert abs(hidden[2] - hidden[0]) < 25  # grey as before


def test_a_second_proposal_replaces_the_first(tmp_path: Path, make_proposal: MakeProposal) -> None:
    make_proposal().save(tmp_path)
    (tmp_path / "masks" / "my notes.txt").write_text("keep me")
    make_proposal(found=False).save(tmp_path)
    assert not (tmp_path / "overlay.mp4").exists()
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["my notes.txt"]
    assert (tmp_path / "maps.png").exists()
    back = load_proposal(tmp_path)
    assert back.tracklets == ()
    with pytest.raises(LookupError):
        _ = back.best


def test_without_a_video_there_are_no_pictures(tmp_path: Path, make_proposal: MakeProposal) -> None:
    save_proposal(make_proposal(video=None), tmp_path)
    assert (tmp_path / "proposal.json").exists()
    assert (tmp_path / "masks").is_dir()
    assert not (tmp_path / "maps.png").exists()
    assert not (tmp_path / "overlay.mp4").exists()


def test_the_video_must_be_the_proposal_s(tmp_path: Path, make_proposal: MakeProposal) -> None:
    proposal = make_proposal()
    assert proposal.video is not None
    other = replace(proposal.video, frames=proposal.video.frames[:-1])
    with pytest.raises(ValueError, match="proposal was made for"):
        save_proposal(proposal, tmp_path, video=other)


def test_unwritable_and_damaged_folders(tmp_path: Path, make_proposal: MakeProposal) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SteerSegError, match="cannot be written"):
        make_proposal().save(tmp_path / "file")
    with pytest.raises(SteerSegError, match="does not exist"):
        load_proposal(tmp_path / "nothing")
    make_proposal(video=None).save(tmp_path)
    path = tmp_path / "proposal.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"schema": 99}))
    with pytest.raises(SteerSegError, match="schema 99"):
        load_proposal(tmp_path)
    for damaged in ("{", "[]", json.dumps({"schema": SCHEMA})):
        path.write_text(damaged)
        with pytest.raises(SteerSegError, match="damaged proposal"):
            load_proposal(tmp_path)


# --- The figure --------------------------------------------------------------------------------------------


def texts(proposal: Proposal) -> list[str]:
    assert proposal.video is not None
    figure = maps_figure(proposal, proposal.video)
    return [text.get_text() for text in figure.texts]


def test_figure_tells_expression_attributes_frames_and_rows(make_proposal: MakeProposal) -> None:
    told = texts(make_proposal(keyframes=4))
    assert "“the upper square”" in told
    assert "attributes:  square  ·  upper  ·  moving right" in told
    assert "found on 10 of 12 frames, score 0.81, 1 alternative" in told
    for row in ("Keyframes", "Frame map", "Video map", "Points", "Winner"):
        assert row in told
    for frame in (0, 3, 7, 11):
        assert f"frame {frame}" in told
    assert "0.18 s" in told


def test_figure_has_at_most_eight_columns_and_the_winner_s_click_among_them(
    make_proposal: MakeProposal,
) -> None:
    proposal = make_proposal(keyframes=12)
    clicked = replace(proposal.best, prompt=PointPrompt(2, 0.5, 0.5, 1.0))
    told = texts(replace(proposal, tracklets=(clicked,)))
    assert sum(text.startswith("frame ") for text in told) == 8
    assert "frame 2" in told


def test_figure_leaves_out_the_granularity_that_was_not_used(make_proposal: MakeProposal) -> None:
    proposal = make_proposal()
    frames_only = replace(proposal, maps=replace(proposal.maps, video=None))
    assert "Video map" not in texts(frames_only)
    video_only = replace(proposal, maps=replace(proposal.maps, frame=None))
    assert "Frame map" not in texts(video_only)


def test_figure_of_difficult_texts_and_of_nothing_found(tmp_path: Path, make_proposal: MakeProposal) -> None:
    proposal = make_proposal(
        keyframes=1, found=False, expression="costs $5 \\frac{ or ^_ $ " * 30, attributes=("x" * 80,) * 8
    )
    proposal.save(tmp_path)
    told = texts(proposal)
    assert "nothing found" in told
    assert any(text.endswith("…”") for text in told)
    with Image.open(tmp_path / "maps.png") as image:
        assert image.width > 600


# --- Drawing -----------------------------------------------------------------------------------------------


def test_drawing_leaves_the_input_and_the_background_alone() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    masks = [np.zeros((HEIGHT, WIDTH), bool) for _ in range(2)]
    masks[0][4:18, 4:20] = True
    masks[1][28:42, 28:44] = True
    drawn = draw_tracklets(image, masks, tags=False)
    assert (image == 100).all()
    assert (drawn[40:, :20] == 100).all()
    assert (drawn[34, 36] == 100).all()  # inside an alternative: outlined, not filled
    assert np.abs(drawn[28, 34].astype(int) - RANK_COLOURS[1]).max() < 60
    assert (draw_tracklets(image, []) == 100).all()
    assert (draw_tracklets(image, [np.zeros((HEIGHT, WIDTH), bool)]) == 100).all()


def test_tags_stay_inside_small_pictures() -> None:
    image = np.zeros((20, 24, 3), np.uint8)
    mask = np.zeros((20, 24), bool)
    mask[:2, 20:] = True
    drawn = draw_tracklets(image, [mask, mask[::-1, ::-1]])
    assert drawn.shape == image.shape
    assert drawn.any()


def test_heat_grows_with_the_map() -> None:
    image = np.full((40, 60, 3), 128, np.uint8)
    ramp = np.tile(np.linspace(0, 1, 6, dtype=np.float32), (4, 1))
    shown = heat_overlay(image, ramp)
    brightness = shown[20].astype(int).sum(axis=1)
    assert brightness[-3] > brightness[2] + 100
    assert shown.dtype == np.uint8
