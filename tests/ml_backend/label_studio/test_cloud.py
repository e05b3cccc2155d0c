"""Media in cloud storage: through Label Studio, signed or proxied, or with this machine's own credentials."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import resource
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from PIL import Image

from ml_backend.label_studio import media_cache
from ml_backend.label_studio.cloud import CloudReader
from ml_backend.label_studio.media import MediaStore
from ml_backend.label_studio.media_access import (
    MediaError,
    MediaHost,
    MediaRefusedError,
    MediaTimeoutError,
    MediaTooLargeError,
    MediaUnavailableError,
)
from ml_backend.settings import load_settings
from steerseg.errors import ConfigError
from steerseg.video.download_errors import DownloadTimeoutError
from tests.support.cloud import KEYS, S3
from tests.support.networks import Server, clean_environment
from tests.support.requirements import missing

TOKEN = "secret-token-0123456789"
MAX_RANGE = 8 * 2**20
CLIP = "s3://videos/raw/a clip.mp4"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def label_studio() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture
def cloud() -> Iterator[Server]:
    with Server() as server:
        yield server


def store(folder: Path, server: Server, **options: object) -> MediaStore:
    host = MediaHost(server.url, lambda: {"Authorization": f"Token {TOKEN}"})
    return MediaStore(folder / "media", host=host, **options)  # type: ignore[arg-type]


class Proxied:
    """Label Studio's proxy of one object: it cuts ranges, ends early, and fails as often as told.

    Args:
        file: The object.
        most: Bytes after which an answer ends without an error, as if its 20 seconds were over.
        hiccups: Numbers of the requests that are answered with 424.
    """

    def __init__(self, file: Path, *, most: int = MAX_RANGE, hiccups: tuple[int, ...] = ()) -> None:
        self.file = file
        self.most = most
        self.hiccups = hiccups
        self.etag = '"1"'
        self.ranges: list[str | None] = []

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.ranges.append(asked)
        if len(self.ranges) - 1 in self.hiccups:
            handler.send_error(424)
            return
        size = self.file.stat().st_size
        start, end = 0, size
        if asked is None:
            if handler.headers.get("If-None-Match") == self.etag:
                handler.send_response(304)
                handler.end_headers()
                return
        else:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
            assert wanted is not None
            start = int(wanted[1])
            end = min(int(wanted[2]) + 1, start + MAX_RANGE, size)
        handler.send_response(200 if asked is None else 206)
        handler.send_header("Content-Length", str(end - start))
        handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        handler.send_header("ETag", self.etag)
        handler.end_headers()
        with self.file.open("rb") as file:
            handler.wfile.flush()
            handler.connection.sendfile(file, start, min(end - start, self.most))


def object_of(folder: Path, size: int = 300_000) -> Path:
    path = folder / "object"
    path.write_bytes(bytes(i * 7 % 251 for i in range(1000)) * (size // 1000))
    return path


def test_label_studio_hands_out_what_lies_in_the_cloud(tmp_path: Path, label_studio: Server) -> None:
    path = object_of(tmp_path)
    label_studio.routes["/tasks/7/resolve/"] = Proxied(path)
    got = store(tmp_path, label_studio).fetch(CLIP, task_id=7)
    assert got.read_bytes() == path.read_bytes()
    asked, headers = label_studio.asked[0]
    assert base64.urlsafe_b64decode(asked.partition("fileuri=")[2]).decode() == CLIP
    assert headers["Authorization"] == f"Token {TOKEN}"
    assert headers["Range"] == f"bytes=0-{MAX_RANGE - 1}"


def test_a_proxy_that_ends_early_is_asked_for_the_rest(tmp_path: Path, label_studio: Server) -> None:
    path = object_of(tmp_path)
    proxied = label_studio.routes["/tasks/7/resolve/"] = Proxied(path, most=70_000, hiccups=(2, 3))
    got = store(tmp_path, label_studio).fetch(CLIP, task_id=7)
    assert got.read_bytes() == path.read_bytes()
    starts = [int(str(asked).split("=")[1].split("-")[0]) for asked in proxied.ranges]
    assert starts == [0, 70_000, 140_000, 140_000, 140_000, 210_000, 280_000]


def test_half_a_gigabyte_arrives_in_bounded_memory(tmp_path: Path, label_studio: Server) -> None:
    path = tmp_path / "object"
    with path.open("wb") as file:  # sparse: it takes no space
        for mebibyte in range(0, 500, 50):
            file.seek(mebibyte * 2**20)
            file.write(f"at {mebibyte}".encode())
        file.truncate(500 * 2**20)
    label_studio.routes["/tasks/7/resolve/"] = Proxied(path, most=7 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    got = store(tmp_path, label_studio, download_timeout=300).fetch(CLIP, task_id=7)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # KiB
    with path.open("rb") as one, got.open("rb") as other:
        digests = [hashlib.file_digest(file, "sha256").hexdigest() for file in (one, other)]
    assert digests[0] == digests[1]


def test_a_signed_address_gets_ranges_and_no_token(
    tmp_path: Path, label_studio: Server, cloud: Server
) -> None:
    path = object_of(tmp_path)
    signed = f"{cloud.url}/videos/a%20clip.mp4?X-Amz-Signature=secret"
    label_studio.body("/tasks/7/resolve/", b"", status=303, Location=signed)
    cloud.routes["/videos/a%20clip.mp4"] = Proxied(path, most=200_000)
    with pytest.raises(MediaRefusedError, match=r"private or local address \(127\.0\.0\.1\)") as caught:
        store(tmp_path, label_studio).fetch(CLIP, task_id=7)
    assert "secret" not in str(caught.value)
    got = store(tmp_path, label_studio, allow_private_addresses=True).fetch(CLIP, task_id=7)
    assert got.read_bytes() == path.read_bytes()
    assert [headers["Range"] for _, headers in cloud.asked] == [
        f"bytes=0-{MAX_RANGE - 1}",
        f"bytes=200000-{200_000 + MAX_RANGE - 1}",
    ]
    assert not any("Authorization" in headers for _, headers in cloud.asked)


def test_an_object_that_changes_meanwhile_is_refused(tmp_path: Path, label_studio: Server) -> None:
    proxied = Proxied(object_of(tmp_path), most=200_000)

    def changing(handler: BaseHTTPRequestHandler) -> None:
        proxied(handler)
        proxied.etag = '"2"'

    label_studio.routes["/tasks/7/resolve/"] = changing
    with pytest.raises(MediaError, match="changed while it was downloaded"):
        store(tmp_path, label_studio).fetch(CLIP, task_id=7)
    label_studio.body("/tasks/8/resolve/", b"other", status=206, Content_Range="bytes 5-9/10")
    with pytest.raises(MediaError, match="another part of the content"):
        store(tmp_path, label_studio).fetch(CLIP, task_id=8)


def test_an_object_that_did_not_change_is_not_sent_again(
    tmp_path: Path, label_studio: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_cache, "_FRESH", 0.0)
    path = object_of(tmp_path)
    proxied = label_studio.routes["/tasks/7/resolve/"] = Proxied(path)
    media = store(tmp_path, label_studio)
    first = media.fetch(CLIP, task_id=7)
    assert media.fetch(CLIP, task_id=7) == first
    assert proxied.ranges[1:] == [None], "a range would bring the content again"
    path.write_bytes(b"another film")
    proxied.etag = '"2"'
    assert media.fetch(CLIP, task_id=7).read_bytes() == b"another film"


def test_pages_may_lie_in_the_cloud(tmp_path: Path, label_studio: Server) -> None:
    page = io.BytesIO()
    Image.new("RGB", (8, 6)).save(page, format="JPEG")
    path = tmp_path / "page"
    path.write_bytes(page.getvalue())
    label_studio.routes["/tasks/7/resolve/"] = Proxied(path)
    pages = [f"{scheme}://bucket/{number}.jpg" for number, scheme in enumerate(("s3", "gs", "azure-blob"))]
    folder = store(tmp_path, label_studio).fetch_frames(pages, task_id=7)
    assert sorted(file.name for file in folder.iterdir()) == ["00000.jpg", "00001.jpg", "00002.jpg"]
    assert len(label_studio.asked) == 3


@pytest.mark.parametrize(
    ("status", "hint"), [(404, "source storage of the project"), (424, "credentials"), (403, "may not read")]
)
def test_refusals_name_the_object_and_what_to_do(
    tmp_path: Path, label_studio: Server, status: int, hint: str
) -> None:
    label_studio.body("/tasks/7/resolve/", b"", status=status)
    with pytest.raises(MediaUnavailableError, match=f"^{CLIP} cannot be read.*{hint}"):
        store(tmp_path, label_studio).fetch(CLIP, task_id=7)


def test_a_cloud_that_refuses_is_told_from_label_studio(
    tmp_path: Path, label_studio: Server, cloud: Server
) -> None:
    label_studio.body("/tasks/7/resolve/", b"", status=303, Location=f"{cloud.url}/a.mp4")
    cloud.body("/a.mp4", b"<Error/>", status=403)
    with pytest.raises(MediaUnavailableError, match="that the cloud refuses"):
        store(tmp_path, label_studio, allow_private_addresses=True).fetch(CLIP, task_id=7)


def test_without_label_studio_the_message_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"STEERSEG_LABEL_STUDIO_URL.*STEERSEG_CLOUD_ROOTS"):
        MediaStore(tmp_path / "media").fetch(CLIP, task_id=7)


def test_limits_hold_for_the_cloud(tmp_path: Path, label_studio: Server) -> None:
    label_studio.routes["/tasks/7/resolve/"] = Proxied(object_of(tmp_path))
    with pytest.raises(MediaTooLargeError, match="STEERSEG_MAX_DOWNLOAD_MIB"):
        store(tmp_path, label_studio, max_bytes=100_000).fetch(CLIP, task_id=7)


# --- with this machine's own credentials


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """An S3 server on the loopback address with the buckets ``videos`` and ``secrets``; gives its address."""
    try:
        import s3fs  # noqa: F401

        with S3.serving("videos", "secrets") as server:
            for bucket in ("videos", "secrets"):
                server.client.put_object(Bucket=bucket, Key="raw/a clip.mp4", Body=b"film" * 5_000_000)
            yield server.url
    except ImportError as error:
        missing(f"no S3 server to test with: {error}")


@pytest.fixture
def credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["aws_secret_access_key"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", KEYS["region_name"])
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)


@pytest.mark.usefixtures("credentials")
def test_named_buckets_are_read_without_label_studio(tmp_path: Path, label_studio: Server) -> None:
    media = store(tmp_path, label_studio, cloud_roots=["s3://videos/raw"])
    assert media.fetch(CLIP).read_bytes() == b"film" * 5_000_000
    assert label_studio.asked == []
    with pytest.raises(MediaUnavailableError, match="no such object") as caught:
        media.fetch("s3://videos/raw/none.mp4")
    assert caught.value.status == 404
    small = store(tmp_path / "small", label_studio, cloud_roots=["s3://videos/raw"], max_bytes=1000)
    with pytest.raises(MediaTooLargeError, match="STEERSEG_MAX_DOWNLOAD_MIB"):
        small.fetch(CLIP)
    reader = CloudReader(["s3://videos"], 20)
    with pytest.raises(DownloadTimeoutError):
        reader.fetch(CLIP, tmp_path / "slow", max_bytes=2**30, deadline=0, known=None)
    hasty = store(tmp_path / "hasty", label_studio, cloud_roots=["s3://videos/raw"], download_timeout=1e-6)
    with pytest.raises(MediaTimeoutError, match="STEERSEG_DOWNLOAD_TIMEOUT"):
        hasty.fetch(CLIP)


@pytest.mark.usefixtures("credentials")
def test_an_unchanged_object_is_confirmed_by_its_tag(
    tmp_path: Path, label_studio: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_cache, "_FRESH", 0.0)
    media = store(tmp_path, label_studio, cloud_roots=["s3://videos"])
    first = media.fetch(CLIP)
    monkeypatch.setattr("ml_backend.label_studio.cloud._copy", lambda *_: pytest.fail("it came again"))
    assert media.fetch(CLIP) == first


@pytest.mark.parametrize(
    "uri",
    ["s3://secrets/raw/a.mp4", "s3://videos/rawer/a.mp4", "s3://videos/raw/../a.mp4", "gs://videos/raw/a"],
)
def test_other_buckets_are_left_to_label_studio(tmp_path: Path, label_studio: Server, uri: str) -> None:
    """A task may not borrow the operator's rights."""
    path = object_of(tmp_path)
    label_studio.routes["/tasks/7/resolve/"] = Proxied(path)
    media = store(tmp_path, label_studio, cloud_roots=["s3://videos/raw"])
    assert media.fetch(uri, task_id=7).read_bytes() == path.read_bytes()
    assert len(label_studio.asked) == 1


def test_a_missing_package_is_named(
    tmp_path: Path, label_studio: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MediaError, match=r"pip install '\.\[cloud\]'"):
        store(tmp_path, label_studio, cloud_roots=["s3://videos"]).fetch(CLIP)


@pytest.mark.parametrize("root", ["videos", "http://videos", "s3://", "s3:///a"])
def test_roots_that_are_no_buckets_are_refused(root: str) -> None:
    with pytest.raises(ConfigError, match=r"STEERSEG_CLOUD_ROOTS.*expected buckets such as"):
        load_settings(cloud_roots=(root,))
