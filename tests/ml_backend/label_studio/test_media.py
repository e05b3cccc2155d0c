"""Media is fetched within limits, from where it may come, and the token reaches Label Studio alone."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from ml_backend.label_studio import media_cache
from ml_backend.label_studio.media import MediaStore
from ml_backend.label_studio.media_access import (
    MediaError,
    MediaHost,
    MediaRefusedError,
    MediaTimeoutError,
    MediaTooLargeError,
    MediaUnavailableError,
)
from steerseg.errors import VideoError

TOKEN = "secret-token-0123456789"


def jpeg(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, shade)).save(buffer, format="JPEG")
    return buffer.getvalue()


class Server:
    """A server on the loopback address that answers as its routes say and notes what it was asked."""

    def __init__(self) -> None:
        self.routes: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Authorization")))
                outer.routes.get(self.path.split("?")[0], lambda h: h.send_error(404))(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def body(self, path: str, content: bytes, status: int = 200, **headers: str) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            tag = headers.get("ETag")
            if tag and handler.headers.get("If-None-Match") == tag:
                handler.send_response(304)
                handler.end_headers()
                return
            handler.send_response(status)
            handler.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)

        self.routes[path] = answer

    def redirect(self, path: str, to: str) -> None:
        self.body(path, b"", status=302, Location=to)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def label_studio() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def stranger() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def database(tmp_path: Path, server: Server | None, **options: object) -> MediaStore:
    host = MediaHost(server.url, lambda: {"Authorization": f"Token {TOKEN}"}) if server else None
    return MediaStore(tmp_path / "media", host=host, **options)  # type: ignore[arg-type]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("reference", ["/data/upload/1/a b.mp4", "{url}/data/upload/1/a%20b.mp4"])
def test_label_studio_gets_the_token(tmp_path: Path, label_studio: Server, reference: str) -> None:
    label_studio.body("/data/upload/1/a%20b.mp4", b"film")
    path = database(tmp_path, label_studio).fetch(reference.format(url=label_studio.url))
    assert path.read_bytes() == b"film"
    assert label_studio.asked == [("/data/upload/1/a%20b.mp4", f"Token {TOKEN}")]


def test_a_sub_path_is_kept(tmp_path: Path, label_studio: Server) -> None:
    label_studio.body("/ls/data/upload/1/a.mp4", b"film")
    host = MediaHost(label_studio.url + "/ls/")
    media = MediaStore(tmp_path, host=host)
    assert media.fetch("/data/upload/1/a.mp4").read_bytes() == b"film"
    assert media.fetch("/ls/data/upload/1/a.mp4").read_bytes() == b"film"
    assert len(label_studio.asked) == 1


def test_the_token_does_not_follow_a_redirect(tmp_path: Path, label_studio: Server, stranger: Server) -> None:
    label_studio.redirect("/data/upload/1/a.mp4", stranger.url + "/elsewhere.mp4?signature=1")
    stranger.body("/elsewhere.mp4", b"film")
    media = database(tmp_path, label_studio, allow_private_addresses=True)
    assert media.fetch("/data/upload/1/a.mp4").read_bytes() == b"film"
    assert label_studio.asked[0][1] == f"Token {TOKEN}"
    assert stranger.asked == [("/elsewhere.mp4?signature=1", None)]


def test_a_stranger_that_points_at_label_studio_gets_what_the_task_would(
    tmp_path: Path, label_studio: Server, stranger: Server
) -> None:
    stranger.redirect("/a.mp4", label_studio.url + "/data/upload/1/a.mp4")
    label_studio.body("/data/upload/1/a.mp4", b"film")
    media = database(tmp_path, label_studio, allow_private_addresses=True)
    assert media.fetch(stranger.url + "/a.mp4").read_bytes() == b"film"
    assert stranger.asked[0][1] is None


def test_private_addresses_are_refused_also_behind_a_redirect(
    tmp_path: Path, label_studio: Server, stranger: Server
) -> None:
    stranger.body("/a.mp4", b"film")
    label_studio.redirect("/data/upload/1/a.mp4", stranger.url + "/a.mp4")
    media = database(tmp_path, label_studio)
    for reference in (
        stranger.url + "/a.mp4",
        "/data/upload/1/a.mp4",
        "http://localhost:1/a",
        "http://[::1]/a",
    ):
        with pytest.raises(MediaRefusedError, match="STEERSEG_ALLOW_PRIVATE_ADDRESSES"):
            media.fetch(reference)
    assert stranger.asked == []


def test_only_allowed_hosts_are_asked(tmp_path: Path, label_studio: Server, stranger: Server) -> None:
    stranger.body("/a.mp4", b"film")
    label_studio.body("/data/upload/1/a.mp4", b"own")
    refusing = database(tmp_path, label_studio, allowed_hosts=["example.org"], allow_private_addresses=True)
    with pytest.raises(MediaRefusedError, match="STEERSEG_ALLOWED_HOSTS"):
        refusing.fetch(stranger.url + "/a.mp4")
    assert refusing.fetch("/data/upload/1/a.mp4").read_bytes() == b"own"
    allowing = database(tmp_path, label_studio, allowed_hosts=["127.0.0.1"], allow_private_addresses=True)
    assert allowing.fetch(stranger.url + "/a.mp4").read_bytes() == b"film"


@pytest.mark.parametrize(
    "reference",
    ["file:///etc/passwd", "ftp://example.org/a", "s3://bucket/a.mp4", "/etc/passwd", "a.mp4", "", "data:x"],
)
def test_other_schemes_and_local_paths_are_refused(
    tmp_path: Path, label_studio: Server, reference: str
) -> None:
    with pytest.raises(MediaError) as caught:
        database(tmp_path, label_studio).fetch(reference)
    assert isinstance(caught.value, VideoError)


def test_things_that_are_no_address_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="address of a file"):
        database(tmp_path, None).fetch({"a": 1})  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="STEERSEG_LABEL_STUDIO_URL"):
        database(tmp_path, None).fetch("/data/upload/1/a.mp4")


def test_too_large_is_refused_with_and_without_a_declared_size(tmp_path: Path, label_studio: Server) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(bytes(100_000))
        except OSError:
            return

    label_studio.body("/data/declared", bytes(2_000_000))
    label_studio.routes["/data/endless"] = endless
    media = database(tmp_path, label_studio, max_bytes=1_000_000)
    for reference in ("/data/declared", "/data/endless"):
        with pytest.raises(MediaTooLargeError, match="STEERSEG_MAX_DOWNLOAD_MIB"):
            media.fetch(reference)
    assert files_in(tmp_path) == []


@pytest.fixture
def slow(label_studio: Server) -> Iterator[None]:
    """Two more paths of Label Studio: one that never comes to its end, and one that says nothing at all."""
    released = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not released.wait(0.05):
                handler.wfile.write(b"x")
                handler.wfile.flush()
        except OSError:
            return

    label_studio.routes["/data/drip"] = drip
    label_studio.routes["/data/silent"] = lambda _: released.wait(30) and None
    yield
    released.set()


@pytest.mark.usefixtures("slow")
def test_slow_servers_run_into_the_limit(tmp_path: Path, label_studio: Server) -> None:
    media = database(tmp_path, label_studio, download_timeout=0.4)
    for reference in ("/data/drip", "/data/silent"):
        with pytest.raises(MediaTimeoutError, match="STEERSEG_DOWNLOAD_TIMEOUT"):
            media.fetch(reference)
    assert files_in(tmp_path) == []


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize(
    ("files", "limit"),
    [
        (
            10,
            r"/data/drip did not arrive within the time limit \(0\.4 s for a file\); .*STEERSEG_DOWNLOAD_TIMEOUT",
        ),
        (
            0.5,
            r"media did not arrive within 0\.2 s together \(0\.4 s for a file\); .*STEERSEG_DOWNLOAD_TIMEOUT",
        ),
    ],
    ids=["of a file", "of a task"],
)
def test_a_slow_page_names_the_limit_that_it_ran_into(
    tmp_path: Path, label_studio: Server, monkeypatch: pytest.MonkeyPatch, files: float, limit: str
) -> None:
    monkeypatch.setattr("ml_backend.label_studio.media._TASK_FILES", files)
    media = database(tmp_path, label_studio, download_timeout=0.4)
    with pytest.raises(MediaTimeoutError, match=limit):
        media.fetch_frames(["/data/drip"])


@pytest.mark.usefixtures("slow")
def test_a_silent_server_is_not_one_that_takes_too_long(tmp_path: Path, label_studio: Server) -> None:
    media = database(tmp_path, label_studio, download_timeout=30, wait_timeout=0.2)
    with pytest.raises(MediaTimeoutError, match=r"was silent for 0\.2 s; check the server, and try again$"):
        media.fetch("/data/silent")


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, label_studio: Server) -> None:
    def broken(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"half")

    label_studio.routes["/data/broken"] = broken
    with pytest.raises(MediaError):
        database(tmp_path, label_studio).fetch("/data/broken")
    assert files_in(tmp_path) == []


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "STEERSEG_LABEL_STUDIO_API_KEY"), (403, "account"), (404, "Local Files storage")],
)
def test_refusals_come_with_a_hint_and_without_the_token(
    tmp_path: Path, label_studio: Server, status: int, hint: str
) -> None:
    label_studio.body("/data/local-files/", b"", status=status)
    with pytest.raises(MediaUnavailableError, match=hint) as caught:
        database(tmp_path, label_studio).fetch("/data/local-files/?d=clips/a.mp4")
    assert caught.value.status == status
    assert "?d=clips/a.mp4" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_sign_in_page_is_told_apart(tmp_path: Path, label_studio: Server, stranger: Server) -> None:
    label_studio.redirect("/data/upload/1/a.mp4", "/user/login/?next=/data/upload/1/a.mp4")
    with pytest.raises(MediaUnavailableError, match="token"):
        database(tmp_path, label_studio).fetch("/data/upload/1/a.mp4")
    stranger.body("/page", b"  <!DOCTYPE html><html>please sign in</html>")
    with pytest.raises(MediaError, match="web page"):
        database(tmp_path, None, allow_private_addresses=True).fetch(stranger.url + "/page")


def test_unchanged_files_are_not_sent_again(
    tmp_path: Path, label_studio: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_cache, "_FRESH", 0.0)
    label_studio.body("/data/a.mp4", b"one", ETag='"1"')
    media = database(tmp_path, label_studio)
    first = media.fetch("/data/a.mp4")
    assert media.fetch("/data/a.mp4") == first
    assert len(label_studio.asked) == 2
    label_studio.body("/data/a.mp4", b"two", ETag='"2"')
    assert media.fetch("/data/a.mp4").read_bytes() == b"two"
    assert first.read_bytes() == b"one", "a file in use is never changed"


def test_two_at_once_download_once(tmp_path: Path, label_studio: Server) -> None:
    label_studio.body("/data/a.mp4", bytes(500_000))
    media = database(tmp_path, label_studio)
    threads = [threading.Thread(target=media.fetch, args=("/data/a.mp4",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(label_studio.asked) == 1


def test_pages_become_a_folder(tmp_path: Path, label_studio: Server) -> None:
    pages = [jpeg(shade) for shade in (10, 20, 10)]
    for page, content in enumerate(pages):
        label_studio.body(f"/data/upload/1/{page}", content)
    media = database(tmp_path, label_studio)
    seen: list[float] = []
    folder = media.fetch_frames([f"/data/upload/1/{page}" for page in range(3)], progress=seen.append)
    assert [path.name for path in sorted(folder.iterdir())] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert [path.read_bytes() for path in sorted(folder.iterdir())] == pages
    assert seen[-1] == 1.0
    assert media.fetch_frames([f"/data/upload/1/{page}" for page in range(3)]) == folder
    assert media.fetch_frames(["/data/upload/1/1", "/data/upload/1/0"]) != folder


def test_bad_pages_are_named(tmp_path: Path, label_studio: Server) -> None:
    label_studio.body("/data/upload/1/0", jpeg(1))
    label_studio.body("/data/upload/1/1", b"not an image")
    media = database(tmp_path, label_studio, max_pages=3)
    with pytest.raises(MediaError, match="page 1"):
        media.fetch_frames(["/data/upload/1/0", "/data/upload/1/1"])
    with pytest.raises(MediaUnavailableError, match="page 1"):
        media.fetch_frames(["/data/upload/1/0", "/data/upload/1/2"])
    with pytest.raises(MediaTooLargeError, match="4 pages"):
        media.fetch_frames(["/data/upload/1/0"] * 4)
    for nothing in ([], "/data/upload/1/0", None):
        with pytest.raises(MediaError, match="image addresses"):
            media.fetch_frames(nothing)  # type: ignore[arg-type]


def test_local_paths_only_below_allowed_roots(tmp_path: Path, label_studio: Server) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.mp4").write_bytes(b"film")
    (tmp_path / "secret").write_bytes(b"secret")
    (root / "link.mp4").symlink_to(tmp_path / "secret")
    media = database(tmp_path, label_studio, local_roots=[root])
    assert media.fetch(str(root / "a.mp4")) == root / "a.mp4"
    for path in (root / ".." / "secret", root / "link.mp4", tmp_path / "secret"):
        with pytest.raises(MediaRefusedError):
            media.fetch(str(path))


def test_label_studios_folder_is_read_from_disk_where_it_is_seen(
    tmp_path: Path, label_studio: Server
) -> None:
    root = tmp_path / "root"
    (root / "clips").mkdir(parents=True)
    (root / "clips" / "a b.jpg").write_bytes(jpeg(3))
    (tmp_path / "secret").write_bytes(b"secret")
    media = database(tmp_path, label_studio, local_files_root=root)
    assert media.fetch("/data/local-files/?d=clips/a%20b.jpg") == root / "clips" / "a b.jpg"
    folder = media.fetch_frames(["/data/local-files/?d=clips/a%20b.jpg"])
    assert (folder / "00000.jpg").read_bytes() == jpeg(3)
    assert label_studio.asked == []
    with pytest.raises(MediaUnavailableError):
        media.fetch("/data/local-files/?d=../secret")


def test_the_cache_stays_below_its_limit(
    tmp_path: Path, label_studio: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        label_studio.body(f"/data/{i}", bytes([i]) * 40_000)
    media = database(tmp_path, label_studio, cache_bytes=100_000)
    paths = [media.fetch(f"/data/{i}") for i in range(4)]
    assert all(path.exists() for path in paths), "files just used stay"
    for i, path in enumerate(paths):
        os.utime(path, (time.time() - 10_000 + i,) * 2)
    newest = media.fetch("/data/4")
    assert newest.exists()
    assert [path.exists() for path in paths] == [False, False, False, True]
    assert media.fetch("/data/0").read_bytes() == bytes(40_000), "what was evicted is fetched again"


def test_folders_are_evicted_with_what_they_hold(
    tmp_path: Path, label_studio: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.body("/data/0", jpeg(1) + bytes(50_000))
    label_studio.body("/data/1", bytes(60_000))
    media = database(tmp_path, label_studio, cache_bytes=100_000)
    folder = media.fetch_frames(["/data/0"])
    for path in (folder, folder / "00000.jpg"):
        os.utime(path, (time.time() - 10_000,) * 2)
    media.fetch("/data/1")
    assert not folder.exists()
    assert sum(path.stat().st_size for path in files_in(tmp_path) if path.suffix != ".json") == 60_000
