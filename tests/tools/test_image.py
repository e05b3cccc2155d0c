"""The container image and the compose files, as far as they can be judged without building or starting them.

``make image-test`` builds the image and runs it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field

from ml_backend.settings import Settings
from tools.check_image import check_packages
from tools.lock_image import EXTRAS, GPU_ONLY, lock_text, requirements

ROOT = Path(__file__).resolve().parents[2]
SECRET = re.compile(r"(?i)(password|secret|token|api_?key)\w*[ =:]+\S")


# --- the Dockerfile


@dataclass(frozen=True)
class Instruction:
    stage: int
    name: str
    text: str


def instructions() -> list[Instruction]:
    """The Dockerfile's, without comments; stage -1 stands before the first FROM."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text())
    found, stage = [], -1
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            stage += name == "FROM"
            found.append(Instruction(stage, name, rest))
    return found


@pytest.fixture(scope="module")
def dockerfile() -> list[Instruction]:
    return instructions()


@pytest.fixture(scope="module")
def last(dockerfile: list[Instruction]) -> list[Instruction]:
    """The stage that is shipped."""
    return [one for one in dockerfile if one.stage == dockerfile[-1].stage]


def test_each_variant_has_a_stage_of_its_own_and_the_last_one_chooses(
    dockerfile: list[Instruction], last: list[Instruction]
) -> None:
    names = [one.text.partition(" AS ")[2] for one in dockerfile if one.name == "FROM"]
    assert names == ["build", "runtime-cpu", "runtime-gpu", ""]
    assert last[0].text == "runtime-${VARIANT}"
    assert "VARIANT=cpu" in [one.text for one in dockerfile if one.name == "ARG" and one.stage == -1]


def test_the_last_stage_serves_as_another_user_than_root(last: list[Instruction]) -> None:
    names = [one.name for one in last]
    (user,) = [one.text for one in last if one.name == "USER"]
    assert user == "steerseg"
    assert "RUN" not in names[names.index("USER") :]
    assert json.loads(last[-1].text) == ["steerseg-backend", "serve"]
    assert "VOLUME" in names


def test_what_builds_stays_behind(dockerfile: list[Instruction], last: list[Instruction]) -> None:
    (copied,) = [one.text for one in last if one.name in ("COPY", "ADD")]
    assert copied == "--from=build /opt/steerseg /opt/steerseg"
    shipped = [one for one in dockerfile if one.stage > 0 and one.name == "RUN"]
    assert not [one for one in shipped if re.search(r"\b(pip|make|git|g\+\+|build-essential)\b", one.text)]
    compilers = [one.stage for one in shipped if "gcc" in one.text]
    assert compilers == [2], "Triton compiles its launchers, on GPUs only"
    built = " ".join(one.text for one in dockerfile if one.stage == 0)
    assert "pip uninstall" in built


def test_every_package_has_its_locked_version(dockerfile: list[Instruction]) -> None:
    installs = [
        part
        for one in dockerfile
        for part in re.findall(r"pip install ([^&]*)", one.text)
        if one.name == "RUN"
    ]
    assert len(installs) == 4
    assert all("--no-deps" in install for install in installs), "what a package needs is in the lock"
    assert all(".txt" in install or "image.lock" in install for install in installs[:-1])
    assert "COPY requirements/image-${VARIANT}.lock image.lock" in [
        f"{one.name} {one.text}" for one in dockerfile
    ]


def test_no_secret_is_in_the_image(dockerfile: list[Instruction]) -> None:
    assert not [one for one in dockerfile if one.name in ("ENV", "ARG", "LABEL") and SECRET.search(one.text)]


def test_what_is_copied_passes_the_ignore_file_and_nothing_else_does(dockerfile: list[Instruction]) -> None:
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source.split("/")[0]
        for one in dockerfile
        if one.name == "COPY" and "--from" not in one.text
        for source in one.text.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


@contextmanager
def answering(status: int) -> Iterator[int]:
    """A server on a free port that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "well"), [(200, True), (401, True), (503, False)])
def test_the_health_check_tells_a_server_that_is_up(last: list[Instruction], status: int, well: bool) -> None:
    (check,) = [one.text for one in last if one.name == "HEALTHCHECK"]
    python, *arguments = json.loads(check[check.index("[") :])
    assert python == "python"
    with answering(status) as port:
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "STEERSEG_PORT": str(port)},
            capture_output=True,
            timeout=60,
        )
    assert (done.returncode == 0) is well


# --- the locks


def read_lock(variant: str) -> tuple[list[str], dict[str, str]]:
    """The extras that a lock is made for, and the version of each package."""
    lines = (ROOT / "requirements" / f"image-{variant}.lock").read_text().splitlines()
    (extras,) = [line.removeprefix("# extras:").split() for line in lines if line.startswith("# extras:")]
    pinned = [line.split("==") for line in lines if not line.startswith("#")]
    return extras, {name: version for name, version in pinned}


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_a_lock_is_within_the_packages_ranges(variant: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras, versions = read_lock(variant)
    assert extras == list(EXTRAS), "run `make image-lock`"
    for text in requirements(project, tuple(extras)):
        wanted = Requirement(text)
        version = versions.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted} is not in the lock; run `make image-lock`"
        assert wanted.specifier.contains(version, prereleases=True), f"{version} of {wanted}"


def test_the_image_for_a_cpu_has_the_same_packages_without_those_of_gpus() -> None:
    cpu, gpu = read_lock("cpu")[1], read_lock("gpu")[1]
    assert cpu == {name: version for name, version in gpu.items() if not name.startswith(GPU_ONLY)}
    assert len(gpu) > len(cpu)


def test_a_lock_names_its_extras_and_is_in_order() -> None:
    text = lock_text({"b": "2", "a": "1"}, ("cloud",), "cpu")
    assert text.splitlines()[1:] == ["# extras: cloud", "a==1", "b==2"]


# --- what `make image-test` finds in an image


def packages_of_an_image(packages: dict[str, str], gigabytes: float) -> Any:
    """A container of such packages and such a size."""
    told = subprocess.CompletedProcess((), 0, json.dumps(packages), "")
    return SimpleNamespace(python=lambda script: told, gigabytes=gigabytes)


def test_an_image_of_the_locked_packages_is_well() -> None:
    _, versions = read_lock("cpu")
    found = {**versions, "torch": f"{versions['torch']}+cpu", "steerseg": "0.1.0"}
    found["PyYAML"] = found.pop("pyyaml")  # names are spelt as their makers like
    assert check_packages(packages_of_an_image(found, 2.4), "cpu") == []


def test_other_packages_and_a_large_image_for_cpus_are_faults() -> None:
    _, versions = read_lock("cpu")
    changed = {**versions, "torch": f"{versions['torch']}+cpu", "numpy": "1.0", "mystery": "3"}
    del changed["pillow"]
    assert check_packages(packages_of_an_image(changed, 3.4), "cpu") == [
        f"numpy is 1.0 in the image, and {versions['numpy']} in its lock",
        f"pillow is missing in the image, and {versions['pillow']} in its lock",
        "mystery is not in the image's lock",
        "the image has 3.40 GB; at most 3 are expected",
    ]


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_an_image_with_torch_for_gpus_may_be_large(variant: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, versions = read_lock(variant)
    assert check_packages(packages_of_an_image({**versions, "steerseg": "0.1.0"}, 7.3), variant) == []
    assert ("is not checked" in capsys.readouterr().out) == (variant == "cpu")


# --- the compose files


class Shape(BaseModel):
    """A part of a compose file; keys that are not of the specification, or not used here, are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Build(Shape):
    context: str
    args: dict[str, str] = {}


class Health(Shape):
    test: list[str]
    interval: str
    timeout: str
    retries: int
    start_period: str = "0s"


class Dependency(Shape):
    condition: Literal["service_started", "service_healthy"]


class Devices(Shape):
    driver: str
    count: int
    capabilities: list[str]


class Reservations(Shape):
    devices: list[Devices]


class Resources(Shape):
    reservations: Reservations


class Deploy(Shape):
    resources: Resources


class ConfigUse(Shape):
    source: str
    target: str


class Service(Shape):
    image: str
    build: Build | None = None
    command: list[str] = []
    init: bool = False
    ports: list[str] = []
    environment: dict[str, str] = {}
    volumes: list[str] = []
    configs: list[ConfigUse] = []
    healthcheck: Health | None = None
    depends_on: dict[str, Dependency] = {}
    shm_size: str | None = None
    stop_grace_period: str | None = None
    restart: Literal["unless-stopped"]
    deploy: Deploy | None = None


class Content(Shape):
    content: str


class Compose(Shape):
    model_config = ConfigDict(extra="allow", strict=True)

    services: dict[str, Service]
    volumes: dict[str, None]
    configs: dict[str, Content] = Field(default_factory=dict)


FILES = ["compose.yaml", "compose.fleet.yaml"]


@pytest.fixture(params=FILES)
def compose(request: pytest.FixtureRequest) -> Compose:
    found = Compose.model_validate(yaml.safe_load((ROOT / request.param).read_text()))
    assert all(key.startswith("x-") for key in found.model_extra or {})
    return found


def test_what_a_service_names_is_there(compose: Compose) -> None:
    used: set[str] = set()
    for service in compose.services.values():
        named = {volume.split(":")[0] for volume in service.volumes if not volume.startswith((".", "/"))}
        assert named <= set(compose.volumes)
        used |= named
        assert {config.source for config in service.configs} <= set(compose.configs)
        for name, dependency in service.depends_on.items():
            needed = compose.services[name]
            if dependency.condition == "service_healthy":
                assert needed.healthcheck is not None
    assert used == set(compose.volumes)


def test_doors_are_open_to_this_machine_alone(compose: Compose) -> None:
    ports = [port for service in compose.services.values() for port in service.ports]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", FILES)
def test_secrets_come_from_the_environment_and_the_head_says_which(name: str) -> None:
    text = (ROOT / name).read_text()
    compose = yaml.safe_load(text)
    for service in compose["services"].values():
        for key, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|_TOKEN$|API_KEY$", key) and value not in ("true", "false"):
                assert re.search(r"\$\{\w+:\?", value), f"{key} of {name} is written out"
    head = text.split("\nservices:")[0].split("\nx-")[0]
    for variable in set(re.findall(r"\$\{(\w+):\?", text)):
        assert variable in head


def test_every_setting_is_one_of_the_backends(compose: Compose) -> None:
    """What is set for the backend must be read by it, and by the command that is said to run."""
    known = {f"STEERSEG_{name.upper()}" for name in Settings.model_fields}
    for service in compose.services.values():
        given = {key for key in service.environment if key.startswith("STEERSEG_")}
        assert given <= known


def substituted(value: str) -> str:
    """A value of a compose file, with the defaults of its variables, and with something for those that have none."""
    given = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    return re.sub(r"\$\{\w+:\?[^}]*\}", "a" * 40, given)


def test_the_backend_takes_what_is_set_for_it(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("STEERSEG_"):
            monkeypatch.delenv(name)
    for name, value in compose.services["backend"].environment.items():
        monkeypatch.setenv(name, substituted(value))
    settings = Settings(host="0.0.0.0")
    assert settings.cluster is None or settings.cluster == "ray-head:6379"
    if settings.cluster is None:
        return
    # Other hosts do not reach the server at its own loopback address, which is where they would ask otherwise.
    assert settings.cluster_media == f"http://backend:{settings.port}"
    assert "backend" in settings.server_names
    assert f"ray start --address={settings.cluster} " in compose.services["backend"].command[-1]


def test_the_images_of_both_files_are_the_dockerfiles_variants() -> None:
    for name in FILES:
        compose = Compose.model_validate(yaml.safe_load((ROOT / name).read_text()))
        built = [service for service in compose.services.values() if service.build]
        assert built
        for service in built:
            assert service.build is not None
            variant = service.build.args["VARIANT"]
            assert service.image == f"steerseg:{variant}"
            assert variant in ("gpu", "${STEERSEG_VARIANT:-cpu}")
