"""Masks and box tracks keep their shape on the way into Label Studio's format and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.label_interface import LabelInterface
from numpy.typing import NDArray
from playwright.sync_api import Browser

from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import FramesSide, VideoSide
from ml_backend.label_studio.frame_numbers import FrameNumbers
from ml_backend.label_studio.keyframes import Keyframe, interpolate, thin_keyframes
from ml_backend.label_studio.outlines import mask_to_outlines, outlines_to_mask
from ml_backend.label_studio.region_masks import RegionError, masks_by_page, page_masks, track_boxes
from ml_backend.label_studio.regions import tracklet_to_frames_regions, tracklet_to_video_region
from ml_backend.label_studio.results import instance_id, region_note, status_result
from steerseg.masks import encode_rle, iou, mask_box
from steerseg.points import PointPrompt
from steerseg.tracking import Tracklet
from tests.support.annotator import decoded_pages

FIXTURES = Path(__file__).parents[2] / "fixtures" / "label-studio-1.23.2"

MASK_TAGS = {
    "brush": '<BrushLabels name="m" toName="f"><Label value="object"/><Label value="dog"/></BrushLabels>',
    "bitmask": '<BitmaskLabels name="m" toName="f"><Label value="object"/></BitmaskLabels>',
    "polygon": '<PolygonLabels name="m" toName="f"><Label value="object"/></PolygonLabels>',
    "vector": '<VectorLabels name="m" toName="f"><Label value="object"/></VectorLabels>',
    "brush pair": '<Brush name="m" toName="f"/><Labels name="l" toName="f"><Label value="object"/></Labels>',
    "polygon pair": '<Polygon name="m" toName="f"/>'
    '<Labels name="l" toName="f"><Label value="object"/></Labels>',
}

VIDEO_CONFIG = """<View><Video name="v" value="$video" frameRate="$fps"/>
<VideoRectangle name="box" toName="v"/>
<Labels name="lab" toName="v"><Label value="object"/><Label value="dog"/></Labels>
<TextArea name="per" toName="v" perRegion="true"/><TextArea name="status" toName="v"/></View>"""


def frames_config(tag: str) -> str:
    return f'<View><Image name="f" valueList="$frames"/>{MASK_TAGS[tag]}</View>'


def frames_side(tag: str) -> FramesSide:
    side = parse_controls(frames_config(tag)).frames
    assert side is not None
    return side


def video_side() -> VideoSide:
    side = parse_controls(VIDEO_CONFIG).video
    assert side is not None
    return side


def tracklet(masks: NDArray[np.bool_]) -> Tracklet:
    return Tracklet(
        rles=tuple(encode_rle(mask) for mask in masks),
        frame_scores=np.linspace(0.5, 1.0, len(masks), dtype=np.float32),
        prompt=PointPrompt(frame=0, x=0.5, y=0.5, value=1.0),
        score=0.6,
    )


def blobs() -> NDArray[np.bool_]:
    """Four pages: a disc, nothing, a ring, and two parts of different size."""
    rows, columns = np.mgrid[:90, :160]
    disc = (rows - 40) ** 2 + (columns - 70) ** 2 < 30**2
    ring = disc & ((rows - 40) ** 2 + (columns - 70) ** 2 > 12**2)
    parts = ((rows - 20) ** 2 + (columns - 30) ** 2 < 15**2) | (
        (rows > 60) & (columns > 100) & (columns < 130)
    )
    return np.stack([disc, np.zeros_like(disc), ring, parts])


@pytest.mark.parametrize("tag", MASK_TAGS)
def test_masks_survive_the_way_out_and_back(tag: str) -> None:
    masks = blobs()
    results = tracklet_to_frames_regions(
        tracklet(masks), frames_side(tag), instance_id="t1-a", expression="it", attributes=("a", "b")
    )
    results = json.loads(json.dumps(results))
    assert (
        LabelInterface(frames_config(tag)).validate_prediction({"result": results}, return_errors=True) == []
    )
    pages = decoded_pages(results)
    assert sorted(pages) == [0, 2, 3], "an empty mask gives no region"
    for page, mask in pages.items():
        assert mask.shape == masks[page].shape
        loss = 1 - iou(mask, masks[page])
        assert loss == 0 if tag.startswith(("brush", "bitmask")) else loss <= 0.01
    assert {item.labels for item in page_masks(results)} == {("object",)}
    assert all(r["meta"]["text"] == ["it", " — attributes: a, b"] for r in results)
    assert all((r["original_width"], r["original_height"]) == (160, 90) for r in results)


def test_region_ids_are_stable_and_distinct() -> None:
    make = lambda: tracklet_to_frames_regions(  # noqa: E731
        tracklet(blobs()), frames_side("polygon"), instance_id=instance_id(7, "it", 0), expression="it"
    )
    first, second = make(), make()
    assert first == second
    ids = [result["id"] for result in first]
    assert len(set(ids)) == len(ids) == 4, "two parts are two regions of one page"
    assert instance_id(7, "it", 0) != instance_id(7, "it", 1) != instance_id(8, "it", 1)


def test_pair_results_share_their_id() -> None:
    results = tracklet_to_frames_regions(
        tracklet(blobs()[:1]), frames_side("brush pair"), instance_id="o", expression="it"
    )
    assert [(r["type"], r["from_name"], r["id"]) for r in results] == [
        ("brush", "m", "o-f0"),
        ("labels", "l", "o-f0"),
    ]


def test_the_label_follows_the_expression() -> None:
    results = tracklet_to_frames_regions(
        tracklet(blobs()), frames_side("brush"), instance_id="o", expression="the Dog"
    )
    assert results[0]["value"]["brushlabels"] == ["dog"]
    assert results[0]["score"] == 0.5


def test_pages_can_be_a_selection() -> None:
    results = tracklet_to_frames_regions(
        tracklet(blobs()), frames_side("brush"), instance_id="o", expression="it", pages=[0, 3, 6, 9]
    )
    assert [result["item_index"] for result in results] == [0, 6, 9]


def test_nothing_visible_gives_no_results() -> None:
    nothing = tracklet(np.zeros((3, 20, 30), dtype=bool))
    assert tracklet_to_frames_regions(nothing, frames_side("brush"), instance_id="o", expression="it") == []
    assert (
        tracklet_to_video_region(
            nothing, video_side(), instance_id="o", expression="it", numbers=FrameNumbers.constant(3, 25)
        )
        == []
    )


@given(arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24))))
@settings(max_examples=150, deadline=None)
def test_outlines_lose_at_most_one_percent(mask: NDArray[np.bool_]) -> None:
    outlines = mask_to_outlines(mask)
    assert bool(outlines) == bool(mask.any())
    assert iou(outlines_to_mask(outlines, *mask.shape), mask) >= 0.99


def test_outlines_of_large_masks_are_short() -> None:
    rows, columns = np.mgrid[:720, :1280]
    disc = (rows - 300) ** 2 + (columns - 600) ** 2 < 200**2
    (outline,) = mask_to_outlines(disc)
    assert len(outline) < 60


boxes_strategy = st.lists(
    st.one_of(
        st.none(),
        st.tuples(*[st.floats(0, 0.5)] * 2, *[st.floats(0.01, 0.5)] * 2),
    ),
    max_size=60,
)


@given(boxes_strategy, st.sampled_from([0.0, 0.02, 0.2]))
@settings(max_examples=200, deadline=None)
def test_thinned_tracks_stay_within_the_tolerance(
    track: list[tuple[float, ...] | None], tolerance: float
) -> None:
    boxes = np.array([(np.nan,) * 4 if box is None else box for box in track]).reshape(-1, 4)
    keyframes = thin_keyframes(boxes, tolerance)
    sequence = [
        {"frame": k.index + 1, "enabled": k.enabled}
        | dict(zip(("x", "y", "width", "height"), boxes[k.index] * 100, strict=True))
        for k in keyframes
    ]
    back = interpolate(sequence, len(boxes))[:, :4]
    assert np.array_equal(np.isnan(back), np.isnan(boxes)), "visible in exactly the same frames"
    assert np.nanmax(np.abs(back - boxes), initial=0) <= tolerance + 1e-9


def test_straight_motion_needs_two_keyframes() -> None:
    boxes = np.linspace((0.0, 0.1, 0.2, 0.2), (0.5, 0.2, 0.3, 0.1), 200)
    assert thin_keyframes(boxes) == [Keyframe(0, True), Keyframe(199, True)]


def test_stretches_end_with_a_disabled_keyframe() -> None:
    boxes = np.tile((0.1, 0.1, 0.2, 0.2), (9, 1))
    boxes[[0, 4, 6, 8]] = np.nan
    assert thin_keyframes(boxes) == [
        Keyframe(1, True),
        Keyframe(3, False),
        Keyframe(5, False),
        Keyframe(7, False),
    ]


def moving_square(count: int = 40) -> NDArray[np.bool_]:
    masks = np.zeros((count, 90, 160), dtype=bool)
    for t in range(count):
        if t in (0, 20, 21):
            continue
        x = int(60 + 50 * np.sin(t / 6))
        masks[t, 20 + t // 2 : 50 + t // 2, x : x + 20 + t // 3] = True
    return masks


def test_video_track_within_two_percent_and_lifespans() -> None:
    masks = moving_square()
    (result,) = tracklet_to_video_region(
        tracklet(masks),
        video_side(),
        instance_id="t1-a",
        expression="the dog",
        numbers=FrameNumbers.constant(41, 20),
    )
    result = json.loads(json.dumps(result))
    assert LabelInterface(VIDEO_CONFIG).validate_prediction({"result": [result]}, return_errors=True) == []
    value = result["value"]
    assert (value["framesCount"], value["duration"], value["labels"]) == (41, 2.05, ["dog"])
    assert value["sequence"][0]["frame"] == 2, "frames count from 1"
    assert value["sequence"][-1]["enabled"] is False, "the masks end before the video"
    assert len(value["sequence"]) < 25
    boxes = track_boxes(result)
    assert boxes.shape == (41, 5)
    for t, mask in enumerate(masks):
        box = mask_box(mask)
        if box is None:
            assert np.isnan(boxes[t]).all()
        else:
            assert np.abs(boxes[t, :4] - np.array(box) / (160, 90, 160, 90)).max() <= 0.02
    assert np.isnan(boxes[40]).all()


def test_video_track_of_every_second_frame() -> None:
    masks = moving_square()[::2]
    (result,) = tracklet_to_video_region(
        tracklet(masks),
        video_side(),
        instance_id="o",
        expression="it",
        numbers=FrameNumbers.constant(40, 20),
        frames=range(0, 40, 2),
    )
    assert {keyframe["frame"] % 2 for keyframe in result["value"]["sequence"]} == {1}
    assert result["value"]["framesCount"] == 40


def test_region_texts_are_echoed() -> None:
    results = tracklet_to_video_region(
        tracklet(moving_square()),
        video_side(),
        instance_id="o",
        expression="it",
        numbers=FrameNumbers.constant(40, 20),
        region_texts=["hi"],
    )
    track, text = results
    assert (text["type"], text["from_name"], text["id"]) == ("textarea", "per", "o")
    assert text["value"]["text"] == ["hi"]
    assert text["value"]["sequence"] == track["value"]["sequence"]
    assert "labels" not in text["value"]


def test_status_shows_only_where_the_config_has_a_place() -> None:
    result = status_result(video_side(), "busy")
    assert result is not None
    assert result["value"] == {"text": ["busy"]}
    assert LabelInterface(VIDEO_CONFIG).validate_prediction({"result": [result]})
    assert status_result(frames_side("brush"), "busy") is None


def test_note_has_the_expression_first() -> None:
    assert region_note("it") == ["it"]
    assert region_note("it", ["a"]) == ["it", " — attributes: a"]


def captured(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / name).read_text())["json"]


def test_captured_brush_annotation_is_read() -> None:
    masks = page_masks(captured("webhook_annotation_created_frames_brush.json")["annotation"]["result"])
    assert len(masks) == 12
    assert {item.mask.shape for item in masks} == {(360, 640)}
    assert all(item.mask.any() and item.control == "mask" for item in masks)
    assert sorted(masks_by_page(masks)) == list(range(12))


def test_captured_video_annotation_is_read() -> None:
    results = captured("webhook_annotation_created_video.json")["annotation"]["result"]
    tracks = [result for result in results if result["type"] == "videorectangle"]
    assert tracks
    for result in tracks:
        boxes = track_boxes(result)
        assert len(boxes) == result["value"]["framesCount"]
        assert np.isfinite(boxes).any()


@pytest.mark.parametrize(
    "value",
    [
        {"format": "rle", "rle": [0, 0, 0, 4]},
        {"format": "rle", "rle": [255, 255, 255, 255] * 4},
        {"format": "rle", "rle": ["x"]},
        {"format": "rle", "rle": [0, 0, 0, 96]},
        {},
    ],
)
def test_malformed_brush_regions_are_named(value: dict[str, Any]) -> None:
    region = {
        "id": "abc",
        "type": "brushlabels",
        "original_width": 6,
        "original_height": 4,
        "value": value,
    }
    with pytest.raises(RegionError, match="abc"):
        page_masks([region])


def test_malformed_other_regions_are_named() -> None:
    base = {"id": "abc", "original_width": 6, "original_height": 4}
    with pytest.raises(RegionError, match="abc"):
        page_masks([base | {"type": "bitmasklabels", "value": {"imageDataURL": "http://example.org/a.png"}}])
    with pytest.raises(RegionError, match="abc"):
        page_masks([base | {"type": "polygonlabels", "value": {"points": [[1, "x"]]}}])
    with pytest.raises(RegionError, match="pixels"):
        page_masks([base | {"type": "brushlabels", "original_width": 10**9, "value": {"rle": [0]}}])
    with pytest.raises(RegionError, match="track"):
        track_boxes({"id": "t", "value": {"framesCount": 3, "sequence": [{}]}})


@pytest.mark.parametrize(
    ("corners", "area"),
    [
        ([(50, 10), (50, 90), (-50, 50)], 38_880),
        ([(-40, 120), (-20, 120), (60, 20), (40, 20)], 16_200),
        ([(-2, 30), (30, -2), (40, 50)], 12_787),
    ],
    ids=["apex outside", "bar at a slant", "two percent outside"],
)
def test_a_polygon_beyond_the_picture_is_cut_at_its_edge(corners: list[tuple[int, int]], area: int) -> None:
    outline = np.array(corners, dtype=np.float64) * (480, 270) / 100
    assert outlines_to_mask([outline], 270, 480).sum() == pytest.approx(area, rel=0.01)


def test_a_polygon_wholly_outside_or_endless_fills_nothing_or_the_picture() -> None:
    outside = np.array([(-9.0, 1), (-1, 1), (-1, 9)])
    assert not outlines_to_mask([outside], 8, 8).any()
    endless = np.array([(-1e12, -1e12), (1e12, -1e12), (1e12, 1e12), (-1e12, 1e12)])
    assert outlines_to_mask([endless], 8, 8).all()


_FILLED = """corners => {
    const context = new OffscreenCanvas(60, 60).getContext("2d");
    context.beginPath();
    for (const [x, y] of corners) context.lineTo(x, y);
    context.fill();
    return Array.from(context.getImageData(0, 0, 60, 60).data).filter((_, i) => i % 4 === 3);
}"""
_STAR = [(30 + 28 * np.sin(0.8 * np.pi * i), 30 - 28 * np.cos(0.8 * np.pi * i)) for i in range(5)]
_BOW = [(4, 4), (56, 52), (56, 4), (4, 52)]
_LOOP = [(5, 5), (50, 5), (50, 50), (5, 50), (5, 5), (20, 15), (40, 15), (40, 40), (20, 40), (20, 15)]
_RING = [*_LOOP[:5], *reversed(_LOOP[5:])]


@pytest.mark.parametrize(
    ("corners", "inside", "outside"),
    [
        (_BOW, [(10, 28), (50, 28)], [(30, 8), (30, 48)]),
        (_STAR, [(30, 30), (30, 8)], [(10, 12), (30, 50)]),
        (_LOOP, [(30, 28), (10, 28)], [(55, 28)]),
        (_RING, [(10, 28)], [(30, 28), (55, 28)]),
    ],
    ids=["bow", "star", "twice round", "ring"],
)
def test_outlines_that_cross_themselves_are_filled_as_browsers_show_them(
    corners: list[tuple[float, float]], inside: list[tuple[int, int]], outside: list[tuple[int, int]]
) -> None:
    mask = outlines_to_mask([np.array(corners, dtype=float)], 60, 60)
    assert all(mask[y, x] for x, y in inside)
    assert not any(mask[y, x] for x, y in outside)
    backwards = outlines_to_mask([np.array(corners[::-1], dtype=float)], 60, 60)
    assert iou(mask, backwards) > 0.97


@pytest.mark.parametrize("corners", [_BOW, _STAR, _LOOP, _RING], ids=["bow", "star", "twice round", "ring"])
def test_a_browser_fills_outlines_that_cross_themselves_alike(
    browser: Browser, corners: list[tuple[float, float]]
) -> None:
    page = browser.new_page()
    shown = np.array(page.evaluate(_FILLED, [[float(x), float(y)] for x, y in corners])).reshape(60, 60)
    page.close()
    mask = outlines_to_mask([np.array(corners, dtype=float)], 60, 60)
    assert iou(mask, shown > 127) > 0.97


def test_holes_parts_and_specks_survive_outlines_that_keep_them() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[4:36, 4:36] = True
    mask[12:20, 12:20] = False
    mask[10, 50] = True
    kept = outlines_to_mask(mask_to_outlines(mask, keep_specks=True), 40, 60)
    assert kept[10, 50]
    assert not kept[14, 14]
    assert not outlines_to_mask(mask_to_outlines(mask), 40, 60)[10, 50]
