from pathlib import Path

from ml_backend.demo.__main__ import warnings_in
from ml_backend.demo.samples import RENDERED, SPLIT
from steerseg.demo.dataset import load_manifest, scene_of


def test_the_rendered_samples_are_short_clips_asked_for_in_different_ways() -> None:
    manifest = load_manifest(SPLIT)
    entries = {entry.video: entry for entry in manifest.clips}
    expressions = [entries[video].expressions[index] for _, video, index in RENDERED]
    assert [expression.name for expression in expressions] == [name for name, _, _ in RENDERED]
    assert len({expression.kind for expression in expressions}) == len(RENDERED)
    assert any(expression.twin for expression in expressions)
    assert all(scene_of(manifest, entries[video]).num_frames <= 60 for _, video, _ in RENDERED)


def test_a_start_with_warnings_is_none_that_went_well(tmp_path: Path) -> None:
    log = tmp_path / "backend.log"
    old = "2026-11-29 00:01:00 WARNING old\n"
    log.write_text(old + "2026-11-29 00:02:00 INFO fine\n2026-11-29 00:03:00 WARNING new\n", "utf-8")
    assert warnings_in(log, len(old)) == ["backend.log: 2026-11-29 00:03:00 WARNING new"]
