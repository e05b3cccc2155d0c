"""What the library needs, and what the wheel holds."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from setuptools import find_packages

ROOT = Path(__file__).parents[2]

SERVER = (
    "flask",
    "label_studio_sdk",
    "ml_backend",
    "prometheus_client",
    "pydantic_settings",
    "requests",
    "sqlalchemy",
    "waitress",
)
OPTIONAL = ("accelerate", "bitsandbytes", "label_studio_ml", "num2words", "resvg_py", "tensorboard", "timm")

WITHOUT = """
import sys
for name in sys.argv[2:]:
    sys.modules[name] = None  # importing it raises ModuleNotFoundError, as where it is not installed

import pkgutil
from importlib import import_module
from pathlib import Path

import steerseg

NEEDS_MORE = ("steerseg.demo.twemoji", "kernels", "__main__")  # the network, a GPU's compiler
for module in pkgutil.walk_packages(steerseg.__path__, "steerseg."):
    if not module.name.endswith(NEEDS_MORE):
        import_module(module.name)

from steerseg import SteerSeg
from steerseg.demo.dataset import clips, load_manifest
from steerseg.training import TrainingLog
from steerseg.video import video_from_frames

out = Path(sys.argv[1])
clip = next(clips(load_manifest("val")))
video = video_from_frames(clip.frames, fps=clip.fps)
proposal = SteerSeg.from_pretrained("demo", device="cpu").propose(video, clip.entry.expressions[0].text)
assert proposal.best.masks.any()
proposal.save(out / "proposal")
log = TrainingLog(out / "training")
log.write(1, loss=0.5)
log.close()
assert not log.boards
assert not [name for name in sys.argv[2:] if sys.modules[name] is not None]
"""


def test_the_method_works_without_what_the_server_needs(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path), *SERVER, *OPTIONAL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "proposal" / "proposal.json").is_file()
    assert (tmp_path / "training" / "log.jsonl").read_text().startswith('{"step": 1, "loss": 0.5')


def test_the_command_line_answers_without_loading_models() -> None:
    code = "from steerseg.cli.main import build_parser; build_parser().format_help()"
    assert not loaded_by(code) & {"torch", "transformers", "numpy", "pydantic"}


def test_sam2_needs_no_language_model() -> None:
    """Their package takes a second to import, for which clicks alone need not wait."""
    loaded = loaded_by("import steerseg.segmenters.sam2")
    assert "torch" in loaded
    assert "transformers" not in loaded


def loaded_by(code: str) -> set[str]:
    """Names of the modules that are loaded after some code ran by itself."""
    code = f"import sys; {code}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_what_trained_the_demo_is_no_part_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = find_packages(str(ROOT), **project["tool"]["setuptools"]["packages"]["find"])
    assert "steerseg.demo" in packages
    assert not [name for name in packages if name.split(".")[0] not in ("steerseg", "ml_backend")]
