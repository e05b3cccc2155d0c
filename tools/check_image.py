"""Run a built image and check it: ``python tools/check_image.py steerseg:cpu`` (or ``make image-test``).

It needs buildah and nothing else: no engine, no installed package. The server is started in the image as its own user,
and the image's own health check has to find it well.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_START = 300.0  # seconds until the server has to answer
_FORBIDDEN = ("g++", "make", "git", "pip", "nvcc")
"""What only builds need; a C compiler belongs to the variant for GPUs, whose Triton uses it."""


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

    def run(self, container: str, *command: str, user: str, options: tuple[str, ...] = ()) -> list[str]:
        """The command line that runs something in a container."""
        given = ("run", "--isolation", "chroot", "--user", user, *options, container, "--", *command)
        return [*self._command, *given]


def check(buildah: Buildah, image: str, port: int) -> list[str]:
    """Start the image's server and look at the image.

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
    container = buildah("from", image)
    try:
        faults += _tools(buildah, container, user)
        if health:
            faults += _serve(buildah, container, user, list(card["Cmd"]), health[1:], port)
    finally:
        buildah("rm", container)
    return faults


def _tools(buildah: Buildah, container: str, user: str) -> list[str]:
    """What should have stayed in the stage that builds."""
    script = f"for tool in {' '.join(_FORBIDDEN)}; do test -x /opt/steerseg/bin/$tool && echo $tool; "
    script += "case $tool in pip) ;; *) command -v $tool;; esac; done; true"
    found = subprocess.run(
        buildah.run(container, "sh", "-c", script, user=user), capture_output=True, text=True, check=True
    )
    return [f"the image has {tool}" for tool in found.stdout.split()]


def _serve(
    buildah: Buildah, container: str, user: str, command: list[str], health: list[str], port: int
) -> list[str]:
    """Start the server; its health check has to pass, and its models to be loaded."""
    environment = {"STEERSEG_PORT": str(port), "STEERSEG_HOST": "127.0.0.1", "STEERSEG_DATA_DIR": "/tmp/data"}
    options = tuple(word for name, value in environment.items() for word in ("--env", f"{name}={value}"))
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(
            buildah.run(container, *command, user=user, options=options),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            end = time.monotonic() + _START
            while time.monotonic() < end and server.poll() is None:
                looked = subprocess.run(
                    buildah.run(container, *health, user=user, options=options), capture_output=True
                )
                state = _states(port) if looked.returncode == 0 else []
                if state and all(one == "ready" for one in state):
                    print("the server answers /health, and its models are loaded")
                    return []
                if "failed" in state:
                    break
                time.sleep(2)
            log.seek(0)
            return [f"the server was not well within {_START:.0f} s; it wrote:\n{log.read()[-3000:]}"]
        finally:
            os.killpg(server.pid, 15)
            server.wait()


def _states(port: int) -> list[str]:
    """The state of each worker, as the server tells it."""
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
        return [worker["state"] for worker in json.load(answer)["workers"]]


def _size(buildah: Buildah, image: str) -> float:
    """Bytes of an image's files, in GB."""
    container = buildah("from", image)
    try:
        root = Path(buildah("mount", container))
        files = (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(path.stat().st_blocks * 512 for path in files) / 1e9
    finally:
        buildah("rm", container)


def main() -> None:
    """Check, print the figures, and fail where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--buildah", default="buildah --storage-driver vfs")
    parser.add_argument("--port", type=int, default=19090)
    options = parser.parse_args()
    buildah = Buildah(options.buildah)
    print(f"{options.image}: {_size(buildah, options.image):.2f} GB")
    faults = check(buildah, options.image, options.port)
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
