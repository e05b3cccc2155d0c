"""Build the pack of background photographs in ``assets/``: ``python -m tools.demo_models.build_photos``.

Needs the npm package ``@pmndrs/assets`` and Debian's ``blender-data`` (panoramas from Poly Haven, CC0), either
unpacked (``--pmndrs DIR``, ``--blender DIR``) or fetched with ``npm pack`` and ``apt-get download``, and the
PyPI packages ``OpenEXR`` and ``scikit-image`` (whose sample textures are CC0). The result is committed, so only
somebody who changes the pack runs this.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from steerseg.demo.photos import COLUMNS, VIEW
from steerseg.demo.sheet import ASSETS
from steerseg.errors import ConfigError
from tools.demo_models.build_atlas import npm_pack

PMNDRS_PACKAGE = "@pmndrs/assets@1.7.0"
BLENDER_PACKAGE = "blender-data"
POLY_HAVEN = "https://polyhaven.com (formerly HDRI Haven), CC0-1.0"
AMBIENT_CG = "https://ambientcg.com (formerly CC0Textures), CC0-1.0"

Picture = NDArray[np.float32]


@dataclass(frozen=True)
class Panorama:
    """An equirectangular HDRI and how to look at it.

    Attributes:
        name: Its name in its package.
        package: ``pmndrs`` or ``blender``.
        views: Number of views, spread evenly around.
        heldout: Whether only val and test splits see it.
        width: Degrees that a view spans; the smaller panoramas need more to look sharp.
        skip: Directions in degrees that show something which the catalogue has a name for.
    """

    name: str
    package: str
    views: int
    heldout: bool = False
    width: float = 110.0
    skip: tuple[int, ...] = ()


PANORAMAS = (
    Panorama("apartment", "pmndrs", 4, width=140),
    Panorama("bridge", "pmndrs", 4, width=140),
    Panorama("city", "pmndrs", 5, width=140),
    Panorama("dawn", "pmndrs", 5, width=140, heldout=True),
    Panorama("esplanade", "pmndrs", 5, width=140),
    Panorama("forest", "pmndrs", 5, width=140),
    Panorama("hall", "pmndrs", 5, width=140, heldout=True),
    Panorama("lab", "pmndrs", 5, width=140),
    Panorama("lobby", "pmndrs", 5, width=140),
    Panorama("night", "pmndrs", 4, width=140),
    Panorama("park", "pmndrs", 5, width=140),
    Panorama("sky", "pmndrs", 4, width=140),
    Panorama("sunset", "pmndrs", 5, width=140),
    Panorama("venice", "pmndrs", 5, width=140, heldout=True),
    Panorama("warehouse", "pmndrs", 5, width=140),
    Panorama("workshop", "pmndrs", 5, width=140),
    Panorama("city", "blender", 6),
    Panorama("courtyard", "blender", 6, heldout=True, skip=(0,)),  # a dog lies there
    Panorama("forest", "blender", 8, heldout=True),
    Panorama("night", "blender", 5),
    Panorama("studio", "blender", 5),
    Panorama("sunrise", "blender", 6),
    Panorama("sunset", "blender", 6),
)
"""Left out: Blender's ``interior``, full of furniture that the catalogue names, and two that occur twice."""


@dataclass(frozen=True)
class Texture:
    """A grey sample picture of scikit-image, given a plausible colour.

    Attributes:
        name: File name without its ending.
        colour: RGB that mid-grey becomes.
        heldout: Whether only val and test splits see it.
    """

    name: str
    colour: tuple[float, float, float]
    heldout: bool = False


TEXTURES = (
    Texture("brick", (0.60, 0.40, 0.33)),
    Texture("grass", (0.42, 0.55, 0.27)),
    Texture("gravel", (0.58, 0.53, 0.46), heldout=True),
)


def read_exr(path: Path) -> Picture:
    """(H, W, 3) linear light of an EXR file.

    Raises:
        ConfigError: If OpenEXR is not installed.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise ConfigError("building the photographs needs `pip install OpenEXR`") from error
    with OpenEXR.File(str(path)) as file:
        return np.asarray(file.channels()["RGB"].pixels, dtype=np.float32)


def toned(light: Picture) -> Picture:
    """Linear light → sRGB in [0, 1]: exposed for the middle grey, highlights rolled off (Reinhard)."""
    # Lossy compression of the sun and of lamps leaves pixels beside them that are negative in a channel or of
    # a glaring colour: those are filled in from around them.
    least, most = light.min(axis=2), light.max(axis=2)
    broken = (least < -0.01) | ((most > 4) & (least < 0.3 * most)) | ~np.isfinite(most)
    light = np.clip(np.nan_to_num(light), 0, None)
    luminance = light @ np.array([0.2126, 0.7152, 0.0722], dtype=np.float32)
    rows = len(luminance)
    key = float(np.exp(np.log(luminance[rows // 6 : -rows // 6] + 1e-4).mean()))
    light = np.minimum(light * (0.22 / key), 60.0)
    light = np.clip(light * (1 + light / 9) / (1 + light), 0, 1)
    encoded = np.where(light < 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    mask = cv2.dilate(broken.astype(np.uint8), np.ones((3, 3), dtype=np.uint8))
    repaired = cv2.inpaint((encoded * 255 + 0.5).astype(np.uint8), mask, 3, cv2.INPAINT_TELEA)
    return np.where(mask[..., None] > 0, repaired / 255.0, encoded).astype(np.float32)


def view(panorama: Picture, yaw: float, pitch: float, span: float) -> Picture:
    """One view of a panorama, (*VIEW, 3): cylindrical, so that upright lines stay straight.

    Args:
        panorama: (H, W, 3), equirectangular.
        yaw: Direction of the middle in degrees.
        pitch: Degrees by which the horizon is moved down.
        span: Degrees from the left edge to the right one.
    """
    height, width = VIEW
    across = np.radians(span)
    longitude = np.radians(yaw) + across * ((np.arange(width) + 0.5) / width - 0.5)
    reach = across * height / width / 2
    latitude = np.arctan(reach * (2 * (np.arange(height) + 0.5) / height - 1)) - np.radians(pitch)
    wrapped = np.concatenate([panorama, panorama, panorama], axis=1)
    x = (longitude / (2 * np.pi) + 1.5) / 3 * 2 - 1
    y = latitude / (np.pi / 2)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1).astype(np.float32))[None]
    image = torch.from_numpy(wrapped).permute(2, 0, 1)[None]
    drawn = F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return drawn[0].permute(1, 2, 0).clamp(0, 1).numpy()


def panorama_views(panorama: Panorama, picture: Picture) -> list[Picture]:
    """Its views, all around but for the directions to skip."""
    rng = np.random.default_rng(len(panorama.name) + picture.shape[1])
    step = 360 / panorama.views
    found = []
    for number in range(panorama.views):
        yaw = -180 + step * (number + 0.5)
        pitch = rng.uniform(-6, 12)
        if number not in panorama.skip:
            found.append(view(picture, yaw, pitch, panorama.width))
    return found


def texture_views(texture: Texture, picture: Image.Image) -> list[Picture]:
    """The upper and the lower part of a square picture, tinted."""
    height, width = VIEW
    tall = round(picture.width * height / width)
    grey = picture.convert("L")
    found = []
    for top in (0, picture.height - tall):
        part = grey.crop((0, top, grey.width, top + tall)).resize((width, height), Image.Resampling.LANCZOS)
        shade = np.asarray(part, dtype=np.float32)[..., None] / 255.0
        found.append(np.clip(2 * shade * np.array(texture.colour, dtype=np.float32), 0, 1))
    return found


def sheet(views: list[Picture]) -> Image.Image:
    """Views side by side, :data:`COLUMNS` a row."""
    height, width = VIEW
    rows = -(-len(views) // COLUMNS)
    image = Image.new("RGB", (COLUMNS * width, rows * height))
    for index, picture in enumerate(views):
        tile = Image.fromarray((picture * 255 + 0.5).astype(np.uint8))
        image.paste(tile, (index % COLUMNS * width, index // COLUMNS * height))
    return image


def unpacked_debian(package: str, folder: Path) -> Path:
    """Fetch and unpack a Debian package; the folder that stands for ``/``."""
    subprocess.run(["apt-get", "download", package], cwd=folder, check=True)
    archive = next(folder.glob(f"{package}_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / package)], check=True)
    return folder / package


def read_panorama(panorama: Panorama, pmndrs: Path, blender: Path, scratch: Path) -> Picture:
    """The toned picture of a panorama, from the unpacked packages."""
    if panorama.package == "blender":
        path = blender / "usr/share/blender/datafiles/studiolights/world" / f"{panorama.name}.exr"
    else:
        # The npm package wraps each file as a JavaScript module that exports a data URL.
        module = (pmndrs / "hdri" / f"{panorama.name}.exr.js").read_text(encoding="ascii")
        path = scratch / f"{panorama.name}.exr"
        path.write_bytes(base64.b64decode(module.split("base64,", 1)[1].split("'", 1)[0]))
    return toned(read_exr(path))


def build(pmndrs: Path, blender: Path, samples: Path, directory: Path = ASSETS) -> int:
    """Write ``photos.webp`` and ``photos.json``; how many views they hold."""
    views: list[Picture] = []
    sources: list[dict[str, object]] = []

    def add(name: str, origin: str, heldout: bool, pictures: list[Picture]) -> None:
        sources.append({"name": name, "origin": origin, "heldout": heldout, "views": len(pictures)})
        views.extend(pictures)

    packages = {
        "pmndrs": f"npm {PMNDRS_PACKAGE}, from {POLY_HAVEN}",
        "blender": f"Debian {BLENDER_PACKAGE}, by Greg Zaal, from {POLY_HAVEN}",
    }
    with tempfile.TemporaryDirectory() as scratch:
        for panorama in PANORAMAS:
            picture = read_panorama(panorama, pmndrs, blender, Path(scratch))
            add(
                f"{panorama.package}/{panorama.name}",
                packages[panorama.package],
                panorama.heldout,
                panorama_views(panorama, picture),
            )
    for texture in TEXTURES:
        with Image.open(samples / f"{texture.name}.png") as image:
            add(
                f"scikit-image/{texture.name}",
                f"PyPI scikit-image, from {AMBIENT_CG}",
                texture.heldout,
                texture_views(texture, image),
            )
    buffer = io.BytesIO()
    sheet(views).save(buffer, "WEBP", quality=82, method=6)
    (directory / "photos.webp").write_bytes(buffer.getvalue())
    lines = ",\n".join("  " + json.dumps(source, ensure_ascii=False) for source in sources)
    text = f'{{\n "licence": "CC0-1.0",\n "sources": [\n{lines}\n ]\n}}\n'
    (directory / "photos.json").write_text(text, encoding="utf-8")
    return len(views)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the pack of background photographs.")
    parser.add_argument("--pmndrs", type=Path, help="unpacked @pmndrs/assets (else fetched with npm)")
    parser.add_argument("--blender", type=Path, help="unpacked blender-data (else fetched with apt-get)")
    parser.add_argument("--samples", type=Path, help="folder of scikit-image's sample pictures")
    parser.add_argument("-o", "--output", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    samples = arguments.samples
    if samples is None:
        try:
            import skimage
        except ImportError as error:
            raise ConfigError(
                "building the photographs needs `pip install scikit-image`, or --samples"
            ) from error
        samples = Path(skimage.__file__).parent / "data"
    with tempfile.TemporaryDirectory() as temporary:
        pmndrs = arguments.pmndrs or npm_pack(PMNDRS_PACKAGE, Path(temporary))
        blender = arguments.blender or unpacked_debian(BLENDER_PACKAGE, Path(temporary))
        count = build(pmndrs, blender, samples, arguments.output)
    print(f"wrote {count} views to {arguments.output}")


if __name__ == "__main__":
    main()
