import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from steerseg.demo.photos import VIEW, load_photos, photo_sources, photo_views
from steerseg.demo.scene import visible_fraction
from steerseg.demo.sprites import load_atlas, load_catalogue
from steerseg.demo.world import VARIED_SIZES, WorldSpec, collate, keyframes, render, sample_scene, unseen_pair

SPEC = WorldSpec(sizes=VARIED_SIZES, frames=(24, 40))


def scenes(count: int, spec: WorldSpec = SPEC) -> list:
    return [sample_scene(np.random.default_rng(seed), spec) for seed in range(count)]


def test_the_same_seed_gives_the_same_scene_and_it_pickles() -> None:
    first, again = scenes(1)[0], pickle.loads(pickle.dumps(scenes(1)[0]))
    assert np.array_equal(first.centre, again.centre)
    assert np.array_equal(first.sprite, again.sprite)
    assert np.array_equal(first.background.noise, again.background.noise)


def test_scenes_keep_to_their_spec() -> None:
    heldout = load_catalogue().heldout
    for scene in scenes(150):
        assert 2 <= scene.num_objects <= 5
        assert 24 <= scene.num_frames <= 40
        assert (scene.height, scene.width) in VARIED_SIZES
        assert not heldout[scene.sprite].any()
        assert not unseen_pair(scene.sprite, scene.tint).any()
        assert np.isfinite(scene.centre).all()
        assert (scene.scale > 0).all()
    for scene in scenes(40, WorldSpec(split="heldout")):
        assert heldout[scene.sprite].any()


def test_lookalikes_are_frequent() -> None:
    drawn = scenes(300)
    twins = sum(len(set(scene.sprite.tolist())) < scene.num_objects for scene in drawn)
    assert 0.2 < twins / len(drawn) < 0.7


def test_rendering_some_frames_equals_rendering_all() -> None:
    atlas = load_atlas()
    batch = collate(scenes(3))
    size = (96, 160)
    images, ids = render(batch, atlas, None, size)
    frames = torch.tensor([[0, 5, 20], [1, 2, 3], [23, 0, 7]])
    some, some_ids = render(batch, atlas, frames, size)
    assert images.shape == (3, batch.centre.shape[2], 3, *size)
    assert images.dtype == ids.dtype == torch.uint8
    for i in range(3):
        assert torch.equal(some_ids[i], ids[i, frames[i]])
        assert (some[i].int() - images[i, frames[i]].int()).abs().max() <= 1
    alone, _ = render(collate(scenes(3)[1:2]), atlas, [1, 2, 3], size)
    assert (alone[0].int() - some[1].int()).abs().max() <= 1


def test_ids_name_the_topmost_object_where_it_is() -> None:
    atlas = load_atlas()
    catalogue = load_catalogue()
    checked = 0
    for scene in scenes(12, WorldSpec(pan=0.5)):
        _, ids = render(collate([scene]), atlas, [0, 10])
        share = visible_fraction(scene, catalogue)
        for k, t in enumerate((0, 10)):
            for i in range(scene.num_objects):
                mask = ids[0, k].numpy() == i + 1
                if share[i, t] < 0.95 or scene.angle[i, t] != 0:
                    continue
                rows, columns = np.nonzero(mask)
                middle = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
                assert middle == pytest.approx(
                    tuple(scene.centre[i, t]), abs=float(3 + 0.06 * scene.scale[i, t])
                )
                checked += 1
    assert checked > 10


def test_estimated_visibility_agrees_with_what_is_drawn() -> None:
    """Against the same scene with each object drawn alone and uncropped."""
    atlas = load_atlas()
    catalogue = load_catalogue()
    differences = []
    for scene in scenes(25, WorldSpec(overlap=0.9)):
        share = visible_fraction(scene, catalogue)
        batch = collate([scene])
        _, ids = render(batch, atlas, [0, 12])
        for i in range(scene.num_objects):
            present = torch.zeros_like(batch.present)
            present[0, i] = True
            alone = type(batch)(**{**batch.__dict__, "present": present})
            _, single = render(alone, atlas, [0, 12])
            for k, t in enumerate((0, 12)):
                inside = int((single[0, k] == i + 1).sum())
                half = catalogue.extents[scene.style[i], scene.sprite[i]] * scene.scale[i, t]
                low, high = scene.centre[i, t] - half, scene.centre[i, t] + half
                if (low < 0).any() or high[0] > scene.width or high[1] > scene.height or not inside:
                    continue
                differences.append(abs(share[i, t] - int((ids[0, k] == i + 1).sum()) / inside))
    assert len(differences) > 50
    assert np.mean(differences) < 0.06


def test_later_objects_cover_earlier_ones() -> None:
    atlas = load_atlas()
    scene = scenes(1, WorldSpec(objects=(2, 2)))[0]
    box = load_catalogue().index("brick")  # fills its square in both styles
    together = type(scene)(
        **{
            **scene.__dict__,
            "sprite": np.array([box, box]),
            "centre": np.broadcast_to(np.float32([100, 100]), scene.centre.shape).copy(),
            "scale": np.full_like(scene.scale, 40),
            "angle": np.zeros_like(scene.angle),
        }
    )
    _, ids = render(collate([together]), atlas, [0])
    assert set(ids.unique().tolist()) == {0, 2}


def test_a_tint_changes_the_colour_and_not_the_shape() -> None:
    atlas = load_atlas()
    scene = scenes(1, WorldSpec(objects=(2, 2)))[0]
    pictures = []
    for tint in (0, 5):
        tinted = type(scene)(**{**scene.__dict__, "tint": np.full(2, tint)})
        pictures.append(render(collate([tinted]), atlas, [0]))
    assert torch.equal(pictures[0][1], pictures[1][1])
    mask = pictures[0][1][0, 0] > 0
    red, _, blue = pictures[1][0][0, 0].float()
    assert blue[mask].mean() > red[mask].mean() + 40


def test_collate_pads_scenes_of_different_lengths() -> None:
    drawn = scenes(4)
    batch = collate(drawn)
    assert batch.num_frames.tolist() == [scene.num_frames for scene in drawn]
    assert batch.present.sum(dim=1).tolist() == [scene.num_objects for scene in drawn]
    frames = keyframes(drawn, 8)
    assert frames[:, 0].tolist() == [0] * 4
    assert frames[:, -1].tolist() == [scene.num_frames - 1 for scene in drawn]


def test_the_photographs_are_free_and_whole_sources_are_held_out() -> None:
    sources = photo_sources()
    count = sum(source.views for source in sources)
    assert load_photos().images.shape == (count, 3, *VIEW)
    assert all("CC0-1.0" in source.origin for source in sources)
    assert len({source.name for source in sources}) == len(sources)
    train, heldout = set(photo_views("train").tolist()), set(photo_views("heldout").tolist())
    assert not train & heldout
    assert train | heldout == set(range(count))
    assert len(heldout) == sum(source.views for source in sources if source.heldout) > 20


def test_scenes_with_photographs_are_else_the_same_scenes() -> None:
    photographed = 0
    for seed in range(60):
        plain = sample_scene(np.random.default_rng(seed), SPEC)
        scene = sample_scene(np.random.default_rng(seed), replace(SPEC, photos=0.5, photo_half="heldout"))
        assert plain.background.photo == -1
        assert np.array_equal(plain.centre, scene.centre)
        assert np.array_equal(plain.flip, scene.flip)
        assert np.array_equal(plain.background.noise, scene.background.noise)
        if scene.background.photo >= 0:
            photographed += 1
            assert scene.background.photo in photo_views("heldout")
    assert 15 < photographed < 45


def test_what_the_camera_sees_lies_inside_the_photograph() -> None:
    for scene in scenes(80, replace(SPEC, photos=1.0, pan=0.6)):
        window = scene.background.photo_window.astype(float)
        moved = scene.pan / (scene.width, scene.height)
        for axis, (start, extent) in enumerate(((window[0], window[2]), (window[1], window[3]))):
            for edge in (0, 1):
                seen = start + (edge + moved[:, axis]) * extent
                assert seen.min() > -1e-4
                assert seen.max() < 1 + 1e-4
        stretch = abs(window[2]) * VIEW[1] / scene.width / (window[3] * VIEW[0] / scene.height)
        assert stretch == pytest.approx(1, abs=1e-3)


def test_a_photograph_is_drawn_where_its_window_lies() -> None:
    atlas = load_atlas()
    scene = scenes(1, replace(SPEC, sizes=((256, 384),), photos=1.0, pan=0))[0]
    behind = replace(
        scene.background,
        photo=7,
        photo_window=np.float32([0, 0, 1, 1]),
        photo_look=np.float32([1, 1]),
        stripes=scene.background.stripes * 0,
        blobs=scene.background.blobs * 0,
    )
    view = load_photos().images[7].int()
    mirrored = replace(behind, photo_window=np.float32([1, 0, -1, 1]))
    absent = replace(behind, photo_look=np.float32([1, 0]))
    without = replace(behind, photo=-1)
    backgrounds = (behind, mirrored, absent, without)
    images, ids = render(collate([replace(scene, background=b) for b in backgrounds]), atlas, [0])
    free = (ids[0, 0] == 0) & (torch.nn.functional.max_pool2d(ids[:1].float(), 11, 1, 5)[0, 0] == 0)
    drawn = images[:, 0].int()
    assert (drawn[0] - view)[:, free].abs().max() <= 1
    assert (drawn[1] - view.flip(2))[:, free].abs().max() <= 1
    assert torch.equal(drawn[2], drawn[3])
    assert (drawn[2] - view)[:, free].abs().float().mean() > 10


def test_a_batch_with_photographs_stays_small() -> None:
    with_photos = collate(scenes(4, replace(SPEC, photos=1.0)))
    plain = collate(scenes(4))
    assert len(pickle.dumps(with_photos)) < 1.05 * len(pickle.dumps(plain))
