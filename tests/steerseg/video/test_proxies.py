"""Downloads use the environment's proxies and authorities, and the check of addresses stays as strict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from steerseg.errors import ConfigError
from steerseg.runtime.network import certificate_authorities, proxy_for
from steerseg.video.download import HopPolicy, fetch
from steerseg.video.download_errors import AddressRefusedError, DownloadError, UncheckedAddressError
from steerseg.video.sockets import Trust
from tests.support.networks import (
    ForwardProxy,
    Server,
    clean_environment,
    names_resolve,
    private_authority,
)

HOST = "media.example.test"


class Named(HopPolicy):
    """The operator has named every host."""

    def trust(self, url: str) -> Trust:
        return Trust(name=True)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, object]:
    return private_authority(tmp_path_factory.mktemp("authority"), HOST)


@pytest.fixture
def secure(authority: tuple[Path, object]) -> Iterator[Server]:
    with Server(authority[1]) as server:  # type: ignore[arg-type]
        server.body("/a.mp4", b"film")
        yield server


def get(url: str, folder: Path, policy: HopPolicy | None = None) -> bytes:
    fetch(url, folder / "got", policy=policy or HopPolicy(), max_bytes=1000, deadline=20)
    return (folder / "got").read_bytes()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_private_authority_of_the_environment_is_trusted(
    tmp_path: Path,
    secure: Server,
    authority: tuple[Path, object],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    with pytest.raises(DownloadError, match="secure connection failed"):
        get(f"{secure.url}/a.mp4", tmp_path, HopPolicy(True))
    monkeypatch.setenv(variable, str(authority[0]))
    assert get(f"{secure.url}/a.mp4", tmp_path, HopPolicy(True)) == b"film"


def test_authorities_that_do_not_exist_are_named(
    tmp_path: Path, secure: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"REQUESTS_CA_BUNDLE names .*none\.pem, which does not exist"):
        certificate_authorities()
    with pytest.raises(DownloadError, match="REQUESTS_CA_BUNDLE"):
        get(f"{secure.url}/a.mp4", tmp_path, HopPolicy(True))


def test_the_proxy_is_asked_for_the_address_that_was_checked(
    tmp_path: Path, secure: Server, authority: tuple[Path, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    with ForwardProxy(secure.port) as proxy, names_resolve(monkeypatch, {HOST: "127.0.0.1"}):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:p%40ss@"))
        assert get(f"https://{HOST}:{secure.port}/a.mp4", tmp_path) == b"film"
        assert get(f"https://{HOST}:{secure.port}/a.mp4", tmp_path, Named()) == b"film"
    targets = [target for _, target, _ in proxy.asked]
    assert targets == [f"127.0.0.1:{secure.port}", f"{HOST}:{secure.port}"]
    assert proxy.asked[0][2] == "Basic bWU6cEBzcw=="
    assert "Proxy-Authorization" not in secure.headers_of(0)


@pytest.mark.parametrize("policy", [HopPolicy(), Named()])
def test_a_private_address_is_refused_behind_a_proxy_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: HopPolicy
) -> None:
    with ForwardProxy(1) as proxy, names_resolve(monkeypatch, {HOST: "127.0.0.2"}):
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        for scheme in ("http", "https"):
            for host in (HOST, "10.0.0.1"):
                with pytest.raises(AddressRefusedError, match="private or local"):
                    get(f"{scheme}://{host}/a.mp4", tmp_path, policy)
    assert proxy.asked == []


def test_what_cannot_be_checked_behind_a_proxy_needs_a_named_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as server, ForwardProxy(server.port) as proxy, names_resolve(monkeypatch, {}):
        server.body("/a.mp4", b"film")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        for scheme in ("http", "https"):
            with pytest.raises(UncheckedAddressError, match="cannot be checked"):
                get(f"{scheme}://{HOST}/a.mp4", tmp_path)
        assert proxy.asked == []
        assert get(f"http://{HOST}/a.mp4", tmp_path, Named()) == b"film"
    assert [entry[:2] for entry in proxy.asked] == [("GET", f"http://{HOST}/a.mp4")]


def test_a_proxy_that_refuses_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ForwardProxy(1, refusing=True) as proxy, names_resolve(monkeypatch, {HOST: "127.0.0.1"}):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(DownloadError, match="the proxy answered 403"):
            get(f"https://{HOST}/a.mp4", tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(DownloadError, match=r"expected an address such as http://proxy\.example\.org:3128"):
        get(f"https://{HOST}/a.mp4", tmp_path)


def test_no_proxy_and_this_machine_are_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "inside.test,10.0.0.0/8")
    assert proxy_for("http://outside.test/") == "http://proxy.test:3128"
    assert proxy_for("https://outside.test/") is None
    for host in ("inside.test", "ls.inside.test", "10.1.2.3", "localhost:8080", "127.0.0.1:8080", "[::1]:80"):
        assert proxy_for(f"http://{host}/") is None
