"""Boxes stand on the frame that the player shows: a real browser reads the frame's number from its pixels."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from ml_backend.corrections.comparison import frames_by_index
from ml_backend.corrections.records import DecidedFrame
from ml_backend.label_studio.controls import DEFAULT_FRAME_RATE
from ml_backend.label_studio.frame_numbers import FrameNumbers
from ml_backend.label_studio.keyframes import interpolate
from ml_backend.label_studio.regions import MaskTrack, tracklet_to_video_region
from steerseg.masks import encode_rle
from steerseg.video import load_video
from steerseg.video.player import read_timeline
from tests.support.counted_videos import BITS, HEIGHT, KINDS, WIDTH, CountedVideo, number_of
from tests.support.video_sides import video_side

_SHOWN = """async ([content, rate, length, bits]) => {
    // As Label Studio's player goes to each of its numbers, with its precision of 2 ms.
    const video = document.createElement("video");
    video.muted = true;
    video.src = URL.createObjectURL(new Blob([Uint8Array.from(atob(content), c => c.charCodeAt(0))]));
    await new Promise((loaded, failed) => {
        video.onloadeddata = loaded;
        video.onerror = () => failed(new Error(video.error.message));
    });
    const duration = video.duration;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    const context = canvas.getContext("2d", {willReadFrequently: true});
    const read = () => {
        context.drawImage(video, 0, 0);
        let number = 0;
        for (let bit = 0; bit < bits; bit++) {
            const x = Math.round((bit + 0.5) * canvas.width / bits);
            const [r, g, b] = context.getImageData(x, canvas.height >> 1, 1, 1).data;
            number |= ((r + g + b) / 3 > 127) << bit;
        }
        return number;
    };
    const shown = [];
    for (let number = 0; number < length; number++) {
        const time = Math.round(number / rate / 0.002) * 0.002 + 0.002;
        await new Promise(done => { video.onseeked = done; video.currentTime = time; });
        let before = -1, now = read();  // the picture may come after the event
        for (let same = 0; same < 2; same = before === now ? same + 1 : 0) {
            before = now;
            await new Promise(done => requestAnimationFrame(() => setTimeout(done, 40)));
            now = read();
        }
        shown.push(now);
    }
    return {duration, shown};
}"""


def written(kind: CountedVideo, folder: Path) -> tuple[Path, FrameNumbers]:
    path = kind.write(folder)
    return path, FrameNumbers.of(read_timeline(path), kind.rate or DEFAULT_FRAME_RATE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_player_shows_the_frame_that_a_number_means(
    kind: CountedVideo, browser: Browser, tmp_path: Path
) -> None:
    path, numbers = written(kind, tmp_path)
    content = base64.b64encode(path.read_bytes()).decode()
    page = browser.new_page()
    answer = page.evaluate(_SHOWN, [content, numbers.rate, numbers.reachable, BITS])
    page.close()
    assert answer["shown"] == numbers.shown[: numbers.reachable].tolist()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_boxes_go_out_and_come_back_on_the_same_frames(kind: CountedVideo, tmp_path: Path) -> None:
    """A box in each frame at a position of its own, so that a wrong frame is a wrong box."""
    path, numbers = written(kind, tmp_path)
    video = load_video(path)
    assert [number_of(frame) for frame in video.frames] == list(range(len(video)))
    assert len(video) == numbers.frames
    left = [(7 * t) % (WIDTH - 10) for t in range(len(video))]
    masks = np.zeros((len(video), HEIGHT, WIDTH), dtype=bool)
    for mask, x in zip(masks, left, strict=True):
        mask[5:25, x : x + 10] = True
    track = MaskTrack(tuple(encode_rle(mask) for mask in masks), np.ones(len(video), np.float32))
    (region,) = tracklet_to_video_region(
        track, video_side(), instance_id="t1", expression="it", numbers=numbers, tolerance=0.0
    )
    sequence = region["value"]["sequence"]
    boxes = interpolate(sequence, region["value"]["framesCount"])
    for number, index in enumerate(numbers.shown):
        assert boxes[number, 0] * WIDTH == pytest.approx(left[index], abs=0.01)
    drawn = {
        number: DecidedFrame(rle=None, boxes=((*boxes[number],),))  # type: ignore[arg-type]
        for number in range(len(boxes))
    }
    back = frames_by_index(drawn, numbers)
    assert sorted(back) == sorted(set(numbers.shown.tolist()))
    for index, frame in back.items():
        assert frame.boxes[0][0] * WIDTH == pytest.approx(left[index], abs=0.01)


def test_frames_that_the_player_never_shows_are_told_of(tmp_path: Path) -> None:
    kinds = {kind.name: kind for kind in KINDS}
    for name in ("plain-12.mp4", "no-rate-given-12.mp4", "variable-no-rate.mp4", "vp9.webm", "av1.mp4"):
        assert written(kinds[name], tmp_path)[1].describe_hidden() == ""
    assert written(kinds["plain-12.mp4"], tmp_path)[1].is_plain
    for name in ("late.mp4", "sixty-no-rate.mp4", "fragmented-late.mp4"):
        message = written(kinds[name], tmp_path)[1].describe_hidden()
        assert "never shows" in message
        assert "steerseg-backend import" in message


def test_files_are_written_without_a_trace_in_the_process(tmp_path: Path) -> None:
    """An encoder that leaves this process in real time would starve the browser, and all tests that follow."""
    before = os.sched_getscheduler(0)
    for kind in KINDS:
        kind.write(tmp_path)
    assert os.sched_getscheduler(0) == before
