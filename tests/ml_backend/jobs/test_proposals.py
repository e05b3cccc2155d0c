"""Proposals as files."""

from __future__ import annotations

import errno
import os
import pickle
import pickletools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ml_backend.database.errors import StoreError
from ml_backend.database.tables import ProposalKey
from ml_backend.models.messages import ProposeRequest
from ml_backend.models.propose import stored_proposal
from ml_backend.models.reporter import SilentReporter
from ml_backend.proposals import ProposalFiles, StoredProposal
from steerseg.grounding import GroundingMaps
from steerseg.masks import encode_rle
from steerseg.points import PointPrompt
from steerseg.proposal import Proposal
from steerseg.tracking import Tracklet
from tests.support import proposal_targets

KEY = ProposalKey("digest", "the ball", "v1")


@pytest.fixture
def proposal() -> StoredProposal:
    request = ProposeRequest(media=Path("x"), expression="the ball", fps=None, alternatives=3)
    return proposal_targets.propose(request, SilentReporter())


def same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b)) if isinstance(a, np.ndarray) else bool(a == b)


def test_a_proposal_comes_back_as_it_was(tmp_path: Path, proposal: StoredProposal) -> None:
    files = ProposalFiles(tmp_path)
    path = files.save(KEY, proposal)
    assert files.save(KEY, proposal) == path
    back = files.load(path)
    for name in ("expression", "attributes", "maps", "points", "pts", "fps", "height", "width", "versions"):
        assert same(getattr(back, name), getattr(proposal, name)), name
    for stored, original in zip(back.tracklets, proposal.tracklets, strict=True):
        assert (stored.rles, stored.prompt, stored.score) == (original.rles, original.prompt, original.score)
        np.testing.assert_allclose(stored.frame_scores, original.frame_scores, atol=1e-5)
    assert [file.name for file in tmp_path.rglob(".new-*")] == []


def test_a_pipeline_proposal_becomes_plain_data_that_needs_no_torch() -> None:
    mask = np.zeros((4, 6), dtype=bool)
    mask[1:3, 2:4] = True
    point = PointPrompt(frame=0, x=0.5, y=0.5, value=1.0)
    original = Proposal(
        expression="the ball",
        attributes=("red",),
        tracklets=(Tracklet((encode_rle(mask),), np.ones(1, dtype=np.float32), point, 0.5),),
        maps=GroundingMaps((0,), torch.rand(1, 2, 3), None, torch.rand(1, 2, 3)),
        points=(point,),
        pts=np.zeros(1),
        fps=25.0,
        height=4,
        width=6,
        versions={"preset": "demo", "torch": torch.__version__},
    )
    stored = stored_proposal(original)
    assert asdict(stored.points[0]) == asdict(point)
    assert np.allclose(stored.maps.fused, original.maps.fused.numpy(), atol=1e-3)
    assert stored.maps.video is None
    assert stored.versions == {"preset": "demo", "torch": str(torch.__version__)}
    opcodes = pickletools.genops(pickle.dumps(stored, protocol=0))
    modules = {str(argument).split()[0] for opcode, argument, _ in opcodes if opcode.name == "GLOBAL"}
    assert "ml_backend.proposals" in modules
    assert not any(module.split(".")[0] == "torch" for module in modules), "the server would load torch"


def test_how_a_proposal_stands_goes_by_its_confidence_where_there_is_one(proposal: StoredProposal) -> None:
    best, second = (tracklet.score for tracklet in proposal.tracklets[:2])
    assert proposal.standing == (best, best - second)
    assert replace(proposal, tracklets=proposal.tracklets[:1]).standing == (best, None)
    assert replace(proposal, confidence=0.4).standing == (0.4, None)
    assert replace(proposal, confidence=0.4, refused=True).standing == (None, None)
    assert replace(proposal, tracklets=()).standing == (None, None)


def test_a_damaged_or_missing_file_is_an_error(tmp_path: Path, proposal: StoredProposal) -> None:
    files = ProposalFiles(tmp_path)
    path = files.save(KEY, proposal)
    content = (tmp_path / path).read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"x" * 100):
        (tmp_path / path).write_bytes(damaged)
        with pytest.raises(StoreError, match="made anew"):
            files.load(path)
    with pytest.raises(StoreError, match="made anew"):
        files.load("proposals/none.json.gz")


def test_a_full_disk_is_a_clear_error_and_leaves_the_old_file(
    tmp_path: Path, proposal: StoredProposal, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ProposalFiles(tmp_path)
    path = files.save(KEY, proposal)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        files.save(KEY, proposal)
    assert files.load(path).expression == "the ball"
    assert [file.name for file in tmp_path.rglob(".new-*")] == []
