"""The program of a process that decodes files of strangers, within limits of memory and of files.

It is started with two descriptors for the frames, reads requests from its standard input, and writes reports to its
standard output. It ends at once when its input closes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import NoReturn

import numpy as np

from steerseg.errors import ArtefactError, VideoError
from steerseg.video.decoder_messages import (
    DecodedFrames,
    DecodedPicture,
    DecodeFailure,
    DecodeProgress,
    DecodeRequest,
    DecoderReport,
    FoundKind,
    FrameTimes,
    PicturesEnd,
)
from steerseg.video.decoding import file_kind
from steerseg.video.loading import load_path
from steerseg.video.player import read_timeline
from steerseg.video.shared_frames import SharedFrameWriter
from steerseg.video.streaming import open_stream

_NICENESS = 5
_MOST_OPEN_FILES = 64
_MOST_THREADS = 8  # of the decoder and of what converts its pictures
_USUAL_STACK = 8 * 2**20
_USUALLY_HELD = 2**28  # bytes, where the system does not say
_INTERVAL = 0.05  # seconds between two reports of progress


def main(memory: int, disk: int) -> NoReturn:
    """Answer requests, within the limits of the first one.

    Args:
        memory: Descriptor of the file in memory for the frames.
        disk: Descriptor of the file on disk for the frames.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked decides when this ends
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(lines,), daemon=True).start()
    request = DecodeRequest.model_validate_json(lines.get())
    confine(request)
    while True:
        _send(_report(request, SharedFrameWriter(memory, disk)))
        request = DecodeRequest.model_validate_json(lines.get())


def _report(request: DecodeRequest, frames: SharedFrameWriter) -> DecoderReport:
    """The last report of an answer."""
    try:
        return _answer(request, frames)
    except MemoryError:
        return DecodeFailure(
            error="VideoError",
            message=f"{request.path} needs more than the limit of {request.memory >> 20} MiB of memory to be decoded. "
            "Scale it down, or convert it to MP4 (H.264).",
        )
    except VideoError as error:
        return DecodeFailure(error="VideoError", message=str(error))
    except ArtefactError as error:
        return DecodeFailure(error="ArtefactError", message=str(error))
    except OSError as error:
        return DecodeFailure(error="VideoError", message=f"{request.path} cannot be read ({error.strerror}).")
    except Exception as error:  # a fault of ours or of PyAV's, for which the file is not to blame
        traceback.print_exc()
        return DecodeFailure(
            error="VideoError",
            message=f"{request.path} could not be decoded: unexpected {type(error).__name__} in the decoder; the log "
            "has the details.",
        )


def confine(request: DecodeRequest) -> None:
    """Take on the limits of a request, for good."""
    os.nice(max(0, _NICENESS - os.getpriority(os.PRIO_PROCESS, 0)))
    held = data_bytes() + _large_stacks()
    for kind, limit in (
        (resource.RLIMIT_DATA, held + request.memory),
        (resource.RLIMIT_FSIZE, request.limits.max_memory + 2**20),
        (resource.RLIMIT_NOFILE, _MOST_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, most = resource.getrlimit(kind)
        limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
        with contextlib.suppress(ValueError, OSError):  # a system that knows no such limit
            resource.setrlimit(kind, (limit, limit))


def data_bytes() -> int:
    """Bytes of private memory that this process has reserved: what ``RLIMIT_DATA`` counts."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return _USUALLY_HELD
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(fields["VmData"].split()[0]) * 1024 if "VmData" in fields else _USUALLY_HELD


def _large_stacks() -> int:
    """Bytes that threads reserve for stacks beyond the usual ones, where the machine gives larger ones."""
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return 0 if stack == resource.RLIM_INFINITY else _MOST_THREADS * max(0, stack - _USUAL_STACK)


def _answer(request: DecodeRequest, frames: SharedFrameWriter) -> DecoderReport:
    if request.wanted == "kind":
        return FoundKind(found=file_kind(request.path))
    if request.wanted == "pictures":
        return _give_pictures(request)
    if request.wanted == "times":
        timeline = read_timeline(request.path, bare_streams=request.limits.bare_streams)
        return FrameTimes(
            times=timeline.times.tolist(),
            duration=timeline.duration,
            end=timeline.end,
            start=timeline.start,
            entries=timeline.entries.tolist(),
            entry_frames=timeline.entry_frames.tolist(),
        )
    video = load_path(
        request.path,
        limits=request.limits,
        stride=request.stride,
        fps=request.fps,
        progress=_Throttled(),
        store=frames,
    )
    return DecodedFrames(
        shape=(video.num_frames, video.height, video.width, 3),
        on_disk=frames.on_disk,
        pts=video.pts.tolist(),
        fps=video.fps,
        digest=video.digest,
    )


def _give_pictures(request: DecodeRequest) -> PicturesEnd:
    """Write the pictures one after the other; whoever reads slowly makes this wait."""
    stream = open_stream(
        request.path,
        fps=request.fps,
        limits=request.limits,
        stride=request.stride,
        square=request.square,
        one_size=request.one_size,
    )
    for picture in stream:
        _send(DecodedPicture(shape=picture.shape))  # type: ignore[arg-type]
        sys.stdout.buffer.write(np.ascontiguousarray(picture).data)
        sys.stdout.buffer.flush()
    return PicturesEnd(pts=stream.pts.tolist(), fps=stream.fps, digest=stream.digest)


class _Throttled:
    """Reports progress now and then."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, stage: str, fraction: float) -> None:
        now = time.monotonic()
        if fraction >= 1.0 or now - self._last >= _INTERVAL:
            self._last = now
            _send(DecodeProgress(stage=stage, fraction=min(1.0, max(0.0, fraction))))


def _send(report: DecoderReport) -> None:
    sys.stdout.buffer.write(report.model_dump_json().encode() + b"\n")
    sys.stdout.buffer.flush()


def _read_requests(lines: queue.SimpleQueue[bytes]) -> None:
    for line in sys.stdin.buffer:
        lines.put(line)
    os._exit(0)  # nobody wants anything any more; whatever a codec still does is not waited for


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
