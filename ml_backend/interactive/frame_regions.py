"""Instances as regions on the pages of a task, and on the video beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ml_backend.interactive.answer import Call, texts_beside
from ml_backend.interactive.mask_regions import MaskRegions
from ml_backend.interactive.state import InstanceState, mask_digest
from ml_backend.label_studio.controls import FramesSide
from ml_backend.label_studio.frame_numbers import numbers_beside_pages
from ml_backend.label_studio.regions import MaskTrack, tracklet_to_frames_regions, tracklet_to_video_region
from ml_backend.label_studio.results import Result, instance_id
from ml_backend.label_studio.task_media import page_stride
from steerseg.masks import RLE


class InstanceRegions:
    """Writes the answered masks of an instance as regions that replace those on the pages.

    Args:
        call: The call.
        side: The frames side of the project.
        draft: The draft beside the call, if there is one.
        is_current: Whether the draft is younger than the last answer.
    """

    def __init__(self, call: Call, side: FramesSide, draft: MaskRegions | None, *, is_current: bool) -> None:
        self._call = call
        self._side = side
        self._draft = MaskRegions() if draft is None else draft
        self._is_current = is_current

    def write(
        self, instance: InstanceState, masks: tuple[RLE, ...], scores: tuple[float, ...]
    ) -> list[Result]:
        """Write the regions of one instance; painted pages get none.

        Args:
            instance: The instance, with its answer before.
            masks: One mask per page.
            scores: The certainty of each mask, in [0, 1].
        """
        drawn = self._draft.instances.get(instance.index, {})
        track = MaskTrack(masks, np.asarray(scores, dtype=np.float32))
        regions = tracklet_to_frames_regions(
            track,
            self._side,
            instance_id=instance_id(self._call.task.id, "", instance.index),
            expression=instance.expression or instance.label,
            attributes=instance.attributes,
            label=instance.label,
            skipped_pages=self._unchanged_pages(instance, drawn, masks) | instance.own_pages,
            blank_pages=instance.visible_pages | drawn.keys(),
        )
        return regions + self._video_regions(instance, track)

    def _unchanged_pages(
        self, instance: InstanceState, drawn: Mapping[int, RLE], masks: Sequence[RLE]
    ) -> set[int]:
        """Pages of a current draft that show the answer already: sent again, it would replace an unsaved stroke."""
        noted = self._draft.labels.get(instance.index), self._draft.expressions.get(instance.index)
        if not self._is_current or noted != (instance.label, instance.expression or instance.label):
            return set()
        return {
            page
            for page, mask in drawn.items()
            if page < len(masks) and mask_digest(masks[page]) == mask_digest(mask)
        }

    def _video_regions(self, instance: InstanceState, track: MaskTrack) -> list[Result]:
        """The same track as boxes on the video, where the task has one beside its pages."""
        video, task = self._call.video, self._call.task
        if video is None or not track.rles:
            return []
        stride = page_stride(task.data)
        name = instance_id(task.id, "", instance.index)
        results = () if task.draft is None else task.draft.results
        return tracklet_to_video_region(
            track,
            video,
            instance_id=name,
            expression=instance.expression or instance.label,
            attributes=instance.attributes,
            numbers=numbers_beside_pages(video, task.data, len(track.rles), stride),
            label=instance.label if instance.label in video.labels else None,
            frames=range(0, len(track.rles) * stride, stride),
            region_texts=texts_beside(results, video.task.region_text, name),
        )
