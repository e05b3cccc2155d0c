"""The program of a process that decodes one file of a stranger, within limits of memory and of files, and ends.

It is started with two descriptors for the frames, reads one request from its standard input, and writes reports to
its standard output. It ends at once when its input closes.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

from steerseg.errors import ArtefactError, VideoError
from steerseg.video.decoder_messages import (
    DecodedFrames,
    DecodeFailure,
    DecodeProgress,
    DecodeRequest,
    DecoderReport,
    FrameTimes,
)
from steerseg.video.loading import load_path
from steerseg.video.player import read_timeline
from steerseg.video.shared_frames import SharedFrameWriter

_NICENESS = 5
_MOST_OPEN_FILES = 64
_USUALLY_HELD = 2**28  # bytes, where the system does not say
_INTERVAL = 0.05  # seconds between two reports of progress


def main(memory: int, disk: int) -> None:
    """Answer one request.

    Args:
        memory: Descriptor of the file in memory for the frames.
        disk: Descriptor of the file on disk for the frames.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked decides when this ends
    line = sys.stdin.buffer.readline()
    if not line:
        return  # nobody wants anything any more
    request = DecodeRequest.model_validate_json(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    confine(request)
    try:
        report = _answer(request, SharedFrameWriter(memory, disk))
    except MemoryError:
        report = DecodeFailure(
            error="VideoError",
            message=f"{request.path} needs more than the limit of {request.memory >> 20} MiB of memory to be decoded. "
            "Scale it down, or convert it to MP4 (H.264).",
        )
    except VideoError as error:
        report = DecodeFailure(error="VideoError", message=str(error))
    except ArtefactError as error:
        report = DecodeFailure(error="ArtefactError", message=str(error))
    _send(report)


def confine(request: DecodeRequest) -> None:
    """Take on the limits of a request, for good."""
    os.nice(max(0, _NICENESS - os.getpriority(os.PRIO_PROCESS, 0)))
    held = data_bytes()
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


def _answer(request: DecodeRequest, frames: SharedFrameWriter) -> DecoderReport:
    if request.times_only:
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


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # whatever a codec still does is not waited for
