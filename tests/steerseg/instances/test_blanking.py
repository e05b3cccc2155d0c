import torch

from steerseg.config import PipelineConfig
from steerseg.grounding import GroundingMaps, fuse
from steerseg.instances.blanking import POINTS, blank_out, further_points
from steerseg.points import point_prompts

CONFIG = PipelineConfig(point_threshold=0.5)


def maps_with_peaks(*peaks: tuple[int, int, float]) -> GroundingMaps:
    """Maps of two keyframes: frame grid 12 x 16, video grid 6 x 8, with (row, column, value) peaks on the former."""
    frame = torch.zeros(2, 12, 16)
    for row, column, value in peaks:
        for around_row in range(max(0, row - 1), row + 2):
            for around_column in range(max(0, column - 1), column + 2):
                frame[:, around_row, around_column] = 0.6 * value
        frame[:, row, column] = value
    video = frame[:1].view(1, 6, 2, 8, 2).amax(dim=(2, 4))
    return GroundingMaps((0, 10), frame, video, fuse(frame, video, 2, 2))


def masks_over(row: int, column: int) -> torch.Tensor:
    """(1, 2, 48, 64) masks of an object of three by three cells around a cell of the frame grid."""
    masks = torch.zeros(1, 2, 48, 64)
    masks[:, :, 4 * row - 4 : 4 * row + 8, 4 * column - 4 : 4 * column + 8] = 1.0
    return masks


def test_the_second_object_is_the_peak_once_the_first_is_blanked_out() -> None:
    maps = maps_with_peaks((3, 3, 1.0), (8, 12, 0.3))
    assert {(p.x, p.y) for p in point_prompts(maps, CONFIG)} == {(3.5 / 16, 3.5 / 12)}
    blanked = blank_out(maps, masks_over(3, 3), temporal_merge=2)
    for grid in (blanked.frame, blanked.video, blanked.fused):
        assert grid is not None
        assert float(grid.max()) == 1.0
        assert float(grid.min()) == 0.0
    assert float(blanked.fused[:, 2:5, 2:5].max()) == 0.0
    assert {(p.x, p.y) for p in further_points(maps, blanked, CONFIG)} == {(12.5 / 16, 8.5 / 12)}


def test_the_slope_beside_a_blanked_object_is_no_peak() -> None:
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="ij")
    hill = torch.exp(-((rows - 5) ** 2 + (columns - 5) ** 2) / 18).expand(2, 12, 16)
    maps = GroundingMaps((0, 10), hill, None, fuse(hill, None, 2, 2))
    blanked = blank_out(maps, masks_over(5, 5), temporal_merge=2)
    assert point_prompts(blanked, CONFIG)
    assert further_points(maps, blanked, CONFIG) == []


def test_maps_of_one_granularity_are_blanked_out_and_an_empty_mask_changes_nothing() -> None:
    maps = maps_with_peaks((3, 3, 1.0), (8, 12, 0.6))
    nothing = torch.zeros(1, 2, 48, 64)
    same = blank_out(maps, nothing, temporal_merge=2)
    assert torch.equal(same.fused, maps.fused)
    video_alone = GroundingMaps(maps.keyframes, None, maps.video, fuse(None, maps.video, 2, 2))
    blanked = blank_out(video_alone, masks_over(3, 3), temporal_merge=2)
    assert blanked.frame is None
    assert {(round(p.x, 1), round(p.y, 1)) for p in further_points(video_alone, blanked, CONFIG)} == {
        (0.8, 0.7)
    }


def test_all_objects_together_leave_no_point_and_a_keyframe_gives_few() -> None:
    maps = maps_with_peaks((3, 3, 1.0), (8, 12, 0.6))
    both = torch.cat([masks_over(3, 3), masks_over(8, 12)])
    assert further_points(maps, blank_out(maps, both, temporal_merge=2), CONFIG) == []
    many = maps_with_peaks(*((row, column, 0.9) for row in (1, 5, 9) for column in (1, 5, 9, 13)))
    blanked = blank_out(many, masks_over(1, 1), temporal_merge=2)
    assert len(further_points(many, blanked, CONFIG)) <= POINTS * 2
