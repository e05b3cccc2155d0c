"""Vector regions: curves are curves, and only a closed path is an area."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ml_backend.label_studio.outlines import outlines_to_mask
from ml_backend.label_studio.region_masks import RegionError, page_masks
from ml_backend.label_studio.vector_paths import vector_outline
from steerseg.masks import iou

Point = tuple[float, float]

_CIRCLE = 0.5522847498
"""Length of the handles of four Bézier points that make a circle of radius 1."""
_HANDLES = (("controlPoint1", -1), ("controlPoint2", 1))


def vertices(points: list[Point], *, ring: bool = False) -> list[dict[str, Any]]:
    """Plain points as Label Studio saves them; closing a path makes the last one come before the first."""
    before = [f"v{len(points) - 1}" if ring else None, *(f"v{i}" for i in range(len(points) - 1))]
    return [
        {"id": f"v{i}", "prevPointId": before[i], "isBezier": False, "x": x, "y": y}
        for i, (x, y) in enumerate(points)
    ]


def ellipse(
    centre: Point, radii: Point, angle: float = 0.0, page: tuple[int, int] = (100, 100)
) -> list[dict[str, Any]]:
    """An ellipse of four Bézier points.

    Args:
        centre: In pixels.
        radii: Likewise.
        angle: By which it is turned, in radians.
        page: Width and height.
    """
    cos, sin = np.cos(angle), np.sin(angle)

    def percent(x: float, y: float) -> dict[str, float]:
        x, y = x * radii[0], y * radii[1]
        return {
            "x": (centre[0] + cos * x - sin * y) * 100 / page[0],
            "y": (centre[1] + sin * x + cos * y) * 100 / page[1],
        }

    corners = [(0, -1), (1, 0), (0, 1), (-1, 0)]
    path = vertices([(0.0, 0.0)] * 4, ring=True)
    for vertex, (x, y) in zip(path, corners, strict=True):
        vertex |= {**percent(x, y), "isBezier": True}
        for name, sign in _HANDLES:
            vertex[name] = percent(x - sign * _CIRCLE * y, y + sign * _CIRCLE * x)
    return path


def region(path: list[dict[str, Any]], page: tuple[int, int] = (100, 100), **value: Any) -> dict[str, Any]:
    return {
        "id": "v",
        "type": "vectorlabels",
        "original_width": page[0],
        "original_height": page[1],
        "value": {"vertices": path, "closed": True, "vectorlabels": ["car"], **value},
    }


def mask_of(path: list[dict[str, Any]], page: tuple[int, int] = (100, 100)) -> NDArray[np.bool_]:
    (found,) = page_masks([region(path, page)])
    return found.mask


# --- curves


def test_four_bezier_points_are_a_circle() -> None:
    path = ellipse((50, 50), (30, 30))
    assert mask_of(path).sum() == pytest.approx(np.pi * 30**2, rel=0.01)
    assert mask_of([*path[2:], *path[:2]]).sum() == mask_of(path).sum(), "a path may begin anywhere"


@pytest.mark.parametrize("page", [(640, 360), (270, 480)])
@pytest.mark.parametrize("angle", [0.0, 0.5, 2.0])
def test_a_turned_ellipse_keeps_its_shape_on_pages_that_are_no_squares(
    page: tuple[int, int], angle: float
) -> None:
    centre, radii = (page[0] * 0.5, page[1] * 0.45), (100.0, 40.0)
    rows, columns = np.mgrid[: page[1], : page[0]] + 0.5
    x, y = columns - centre[0], rows - centre[1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    truth = (along / radii[0]) ** 2 + (across / radii[1]) ** 2 <= 1
    assert iou(mask_of(ellipse(centre, radii, angle, page), page), truth) >= 0.99


@pytest.mark.parametrize(("curved", "handle"), [(0, "controlPoint2"), (1, "controlPoint1")])
def test_a_stretch_with_one_bezier_end_has_its_other_handle_at_three_tenths(curved: int, handle: str) -> None:
    path = vertices([(10.0, 50.0), (90.0, 50.0), (90.0, 90.0), (10.0, 90.0)])
    path[curved] |= {"isBezier": True, "controlPoint1": None, "controlPoint2": None}
    path[curved][handle] = {"x": 50.0, "y": 10.0}
    ends, given, made = (10.0, 90.0), (50.0, 10.0), (34.0 if curved else 66.0, 50.0)
    controls = (made, given) if curved else (given, made)
    t = np.linspace(0, 1, 10_001)[:, None]
    bulge = (1 - t) ** 3 * np.array((ends[0], 50.0)) + t**3 * np.array((ends[1], 50.0))
    bulge = bulge + 3 * (1 - t) ** 2 * t * np.array(controls[0]) + 3 * (1 - t) * t**2 * np.array(controls[1])
    truth = outlines_to_mask([np.concatenate([bulge, [(90.0, 90.0), (10.0, 90.0)]])], 100, 100)
    assert iou(mask_of(path), truth) >= 0.995
    assert mask_of(path).sum() > 80 * 40 + 500


def test_handles_of_a_point_that_is_no_bezier_point_do_not_count() -> None:
    path = vertices([(10.0, 10.0), (60.0, 10.0), (60.0, 60.0), (10.0, 60.0)], ring=True)
    path[1] |= {"controlPoint1": {"x": 0, "y": 0}, "controlPoint2": {"x": 99, "y": 99}}
    assert mask_of(path).sum() == 50 * 50


def test_a_closed_path_whose_first_point_names_none_goes_straight_back() -> None:
    """Label Studio shows it like that: such is a path whose first point was deleted."""
    path = ellipse((50, 50), (30, 30))
    path[0]["prevPointId"] = None
    segment = (np.pi / 4 - 1 / 2) * 30**2
    assert mask_of(path).sum() == pytest.approx(np.pi * 30**2 - segment, rel=0.01)


@given(st.lists(st.tuples(*[st.floats(-50, 150)] * 6), min_size=2, max_size=8))
@settings(max_examples=100, deadline=None)
def test_pieces_stay_within_half_a_pixel_of_their_curve(points: list[tuple[float, ...]]) -> None:
    path = vertices([(x, y) for x, y, *_ in points], ring=True)
    for vertex, (_, _, *handles) in zip(path, points, strict=True):
        vertex |= {
            "isBezier": True,
            "controlPoint1": {"x": handles[0], "y": handles[1]},
            "controlPoint2": {"x": handles[2], "y": handles[3]},
        }
    outline = vector_outline({"vertices": path, "closed": True}, 720, 1280)
    begins, ends = outline, np.roll(outline, -1, axis=0)
    for before, after in zip(path, [*path[1:], path[0]], strict=True):
        stops = [before, before["controlPoint2"], after["controlPoint1"], after]
        a, b, c, d = (np.array((stop["x"], stop["y"])) * (1280, 720) / 100 for stop in stops)
        for t in np.linspace(0, 1, 23):
            point = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
            way = ends - begins
            length = np.maximum((way**2).sum(axis=1), 1e-12)
            along = np.clip(((point - begins) * way).sum(axis=1) / length, 0, 1)
            assert np.hypot(*(begins + along[:, None] * way - point).T).min() < 0.5


# --- areas


def test_plain_vectors_are_filled_as_polygons_are() -> None:
    corners = [(12.3, 20.1), (80.7, 25.5), (60.2, 77.7), (31.0, 60.9)]
    polygon = {"type": "polygonlabels", "value": {"points": corners, "polygonlabels": ["car"]}}
    for path in (vertices(corners), vertices(corners, ring=True), [{"x": x, "y": y} for x, y in corners]):
        vector, drawn = page_masks([region(path, (640, 360)), region(path, (640, 360)) | polygon])
        assert vector.rle == drawn.rle


def test_a_vector_far_beyond_the_page_is_cut_as_a_polygon_is() -> None:
    far = 1e306
    assert mask_of(vertices([(-far, -far), (far, -far), (far, far), (-far, far)])).all()


TRIANGLE: list[Point] = [(10.0, 10.0), (90.0, 10.0), (90.0, 90.0)]


@pytest.mark.parametrize("kind", ["vectorlabels", "vector"])
@pytest.mark.parametrize("closed", [False, None, "missing"])
@pytest.mark.parametrize("ring", [False, True])
def test_an_open_vector_is_no_area(kind: str, closed: object, ring: bool) -> None:
    drawn = region(vertices(TRIANGLE, ring=ring), closed=closed) | {"type": kind}
    if closed == "missing":
        del drawn["value"]["closed"]
    with pytest.raises(RegionError, match=r"'v' .*is no area: its path is open; expected .* Close the path"):
        page_masks([drawn])


@pytest.mark.parametrize("closed", [False, True])
def test_a_skeleton_that_branches_is_no_area(closed: bool) -> None:
    path = vertices([*TRIANGLE, (50.0, 90.0)])
    path[3]["prevPointId"] = "v1"
    with pytest.raises(RegionError, match=r"is no area: its path branches.* a polygon or with the brush"):
        page_masks([region(path, closed=closed)])


def test_a_path_in_several_parts_is_no_area() -> None:
    path = vertices([*TRIANGLE, (20.0, 60.0), (20.0, 90.0), (50.0, 90.0)])
    path[3]["prevPointId"] = "v5"
    with pytest.raises(RegionError, match="is no area: its path is in several parts"):
        page_masks([region(path)])


def test_the_path_and_not_the_list_says_what_follows_what() -> None:
    square = vertices([(10.0, 10.0), (60.0, 10.0), (60.0, 60.0), (10.0, 60.0)], ring=True)
    assert mask_of([square[i] for i in (2, 0, 3, 1)]).sum() == 50 * 50


# --- damaged


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"controlPoint2": {"x": float("nan"), "y": 1}}, "not numbers"),
        ({"controlPoint2": {"x": 1e12, "y": 1}}, "straight pieces"),
        ({"controlPoint2": {"x": 1e300, "y": -1e300}}, "straight pieces"),
        ({"controlPoint1": {"x": 1}}, "'y'"),
        ({"controlPoint1": 5}, "cannot be read"),
        ({"id": "v1"}, "one id"),
        ({"id": ["v"]}, "cannot be read"),
        ({"x": None}, "cannot be read"),
    ],
)
def test_malformed_vectors_are_named(change: dict[str, Any], part: str) -> None:
    path = ellipse((50, 50), (30, 30))
    path[0] |= change
    with pytest.raises(RegionError, match=part):
        page_masks([region(path)])
