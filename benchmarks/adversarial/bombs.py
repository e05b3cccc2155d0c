"""Small inputs that claim to be large."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

_FILLER = b"\x00\x00\x01\x0c\x80"  # the decoder sets up some KiB for each unit of five bytes


def polygons(count: int = 30, side: int = 8000) -> list[dict[str, Any]]:
    """Regions of a few corners on a page that claims to be huge."""
    return [
        {
            "id": f"r{i}",
            "type": "polygonlabels",
            "from_name": "mask",
            "to_name": "frames",
            "item_index": i,
            "original_width": side,
            "original_height": side,
            "value": {"points": [[0, 0], [100, 0], [100, 100], [0, 100 - i]], "polygonlabels": ["object"]},
        }
        for i in range(count)
    ]


def brushes(count: int = 30, side: int = 8000) -> list[dict[str, Any]]:
    """Regions whose run lengths repeat one value over a huge page."""
    rle = _one_value(4 * side * side)
    return [
        {
            **region,
            "type": "brushlabels",
            "value": {"format": "rle", "rle": rle, "brushlabels": ["object"]},
        }
        for region in polygons(count, side)
    ]


def _one_value(count: int) -> list[int]:
    """Run lengths of the longest runs that the format knows, all of the value 255."""
    bits = [f"{count:032b}", f"{7:05b}", *(f"{15:04b}" for _ in range(4))]
    runs = -(-count // 2**16)
    bits += ["1" + "00" + "1" * 16 + "1" * 8] * runs
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def progressive_jpeg(path: Path, side: int = 3000, scans: int = 60) -> None:
    """A picture of one colour whose scans are repeated: each costs a pass over all of it."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), (90, 120, 30)).save(content, "JPEG", progressive=True, quality=5)
    data = content.getvalue()
    starts = [i for i in range(len(data) - 1) if data[i : i + 2] == b"\xff\xda"]
    refining = data[starts[-1] : -2]
    path.write_bytes(data[:-2] + refining * scans + data[-2:])


def heavy_exif(path: Path, mebibytes: int) -> None:
    """A small picture behind many megabytes of EXIF."""
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "JPEG")
    data = content.getvalue()
    block = b"\xff\xe1\xff\xffExif\0\0" + b"\0" * (2**16 - 1 - 2 - 6)
    path.write_bytes(data[:2] + block * (16 * mebibytes) + data[2:])


def wide_png(path: Path, side: int) -> None:
    """A picture of a few kilobytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    rows = zlib.compress(bytes(3 * side + 1) * 8, 9)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def black_video(path: Path, frames: int, size: tuple[int, int]) -> None:
    """A video of many frames that show nothing: some hundred bytes each."""
    width, height = size
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(25), options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((height * 3 // 2, width), np.uint8), format="yuv420p")
        for index in range(frames):
            picture.pts = index
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def raw_stream(path: Path, fillers: int) -> None:
    """A bare H.264 stream of filler."""
    path.write_bytes(_FILLER * fillers)


def transport_stream(path: Path, fillers: int, size: tuple[int, int] = (640, 360)) -> None:
    """An MPEG transport stream whose only access unit carries filler without end."""
    source = path.with_suffix(".source.ts")
    black_video(source, 3, size)
    with av.open(str(source)) as given, av.open(str(path), "w", format="mpegts") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.size == 0:
                continue
            filled = av.Packet(bytes(packet) + _FILLER * fillers)
            filled.pts, filled.dts, filled.time_base = packet.pts, packet.dts, packet.time_base
            filled.stream = stream
            filled.is_keyframe = packet.is_keyframe
            container.mux(filled)
    source.unlink()


def long_index(path: Path, samples: int) -> None:
    """An MP4 whose index claims samples that are not there."""
    source = path.with_suffix(".source.mp4")
    black_video(source, 3, (64, 64))
    data = bytearray(source.read_bytes())
    source.unlink()
    for name, offset in ((b"stts", 8), (b"stsz", 12)):
        place = data.find(name)
        data[place + offset + 4 : place + offset + 8] = samples.to_bytes(4, "big")
    path.write_bytes(bytes(data))


def frames_folder(folder: Path, files: Sequence[Path]) -> Path:
    """A folder of pages."""
    folder.mkdir()
    for index, file in enumerate(files):
        file.rename(folder / f"{index:05d}{file.suffix}")
    return folder
