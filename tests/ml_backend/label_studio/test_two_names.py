"""One Label Studio by two names, under a sub-path, behind a proxy, with a certificate of a private authority."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ml_backend.database.projects import Project
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.connections import Connections
from ml_backend.label_studio.errors import LabelStudioError, LabelStudioUnreachableError
from ml_backend.label_studio.media import MediaStore
from ml_backend.label_studio.media_access import MediaHost, MediaRefusedError, MediaUnavailableError
from ml_backend.label_studio.task import Task
from ml_backend.label_studio.task_media import MediaLoader
from ml_backend.settings import Settings
from tests.support.networks import ForwardProxy, Server, clean_environment, private_authority

TOKEN = "secret-token-0123456789"
PUBLIC = "https://labels.example.org/label-studio"
VIDEO = (
    '<View><VideoRectangle name="box" toName="video"/><Labels name="l" toName="video"><Label value="a"/></Labels>'
    '<Video name="video" value="$video"/></View>'
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def auth() -> dict[str, str]:
    return {"Authorization": f"Token {TOKEN}"}


def project(hostname: str) -> Project:
    return Project(
        id=1,
        uid="1",
        label_config=VIDEO,
        hostname=hostname,
        extra_params={},
        last_seen=datetime.now(UTC),
    )


@pytest.mark.parametrize("prefix", ["", "/label-studio"])
@pytest.mark.parametrize(
    "reference",
    [
        PUBLIC + "/data/upload/1/a.mp4?x=1",
        "{url}{prefix}/data/upload/1/a.mp4?x=1",
        "/data/upload/1/a.mp4?x=1",
        "/label-studio/data/upload/1/a.mp4?x=1",
    ],
)
def test_both_names_lead_to_the_configured_one_with_the_token(
    tmp_path: Path, server: Server, prefix: str, reference: str
) -> None:
    server.body(prefix + "/data/upload/1/a.mp4", b"film")
    media = MediaStore(tmp_path, host=MediaHost(server.url + prefix, auth, PUBLIC))
    assert media.fetch(reference.format(url=server.url, prefix=prefix)).read_bytes() == b"film"
    path, headers = server.asked[0]
    assert path == prefix + "/data/upload/1/a.mp4?x=1"
    assert headers["Authorization"] == f"Token {TOKEN}"


def test_setup_tells_the_name_that_task_data_hold(tmp_path: Path, server: Server) -> None:
    server.body("/data/upload/1/a.mp4", b"film")
    settings = Settings(
        data_dir=tmp_path, label_studio_url=server.url, label_studio_api_key="0123456789abcdef"
    )
    connections = Connections(settings)
    task = Task(1, {"video": "http://labels.example.org:8080/data/upload/1/a.mp4"})
    host = connections.host(project("http://labels.example.org:8080"))
    media = MediaLoader(settings).load(task, parse_controls(VIDEO), host)
    assert media.path.read_bytes() == b"film"
    assert server.headers_of(0)["Authorization"] == "Token 0123456789abcdef"
    connections.close()


def test_addresses_that_the_api_resolves_are_read_by_the_own_name(tmp_path: Path, server: Server) -> None:
    uri = base64.urlsafe_b64encode(b"s3://b/a.mp4").decode()
    server.body("/tasks/5/resolve/", b"film", status=206, Content_Range="bytes 0-3/4")
    media = MediaStore(tmp_path, host=MediaHost(server.url, auth, PUBLIC))
    assert media.fetch(f"{PUBLIC}/tasks/5/resolve/?fileuri={uri}").read_bytes() == b"film"
    assert media.fetch("s3://b/a.mp4", task_id=5).read_bytes() == b"film"
    assert len(server.asked) == 1, "both are the same address"


def test_a_redirect_to_the_browsers_name_stays_at_the_own_one(tmp_path: Path, server: Server) -> None:
    server.body("/data/upload/1/a.mp4", b"", status=302, Location=PUBLIC + "/data/upload/2/b.mp4")
    server.body("/data/upload/2/b.mp4", b"film")
    media = MediaStore(tmp_path, host=MediaHost(server.url, auth, PUBLIC))
    assert media.fetch("/data/upload/1/a.mp4").read_bytes() == b"film"
    server.body("/data/upload/1/c.mp4", b"", status=302, Location=PUBLIC + "/user/login/?next=/")
    with pytest.raises(MediaUnavailableError, match="token is missing or not accepted"):
        media.fetch("/data/upload/1/c.mp4")


@pytest.mark.parametrize(
    "path",
    [
        "/logout",
        "/api/projects/1/export",
        "/api/token",
        "/database/x",
        "/data/../logout",
        "/data/%2e%2e/logout",
        "/data/..%5clogout",
        "/tasks/5/",
        "/tasks/5/resolve/../../../logout",
        "/ls/data/a.mp4",
    ],
)
def test_the_token_goes_to_paths_of_media_alone(tmp_path: Path, server: Server, path: str) -> None:
    server.body(path, b"film")
    media = MediaStore(tmp_path, host=MediaHost(server.url, auth, "http://other.test"))
    assert media.fetch(server.url + path).read_bytes() == b"film"
    assert "Authorization" not in server.headers_of(0)
    with pytest.raises(MediaRefusedError):
        media.fetch(path)


def test_another_application_beside_a_sub_path_gets_no_token(tmp_path: Path, server: Server) -> None:
    for path in ("/data/upload/1/a.mp4", "/label-studio-two/data/upload/1/a.mp4"):
        server.body(path, b"film")
        media = MediaStore(tmp_path / path[1:6], host=MediaHost(server.url + "/label-studio", auth))
        assert media.fetch(server.url + path).read_bytes() == b"film"
    assert not any("Authorization" in headers for _, headers in server.asked)


def test_a_name_that_setup_invents_gains_nothing(tmp_path: Path, server: Server) -> None:
    """Whoever reaches ``/setup`` may name any host: it gets neither a request nor the token."""
    with Server() as stranger:
        stranger.body("/data/upload/1/a.mp4", b"evil")
        stranger.body("/secret", b"evil")
        server.body("/data/upload/1/a.mp4", b"film")
        media = MediaStore(tmp_path, host=MediaHost(server.url, auth, stranger.url))
        assert media.fetch(stranger.url + "/data/upload/1/a.mp4").read_bytes() == b"film"
        with pytest.raises(MediaRefusedError, match="private or local"):
            media.fetch(stranger.url + "/secret")
        assert stranger.asked == []


# --- the API


def test_netrc_never_replaces_the_token(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.body("/label-studio/api/projects/1/", b'{"id": 1}')
    client = LabelStudioClient(server.url + "/label-studio/", TOKEN)
    assert client.projects.get(1) == {"id": 1}
    assert server.headers_of(0)["Authorization"] == f"Token {TOKEN}"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_api_and_media_trust_a_private_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    certificate, context = private_authority(tmp_path, "localhost")
    with Server(context) as server:
        server.body("/api/projects/1/", b'{"id": 1}')
        server.body("/data/upload/1/a.mp4", b"film")
        with pytest.raises(LabelStudioUnreachableError, match="REQUESTS_CA_BUNDLE names"):
            LabelStudioClient(server.url, TOKEN).projects.get(1)
        monkeypatch.setenv(variable, str(certificate))
        client = LabelStudioClient(server.url, TOKEN)
        assert client.projects.get(1) == {"id": 1}
        media = MediaStore(tmp_path / "media", host=MediaHost(server.url, client.auth_headers))
        assert media.fetch("/data/upload/1/a.mp4").read_bytes() == b"film"
        monkeypatch.setenv(variable, str(tmp_path / "none"))
        with pytest.raises(LabelStudioError, match="does not exist"):
            LabelStudioClient(server.url, TOKEN)


def test_api_and_media_go_through_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as server, ForwardProxy(server.port) as proxy:
        server.body("/api/projects/1/", b'{"id": 1}')
        server.body("/data/upload/1/a.mp4", b"film")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        client = LabelStudioClient("http://label-studio.test:8080", TOKEN)
        assert client.projects.get(1) == {"id": 1}
        media = MediaStore(tmp_path, host=MediaHost(client.url, client.auth_headers))
        assert media.fetch("/data/upload/1/a.mp4").read_bytes() == b"film"
        assert [target for _, target, _ in proxy.asked] == [
            "http://label-studio.test:8080/api/projects/1/",
            "http://label-studio.test:8080/data/upload/1/a.mp4",
        ]
        monkeypatch.setenv("NO_PROXY", "label-studio.test")
        with pytest.raises(LabelStudioUnreachableError):
            LabelStudioClient("http://label-studio.test:8080", TOKEN).projects.get(1)


def test_media_of_strangers_behind_a_proxy_need_a_named_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as server, ForwardProxy(server.port) as proxy:
        server.body("/a.mp4", b"film")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with pytest.raises(MediaRefusedError, match="STEERSEG_ALLOWED_HOSTS"):
            MediaStore(tmp_path).fetch("http://cdn.test/a.mp4")
        assert proxy.asked == []
        named = MediaStore(tmp_path, allowed_hosts=[".test"])
        assert named.fetch("http://cdn.test/a.mp4").read_bytes() == b"film"
