"""Run a built image and check it: ``python tools/check_image.py steerseg:cpu`` (or ``make image-test``).

It needs buildah and nothing else: no engine, no installed package. The server is started in the image as its own user,
the image's own health check has to find it well, and the demo's models have to find an object in a video there.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

_START = 300.0  # seconds until the server has to answer
_MOST_GB = 3.0  # of the image for CPUs, where its torch is the one for CPUs
_LEAST_IOU = 0.5  # of the masks that the demo finds; about 0.95 is usual
_FORBIDDEN = ("g++", "make", "git", "pip", "nvcc")
"""What only builds need; a C compiler belongs to the variant for GPUs, whose Triton uses it."""

_PACKAGES = """
import importlib.metadata, json
print(json.dumps({one.name: one.version for one in importlib.metadata.distributions(path=sys.path[1:])}))
"""

_LAUNCHER = """
import subprocess, sysconfig, tempfile
from pathlib import Path
folder = Path(tempfile.mkdtemp())
(folder / "a.c").write_text("#include <Python.h>\\nint answer(void) { return Py_IsInitialized(); }\\n")
headers = sysconfig.get_paths()["include"]
subprocess.run(["gcc", "-shared", "-fPIC", "-I", headers, folder / "a.c", "-o", folder / "a.so"], check=True)
"""
"""Compiles as Triton does for each kernel: a module of Python's."""

_PROPOSAL = """
import subprocess, tempfile
from pathlib import Path
import numpy as np
from PIL import Image
from steerseg.demo.dataset import clips, load_manifest
from steerseg.video import write_video
clip = next(clips(load_manifest("val")))
expression = clip.entry.expressions[0]
folder = Path(tempfile.mkdtemp())
write_video(folder / "clip.mp4", iter(clip.frames), clip.fps)
subprocess.run(["steerseg", "segment", folder / "clip.mp4", expression.text, "-o", folder / "out"], check=True)
masks = np.stack([np.asarray(Image.open(path)) > 0 for path in sorted((folder / "out" / "masks").iterdir())])
truth = clip.masks(expression)
print((masks & truth).sum() / (masks | truth).sum())
"""


class Buildah:
    """Calls buildah.

    Args:
        command: The command with its global options.
    """

    def __init__(self, command: str) -> None:
        self._command = shlex.split(command)

    def __call__(self, *arguments: str) -> str:
        """Run to the end; what it printed.

        Raises:
            SystemExit: It failed.
        """
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"buildah {' '.join(arguments[:2])} failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def run(self, container: str, options: Sequence[str], command: Sequence[str]) -> list[str]:
        """The command line that runs something in a container."""
        return [*self._command, "run", "--isolation", "chroot", *options, container, "--", *command]


class Container:
    """An image's container, whose commands run as the image's user, with the data folder that the image has.

    Args:
        buildah: Calls buildah.
        name: Of the container.
        user: As whom commands run.
        port: Of the server in it. Its network is this machine's.
    """

    def __init__(self, buildah: Buildah, name: str, user: str, port: int) -> None:
        self._buildah = buildah
        self._name = name
        self.port = port
        settings = {"PORT": str(port), "HOST": "127.0.0.1"}
        told = (word for name, value in settings.items() for word in ("--env", f"STEERSEG_{name}={value}"))
        self._options = ("--user", user, *told)

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command in it."""
        return self._buildah.run(self._name, self._options, command)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it to the end."""
        return subprocess.run(self.command(*command), capture_output=True, text=True)

    def python(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script by the image's Python."""
        return self.run("python", "-c", f"import sys\n{script}")

    @property
    def gigabytes(self) -> float:
        """Size of its files, in GB."""
        root = Path(self._buildah("mount", self._name))
        files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(path.stat().st_blocks * 512 for path in files) / 1e9


def check(buildah: Buildah, image: str, variant: str, port: int) -> list[str]:
    """Look at the image, start its server, and let it find an object in a video.

    Returns:
        What is wrong; nothing where all is well.
    """
    card = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    faults = []
    user = card.get("User") or "root"
    if user in ("root", "0"):
        faults.append("the image's user is root")
    health = (card.get("Healthcheck") or {}).get("Test") or []
    if health[:1] != ["CMD"]:
        faults.append("the image has no health check; it has to be built with --format docker")
    name = buildah("from", image)
    try:
        container = Container(buildah, name, user, port)
        faults += check_packages(container, variant) + check_tools(container, variant)
        if health:
            faults += check_server(container, list(card["Cmd"]), health[1:])
        faults += check_proposal(container)
    finally:
        buildah("rm", name)
    return faults


def check_packages(container: Container, variant: str) -> list[str]:
    """Every package has its locked version, and the image for CPUs is small; returns what is wrong."""
    done = container.python(_PACKAGES)
    if done.returncode:
        return [f"the image's packages cannot be listed: {done.stderr[-1000:]}"]
    found = {_plain_name(name): version for name, version in json.loads(done.stdout).items()}
    lines = (ROOT / "requirements" / f"image-{variant}.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    faults = [
        f"{name} is {found.get(name, 'missing')} in the image, and {version} in its lock"
        for name, version in locked.items()
        if found.get(name, "").partition("+")[0] != version
    ]
    faults += [f"{name} is not in the image's lock" for name in sorted({*found} - {*locked, "steerseg"})]
    size, torch = container.gigabytes, found.get("torch", "")
    print(f"{len(found)} packages, torch {torch}, {size:.2f} GB")
    if variant == "cpu" and not torch.endswith("+cpu"):
        print(f"its torch is not the one for CPUs: whether it has at most {_MOST_GB:g} GB is not checked")
    elif variant == "cpu" and size > _MOST_GB:
        faults.append(f"the image has {size:.2f} GB; at most {_MOST_GB:g} are expected")
    return faults


def _plain_name(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def check_tools(container: Container, variant: str) -> list[str]:
    """What builds stayed in the stage that builds, and Triton finds what it compiles with."""
    script = f"for tool in {' '.join(_FORBIDDEN)}; do test -x /opt/steerseg/bin/$tool && echo $tool; "
    script += "case $tool in pip) ;; *) command -v $tool;; esac; done; true"
    faults = [f"the image has {tool}" for tool in container.run("sh", "-c", script).stdout.split()]
    if variant == "gpu":
        compiled = container.python(_LAUNCHER)
        if compiled.returncode:
            faults.append(f"Triton could not compile in the image: {compiled.stderr[-1000:]}")
        else:
            print("gcc compiles a module of Python, as Triton does")
    return faults


def check_server(container: Container, command: Sequence[str], health: Sequence[str]) -> list[str]:
    """Start the server; its health check has to pass, and its models to be loaded."""
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            container.command(*command), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            begin = time.monotonic()
            while time.monotonic() < begin + _START and server.poll() is None:
                states = _states(container.port) if container.run(*health).returncode == 0 else []
                if states and all(state == "ready" for state in states):
                    seconds = time.monotonic() - begin
                    print(f"the server answers /health, and its models are loaded after {seconds:.0f} s")
                    return []
                if "failed" in states:
                    break
                time.sleep(2)
            log.seek(0)
            return [f"the server was not well within {_START:.0f} s; it wrote:\n{log.read()[-3000:]}"]
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def _states(port: int) -> list[str]:
    """The state of each worker, as the server tells it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        told: dict[str, Any] = json.load(answer)
    return [worker["state"] for worker in told["workers"]]


def check_proposal(container: Container) -> list[str]:
    """`steerseg segment` finds an object of a rendered video."""
    done = container.python(_PROPOSAL)
    if done.returncode:
        return [f"the demo's models made no proposal; it wrote:\n{(done.stdout + done.stderr)[-3000:]}"]
    iou = float(done.stdout.split()[-1])
    print(f"the demo's models find an object, with an IoU of {iou:.2f}")
    return [] if iou >= _LEAST_IOU else [f"the demo's models find an object with an IoU of {iou:.2f} only"]


def main() -> None:
    """Check, print the figures, and fail where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", help="name and tag of a built image")
    parser.add_argument("--variant", choices=("cpu", "gpu"), help="the image's tag where left out")
    parser.add_argument("--buildah", default="buildah --storage-driver vfs")
    parser.add_argument("--port", type=int, default=19090)
    options = parser.parse_args()
    variant = options.variant or options.image.rpartition(":")[2]
    if variant not in ("cpu", "gpu"):
        parser.error(f"--variant is needed, since {options.image!r} does not say which it is")
    faults = check(Buildah(options.buildah), options.image, variant, options.port)
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
