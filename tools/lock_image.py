"""Write the lock files of the container image: ``python tools/lock_image.py`` (or ``make image-lock``).

pip resolves the package's dependencies anew, with the extras that the image has, and the exact versions go to
``requirements/image-cpu.lock`` and ``requirements/image-gpu.lock``. The first lacks what only a GPU needs. It is to be
run by a Python 3.11 on Linux x86-64 that has torch, since sam2 is built from source against it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("cloud", "edgetam", "fleet", "postgresql", "smolvlm")
"""Extras of the image, of those in ``pyproject.toml``: what a fleet needs, and what presets need."""
GPU_ONLY = ("nvidia-", "cuda-", "triton")
"""Beginnings of the names of packages that only torch for GPUs needs."""


def requirements(project: dict[str, object], extras: tuple[str, ...]) -> list[str]:
    """The package's dependencies and those of some extras."""
    optional = project.get("optional-dependencies", {})
    base = project["dependencies"]
    assert isinstance(optional, dict)
    assert isinstance(base, list)
    return [*base, *(one for extra in extras for one in optional[extra])]


def resolve(wanted: list[str], constraints: list[str]) -> dict[str, str]:
    """The version of each package that pip would install into an empty environment, by its normal name."""
    with tempfile.TemporaryDirectory() as folder:
        report, fixed = Path(folder, "report.json"), Path(folder, "constraints.txt")
        fixed.write_text("\n".join(constraints))
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--no-build-isolation", "--report", str(report), "--constraint", str(fixed), *wanted]
        subprocess.run(command, check=True)
        installed = json.loads(report.read_text())["install"]
    return {
        one["metadata"]["name"].lower().replace("_", "-").replace(".", "-"): one["metadata"]["version"]
        for one in installed
    }


def lock_text(versions: dict[str, str], extras: tuple[str, ...], variant: str) -> str:
    """A lock file."""
    head = [
        f"# The {variant} image's packages, by `make image-lock`; do not edit. Python 3.11, Linux x86-64.",
        f"# extras: {' '.join(extras)}",
    ]
    lines = [f"{name}=={version}" for name, version in sorted(versions.items())]
    return "\n".join([*head, *lines, ""])


def main() -> None:
    """Resolve and write both locks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constraint", action="append", default=[], help="for example torch==2.14.1")
    options = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = resolve(requirements(project, EXTRAS), options.constraint)
    cpu = {name: version for name, version in versions.items() if not name.startswith(GPU_ONLY)}
    for variant, chosen in (("cpu", cpu), ("gpu", versions)):
        path = ROOT / "requirements" / f"image-{variant}.lock"
        path.parent.mkdir(exist_ok=True)
        path.write_text(lock_text(chosen, EXTRAS, variant))
        print(f"{path.relative_to(ROOT)}: {len(chosen)} packages")


if __name__ == "__main__":
    main()
