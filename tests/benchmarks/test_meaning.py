"""What the benchmark of meaning asks about."""

from benchmarks.meaning.wordings import clips_of, clips_read_otherwise, load_wordings
from steerseg.demo.dataset import load_manifest


def test_the_free_wordings_are_of_clips_of_their_split() -> None:
    wordings = load_wordings("measured")
    manifest = load_manifest(wordings.split)
    chosen = clips_of(wordings, manifest, len(manifest.clips))
    assert {entry.video for entry in chosen} == {one.video for one in wordings.wordings}
    assert len(clips_of(wordings, manifest, 3)) == 3


def test_readings_are_of_those_expressions_alone_that_plain_wording_changes() -> None:
    chosen = clips_read_otherwise(load_manifest("test"), 160)
    texts = [expression.text for entry in chosen for expression in entry.expressions]
    assert len(texts) == 103
    assert all(entry.expressions for entry in chosen)
