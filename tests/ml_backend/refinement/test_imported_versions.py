"""What an import takes in, what a promotion checks again, and what a damaged version does to others: nothing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import PromptVersionRow
from ml_backend.models.fingerprint import model_width
from ml_backend.refinement.gate import Comparison, GateMetrics
from ml_backend.refinement.version_store import NewVersion, PromptVersion, VersionError, VersionStore
from ml_backend.refinement.versions import VERSION_FILE, PromptLine
from steerseg.errors import ConfigError
from steerseg.prompt_files import CARD_FILE, WEIGHTS_FILE, check_prompts, prompts_digest
from steerseg.runtime.artefacts import json_bytes
from steerseg.statistics import Interval
from steerseg.words.glossary import GLOSSARY_FILE, Entry, Glossary
from tests.support.backend import MakeBackend, recorded
from tests.support.databases import EACH_DATABASE

pytestmark = EACH_DATABASE

WIDTH = 8
WORDS = Glossary(entries=(Entry(term="blick", meaning="apple"),))
Change = Callable[[Path], None]


@pytest.fixture
def line(tmp_path: Path) -> PromptLine:
    database = Database(tmp_path / "data" / "store.sqlite")
    ProjectStore(database).save(1, uid="1", label_config="<View/>", hostname="", extra_params={})
    return PromptLine(VersionStore(database), tmp_path / "data", "the-model", width=WIDTH)


def write_prompts(folder: Path, frame: Any, video: Any, glossary: Glossary = WORDS, **card: Any) -> str:
    """Files of a version as a program writes them that checks nothing; return their digest."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"frame": frame, "video": video}, folder / WEIGHTS_FILE)
    digest = prompts_digest("before_vision", glossary, frame, video)
    (folder / CARD_FILE).write_bytes(json_bytes({"placement": "before_vision", "digest": digest, **card}))
    (folder / GLOSSARY_FILE).write_bytes(glossary.to_bytes())
    return digest


def matrix(seed: int, width: int = WIDTH, rows: int = 4) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def add(line: PromptLine, folder: Path, seed: int = 1, *, kept_back: bool = False) -> PromptVersion:
    digest = write_prompts(folder, matrix(seed), matrix(seed + 100))
    new = NewVersion(
        path=line.keep(folder, digest),
        digest=digest,
        model=line.model,
        origin="refined",
        parent_id=None,
        curve=(1.0, 0.5),
        metrics=GateMetrics(held_out=Comparison(4, 0.7, 0.65, Interval(0.05, 0.01, 0.09, 4))),
        reason="kept back: it gains nothing" if kept_back else "promoted: better",
        kept_back=kept_back,
    )
    return line.versions.add(1, new)


def exported(line: PromptLine, folder: Path) -> Path:
    """A good version in a folder."""
    made = add(line, folder / "made")
    archive = folder / "version.zip"
    archive.write_bytes(line.export(1, made.name))
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(folder / "exported")
    return folder / "exported"


def with_card(**changes: Any) -> Change:
    """Changes the card of an exported version; a value may be text of JSON that no writer would write."""

    def change(folder: Path) -> None:
        card = json.loads((folder / VERSION_FILE).read_bytes())
        (folder / VERSION_FILE).write_text(json.dumps({**card, **changes}))

    return change


def with_matrices(frame: Any, video: Any) -> Change:
    return lambda folder: void(write_prompts(folder, frame, video))


def void(_: object) -> None:
    """Return nothing."""


def with_file(name: str, content: bytes) -> Change:
    return lambda folder: void((folder / name).write_bytes(content))


def held_out(**changes: Any) -> dict[str, Any]:
    gain = {"mean": 0.1, "low": 0.0, "high": 0.2, "count": 3}
    return {"held_out": {"videos": 3, "candidate": 0.7, "champion": 0.6, "gain": gain, **changes}}


def spoilt(number: float) -> Any:
    made = matrix(1)
    made[2, 3] = number
    return made


UNUSABLE: dict[str, tuple[Change, str]] = {
    "not a number": (with_matrices(spoilt(float("nan")), matrix(2)), "not finite"),
    "infinite": (with_matrices(matrix(1), spoilt(float("-inf"))), "not finite"),
    "of another width": (with_matrices(matrix(1, 9), matrix(2, 9)), "9 wide, the model's embeddings are 8"),
    "of two shapes": (with_matrices(matrix(1), matrix(2, rows=3)), "two float32 matrices of one shape"),
    "of three axes": (with_matrices(matrix(1)[None], matrix(2)[None]), "two float32 matrices of one shape"),
    "of whole numbers": (
        with_matrices(np.ones((4, 8), np.int64), np.ones((4, 8), np.int64)),
        "two float32 matrices",
    ),
    "empty": (
        lambda folder: void(write_prompts(folder, matrix(1, 8, 0), matrix(2, 8, 0), Glossary())),
        "neither soft prompts nor words",
    ),
    "without a matrix": (lambda folder: save_file({"frame": matrix(1)}, folder / WEIGHTS_FILE), "video"),
    "no safetensors": (with_file(WEIGHTS_FILE, b"\xff" * 100), "no soft prompts could be read"),
    "a header beyond the file": (with_file(WEIGHTS_FILE, b"\xff\xff\xff\x7f" + b"\0" * 40), "could be read"),
    "placed elsewhere": (with_file(CARD_FILE, b'{"placement": "behind", "digest": "x"}'), "placement"),
    "a card that is a list": (with_file(CARD_FILE, b"[]"), "cannot be read"),
    "a card of many brackets": (with_file(CARD_FILE, b"[" * 100_000), "cannot be read"),
    "another digest": (
        with_file(CARD_FILE, b'{"placement": "before_vision", "digest": "x"}'),
        "belong together",
    ),
    "other words": (with_file(GLOSSARY_FILE, b'{"entries": []}'), "do not belong together"),
    "words of another form": (with_file(GLOSSARY_FILE, b'{"entries": [{"term": 3}]}'), "is no glossary"),
    "a word without letters": (
        with_file(GLOSSARY_FILE, b'{"entries": [{"term": "!", "meaning": "apple"}]}'),
        "is no glossary",
    ),
    "too many words": (
        lambda folder: void(
            write_prompts(
                folder,
                matrix(1),
                matrix(2),
                Glossary(entries=tuple(Entry(term=f"w{n}", meaning="apple") for n in range(1001))),
            )
        ),
        "1001 words; 1000 are the most",
    ),
    "a curve with text": (with_card(curve=["much"]), "curve"),
    "a curve with nothing": (with_card(curve=[None]), "curve"),
    "a curve beyond numbers": (with_card(curve=[float("inf")]), "curve"),
    "a curve that is an object": (with_card(curve={"0": 1.0}), "curve"),
    "metrics as text": (with_card(metrics="good"), "metrics"),
    "metrics without a gain": (with_card(metrics=held_out(gain=None)), "metrics"),
    "a gain that is no number": (with_card(metrics=held_out(candidate=float("nan"))), "metrics"),
    "a gain beyond 1": (with_card(metrics=held_out(candidate=7.0)), "metrics"),
    "an unknown scheme": (with_card(metrics={"scheme": "luck"}), "metrics"),
    "another model": (with_card(model="another"), "made for the vision-language model 'another'"),
    "no model": (with_card(model=None), "model"),
    "a name of a megabyte": (with_card(name="x" * 2**20), "name"),
    "another format": (with_card(format=2), "format"),
    "a card that says nothing": (with_file(VERSION_FILE, b"null"), "cannot be read"),
    "a card of 17 MB": (with_file(VERSION_FILE, b" " * (17 * 2**20)), "a version has a few"),
}


@pytest.mark.parametrize(("change", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_no_model_can_use_is_not_imported(
    line: PromptLine, tmp_path: Path, change: Change, said: str
) -> None:
    folder = exported(line, tmp_path)
    change(folder)
    with pytest.raises(VersionError, match=said):
        line.import_(1, folder)
    with zipfile.ZipFile(tmp_path / "spoilt.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    with pytest.raises(VersionError, match=said):
        line.import_(1, tmp_path / "spoilt.zip")
    assert len(line.versions.versions(1)) == 1
    assert list((tmp_path / "data" / "prompts").glob(".*")) == []


def test_a_good_one_is_imported_with_its_words(line: PromptLine, tmp_path: Path) -> None:
    made = line.import_(1, exported(line, tmp_path))
    assert line.glossary(made) == WORDS
    assert not made.kept_back
    assert line.promote(1, made.name, by="test") == ""


def test_what_was_damaged_since_is_not_promoted(line: PromptLine, tmp_path: Path) -> None:
    first, second = add(line, tmp_path / "1", 1), add(line, tmp_path / "2", 2)
    line.promote(1, first.name, by="test")
    line.promote(1, second.name, by="test")
    folder = line.ref(first).folder
    save_file({**load_file(folder / WEIGHTS_FILE), "frame": spoilt(float("nan"))}, folder / WEIGHTS_FILE)
    with pytest.raises(VersionError, match="not finite"):
        line.roll_back(1)
    with pytest.raises(VersionError, match="not finite"):
        line.promote(1, first.name, by="test")
    write_prompts(folder, matrix(7), matrix(8))
    with pytest.raises(VersionError, match="in place of"):
        line.promote(1, first.name, by="test")
    champion = line.champion(1)
    assert champion is not None
    assert champion.name == second.name


def test_promoting_what_the_gate_kept_back_warns(line: PromptLine, tmp_path: Path) -> None:
    kept = add(line, tmp_path / "1", kept_back=True)
    archive = tmp_path / "version.zip"
    archive.write_bytes(line.export(1, kept.name))
    imported = line.import_(1, archive)
    assert imported.kept_back, "there, which its card says"
    for name in (kept.name, imported.name):
        assert line.promote(1, name, by="test").startswith(f"the gate kept {name} back")


@pytest.mark.parametrize(
    "column",
    [
        {"metrics": {"held_out": {"videos": "many"}}},
        {"metrics": [1]},
        {"curve": ["much"]},
        {"curve": {"a": None}},
        {"data": [[1]]},
        {"data": "seven"},
    ],
    ids=str,
)
def test_a_version_that_is_damaged_in_the_database_is_shown_as_such(
    make_backend: MakeBackend, tmp_path: Path, column: dict[str, Any]
) -> None:
    backend = make_backend()
    backend.post("/setup", recorded("setup"))
    project = int(recorded("setup")["project"].partition(".")[0])
    line = backend.service.line
    digest = write_prompts(tmp_path / "made", matrix(1), matrix(2))
    for _ in range(2):
        new = NewVersion(line.keep(tmp_path / "made", digest), digest, line.model, "imported", None)
        made = line.versions.add(project, new)
    with backend.database.writing() as session:
        row = session.get(PromptVersionRow, made.id)
        assert row is not None
        for name, value in column.items():
            setattr(row, name, value)
    page = backend.client.get(f"/pages/projects/{project}/versions")
    assert page.status_code == 200
    assert f"Damaged: its {next(iter(column))}" in page.get_data(as_text=True)
    assert line.promote(project, made.name, by="test") == ""
    for path in ("", "/corrections", "/words"):
        assert backend.client.get(f"/pages/projects/{project}{path}").status_code == 200


def test_a_version_whose_files_are_damaged_is_shown_as_such(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    backend = make_backend()
    backend.post("/setup", recorded("setup"))
    project = int(recorded("setup")["project"].partition(".")[0])
    line = backend.service.line
    digest = write_prompts(tmp_path / "made", matrix(1), matrix(2))
    made = line.versions.add(
        project, NewVersion(line.keep(tmp_path / "made", digest), digest, line.model, "imported", None)
    )
    (line.ref(made).folder / GLOSSARY_FILE).write_bytes(b"[" * 100_000)
    page = backend.client.get(f"/pages/projects/{project}/versions")
    assert page.status_code == 200
    assert "glossary.json is no glossary" in page.get_data(as_text=True)
    with pytest.raises(VersionError, match="cannot be used"):
        line.promote(project, made.name, by="test")


def test_the_width_of_a_model_is_read_from_its_configuration() -> None:
    width = model_width("demo")
    folder = Path(__file__).parents[3] / "steerseg" / "demo" / "weights" / "soft_prompts"
    assert width == check_prompts(folder).width
    with pytest.raises(ConfigError):
        model_width("no-such-preset")
