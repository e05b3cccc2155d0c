"""Door tricks: other sites' pages, other names, foreign addresses, odd JSON, and what must stay private."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from ml_backend.database.database import Database
from ml_backend.database.events import EventStore
from ml_backend.database.folder_lock import FolderLock
from ml_backend.database.json_values import MAX_DEPTH, JsonError, parse_json
from ml_backend.database.projects import Project, ProjectStore
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.config_xml import MAX_TAGS
from ml_backend.label_studio.media import MediaStore
from ml_backend.label_studio.media_access import MediaError
from ml_backend.label_studio.region_masks import RegionError, page_masks, track_boxes
from ml_backend.logs import LineFormatter
from ml_backend.settings import Settings
from ml_backend.web.door import require_protection
from ml_backend.web.standby import StandbyApp
from steerseg.errors import ConfigError
from steerseg.video.sockets import is_public_address
from tests.support.backend import Backend, MakeBackend, recorded
from tests.support.networks import Server, clean_environment
from tests.support.requests import introduce, wait_until

pytestmark = pytest.mark.timeout(300)

TOKEN = "0123456789abcdef0123456789abcdef01234567"
OPEN_TO_ALL = "0.0.0.0"
PASSWORD = {"basic_auth_username": "ann", "basic_auth_password": "pass"}
AUTH = ("ann", "pass")


def setup_body(project: int | str, **fields: Any) -> dict[str, Any]:
    body = {**recorded("setup"), "project": str(project), **fields}
    return {key: value for key, value in body.items() if value is not None}


def project_of(backend: Backend, number: int) -> Project:
    project = ProjectStore(backend.database).find(number)
    assert project is not None
    return project


def token_for(backend: Backend, number: int) -> str | None:
    """The header that a project's media are fetched with now."""
    host = backend.service.connections.host(project_of(backend, number))
    return None if host is None else host.auth_headers().get("Authorization")


# --- a token and its address are one pair


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A stranger's server, which has every file that it is asked for."""
    clean_environment(monkeypatch)
    with Server() as server:
        server.body("/data/upload/1/a.mp4", b"film")
        yield server


def test_a_stranger_cannot_move_a_project_to_another_address(backend: Backend, foreign: Server) -> None:
    backend.post("/setup", setup_body(1, access_token=TOKEN))
    before = project_of(backend, 1).hostname
    for token in (None, "", "another-token"):
        for number in ("1", "1.5", 1):
            body = setup_body(number, hostname=foreign.url, access_token=token)
            assert backend.client.post("/setup", json=body).status_code == 403
    assert project_of(backend, 1).hostname == before
    assert token_for(backend, 1) == f"Token {TOKEN}"


def test_another_address_has_no_token_but_its_own(
    make_backend: MakeBackend, foreign: Server, tmp_path: Path
) -> None:
    backend = make_backend(**PASSWORD)
    backend.post("/setup", setup_body(1, access_token=TOKEN), auth=AUTH)
    assert token_for(backend, 1) == f"Token {TOKEN}"
    for address in (foreign.url, recorded("setup")["hostname"] + "/another-application"):
        backend.post("/setup", setup_body(1, hostname=address, access_token=None), auth=AUTH)
        assert token_for(backend, 1) is None
    backend.post("/setup", setup_body(1, hostname=foreign.url, access_token=None), auth=AUTH)
    host = backend.service.connections.host(project_of(backend, 1))
    assert MediaStore(tmp_path / "cache").fetch("/data/upload/1/a.mp4", host=host).read_bytes() == b"film"
    assert backend.service.connections.client(project_of(backend, 1)) is None
    assert "Authorization" not in foreign.headers_of(0)
    backend.post("/setup", setup_body(1, hostname=foreign.url, access_token="its-own"), auth=AUTH)
    assert token_for(backend, 1) == "Token its-own"
    backend.post("/setup", setup_body(1, access_token=None), auth=AUTH)
    assert token_for(backend, 1) is None, "the pair was replaced"


def test_a_new_project_has_no_other_projects_token(backend: Backend, foreign: Server) -> None:
    backend.post("/setup", setup_body(1, access_token=TOKEN))
    for address in (None, foreign.url):
        backend.post("/setup", setup_body(2, hostname=address, access_token=None))
        assert token_for(backend, 2) is None
    assert token_for(backend, 1) == f"Token {TOKEN}"


def test_the_configured_address_alone_is_asked(make_backend: MakeBackend, foreign: Server) -> None:
    backend = make_backend(label_studio_url="http://label-studio:8080")
    for token in (TOKEN, None):
        backend.post("/setup", setup_body(1, hostname=foreign.url, access_token=token))
        host = backend.service.connections.host(project_of(backend, 1))
        assert host is not None
        assert host.url == "http://label-studio:8080"
        assert not host.owns(foreign.url)


def test_beyond_this_machine_nobody_without_credentials_says_where_label_studio_is(
    make_backend: MakeBackend, foreign: Server
) -> None:
    backend = make_backend(host=OPEN_TO_ALL, webhook_secret="hush")
    answer = backend.client.post("/setup", json=setup_body(1, hostname=foreign.url))
    assert answer.status_code == 403
    assert "STEERSEG_LABEL_STUDIO_URL" in answer.get_json()["hint"]
    assert ProjectStore(backend.database).all() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"hostname": "http://me:pass@label-studio:8080"},
        {"hostname": "http://label-studio:99999"},
        {"hostname": "http://["},
        {"hostname": "http://label-studio\\@evil.example"},
        {"hostname": "http://label studio"},
        {"hostname": "https://"},
        {"hostname": "http://label-studio/?x=1"},
        {"access_token": "a\r\nX-Header: 1"},
        {"access_token": "é"},
    ],
)
def test_addresses_and_tokens_that_cannot_be_one_are_not_kept(
    backend: Backend, fields: dict[str, str]
) -> None:
    assert backend.client.post("/setup", json=setup_body(1, **fields)).status_code == 400
    assert ProjectStore(backend.database).all() == []


def test_a_nested_token_does_no_harm(backend: Backend) -> None:
    nested = base64.urlsafe_b64encode(b"[" * 50_000).decode()
    backend.post("/setup", setup_body(1, access_token=f"a.{nested}.c"))
    assert backend.service.connections.client(project_of(backend, 1)) is not None


@pytest.mark.parametrize("host", [OPEN_TO_ALL, "::", "192.0.2.7", "gpu-box.example.org"])
def test_nothing_listens_beyond_this_machine_without_protection(host: str) -> None:
    with pytest.raises(ConfigError, match=r"LABEL_STUDIO_URL.*BASIC_AUTH_USERNAME.*WEBHOOK_SECRET"):
        require_protection(Settings(host=host))
    for protection in ({"label_studio_url": "http://ls"}, PASSWORD, {"webhook_secret": "hush"}):
        require_protection(Settings(host=host, **protection))
    for own in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        require_protection(Settings(host=own))


def test_serve_says_what_to_set_before_it_listens_beyond_this_machine(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STEERSEG_")}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ml_backend.cli",
            "serve",
            "--host",
            OPEN_TO_ALL,
            "--data-dir",
            str(tmp_path / "d"),
        ],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2
    assert "STEERSEG_LABEL_STUDIO_URL" in done.stderr
    assert not (tmp_path / "d").exists()


# --- other sites' pages


FOREIGN_PAGES: list[dict[str, str]] = [
    *(
        {"Origin": origin}
        for origin in (
            "http://evil.example",
            "null",
            "",
            "http://localhost:8080",
            "http://localhost.evil.example",
            "http://evil.example:80",
            "http://evil.example@localhost.example",
            "http://127.0.0.1",
            "ftp://localhost",
            "file://",
            "localhost",
            "http://localhost, http://evil.example",
            "http://localhost:99999",
        )
    ),
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
]


@pytest.mark.parametrize("headers", FOREIGN_PAGES, ids=str)
def test_other_sites_pages_change_nothing(backend: Backend, headers: dict[str, str]) -> None:
    introduce(backend)
    for rule in backend.client.application.url_map.iter_rules():
        if "POST" not in (rule.methods or ()):
            continue
        path = str(rule).replace("<int:number>", "1").replace("<project>", "1")
        path = path.replace("<job>", "1").replace("<name>", "1")
        answer = backend.client.post(path, json=recorded("webhook_start_training"), headers=headers)
        assert answer.status_code == 403, path
        assert "another site" in answer.get_data(as_text=True)
    assert EventStore(backend.database).count() == 0


def test_own_pages_and_programs_pass(make_backend: MakeBackend) -> None:
    backend = make_backend(public_url="https://steerseg.example.org")
    event = recorded("webhook_start_training")
    for headers in (
        {},
        {"Origin": "http://localhost"},
        {"Origin": "http://LOCALHOST:80", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://localhost"},
        {"Origin": "https://steerseg.example.org"},
        {"Origin": "https://steerseg.example.org", "Host": "127.0.0.1:9090"},
        {"Origin": "http://127.0.0.1:9090", "Host": "127.0.0.1:9090"},
        {"Origin": "http://[::1]:9090", "Host": "[::1]:9090"},
    ):
        assert backend.client.post("/webhook", json=event, headers=headers).status_code == 201, headers


@pytest.mark.parametrize(
    "kind", [None, "", "text/plain", "text/plain; x=application/json", "multipart/form-data", "text/json"]
)
def test_a_form_is_no_json(backend: Backend, kind: str | None) -> None:
    for path in ("/setup", "/predict", "/webhook"):
        body = json.dumps(recorded("webhook_start_training"))
        assert backend.client.post(path, data=body, content_type=kind).status_code == 415
    if kind:
        for path in ("/projects/1/refine", "/jobs/1/cancel"):
            assert backend.client.post(path, data="x=1", content_type=kind).status_code == 415
    assert EventStore(backend.database).count() == 0


# --- other names (DNS rebinding)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9090",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example#localhost",
        "evil.example, localhost",
        "localhost evil.example",
        "192.0.2.1",
        "[::2]:9090",
        "[::1",
        ":9090",
    ],
)
def test_other_names_are_not_answered(backend: Backend, host: str) -> None:
    for path in ("/", "/health", "/jobs", "/static/pages.css"):
        answer = backend.client.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert "STEERSEG_SERVER_NAMES" in answer.get_data(as_text=True)


def test_a_refused_name_is_not_logged_at_every_request(
    backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        backend.client.get("/health", headers={"Host": "evil.example"})
    assert [str(record.args[1]) for record in caplog.records if "evil.example" in record.getMessage()] == [
        "1",
        "2",
        "4",
        "8",
        "16",
        "32",
        "64",
    ]
    backend.client.get("/health", headers={"Host": "other.example"})
    assert "'other.example' was refused (1 so far)" in caplog.text


def test_names_that_the_settings_give_are_answered(make_backend: MakeBackend) -> None:
    named = make_backend(server_names=("backend",), public_url="https://steerseg.example.org")
    for host in (
        "localhost:9090",
        "LOCALHOST.",
        "127.0.0.1",
        "[::1]:9090",
        "backend:9090",
        "steerseg.example.org",
    ):
        assert named.client.get("/health", headers={"Host": host}).status_code == 200
    everywhere = make_backend(host=OPEN_TO_ALL, webhook_secret="hush")
    for host in ("192.0.2.1:9090", "[2001:db8::1]", "localhost"):
        assert everywhere.client.get("/health", headers={"Host": host}).status_code == 200
    assert everywhere.client.get("/health", headers={"Host": "evil.example"}).status_code == 403


# --- odd JSON


ODD_JSON = {
    "nested too deeply": "[" * MAX_DEPTH + "[]" + "]" * MAX_DEPTH,
    "nested without end": '{"a":' * 100_000,
    "an integer beyond 64 bits": str(2**63),
    "a negative one": str(-(2**63) - 1),
    "a very long one": "9" * 10_000,
    "NaN": "NaN",
    "infinity": "-Infinity",
    "a float beyond all": "1e999",
    "half of a pair": '"\\ud800"',
    "half of a pair as a key": '{"\\udfff": 1}',
    "a NUL": '"a\\u0000b"',
}


@pytest.mark.parametrize("value", ODD_JSON.values(), ids=list(ODD_JSON))
def test_json_that_cannot_be_kept_is_refused_and_not_kept(backend: Backend, value: str) -> None:
    texts = {
        "/setup": json.dumps(setup_body(1, extra_params="?")),
        "/predict": json.dumps({**recorded("predict_batch_video"), "x": "?"}),
        "/webhook": json.dumps({**recorded("webhook_annotation_updated"), "x": "?"}),
    }
    for path, text in texts.items():
        content = text.replace('"?"', value)
        assert backend.client.post(path, data=content, content_type="application/json").status_code == 400
    as_text = setup_body(1, extra_params=f'{{"x": {value}}}')
    assert backend.client.post("/setup", json=as_text).status_code == 400
    assert ProjectStore(backend.database).all() == []
    assert EventStore(backend.database).count() == 0


def test_json_at_the_limits_is_read() -> None:
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert json.dumps(parse_json(nested)) == nested
    assert parse_json(b'[9223372036854775807, -9223372036854775808, 1e308, "\\ud83d\\ude00"]')[3] == "😀"
    with pytest.raises(JsonError, match="parts"):
        parse_json("[" + "[]," * 5_000_001 + "[]]")


# --- addresses, media and files


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "169.254.169.254", "192.88.99.1", "0.0.0.0", "224.0.0.1", "240.0.0.1"),
        *("::1", "::", "::7f00:1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1"),
        *(
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
            "fec0::1",
            "feff::1",
            "fe80::1%eth0",
        ),
        *("fd00::1", "5f00::1", "ff02::1", "100::1", "2001:db8::1", "::93.184.216.34"),
    ],
)
def test_private_addresses_in_any_dress(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "path",
    [
        *("/api/users", "/user/login", "/logout", "/", "/data", "/database/x", "/data/../api/users"),
        *("/data/%2e%2e/api", "/data/..%2fapi", "/data/..%5capi", "/tasks/5/", "/tasks/x/resolve/"),
        *("/projects/1/export", "/storage-data/../api", "/data/.", "/%64ata/x", "//data/x"),
    ],
)
def test_the_token_goes_to_media_alone(backend: Backend, foreign: Server, tmp_path: Path, path: str) -> None:
    foreign.body(path, b"film")
    backend.post("/setup", setup_body(1, hostname=foreign.url, access_token=TOKEN))
    host = backend.service.connections.host(project_of(backend, 1))
    media = MediaStore(tmp_path / "cache")
    with pytest.raises(MediaError):
        media.fetch(path, host=host)
    with contextlib.suppress(MediaError):  # a page for signing in
        media.fetch(foreign.url + path, host=host)
    assert not any("Authorization" in headers for _, headers in foreign.asked)


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.glob("steerseg.sqlite*")}


@pytest.mark.usefixtures("open_umask")
def test_the_database_is_its_owners_alone(tmp_path: Path) -> None:
    made, found = tmp_path / "made", tmp_path / "found"
    for folder in (made, found):
        if folder is found:
            folder.mkdir(mode=0o777)
            (folder / "steerseg.sqlite").touch(mode=0o666)
        database = Database(folder / "steerseg.sqlite")
        assert EventStore(database).add("A", 1, {}) == 1
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert modes(folder) == {0o600}
        database.close()


def test_every_answer_keeps_its_type(backend: Backend) -> None:
    introduce(backend)
    paths = [
        "/",
        "/health",
        "/jobs",
        "/metrics",
        "/versions",
        "/static/pages.css",
        "/pages/projects/1",
        "/nowhere",
    ]
    for path in paths:
        assert backend.client.get(path).headers["X-Content-Type-Options"] == "nosniff", path
    refused = backend.client.get("/", headers={"Host": "evil.example"})
    assert refused.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "odd", ["a\nERROR forged", "a\r\nb", "\x1b[2Jx", "\x00", "\x9b31m", "\u2028", "\u202ex"]
)
def test_a_record_is_one_line_of_what_prints(odd: str) -> None:
    formatter = LineFormatter("%(levelname)s %(name)s: %(message)s")
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "the task %s", (odd,), None)
    assert formatter.format(record).isprintable()
    try:
        raise ValueError(odd)
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "x", (), sys.exc_info())
    first, *rest = formatter.format(record).split("\n")
    assert first.isprintable()
    assert all(line.startswith("  | ") and line.isprintable() for line in rest)


# --- large inputs that keep the interpreter busy


def test_polygons_and_tracks_of_a_million_corners_are_refused() -> None:
    page = {"original_width": 640, "original_height": 360, "item_index": 0, "id": "r"}
    points = [[index % 100, index // 100 % 100] for index in range(1_000_000)]
    vertices = [{"x": x, "y": y} for x, y in points]
    for kind, value in (("polygonlabels", {"points": points}), ("vectorlabels", {"vertices": vertices})):
        with pytest.raises(RegionError, match="1000000 corners, at most 20000"):
            page_masks([{**page, "type": kind, "value": value}])
    keyframe = {"frame": 1, "x": 0, "y": 0, "width": 1, "height": 1}
    with pytest.raises(RegionError, match="keyframes"):
        track_boxes({"id": "t", "value": {"framesCount": 10, "sequence": [keyframe] * 1_000_000}})
    with pytest.raises(RegionError, match="framesCount"):
        track_boxes({"id": "t", "value": {"framesCount": 10_000_000, "sequence": [keyframe]}})


def many(count: int) -> str:
    pair = '<Image name="i{0}" valueList="$f"/><BrushLabels name="b{0}" toName="i{0}"/>'
    return "<View>" + "".join(pair.format(number) for number in range(count)) + "</View>"


@pytest.mark.parametrize(
    "config",
    [
        many(8000),
        many(101),
        "<View>" + "<Label/>" * MAX_TAGS + "</View>",
        "<View>" * 101 + "</View>" * 101,
        "<View>" + " " * 1_000_000 + "</View>",
    ],
    ids=["8000 images and brushes", "101 of them", "many tags", "deep", "long"],
)
def test_configurations_that_take_long_to_read_are_refused(backend: Backend, config: str) -> None:
    with pytest.raises(ConfigError, match="labelling configuration has"):
        parse_controls(config)
    assert backend.client.post("/setup", json=setup_body(1, schema=config)).status_code == 422


def test_controls_are_found_by_what_they_point_to() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_controls(many(99))
    assert len(str(caught.value)) < 5000


# --- two servers on one data folder


@dataclass
class Asked:
    """An answer of a WSGI application."""

    status: int
    body: dict[str, Any]


def ask(app: StandbyApp, path: str) -> Asked:
    answer = Client(app).get(path)
    return Asked(answer.status_code, answer.get_json())


def test_a_second_server_stands_by_and_takes_over(make_backend: MakeBackend, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    first = StandbyApp(settings, lambda _: make_backend().service)
    second = StandbyApp(settings, lambda _: make_backend().service)
    first.start()
    assert ask(first, "/health").body["status"] == "UP"
    second.start()
    waiting = ask(second, "/health")
    assert (waiting.status, waiting.body["status"], waiting.body["ready"]) == (200, "STANDBY", False)
    for path in ("/", "/jobs", "/versions"):
        assert ask(second, path).status == 503
    assert ask(first, "/health").body["status"] == "UP"
    first.close()
    wait_until(lambda: ask(second, "/health").body["status"] == "UP")
    assert ask(second, "/jobs").status == 200
    second.close()
    assert FolderLock(settings.data_dir).acquire()


def test_a_service_that_cannot_be_built_is_tried_again(
    make_backend: MakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_backend.web.standby._PAUSE", 0.01)
    settings = Settings(data_dir=tmp_path / "data")
    other = FolderLock(settings.data_dir)
    assert other.acquire()
    failed = threading.Event()

    def build(_: object) -> Any:
        if not failed.is_set():
            failed.set()
            raise ConfigError("the preset is not there yet")
        return make_backend().service

    app = StandbyApp(settings, build)
    app.start()
    other.release()
    wait_until(lambda: ask(app, "/health").body["status"] == "UP")
    assert failed.is_set()
    app.close()


def test_the_lock_of_a_killed_server_is_free(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from ml_backend.database.folder_lock import FolderLock\n"
        "assert FolderLock(pathlib.Path(sys.argv[1])).acquire()\n"
        "print('locked', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"locked\n"
    lock = FolderLock(tmp_path)
    assert not lock.acquire()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert lock.acquire()
    lock.release()
