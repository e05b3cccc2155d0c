"""Each project's line of prompt versions: its artefacts on disk, its champion, export and import."""

from __future__ import annotations

import io
import logging
import shutil
import zipfile
from pathlib import Path

from pydantic import ValidationError

from ml_backend.models.messages import SoftPromptsRef
from ml_backend.refinement.version_card import ReceivedVersion, exported
from ml_backend.refinement.version_store import NewVersion, PromptVersion, VersionError, VersionStore
from steerseg.errors import ConfigError
from steerseg.prompt_files import CARD_FILE, WEIGHTS_FILE, with_glossary
from steerseg.runtime.artefacts import building_folder, json_bytes, write_bytes
from steerseg.words.glossary import GLOSSARY_FILE, Glossary

log = logging.getLogger(__name__)

FOLDER = "prompts"
VERSION_FILE = "version.json"
_PARTS = (WEIGHTS_FILE, CARD_FILE, VERSION_FILE)
_OPTIONAL = (GLOSSARY_FILE,)
_IMPORT_BYTES = 64 * 1024 * 1024  # two matrices of a 7B model are below 4 MiB


class PromptLine:
    """The prompt versions of every project, with their artefacts. Safe to share between threads and processes.

    Args:
        versions: The tables.
        data_dir: The backend's data folder; artefacts lie in ``prompts/<digest>`` below it.
        model: Fingerprint of the vision-language model in use: prompts of another one are not used.
        preset_prompts: Folder of the preset's own soft prompts; ``None`` where it has none.
    """

    def __init__(
        self, versions: VersionStore, data_dir: Path, model: str, preset_prompts: Path | None = None
    ) -> None:
        self.versions = versions
        self._preset_prompts = preset_prompts
        self.model = model
        self._root = data_dir
        self._reported: set[int] = set()  # champions of another model, each logged once

    def champion(self, project_id: int) -> PromptVersion | None:
        """The project's champion; ``None`` where predictions use the preset's own prompts.

        A champion of another model than the one in use does not count, since its prompts mean nothing there.
        """
        champion = self.versions.champion(project_id)
        if champion is None or champion.model == self.model:
            return champion
        if champion.id not in self._reported:
            self._reported.add(champion.id)
            log.warning(
                "project %d: champion %s was made for another vision-language model and is not used; refine "
                "again, or go back to the preset that it was made for",
                project_id,
                champion.name,
            )
        return None

    def ref(self, version: PromptVersion) -> SoftPromptsRef:
        """The soft prompts of a version, for the model process."""
        return SoftPromptsRef(self._root / version.path, version.digest)

    def glossary(self, version: PromptVersion | None) -> Glossary:
        """The glossary of a version; of the preset's own soft prompts for ``None``.

        Raises:
            ConfigError: It is damaged.
        """
        folder = self._preset_prompts if version is None else self._root / version.path
        return Glossary() if folder is None else Glossary.load(folder)

    def edit_glossary(self, project_id: int, glossary: Glossary, *, by: str) -> PromptVersion:
        """Give a project's champion another glossary: a new version, and the champion from now on.

        Args:
            project_id: The project.
            glossary: The new glossary.
            by: Names the person or the program that asked for it.

        Raises:
            ConfigError: The champion's files are damaged.
            ArtefactError: The disk is full or not writable.
        """
        champion = self.champion(project_id)
        source = self._preset_prompts if champion is None else self._root / champion.path
        scratch = self._root / FOLDER / f".editing-{project_id}"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            digest = with_glossary(source, glossary, scratch)
            path = self.keep(scratch, digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        new = NewVersion(
            path=path,
            digest=digest,
            model=self.model,
            origin="edited",
            parent_id=None if champion is None else champion.id,
            data=() if champion is None else champion.data,
            reason=f"words edited by {by}",
        )
        added = self.versions.add(project_id, new)
        self.versions.promote(project_id, added.name, by=by)
        return added

    def keep(self, folder: Path, digest: str) -> str:
        """Take a pair of soft prompts into the data folder and return its path relative to that.

        Args:
            folder: Where :meth:`steerseg.soft_prompts.SoftPrompts.save` wrote it.
            digest: Its digest. Contents of one digest are kept once, whoever they belong to.

        Raises:
            ArtefactError: The disk is full or not writable.
            VersionError: The pair cannot be read.
        """
        relative = Path(FOLDER) / digest
        try:
            contents = _files(folder)
        except OSError as error:
            raise VersionError(f"the soft prompts in {folder} cannot be read: {error.strerror}") from error
        with building_folder(self._root / relative) as building:
            for name, content in contents.items():
                write_bytes(building / name, content)
        return relative.as_posix()

    def export(self, project_id: int, name: str) -> bytes:
        """A version as a zip of safetensors and JSON: all that another installation needs.

        Raises:
            VersionError: There is no such version, or its artefact cannot be read.
        """
        version = self.versions.version(project_id, name)
        folder = self._root / version.path
        try:
            contents = _files(folder)
        except OSError as error:
            raise VersionError(
                f"the artefact of {name} cannot be read from {folder} ({error.strerror}); restore the folder "
                "from a backup"
            ) from error
        contents[VERSION_FILE] = json_bytes(exported(version).to_json())
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for part, content in contents.items():
                # Without the time, so that the same version exports as the same bytes.
                archive.writestr(zipfile.ZipInfo(part), content)
        return buffer.getvalue()

    def import_(self, project_id: int, archive: Path) -> PromptVersion:
        """Take an exported version into a project's line, as a candidate.

        Loads torch, to check that the matrices are what their card says.

        Args:
            project_id: The project.
            archive: What :meth:`export` made: the zip, or a folder of its files.

        Raises:
            VersionError: It is not such a thing, is damaged, or is of another model.
            ArtefactError: The disk is full or not writable.
        """
        from steerseg.soft_prompts import SoftPrompts

        scratch = self._root / FOLDER / ".importing"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            card = _unpack(archive, scratch)
            try:
                prompts = SoftPrompts.load(scratch)
            except ConfigError as error:
                raise VersionError(f"{archive} holds no usable soft prompts: {error}") from error
            if card.model != self.model:
                raise VersionError(
                    f"{archive} was made for the vision-language model {card.model!r}, this backend runs "
                    f"{self.model!r}: soft prompts fit no other model than their own"
                )
            path = self.keep(scratch, prompts.digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        new = NewVersion(
            path=path,
            digest=prompts.digest,
            model=self.model,
            origin="imported",
            parent_id=None,
            curve=card.curve,
            metrics=card.metrics,
            reason=f"imported; there it was {card.name}: {card.reason}",
        )
        return self.versions.add(project_id, new)


def _files(folder: Path) -> dict[str, bytes]:
    """The files of a pair of soft prompts, the glossary where there is one."""
    contents = {name: (folder / name).read_bytes() for name in (WEIGHTS_FILE, CARD_FILE)}
    glossary = folder / GLOSSARY_FILE
    return {**contents, GLOSSARY_FILE: glossary.read_bytes()} if glossary.is_file() else contents


def _unpack(archive: Path, target: Path) -> ReceivedVersion:
    """Write the two files of a pair into a new folder; return the card of the version.

    Raises:
        VersionError: The archive is no exported version.
        ArtefactError: The disk is full or not writable.
    """
    try:
        if archive.is_dir():
            contents = _files(archive)
            contents[VERSION_FILE] = (archive / VERSION_FILE).read_bytes()
        else:
            with zipfile.ZipFile(archive) as opened:
                parts = (*_PARTS, *(name for name in _OPTIONAL if name in opened.namelist()))
                sizes = {name: opened.getinfo(name).file_size for name in parts}
                if sum(sizes.values()) > _IMPORT_BYTES:
                    raise VersionError(
                        f"{archive} unpacks to {sum(sizes.values()) // 2**20} MiB; a version has a few"
                    )
                contents = {name: opened.read(name) for name in parts}
        card = ReceivedVersion.model_validate_json(contents.pop(VERSION_FILE))
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(map(str, wrong["loc"])) or "the whole"
        raise VersionError(f"{archive}: {VERSION_FILE} cannot be read: {field}: {wrong['msg']}") from error
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise VersionError(
            f"{archive} is not an exported version ({error}); expected {', '.join(_PARTS)} in a zip or a folder"
        ) from error
    for name, content in contents.items():
        write_bytes(target / name, content)
    return card
