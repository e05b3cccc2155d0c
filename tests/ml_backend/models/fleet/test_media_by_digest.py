"""Media and soft prompts reach another host by digest; its cache keeps to a budget and loses nothing that is read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from flask import Flask
from werkzeug.serving import make_server

from ml_backend.models.examples import Pool, ReplayExample
from ml_backend.models.fleet.messages import MediaPart, MediaSource, PackedRequest
from ml_backend.models.fleet.node_files import NodeFiles
from ml_backend.models.fleet.packing import needs_data_folder, pack, unpacked
from ml_backend.models.fleet.shared_media import SharedMedia
from ml_backend.models.messages import (
    MediaFile,
    ModelRequest,
    PrepareRequest,
    ProposeRequest,
    SoftPromptsRef,
    SteerRequest,
    TrainRequest,
    TrialRequest,
)
from ml_backend.web.errors import answer_errors
from ml_backend.web.media import add_media
from steerseg.errors import Cancelled, ConfigError, VideoError
from steerseg.replay import Part

MIB = 2**20


def ignore() -> None:
    """Goes on."""


def source(cache: Path, location: str, token: str = "", budget: int = 64 * MIB) -> MediaSource:
    return MediaSource(location, token, cache, budget, max_bytes=8 * MIB, timeout=60.0)


def propose(media: Path, prompts: SoftPromptsRef | None = None) -> ProposeRequest:
    return ProposeRequest(media, "the red car", None, 1, prompts)


def film(folder: Path, name: str, size: int = 3000) -> Path:
    path = folder / name
    path.write_bytes(hashlib.sha256(name.encode()).digest() * (size // 32))
    return path


def media_of(request: Any) -> Path:
    path: Path = request.media
    return path


@pytest.fixture
def served(tmp_path: Path) -> Iterator[SharedMedia]:
    """Media offered by a server."""
    app = Flask(__name__)
    answer_errors(app)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    shared = SharedMedia(f"http://127.0.0.1:{server.port}")
    add_media(app, shared)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield shared
    server.shutdown()
    thread.join()


@pytest.mark.parametrize("kind", ["server", "folder", "bucket"])
def test_a_file_arrives_from_each_kind_of_source(tmp_path: Path, served: SharedMedia, kind: str) -> None:
    shared = {
        "server": lambda: served,
        "folder": lambda: SharedMedia(str(tmp_path / "shared")),
        "bucket": lambda: SharedMedia("memory://videos/cache"),
    }[kind]()
    video = film(tmp_path, "clip.mp4", 3 * MIB)
    packed = pack(propose(video), shared)
    node = NodeFiles(source(tmp_path / "node", shared.location, shared.token))
    for _ in range(2):
        with node.lend(packed, ignore) as request:
            there = media_of(request)
            assert there.is_relative_to(tmp_path / "node")
            assert there.read_bytes() == video.read_bytes()
            assert replace(request, media=video) == packed.request
        video.with_name("kept").write_bytes(b"")  # the second time nothing is asked for
    before = there.stat().st_mtime_ns
    with node.lend(packed, ignore) as request:
        assert media_of(request).stat().st_mtime_ns == before  # decoded videos are known by it


def test_a_folder_of_frames_keeps_its_names(tmp_path: Path, served: SharedMedia) -> None:
    folder = tmp_path / "pages"
    folder.mkdir()
    for number in range(5):
        film(folder, f"{number:05d}.jpg")
    packed = pack(propose(folder), served)
    with NodeFiles(source(tmp_path / "node", served.location, served.token)).lend(packed, ignore) as request:
        there = sorted(media_of(request).iterdir())
        assert [path.name for path in there] == [f"{number:05d}.jpg" for number in range(5)]
        assert [path.read_bytes() for path in there] == [
            path.read_bytes() for path in sorted(folder.iterdir())
        ]


def test_only_who_has_the_token_gets_what_was_offered(tmp_path: Path, served: SharedMedia) -> None:
    video = film(tmp_path, "clip.mp4")
    secret = film(tmp_path, "secret")
    (part,) = served.offer(video)
    for token, digest, status in [
        (served.token, part.digest, 200),
        ("", part.digest, 401),
        (served.token[:-1], part.digest, 401),
        (served.token, hashlib.sha256(secret.read_bytes()).hexdigest(), 404),
        (served.token, "..%2f..%2fetc%2fpasswd", 404),
    ]:
        node = NodeFiles(source(tmp_path / f"node-{status}", served.location, token))
        wanted = PackedRequest(propose(video), (replace(part, digest=digest),), ())
        if status == 200:
            with node.lend(wanted, ignore):
                pass
        else:
            with pytest.raises(VideoError, match=str(status)), node.lend(wanted, ignore):
                pass
    served.offer(video)
    video.unlink()
    assert served.find(part.digest) is None


def test_a_server_without_a_cluster_gives_nothing(tmp_path: Path) -> None:
    app = Flask(__name__)
    answer_errors(app)
    add_media(app, None)
    assert app.test_client().get("/media/" + "0" * 64).status_code == 401


def test_another_content_than_the_digest_says_is_refused(tmp_path: Path) -> None:
    shared = SharedMedia(str(tmp_path / "shared"))
    video = film(tmp_path, "clip.mp4")
    packed = pack(propose(video), shared)
    assert packed.media is not None
    stored = tmp_path / "shared" / packed.media[0].digest
    for damaged in (b"x" * packed.media[0].size, b"short", b"long" * 4000):
        stored.write_bytes(damaged)
        node = NodeFiles(source(tmp_path / "node", shared.location))
        with pytest.raises(VideoError, match="digest"), node.lend(packed, ignore):
            pass
    assert not any((tmp_path / "node" / "objects").iterdir())
    assert not any((tmp_path / "node" / "tmp").iterdir())
    stored.unlink()
    with pytest.raises(VideoError, match="STEERSEG_CLUSTER_MEDIA"), node.lend(packed, ignore):
        pass


def test_a_cancelled_job_stops_fetching(tmp_path: Path) -> None:
    shared = SharedMedia(str(tmp_path / "shared"))
    packed = pack(propose(film(tmp_path, "clip.mp4")), shared)

    def cancelled() -> None:
        raise Cancelled("cancelled while its media were fetched")

    node = NodeFiles(source(tmp_path / "node", shared.location))
    with pytest.raises(Cancelled), node.lend(packed, cancelled):
        pass
    assert not any((tmp_path / "node" / "tmp").iterdir())


def test_the_cache_keeps_to_its_budget_and_readers_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.models.fleet.node_files._GRACE", 0.0)
    shared = SharedMedia(str(tmp_path / "shared"))
    videos = [film(tmp_path, f"clip-{number}", MIB) for number in range(12)]
    cache = tmp_path / "node"
    held = pack(propose(videos[0]), shared)
    lost: list[str] = []

    def read(start: int) -> None:
        node = NodeFiles(source(cache, shared.location, budget=4 * MIB))  # as another process of the host
        for number in range(len(videos)):
            video = videos[(start + number) % len(videos)]
            with node.lend(pack(propose(video), shared), ignore) as request:
                time.sleep(0.002)
                if media_of(request).read_bytes() != video.read_bytes():
                    lost.append(video.name)

    with NodeFiles(source(cache, shared.location, budget=4 * MIB)).lend(held, ignore) as request:
        threads = [threading.Thread(target=read, args=(start,)) for start in (0, 4, 8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert media_of(request).read_bytes() == videos[0].read_bytes()
    assert lost == []
    read(1)  # alone, the cache comes below its budget again
    assert sum(path.stat().st_size for path in (cache / "objects").iterdir()) <= 5 * MIB


def test_soft_prompts_travel_in_the_request(tmp_path: Path) -> None:
    folder = tmp_path / "version"
    folder.mkdir()
    for name in ("soft_prompts.safetensors", "soft_prompts.json"):
        (folder / name).write_text(name)
    ref = SoftPromptsRef(folder, "abc123")
    shared = SharedMedia(str(tmp_path / "shared"))
    packed = pack(propose(film(tmp_path, "clip.mp4"), ref), shared)
    node = NodeFiles(source(tmp_path / "node", shared.location))
    for _ in range(2):
        with node.lend(packed, ignore) as request:
            assert isinstance(request, ProposeRequest)
            assert request.soft_prompts is not None
            there = request.soft_prompts.folder
            assert there.is_relative_to(tmp_path / "node")
            assert {path.name: path.read_text() for path in there.iterdir()} == {
                path.name: path.name for path in folder.iterdir()
            }
    (forged,) = packed.prompts
    with (
        pytest.raises(ConfigError, match="another version"),
        node.lend(replace(packed, prompts=(replace(forged, files={"../x": b""}),)), ignore),
    ):
        pass


def test_the_paths_of_every_request_are_known() -> None:
    """A path that is neither media, soft prompts nor a folder of a refinement would mean nothing on another host."""
    for kind in get_args(ModelRequest):
        for name, declared in _paths(kind):
            assert declared in ("MediaFile", "SoftPromptsRef") or name in ("media", "folder", "features"), (
                f"{kind.__name__}.{name}"
            )


def test_slices_of_refinements_need_the_data_folder(tmp_path: Path) -> None:
    prompts = SoftPromptsRef(tmp_path, "abc")
    example = ReplayExample(next(iter(Part)), 0)
    train = TrainRequest("a", tmp_path, tmp_path, {Pool.NEW: ()}, prompts, 1.0)
    prepare = PrepareRequest(example, MediaFile(tmp_path, None), tmp_path, tmp_path, prompts)
    trial = TrialRequest(example, MediaFile(tmp_path, 2.0), prompts, replace(prompts, digest="def"))
    steer = SteerRequest(tmp_path, None, (), None, {}, {}, frozenset())
    assert [needs_data_folder(one) for one in (train, prepare, trial, steer, propose(tmp_path))] == [
        True,
        True,
        False,
        False,
        False,
    ]
    here = {"abc": Path("/a"), "def": Path("/d")}
    moved = unpacked(trial, Path("/media"), here)
    assert isinstance(moved, TrialRequest)
    assert moved.media == MediaFile(Path("/media"), 2.0)
    assert moved.champion is not None
    assert (moved.candidate.folder, moved.champion.folder) == (Path("/a"), Path("/d"))


def _paths(kind: type) -> Iterator[tuple[str, str]]:
    for one in fields(kind):
        declared = str(one.type)
        if "Path" in declared or "MediaFile" in declared or "SoftPromptsRef" in declared:
            yield one.name, declared.split(" | ")[0]


def test_what_is_evicted_meanwhile_is_fetched_again(tmp_path: Path) -> None:
    shared = SharedMedia(str(tmp_path / "shared"))
    video = film(tmp_path, "clip.mp4")
    packed = pack(propose(video), shared)
    node = NodeFiles(source(tmp_path / "node", shared.location))
    for _ in range(3):
        with node.lend(packed, ignore) as request:
            assert media_of(request).read_bytes() == video.read_bytes()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(media_of(request))
    assert isinstance(packed.media, tuple)
    assert all(isinstance(part, MediaPart) and is_dataclass(part) for part in packed.media)
