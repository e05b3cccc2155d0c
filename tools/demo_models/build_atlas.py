"""Build the sprite sheets in ``assets/`` from two emoji sets: ``python -m tools.demo_models.build_atlas``.

Needs Debian's ``fonts-noto-color-emoji`` (style ``noto``) and the npm package ``@lobehub/fluent-emoji-3d``
(style ``fluent``), either unpacked (``--fluent DIR``) or fetched with ``npm pack``. The result is committed,
so only somebody who changes the catalogue runs this.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from steerseg.demo import catalogue
from steerseg.demo.colours import colour_shares
from steerseg.demo.sheet import (
    ASSETS,
    VARIATION_SELECTOR,
    centred,
    half_extent,
    sheet,
)
from steerseg.errors import ConfigError

NOTO_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FLUENT_PACKAGE = "@lobehub/fluent-emoji-3d@1.1.0"


def noto_renderer(font_path: Path = NOTO_FONT) -> Callable[[str], Image.Image]:
    """A function from emoji to its Noto picture.

    Raises:
        ConfigError: If the font is not installed.
    """
    if not font_path.is_file():
        raise ConfigError(f"no colour emoji font at {font_path}; install Debian's fonts-noto-color-emoji")
    font = ImageFont.truetype(str(font_path), 109)  # the one size of its bitmaps

    def render(emoji: str) -> Image.Image:
        image = Image.new("RGBA", (200, 160))
        ImageDraw.Draw(image).text((10, 10), emoji, font=font, embedded_color=True)
        return image

    return render


def file_renderer(folder: Path, suffix: str) -> Callable[[str], Image.Image]:
    """A function from emoji to its picture in ``folder``, whose files are named by code points.

    Raises:
        ConfigError: If the folder is missing; later, if an emoji has no file.
    """
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder}; unpack the emoji package there")
    files = {path.stem.lower().replace("-fe0f", ""): path for path in folder.glob(f"*{suffix}")}

    def render(emoji: str) -> Image.Image:
        key = "-".join(f"{ord(char):04x}" for char in emoji if char != VARIATION_SELECTOR)
        if key not in files:
            raise ConfigError(f"{folder} has no picture of {emoji} ({key}); take it out of the catalogue")
        return Image.open(files[key]).convert("RGBA")

    return render


def npm_pack(package: str, folder: Path) -> Path:
    """Fetch and unpack an npm package; the folder that holds its files."""
    printed = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True
    )
    with tarfile.open(folder / printed.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def build(renderers: dict[str, Callable[[str], Image.Image]], directory: Path = ASSETS) -> None:
    """Write one sheet per style and ``objects.json``."""
    entries = catalogue.entries()
    heldout = catalogue.heldout_names()
    described: list[dict[str, object]] = [
        {"name": e.name, "emoji": e.emoji, "group": e.group, "heldout": e.name in heldout, "styles": {}}
        for e in entries
    ]
    directory.mkdir(parents=True, exist_ok=True)
    for style, render in renderers.items():
        sprites = [centred(render(entry.emoji)) for entry in entries]
        for item, sprite in zip(described, sprites, strict=True):
            pixels = np.asarray(sprite)
            item["styles"][style] = {  # type: ignore[index]
                "extent": half_extent(pixels),
                "colours": colour_shares(pixels),
            }
        buffer = io.BytesIO()
        sheet(sprites).save(buffer, "WEBP", quality=88, alpha_quality=90, method=6)
        (directory / f"{style}.webp").write_bytes(buffer.getvalue())
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in described)
    (directory / "objects.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the sprite sheets and objects.json.")
    parser.add_argument(
        "--fluent", type=Path, help="unpacked @lobehub/fluent-emoji-3d (else fetched with npm)"
    )
    parser.add_argument("--noto", type=Path, default=NOTO_FONT, help="NotoColorEmoji.ttf")
    parser.add_argument("-o", "--output", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        fluent = arguments.fluent or npm_pack(FLUENT_PACKAGE, Path(temporary))
        build(
            {"noto": noto_renderer(arguments.noto), "fluent": file_renderer(fluent / "assets", ".webp")},
            arguments.output,
        )
    print(f"wrote {len(catalogue.entries())} objects to {arguments.output}")


if __name__ == "__main__":
    main()
