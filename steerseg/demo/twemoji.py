"""The unseen style: Twemoji's pictures, which no training shows and the package does not ship.

They are rendered where a clip of this style is drawn for the first time, from the npm package
``@twemoji/svg`` (graphics under CC-BY-4.0, https://github.com/jdecked/twemoji), and kept as a sheet in the data
folder. What scenes are sampled from is shipped: ``assets/twemoji.json`` has every sprite's extent and
colours, so that manifests draw the same scenes on every machine, also without the pictures.

    python -m steerseg.demo.twemoji

measures the package anew and writes that file; needed when the catalogue or the package's version changes, and
followed by ``python -m steerseg.demo.dataset --rebuild --split test-style``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import requests
from numpy.typing import NDArray
from PIL import Image

from steerseg.demo import catalogue
from steerseg.demo.colours import colour_shares
from steerseg.demo.sheet import ASSETS, VARIATION_SELECTOR, centred, half_extent, sheet, split_sheet
from steerseg.errors import ConfigError

STYLE = "twemoji"
PACKAGE = "@twemoji/svg"
VERSION = "15.0.0"
INTEGRITY = "sha512-ZSPef2B6nBaYnfgdTbAy4jgW95o7pi2xPGwGCU+WMTxo7J6B1lMPTWwSq/wTuiMq+N0khQ90CcvYp1wFoQpo/w=="
"""The registry's checksum of the package; every copy of it must have this one."""

REGISTRY = "https://registry.npmjs.org"
MOST_BYTES = 32 * 2**20
RENDERED_AT = 288
"""Side in pixels at which a picture is rendered before it is scaled down to a sprite."""
BROWNS = ((0xC1, 0x69, 0x4F), (0xD9, 0x9E, 0x82))
"""Colours of its palette for fur, wood and bread."""
OTHERWISE = frozenset({"tennis racket"})
"""Names whose emoji shows something else in this style (only the ball): left out."""
TOLERANCE = 2.5 / 96
"""Largest difference of extents from the shipped ones: two pixels of a sprite, which another renderer may make."""


def registry(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> str:
    """The npm registry, as npm itself chooses it: the environment, then the user's ``.npmrc``, then npm's own."""
    for name, value in environment.items():
        if name.lower() == "npm_config_registry" and value:
            return value.rstrip("/")
    named = next((v for n, v in environment.items() if n.lower() == "npm_config_userconfig" and v), None)
    path = Path(named) if named else (home or Path.home()) / ".npmrc"
    registries: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            if key.strip() in ("registry", "@twemoji:registry"):
                registries[key.strip()] = os.path.expandvars(value.strip().strip("\"'"))
    return (registries.get("@twemoji:registry") or registries.get("registry") or REGISTRY).rstrip("/")


def fetch(base: str, integrity: str = INTEGRITY) -> bytes:
    """The package's tarball from the registry at ``base``.

    Raises:
        ConfigError: If the registry cannot be reached or lacks the package, or if the content is another.
    """
    name = PACKAGE.rsplit("/", 1)[1]
    host = urlsplit(base).hostname or "the npm registry"  # the address itself may hold a password
    need = f"sprites of the style {STYLE!r} are rendered from the npm package {PACKAGE}@{VERSION}"
    try:
        with requests.get(
            f"{base}/{PACKAGE}/-/{name}-{VERSION}.tgz", timeout=(15, 60), stream=True
        ) as response:
            status = response.status_code
            content = response.raw.read(MOST_BYTES + 1, decode_content=False) if response.ok else b""
    except (requests.RequestException, OSError) as error:
        raise ConfigError(
            f"{need}, and {host} cannot be reached ({type(error).__name__}). This needs an internet connection "
            "once, or a registry named by npm_config_registry."
        ) from error
    if not content:
        raise ConfigError(f"{need}, and {host} answers {status} when asked for it.")
    algorithm, _, expected = integrity.partition("-")
    digest = base64.b64encode(hashlib.new(algorithm, content).digest()).decode()
    if digest != expected:
        raise ConfigError(
            f"{PACKAGE}@{VERSION} from {host} is not the package that this version was made with: its "
            f"{algorithm} is {digest[:16]}…, expected {expected[:16]}…. Nothing of it was used; try another "
            "registry."
        )
    return content


def pictures_of(tarball: bytes) -> dict[str, bytes]:
    """Key of an emoji (:func:`key_of`) → its SVG, from an npm tarball."""
    pictures = {}
    with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:gz") as archive:
        for member in archive:
            path = Path(member.name)
            file = archive.extractfile(member) if path.suffix == ".svg" else None
            if file is not None:
                pictures[path.stem.lower().replace("-fe0f", "")] = file.read()
    return pictures


def key_of(emoji: str) -> str:
    """Code points as the package's file names have them, but for the variation selector."""
    return "-".join(f"{ord(char):x}" for char in emoji if char != VARIATION_SELECTOR)


def draw(svg: bytes) -> Image.Image:
    """The sprite of an SVG.

    Raises:
        ConfigError: If resvg is not installed, or if the picture is empty.
    """
    try:
        import resvg_py
    except ImportError as error:
        raise ConfigError(
            f"sprites of the style {STYLE!r} are rendered by resvg; install it with `pip install resvg_py`"
        ) from error
    drawn = resvg_py.svg_to_bytes(
        svg_string=svg.decode("utf-8"), width=RENDERED_AT, height=RENDERED_AT, skip_system_fonts=True
    )
    with Image.open(io.BytesIO(bytes(drawn))) as image:
        return centred(image.convert("RGBA"))


def draw_all(pictures: Mapping[str, bytes], emoji: Sequence[str]) -> list[Image.Image]:
    """The sprites of ``emoji``.

    Raises:
        ConfigError: If the package lacks one.
    """
    missing = [one for one in emoji if key_of(one) not in pictures]
    if missing:
        raise ConfigError(
            f"{PACKAGE} {VERSION} has no picture of {' '.join(missing)}, which assets/{STYLE}.json lists; run "
            "`python -m steerseg.demo.twemoji`"
        )
    return [draw(pictures[key_of(one)]) for one in emoji]


def as_shipped(sprites: NDArray[np.uint8], extents: NDArray[np.float32]) -> bool:
    """Whether sprites (N, S, S, 4) have the ``extents`` (N, 2) that scenes are sampled with."""
    if len(sprites) != len(extents):
        return False
    measured = np.array([half_extent(sprite) for sprite in sprites])
    return bool((np.abs(measured - extents) <= TOLERANCE).all())


def load_sprites(emoji: Sequence[str], extents: NDArray[np.float32], cache: Path) -> NDArray[np.uint8]:
    """(N, S, S, 4) sprites: from the sheet in ``cache``, else fetched, rendered and kept there.

    Raises:
        ConfigError: If they can neither be found nor rendered, or differ from what is shipped about them.
    """
    path = cache / f"{STYLE}-{VERSION}.png"
    if path.is_file():
        with Image.open(path) as image:
            kept = split_sheet(image, len(emoji))
        if as_shipped(kept, extents):
            return kept
    drawn = sheet(draw_all(pictures_of(fetch(registry())), emoji))
    sprites = split_sheet(drawn, len(emoji))
    if not as_shipped(sprites, extents):
        raise ConfigError(
            f"the sprites rendered from {PACKAGE} {VERSION} have another shape than assets/{STYLE}.json says, so "
            "the scenes of its splits would differ; install the version of resvg_py that the file names"
        )
    cache.mkdir(parents=True, exist_ok=True)
    # Several processes may come here at once: each writes a file of its own, and the last one stays.
    with tempfile.NamedTemporaryFile(dir=cache, suffix=".part", delete=False) as file:
        drawn.save(file, "PNG")
    Path(file.name).replace(path)
    return sprites


def _named_as_seen(sprite: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The sprite with Twemoji's own browns as a plain one: the general rules take them for red and pink."""
    plain = sprite.copy()
    for brown in BROWNS:
        near = np.abs(sprite[..., :3].astype(int) - brown).max(axis=-1) < 14
        plain[near, :3] = (120, 75, 40)
    return plain


def measure(pictures: Mapping[str, bytes]) -> dict[str, dict[str, object]]:
    """Name → extent and colours of every object that the package has a picture of."""
    measured: dict[str, dict[str, object]] = {}
    for entry in catalogue.entries():
        if key_of(entry.emoji) in pictures and entry.name not in OTHERWISE:
            pixels = np.asarray(draw(pictures[key_of(entry.emoji)]))
            measured[entry.name] = {
                "extent": half_extent(pixels),
                "colours": colour_shares(_named_as_seen(pixels)),
            }
    return measured


def main() -> None:
    """Measure the package and write what is shipped of it."""
    from importlib.metadata import version

    measured = measure(pictures_of(fetch(registry())))
    lines = ",\n".join(
        f"  {json.dumps(name)}: {json.dumps(facts, ensure_ascii=False)}" for name, facts in measured.items()
    )
    head = json.dumps({"package": f"{PACKAGE}@{VERSION}", "renderer": f"resvg_py {version('resvg_py')}"})
    path = ASSETS / f"{STYLE}.json"
    path.write_text(f'{head[:-1]}, "objects": {{\n{lines}\n}}}}\n', encoding="utf-8")
    print(f"wrote {len(measured)} of {len(catalogue.entries())} objects to {path}")


if __name__ == "__main__":
    main()
