"""A project's line of prompt versions: promote, roll back, export and import, and who uses which."""

from __future__ import annotations

import os
import signal
import sqlite3
import zipfile
from pathlib import Path

import pytest
import torch

from ml_backend.database.database import Database
from ml_backend.database.projects import ProjectStore
from ml_backend.database.tables import PromptStatus
from ml_backend.models.soft_prompts import SoftPromptCache
from ml_backend.refinement import versions as module
from ml_backend.refinement.gate import Comparison, GateMetrics
from ml_backend.refinement.version_card import describe_versions
from ml_backend.refinement.version_store import PRESET, NewVersion, PromptVersion, VersionError, VersionStore
from ml_backend.refinement.versions import PromptLine
from steerseg import soft_prompts
from steerseg.errors import ConfigError
from steerseg.prompt_files import with_glossary
from steerseg.runtime.artefacts import remove_partials
from steerseg.soft_prompts import SoftPrompts
from steerseg.statistics import Interval
from steerseg.words.glossary import Entry, Glossary
from tests.support.databases import EACH_DATABASE, ONLY_SQLITE

pytestmark = EACH_DATABASE


@pytest.fixture
def database(tmp_path: Path) -> Database:
    made = Database(tmp_path / "data" / "store.sqlite")
    for project in (1, 2):
        ProjectStore(made).save(
            project, uid=str(project), label_config="<View/>", hostname="", extra_params={}
        )
    return made


@pytest.fixture
def line(database: Database, tmp_path: Path) -> PromptLine:
    return PromptLine(VersionStore(database), tmp_path / "data", "the-model")


def prompts(seed: int) -> SoftPrompts:
    generator = torch.Generator().manual_seed(seed)
    return SoftPrompts(torch.randn(4, 8, generator=generator), torch.randn(4, 8, generator=generator))


def add(line: PromptLine, tmp_path: Path, seed: int, project: int = 1) -> PromptVersion:
    pair = prompts(seed)
    pair.save(tmp_path / f"made-{seed}")
    parent = line.champion(project)
    new = NewVersion(
        path=line.keep(tmp_path / f"made-{seed}", pair.digest),
        digest=pair.digest,
        model=line.model,
        origin="refined",
        parent_id=None if parent is None else parent.id,
        data=((7, "revision"),),
        curve=(1.0, 0.5),
        metrics=GateMetrics(held_out=Comparison(4, 0.7, 0.65, Interval(0.05, 0.01, 0.09, 4))),
        reason="promoted: better",
    )
    return line.versions.add(project, new)


def test_the_file_names_are_the_librarys() -> None:
    assert module.WEIGHTS_FILE == soft_prompts.WEIGHTS_FILE
    assert module.CARD_FILE == soft_prompts.CARD_FILE


def test_promoting_and_rolling_back_go_one_step_each(line: PromptLine, tmp_path: Path) -> None:
    first, second = add(line, tmp_path, 1), add(line, tmp_path, 2)
    assert line.champion(1) is None
    for name in (first.name, second.name, first.name):
        line.versions.promote(1, name, by="test")
        champion = line.champion(1)
        assert champion is not None
        assert champion.name == name
        standing = [version.status for version in line.versions.versions(1)]
        assert standing.count(PromptStatus.CHAMPION) == 1
    assert [line.versions.roll_back(1) for _ in range(3)] == [second.name, first.name, PRESET]
    assert line.champion(1) is None
    with pytest.raises(VersionError, match="nothing to roll back to"):
        line.versions.roll_back(1)
    line.versions.promote(1, first.name, by="test")
    line.versions.promote(1, PRESET, by="test")
    assert line.champion(1) is None
    assert line.versions.roll_back(1) == first.name


def test_a_name_that_is_not_there_or_leads_already_is_said(line: PromptLine, tmp_path: Path) -> None:
    with pytest.raises(VersionError, match="it has none yet"):
        line.versions.promote(1, "r1-0", by="test")
    made = add(line, tmp_path, 1)
    with pytest.raises(VersionError, match=f"it has {made.name}"):
        line.versions.version(1, "r9")
    line.versions.promote(1, made.name, by="test")
    with pytest.raises(VersionError, match="already"):
        line.versions.promote(1, made.name, by="test")


def test_projects_have_lines_of_their_own(line: PromptLine, tmp_path: Path) -> None:
    ours, theirs = add(line, tmp_path, 1), add(line, tmp_path, 2, project=2)
    line.versions.promote(1, ours.name, by="test")
    assert line.champion(2) is None
    with pytest.raises(VersionError, match="project 2 has no prompt version"):
        line.versions.promote(2, ours.name, by="test")
    assert [version.name for version in line.versions.versions(2)] == [theirs.name]
    assert ours.name != theirs.name  # proposals are found by the name, whatever the project


def test_a_champion_of_another_model_is_not_used(
    line: PromptLine, database: Database, tmp_path: Path
) -> None:
    made = add(line, tmp_path, 1)
    line.versions.promote(1, made.name, by="test")
    other = PromptLine(VersionStore(database), tmp_path / "data", "another-model")
    assert other.champion(1) is None
    assert line.champion(1) is not None


def test_a_stored_version_loads_and_matches_its_digest(line: PromptLine, tmp_path: Path) -> None:
    made = add(line, tmp_path, 1)
    ref = line.ref(made)
    loaded = SoftPromptCache()
    pair = loaded.load(ref)
    assert pair is not None
    assert torch.equal(pair.frame, prompts(1).frame)
    assert loaded.load(ref) is pair
    assert loaded.load(None) is None
    prompts(2).save(ref.folder)
    with pytest.raises(ConfigError, match="rollback"):
        SoftPromptCache().load(ref)


def test_an_exported_version_joins_another_line(line: PromptLine, tmp_path: Path) -> None:
    made = add(line, tmp_path, 1)
    content = line.export(1, made.name)
    assert content == line.export(1, made.name)
    archive = tmp_path / "version.zip"
    archive.write_bytes(content)
    imported = line.import_(2, archive)
    assert (imported.digest, imported.origin, imported.status) == (
        made.digest,
        "imported",
        PromptStatus.CANDIDATE,
    )
    assert imported.curve == (1.0, 0.5)
    assert "promoted: better" in imported.reason
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "folder")
    assert line.import_(2, tmp_path / "folder").digest == made.digest
    assert not list((tmp_path / "data" / "prompts").glob(".*"))


LEARNED = Glossary(entries=(Entry(term="rig", meaning="truck", corrections=9, names=(("lorry", 9),)),))
WRITTEN = Glossary(entries=(Entry(term="rig", meaning="truck", origin="edited"),))


def add_learned(line: PromptLine, tmp_path: Path) -> PromptVersion:
    """The champion of project 1, with a word that corrections taught."""
    digest = with_glossary(None, LEARNED, tmp_path / "learned")
    new = NewVersion(line.keep(tmp_path / "learned", digest), digest, line.model, "refined", parent_id=None)
    line.versions.promote(1, line.versions.add(1, new).name, by="gate")
    return line.versions.version(1, line.versions.versions(1)[0].name)


def test_a_person_may_confirm_what_was_learned(line: PromptLine, tmp_path: Path) -> None:
    learned = add_learned(line, tmp_path)
    confirmed = line.edit_glossary(1, WRITTEN, by="a person")
    assert confirmed is not None
    assert line.glossary(line.champion(1)) == WRITTEN
    assert line.glossary(learned) == LEARNED
    assert confirmed.digest == learned.digest, "proposals are the same"
    line.check(confirmed)
    assert line.edit_glossary(1, WRITTEN, by="a person") is None
    assert len(line.versions.versions(1)) == 2
    assert len(line.versions.promotions(1)) == 2
    assert line.roll_back(1) == learned.name
    assert line.edit_glossary(1, LEARNED, by="a person") is None


def test_projects_that_write_the_same_word_share_no_entry(line: PromptLine, tmp_path: Path) -> None:
    learned = add_learned(line, tmp_path)
    line.edit_glossary(2, WRITTEN, by="a person")
    assert line.glossary(line.champion(2)) == WRITTEN
    archive = tmp_path / "learned.zip"
    archive.write_bytes(line.export(1, learned.name))
    assert line.import_(2, archive).path == learned.path, "equal files are kept once"


def test_versions_of_earlier_releases_are_found(line: PromptLine, tmp_path: Path) -> None:
    """Their folders have the digest alone as their name."""
    folder = tmp_path / "data" / "prompts" / "old"
    digest = with_glossary(None, LEARNED, folder)
    folder.rename(folder.with_name(digest))
    new = NewVersion(f"prompts/{digest}", digest, line.model, "refined", parent_id=None)
    old = line.versions.add(1, new)
    line.promote(1, old.name, by="test")
    assert line.glossary(line.champion(1)) == LEARNED
    line.edit_glossary(1, WRITTEN, by="a person")
    assert line.glossary(line.champion(1)) == WRITTEN
    assert line.roll_back(1) == old.name
    assert line.glossary(line.champion(1)) == LEARNED


def test_what_a_killed_import_left_goes_at_the_next_start(
    line: PromptLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "version.zip"
    archive.write_bytes(line.export(1, add(line, tmp_path, 1).name))
    root = tmp_path / "data" / "prompts"
    if (killed := os.fork()) == 0:
        try:
            monkeypatch.setattr(line, "keep", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            line.import_(2, archive)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -signal.SIGKILL
    assert list(root.glob(".*"))
    remove_partials(root, below=True)  # as the server does for every folder of its data
    assert not list(root.glob(".*"))


def test_what_cannot_be_imported_is_said(line: PromptLine, database: Database, tmp_path: Path) -> None:
    made = add(line, tmp_path, 1)
    archive = tmp_path / "version.zip"
    archive.write_bytes(line.export(1, made.name))
    other = PromptLine(VersionStore(database), tmp_path / "data", "another-model")
    with pytest.raises(VersionError, match="made for the vision-language model 'the-model'"):
        other.import_(1, archive)
    (tmp_path / "not.zip").write_bytes(b"no zip")
    with pytest.raises(VersionError, match="not an exported version"):
        line.import_(1, tmp_path / "not.zip")
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path / "mixed")
    prompts(5).save(tmp_path / "five")
    (tmp_path / "five" / module.WEIGHTS_FILE).replace(tmp_path / "mixed" / module.WEIGHTS_FILE)
    with pytest.raises(VersionError, match="do not belong together"):
        line.import_(1, tmp_path / "mixed")
    assert len(line.versions.versions(1)) == 1


def test_the_table_of_versions_begins_with_the_preset(line: PromptLine, tmp_path: Path) -> None:
    made = add(line, tmp_path, 1)
    header, preset, row = describe_versions(line.versions.versions(1))
    assert header.split() == ["version", "status", "from", "corrections", "points", "reason"]
    assert preset.split()[:2] == ["preset", "champion"]
    assert row.split()[:5] == [made.name, "candidate", "preset", "1", "+5.0"]
    line.versions.promote(1, made.name, by="test")
    assert "champion" not in describe_versions(line.versions.versions(1))[1]


@ONLY_SQLITE
def test_a_database_of_the_layout_before_gets_the_new_columns(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.executescript(
            """
            DROP TABLE prompt_versions;
            CREATE TABLE prompt_versions (
                id INTEGER PRIMARY KEY, project_id INTEGER NOT NULL REFERENCES projects (id),
                name VARCHAR NOT NULL, parent_id INTEGER, status VARCHAR(20) NOT NULL, path VARCHAR NOT NULL,
                metrics JSON NOT NULL, reason TEXT NOT NULL, created_at DATETIME NOT NULL
            );
            ALTER TABLE proposals DROP COLUMN margin;
            ALTER TABLE proposals DROP COLUMN calibrated;
            ALTER TABLE projects DROP COLUMN min_annotations;
            ALTER TABLE projects DROP COLUMN repredicted;
            ALTER TABLE projects DROP COLUMN labelling_order;
            ALTER TABLE projects DROP COLUMN title;
            ALTER TABLE annotations DROP COLUMN annotator;
            ALTER TABLE annotations DROP COLUMN lead_time;
            ALTER TABLE annotations DROP COLUMN created_at;
            DROP TABLE annotators;
            DROP TABLE reviews;
            DROP TABLE observations;
            ALTER TABLE jobs DROP COLUMN expression;
            ALTER TABLE jobs DROP COLUMN version;
            ALTER TABLE jobs DROP COLUMN frames;
            ALTER TABLE jobs DROP COLUMN message;
            ALTER TABLE annotations DROP COLUMN ground_truth;
            ALTER TABLE annotations DROP COLUMN content;
            ALTER TABLE deliveries DROP COLUMN attempts;
            ALTER TABLE deliveries DROP COLUMN error;
            ALTER TABLE deliveries DROP COLUMN retry_at;
            ALTER TABLE deliveries DROP COLUMN refused;
            DROP TABLE set_aside;
            DROP INDEX ix_events_dispatched_at;
            ALTER TABLE events DROP COLUMN dispatched_at;
            DROP TABLE alembic_version;
            DROP TABLE trials;
            DROP TABLE promotions;
            DROP TABLE refinements;
            UPDATE schema_version SET version = 2;
            """
        )
    database = Database(path)
    ProjectStore(database).save(1, uid="1", label_config="<View/>", hostname="", extra_params={})
    line = PromptLine(VersionStore(database), tmp_path, "the-model")
    made = add(line, tmp_path, 1)
    assert line.versions.versions(1) == [made]
