"""What tasks and dead processes may leave on the disk."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from ml_backend.label_studio.media import MediaStore
from ml_backend.label_studio.media_access import MediaTimeoutError, MediaTooLargeError
from ml_backend.label_studio.media_cache import MediaCache
from steerseg.errors import ArtefactError
from steerseg.runtime.artefacts import remove_partials
from steerseg.video.shared_frames import IN_MEMORY, SharedFrameWriter

PAGE = b"\xff\xd8\xff" + b"x" * 2**20
LONG_AGO = time.time() - 7 * 24 * 3600


@pytest.fixture
def pages() -> Iterator[str]:
    """A server whose every path is another page of 1 MiB; those below /slow take a while."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/slow"):
                time.sleep(0.15)
            body = PAGE + self.path.encode()
            self.send_response(200)
            if not self.path.startswith("/undeclared"):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("kind", ["declared", "undeclared"])
def test_a_task_never_has_more_on_the_disk_than_it_may(tmp_path: Path, pages: str, kind: str) -> None:
    store = MediaStore(tmp_path, max_bytes=3 * 2**20, allow_private_addresses=True)
    with pytest.raises(MediaTooLargeError, match="3 MiB together"):
        store.fetch_frames([f"{pages}/{kind}/{i}" for i in range(100)])
    assert size_of(tmp_path) <= 3 * 2**20
    assert not list((tmp_path / "tmp").iterdir())


def test_pages_that_are_here_already_count_as_well(tmp_path: Path, pages: str) -> None:
    store = MediaStore(tmp_path, max_bytes=3 * 2**20, allow_private_addresses=True)
    store.fetch_frames([f"{pages}/a", f"{pages}/b"])
    with pytest.raises(MediaTooLargeError):
        store.fetch_frames([f"{pages}/a", f"{pages}/b"] * 2)


def test_all_pages_of_a_task_have_one_deadline(
    tmp_path: Path, pages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.label_studio.media._TASK_FILES", 1)  # a task may take as long as one file
    store = MediaStore(tmp_path, download_timeout=3.0, allow_private_addresses=True, concurrency=1)
    with pytest.raises(MediaTimeoutError, match="media did not arrive within 3 s together"):
        store.fetch_frames([f"{pages}/slow/{i}" for i in range(1000)])
    assert not list((tmp_path / "tmp").iterdir())


def test_unfinished_downloads_of_dead_processes_go_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    (folder / "built").mkdir()
    dead, alive, fresh = folder / "dead", folder / "alive", folder / "fresh"
    for file in (dead, alive, fresh, folder / "built" / "00000.jpg"):
        file.write_bytes(b"part")
    for path in (dead, alive, folder / "built"):
        os.utime(path, (LONG_AGO, LONG_AGO))
    with alive.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        MediaCache(tmp_path, 2**20)
        assert sorted(path.name for path in folder.iterdir()) == ["alive", "fresh"]


def test_partial_files_go_wherever_they_are(tmp_path: Path) -> None:
    old, new, whole = (tmp_path / "a" / name for name in (".partial-x-1", ".partial-y-2", "z"))
    old.mkdir(parents=True)
    (old / ".partial-inner").write_bytes(b"part")
    for file in (new, whole):
        file.write_bytes(b"part")
    for path in (old, whole):
        os.utime(path, (LONG_AGO, LONG_AGO))
    remove_partials(tmp_path, below=True, older_than=600)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [new.name, whole.name]


def test_frames_that_find_no_room_on_the_disk_say_so() -> None:
    memory, full = os.memfd_create("frames"), os.open("/dev/full", os.O_RDWR)
    try:
        frames = SharedFrameWriter(memory, full)
        image = np.zeros((IN_MEMORY // 3 // 1024, 1024, 3), np.uint8)
        frames.append(image)
        with pytest.raises(ArtefactError, match="TMPDIR"):
            frames.append(image)
    finally:
        os.close(memory)
        os.close(full)
