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
