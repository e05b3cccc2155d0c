import base64
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from steerseg.demo import twemoji
from steerseg.demo.dataset import load_manifest, write_split
from steerseg.demo.language import referrals
from steerseg.demo.sheet import SPRITE, half_extent, sheet, split_sheet
from steerseg.demo.sprites import load_atlas, load_catalogue
from steerseg.demo.world import WorldSpec, sample_scene
from steerseg.errors import ConfigError

DOG, ICE_CREAM = "🐕", "🍦"
HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 36 36">'


def svg(shape: str) -> bytes:
    return f"{HEAD}{shape}</svg>".encode()


def tarball(folder: Path) -> bytes:
    """What ``npm pack`` makes of a folder of SVGs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, f"package/{path.name}")
    return buffer.getvalue()


@pytest.fixture
def package(tmp_path: Path) -> bytes:
    folder = tmp_path / "svgs"
    folder.mkdir()
    (folder / "1f415.svg").write_bytes(svg('<rect x="2" y="10" width="32" height="16" fill="#f00"/>'))
    (folder / "1f366.svg").write_bytes(svg('<circle cx="18" cy="18" r="9" fill="#00f"/>'))
    (folder / "license").write_text("CC-BY-4.0")
    return tarball(folder)


@pytest.fixture
def served(package: bytes) -> Iterator[tuple[str, list[str]]]:
    """A registry that answers every request with the package; its address, and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(package)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_folder_of_svgs_becomes_sprites(package: bytes) -> None:
    pictures = twemoji.pictures_of(package)
    assert set(pictures) == {"1f415", "1f366"}
    drawn = [np.asarray(sprite) for sprite in twemoji.draw_all(pictures, [DOG, ICE_CREAM])]
    assert [sprite.shape for sprite in drawn] == [(SPRITE, SPRITE, 4)] * 2
    assert half_extent(drawn[0]) == pytest.approx((92 / 96, 46 / 96), abs=0.02)
    assert half_extent(drawn[1]) == pytest.approx((92 / 96, 92 / 96), abs=0.02)
    assert drawn[0][48, 48].tolist() == [255, 0, 0, 255]
    assert drawn[1][48, 48].tolist() == [0, 0, 255, 255]
    with pytest.raises(ConfigError, match="🦊"):
        twemoji.draw_all(pictures, [DOG, "🦊"])


def test_sprites_are_fetched_once_and_kept(
    package: bytes,
    served: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, asked = served
    monkeypatch.setenv("npm_config_registry", base + "/")
    digest = base64.b64encode(hashlib.sha512(package).digest()).decode()
    fetch = twemoji.fetch
    monkeypatch.setattr(twemoji, "fetch", lambda where: fetch(where, f"sha512-{digest}"))
    extents = np.float32([[92 / 96, 46 / 96], [92 / 96, 92 / 96]])
    sprites = twemoji.load_sprites([DOG, ICE_CREAM], extents, tmp_path / "styles")
    assert asked == [f"/@twemoji/svg/-/svg-{twemoji.VERSION}.tgz"]
    again = twemoji.load_sprites([DOG, ICE_CREAM], extents, tmp_path / "styles")
    assert len(asked) == 1
    assert np.array_equal(sprites, again)
    assert [path.suffix for path in (tmp_path / "styles").iterdir()] == [".png"]
    # Other sprites than those that scenes were sampled with are refused, also where they are kept already.
    with pytest.raises(ConfigError, match="another shape"):
        twemoji.load_sprites([DOG, ICE_CREAM], extents[::-1], tmp_path / "styles")


def test_a_changed_package_is_refused(served: tuple[str, list[str]]) -> None:
    with pytest.raises(ConfigError, match="not the package"):
        twemoji.fetch(served[0])


def test_without_a_registry_the_error_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("npm_config_registry", "http://somebody:secret@127.0.0.1:9")
    with pytest.raises(ConfigError, match="internet connection") as failure:
        write_split(load_manifest("test-style"), tmp_path)
    assert "secret" not in str(failure.value)


def test_the_registry_is_the_one_that_npm_is_told(tmp_path: Path) -> None:
    assert twemoji.registry({}, tmp_path) == twemoji.REGISTRY
    (tmp_path / ".npmrc").write_text("fund=false\nregistry=https://mirror.example/npm/\n")
    assert twemoji.registry({}, tmp_path) == "https://mirror.example/npm"
    (tmp_path / "other").write_text('@twemoji:registry = "https://own.example"\nregistry=https://x.example\n')
    assert twemoji.registry({"NPM_CONFIG_USERCONFIG": str(tmp_path / "other")}) == "https://own.example"
    assert (
        twemoji.registry({"npm_config_registry": "https://env.example/"}, tmp_path) == "https://env.example"
    )


def test_scenes_of_the_style_are_sampled_without_its_pictures() -> None:
    catalogue = load_catalogue((twemoji.STYLE,))
    shipped = load_catalogue()
    assert set(shipped.names) - set(catalogue.names) == twemoji.OTHERWISE
    both = load_catalogue(("noto", twemoji.STYLE))
    assert both.names == catalogue.names
    assert np.array_equal(both.extents[1], catalogue.extents[0])
    names = set()
    for split in ("train", "heldout"):
        for seed in range(20):
            rng = np.random.default_rng(seed)
            scene = sample_scene(rng, WorldSpec(styles=(twemoji.STYLE,), split=split))
            heldout = catalogue.heldout[scene.sprite]
            assert heldout.any() == (split == "heldout")
            names |= {referral.name for referral in referrals(scene, rng)}
    assert len(names) > 40
    assert names <= set(catalogue.names)


def test_a_style_that_lacks_objects_stands_beside_one_that_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With made-up pictures: solid squares as wide and as tall as the extents say."""
    catalogue = load_catalogue((twemoji.STYLE,))
    sprites = np.zeros((len(catalogue.names), SPRITE, SPRITE, 4), dtype=np.uint8)
    for index, (wide, tall) in enumerate(np.round(catalogue.extents[0] * SPRITE).astype(int)):
        top, left = (SPRITE - tall) // 2, (SPRITE - wide) // 2
        sprites[index, top : top + tall, left : left + wide] = (index % 256, index // 256, 0, 255)
    from PIL import Image

    image = sheet([Image.fromarray(sprite) for sprite in sprites])
    assert np.array_equal(split_sheet(image, len(sprites)), sprites)
    image.save(tmp_path / f"{twemoji.STYLE}-{twemoji.VERSION}.png")
    atlas = load_atlas(("noto", twemoji.STYLE), tmp_path)
    alone = load_atlas(("noto",))
    for name in ("monkey", "trash can"):
        here, there = atlas.catalogue.index(name), alone.catalogue.index(name)
        assert (atlas.images[0, here] == alone.images[0, there]).all()
        assert atlas.images[1, here, :2, 48, 48].tolist() == [here % 256, here // 256]
