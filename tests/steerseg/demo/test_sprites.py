import numpy as np
import pytest
from PIL import Image

from steerseg.demo import catalogue
from steerseg.demo.colours import colour_shares, main_colour
from steerseg.demo.sheet import SPRITE, centred, half_extent
from steerseg.demo.sprites import STYLES, load_atlas, load_catalogue
from steerseg.errors import ConfigError


def test_the_shipped_atlas_is_that_of_the_catalogue() -> None:
    atlas = load_atlas()
    entries = catalogue.entries()
    assert atlas.names == [entry.name for entry in entries]
    assert atlas.groups == [entry.group for entry in entries]
    assert atlas.images.shape == (len(STYLES), len(entries), 4, SPRITE, SPRITE)
    assert len(entries) >= 300
    held = {name for name, out in zip(atlas.names, atlas.catalogue.heldout, strict=True) if out}
    assert held == catalogue.heldout_names()
    assert 0.08 < len(held) / len(entries) < 0.12


def test_every_sprite_is_centred_and_leaves_a_margin() -> None:
    alpha = load_atlas().images[:, :, 3].numpy()
    solid = alpha > 127
    assert solid.any(axis=(2, 3)).all()
    assert not solid[..., 0].any()
    assert not solid[..., -1].any()
    assert not solid[:, :, 0].any()
    assert not solid[:, :, -1].any()
    extents = load_catalogue().extents
    assert (extents.max(axis=2) > 0.85).mean() > 0.98  # the longer side fills the sprite


def test_names_are_unique_and_what_refers_to_them_exists() -> None:
    names = [entry.name for entry in catalogue.entries()]
    known = set(names) | set(catalogue.GROUPS)
    assert len(names) == len(set(names))
    assert all(len(name.split()) <= 3 and name == name.lower() for name in names)
    for trait in catalogue.TRAITS.values():
        for item in f"{trait.yes},{trait.maybe}".split(","):
            assert item.strip() in known or not item.strip()
    for noun, items in catalogue.ARGUABLE.items():
        assert all(item.strip() in names for item in items.split(",") if item.strip()), noun
    for name, synonyms in catalogue.SYNONYMS.items():
        assert name in names
        assert not set(synonyms) & set(names)
    assert set(catalogue.KIND_OF) <= set(names)
    assert set(catalogue.PLURAL) <= set(names)


def test_an_unknown_style_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="cubist"):
        load_atlas(("noto", "cubist"))


def test_centring_crops_scales_and_keeps_the_aspect() -> None:
    image = Image.new("RGBA", (200, 160))
    image.paste((255, 0, 0, 255), (10, 20, 50, 40))  # 40 x 20
    sprite = np.asarray(centred(image))
    width, height = half_extent(sprite)
    assert width == pytest.approx(92 / 96, abs=0.03)
    assert height == pytest.approx(46 / 96, abs=0.03)
    with pytest.raises(ConfigError, match="empty"):
        centred(Image.new("RGBA", (20, 20)))


@pytest.mark.parametrize(
    ("rgb", "word"),
    [
        ((220, 20, 20), "red"),
        ((255, 140, 0), "orange"),
        ((250, 220, 40), "yellow"),
        ((40, 160, 60), "green"),
        ((30, 90, 220), "blue"),
        ((130, 40, 190), "purple"),
        ((250, 130, 190), "pink"),
        ((120, 75, 40), "brown"),
        ((250, 250, 250), "white"),
        ((150, 150, 150), "grey"),
        ((15, 15, 15), "black"),
    ],
)
def test_plain_colours_get_their_word(rgb: tuple[int, int, int], word: str) -> None:
    sprite = np.full((8, 8, 4), (*rgb, 255), dtype=np.uint8)
    assert main_colour(colour_shares(sprite)) == word
