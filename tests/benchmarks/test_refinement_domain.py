"""The team's world: its word is used as any noun is, and smaller sets are the beginnings of larger ones."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.refinement.domain import Convention, Domain
from steerseg.demo.dataset import Manifest, scene_of
from steerseg.demo.sprites import load_catalogue
from steerseg.errors import ConfigError

DOMAIN = Domain(share=0.5)


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return DOMAIN.work(seed=1, count=20)


def test_every_other_task_uses_the_word_and_means_one_of_its_objects(manifest: Manifest) -> None:
    catalogue = load_catalogue(DOMAIN.world.styles)
    meant = DOMAIN.convention.objects(catalogue)
    assert {"bus", "airplane", "canoe"} <= meant
    assert "dog" not in meant
    own = [clip for clip in manifest.clips if "rig" in clip.expressions[0].text.split()]
    assert len(own) == len(manifest.clips) // 2
    for clip in manifest.clips:
        (expression,) = clip.expressions
        scene = scene_of(manifest, clip)
        (target,) = expression.targets
        assert catalogue.names[scene.sprite[target]] == expression.name
        assert (expression.kind == "rig") == (expression.name in meant) == (clip in own)


def test_a_project_about_one_kind_of_thing_uses_the_word_in_every_task() -> None:
    manifest = Domain().work(seed=1, count=6)
    assert all("rig" in clip.expressions[0].text.split() for clip in manifest.clips)


def test_fewer_tasks_are_the_first_of_more(manifest: Manifest) -> None:
    assert DOMAIN.work(seed=1, count=7).clips == manifest.clips[:7]


def test_seeds_and_held_out_tasks_share_no_scene(manifest: Manifest) -> None:
    others = (DOMAIN.work(seed=2, count=20), DOMAIN.held_out(20))
    seeds = [{clip.seed for clip in part.clips} for part in (manifest, *others)]
    assert len(set.union(*seeds)) == 60
    backgrounds = [scene_of(part, part.clips[0]).background.colours for part in (manifest, *others)]
    assert not np.allclose(backgrounds[0], backgrounds[1])
    assert not np.allclose(backgrounds[0], backgrounds[2])


@pytest.mark.parametrize("word", ["bus", "thing", "two words", ""])
def test_a_word_that_the_demo_knows_proves_nothing(word: str) -> None:
    with pytest.raises(ConfigError, match="the team's word cannot be"):
        Convention(word)


def test_a_group_that_nobody_has_a_noun_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="no group is called 'nothing'; there are aircraft, animal"):
        Convention("rig", "nothing")
