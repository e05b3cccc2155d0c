import numpy as np
import pytest

from steerseg.demo import phrases
from steerseg.demo.language import (
    KINDS,
    Referral,
    attributes,
    normalise,
    referrals,
    sample_referral,
    vocabulary,
)
from steerseg.demo.observe import observe
from steerseg.demo.scene import Scene
from steerseg.demo.sprites import load_catalogue
from steerseg.demo.world import WorldSpec, sample_scene

CATALOGUE = load_catalogue()


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, list[Referral]]]:
    found = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, WorldSpec())
        found.append((scene, referrals(scene, rng)))
    return found


def still_scene(
    names: list[str],
    places: list[tuple[float, float]],
    tints: list[int],
    ends: list[tuple[float, float]] | None = None,
) -> Scene:
    """Untilted objects of one size in the first style, resting, or moving straight to ``ends``."""
    base = sample_scene(np.random.default_rng(0), WorldSpec(objects=(2, 2), frames=(24, 24), pan=0))
    count, time = len(names), np.linspace(0, 1, 24)[:, None]
    ends = ends or places
    paths = [np.array(a) + (np.array(b) - np.array(a)) * time for a, b in zip(places, ends, strict=True)]
    return Scene(
        **{
            **base.__dict__,
            "sprite": np.array([CATALOGUE.index(name) for name in names]),
            "style": np.zeros(count, dtype=np.int64),
            "tint": np.array(tints),
            "flip": np.zeros(count, dtype=bool),
            "centre": (np.stack(paths) * (480, 270)).astype(np.float32),
            "scale": np.full((count, 24), 30, dtype=np.float32),
            "angle": np.zeros((count, 24), dtype=np.float32),
        }
    )


def expressions(scene: Scene, kind: str, seeds: int = 30) -> dict[str, tuple[int, ...]]:
    return {
        r.expression: r.targets
        for seed in range(seeds)
        for r in referrals(scene, np.random.default_rng(seed), kinds=(kind,))
    }


def test_every_kind_occurs_and_targets_exist(drawn: list[tuple[Scene, list[Referral]]]) -> None:
    assert {r.kind for _, found in drawn for r in found} == set(KINDS)
    assert sum(bool(found) for _, found in drawn) == len(drawn)
    for scene, found in drawn:
        for r in found:
            assert r.targets == tuple(sorted(set(r.targets)))
            assert all(0 <= i < scene.num_objects for i in r.targets)
            assert (len(r.targets) > 1) == (r.kind == "plural")
            assert r.name == CATALOGUE.names[scene.sprite[r.targets[0]]]


def test_everything_said_is_in_the_vocabulary(drawn: list[tuple[Scene, list[Referral]]]) -> None:
    words = set(vocabulary())
    assert len(words) < 1500
    for _, found in drawn:
        for r in found:
            text = f"{r.expression} {' '.join(r.attributes)}"
            assert set(text.split()) <= words, text
            assert r.expression == normalise(r.expression)
            assert "{" not in r.expression


def test_attributes_are_few_and_begin_with_the_name(drawn: list[tuple[Scene, list[Referral]]]) -> None:
    for scene, _ in drawn[:40]:
        for i in range(scene.num_objects):
            found = attributes(scene, i)
            assert found[0] == CATALOGUE.names[scene.sprite[i]]
            assert 2 <= len(found) <= 5


def test_a_name_alone_is_used_only_where_one_object_has_it() -> None:
    scene = still_scene(["dog", "dog", "car"], [(0.2, 0.5), (0.8, 0.5), (0.5, 0.5)], [0, 5, 0])
    explicit = expressions(scene, "explicit")
    assert set(explicit.values()) == {(2,)}
    assert any(text.endswith("car") for text in explicit)


def test_two_of_a_kind_are_told_apart_by_tint_and_place() -> None:
    scene = still_scene(["dog", "dog"], [(0.15, 0.5), (0.85, 0.5)], [5, 3])
    for text, targets in expressions(scene, "attribute").items():
        assert ("blue" in text and targets == (0,)) or ("yellow" in text and targets == (1,))
    for text, targets in expressions(scene, "spatial").items():
        assert ("left" in text and targets == (0,)) or ("right" in text and targets == (1,))


def test_similar_tints_are_never_told_apart() -> None:
    scene = still_scene(["dog", "dog"], [(0.15, 0.5), (0.85, 0.5)], [1, 2])  # red and orange
    assert not expressions(scene, "attribute")


def test_motion_tells_apart_what_looks_the_same() -> None:
    scene = still_scene(["cat", "cat"], [(0.2, 0.3), (0.8, 0.7)], [0, 0], ends=[(0.7, 0.3), (0.3, 0.7)])
    moving = expressions(scene, "motion")
    assert moving
    for text, targets in moving.items():
        first = text.find("left"), text.find("right")
        assert max(first) >= 0
        # "from left to right" names both: the last one counts.
        assert targets == ((0,) if text.rfind("right") > text.rfind("left") else (1,))
    assert observe(scene, CATALOGUE).motion == ("right", "left")


def test_implicit_expressions_avoid_what_is_arguable() -> None:
    clear = still_scene(["guitar", "banana"], [(0.2, 0.5), (0.8, 0.5)], [0, 0])
    assert set(expressions(clear, "implicit").values()) == {(0,), (1,)}
    unclear = still_scene(["guitar", "bell"], [(0.2, 0.5), (0.8, 0.5)], [0, 0])
    musician = [text for text in expressions(unclear, "implicit") if "musician" in text]
    assert not any(text.endswith("pick up") for text in musician)  # a place or colour must settle it


def test_overtaking_is_said_of_the_one_that_overtakes() -> None:
    scene = still_scene(["car", "bus"], [(0.1, 0.3), (0.3, 0.7)], [0, 0], ends=[(0.9, 0.3), (0.5, 0.7)])
    said = {
        text: t for text, t in expressions(scene, "motion").items() if "overtake" in text or "pass" in text
    }
    assert said
    assert set(said.values()) == {(0,)}


def test_a_tracked_camera_does_not_make_objects_move() -> None:
    scene = still_scene(["dog", "car"], [(0.3, 0.5), (0.7, 0.5)], [0, 0])
    pan = np.linspace(-40, 40, 24)[:, None] * np.float32([1, 0])
    panned = Scene(
        **{**scene.__dict__, "pan": pan.astype(np.float32), "centre": (scene.centre - pan).astype(np.float32)}
    )
    assert observe(panned, CATALOGUE).motion == ("still", "still")


def test_a_noun_of_ones_own_takes_the_place_of_usual_ones() -> None:
    names = ["car", "bus", "dog"]
    scene = still_scene(names, [(0.15, 0.5), (0.85, 0.5), (0.5, 0.5)], [0, 0, 0])
    usual, own = [
        {
            (r.expression, r.targets)
            for seed in range(30)
            for r in referrals(scene, np.random.default_rng(seed), nouns=nouns)
        }
        for nouns in (None, {"gizmo": {"car", "bus"}})
    ]
    assert any("bus" in text for text, _ in usual)
    assert not any("gizmo" in text for text, _ in usual)
    said = {text: targets for text, targets in own if "gizmo" in text.split()}
    assert not any(set(text.split()) & {"car", "bus", "automobile", "vehicle"} for text, _ in own)
    assert any("dog" in text for text, _ in own)
    assert {targets for text, targets in said.items() if "left" in text} == {(0,)}
    assert not any(text in ("the gizmo", "gizmo", "a gizmo") for text in said), "there are two"


def test_heldout_wordings_are_not_training_wordings() -> None:
    tables = [phrases.PARTICIPLES, phrases.CLAUSES, phrases.POSITIONS, phrases.FURTHEST, phrases.RELATIONS]
    tables += [phrases.SUPERLATIVES, phrases.COMPARATIVES, phrases.THAN]
    pairs = [wordings for table in tables for wordings in table.values()]
    for train, heldout in [*pairs, phrases.WRAPPERS, phrases.PLURALS]:
        assert not set(train) & set(heldout)


def test_sampling_follows_the_weights() -> None:
    rng = np.random.default_rng(1)
    only = {kind: float(kind == "spatial") for kind in KINDS}
    kinds = set()
    for _ in range(40):
        referral = sample_referral(sample_scene(rng, WorldSpec()), rng, weights=only)
        if referral is not None:
            kinds.add(referral.kind)
    assert kinds == {"spatial"}


@pytest.mark.parametrize(
    ("noun", "many"),
    [("dog", "dogs"), ("cherry", "cherries"), ("fox", "foxes"), ("mouse", "mice"), ("toy", "toys")],
)
def test_plurals(noun: str, many: str) -> None:
    assert phrases.plural(noun, False) == many
    assert phrases.plural(many, True) == many
