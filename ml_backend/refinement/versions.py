"""Each project's line of prompt versions: its artefacts on disk, its champion, export and import."""

from __future__ import annotations

import hashlib
import io
import logging
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ml_backend.models.messages import SoftPromptsRef
from ml_backend.refinement.version_card import ReceivedVersion, exported
from ml_backend.refinement.version_store import (
    PRESET,
    NewVersion,
    PromptVersion,
    VersionError,
    VersionStore,
)
from steerseg.errors import ConfigError
from steerseg.prompt_files import CARD_FILE, WEIGHTS_FILE, CheckedPrompts, check_prompts, with_glossary
from steerseg.runtime.artefacts import building_folder, json_bytes, scratch_folder, write_bytes
from steerseg.words.glossary import GLOSSARY_FILE, Glossary

log = logging.getLogger(__name__)

FOLDER = "prompts"
VERSION_FILE = "version.json"
_PARTS = (WEIGHTS_FILE, CARD_FILE, VERSION_FILE)
_OPTIONAL = (GLOSSARY_FILE,)
_ENTRIES = 1000  # of a glossary: every expression is searched for all of them
_TEXT_BYTES = 16 * 1024 * 1024  # of JSON in an archive: examples of the gate, one by one
_IMPORT_BYTES = 64 * 1024 * 1024  # two matrices of a 7B model are below 4 MiB


class PromptLine:
    """The prompt versions of every project, with their artefacts. Safe to share between threads and processes.

    Args:
        versions: The tables.
        data_dir: The backend's data folder; artefacts lie in ``prompts`` below it, see :meth:`keep`.
        model: Fingerprint of the vision-language model in use: prompts of another one are not used.
        preset_prompts: Folder of the preset's own soft prompts; ``None`` where it has none.
        width: Of that model's embeddings; ``None`` where it is not known, and cannot be checked.
    """

    def __init__(
        self,
        versions: VersionStore,
        data_dir: Path,
        model: str,
        preset_prompts: Path | None = None,
        width: int | None = None,
    ) -> None:
        self.versions = versions
        self._width = width
        self._preset_prompts = preset_prompts
        self.model = model
        self._root = data_dir
        self._reported: set[int] = set()  # champions of another model, each logged once

    @property
    def checks_width(self) -> bool:
        """Whether the width of the model in use is known."""
        return self._width is not None

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

    def inspect(self, version: PromptVersion) -> Inspection:
        """The glossary of a version, and what is damaged of it; raises nothing."""
        try:
            glossary = self.glossary(version)
        except ConfigError as error:
            return Inspection(Glossary(), "; ".join(filter(None, (version.damage, str(error)))))
        return Inspection(glossary, version.damage)

    def promote(self, project_id: int, name: str, *, by: str) -> str:
        """Make a version the project's champion, after its artefact was checked again.

        Args:
            project_id: The project.
            name: The version; ``preset`` for the preset's own soft prompts.
            by: Names the person or the program that asked for it.

        Returns:
            A warning for a person; empty where nothing speaks against it.

        Raises:
            VersionError: There is no such version, it is the champion already, or it cannot be used.
        """
        warning = ""
        if name != PRESET:
            version = self.versions.version(project_id, name)
            self.check(version)
            if version.kept_back:
                warning = f"the gate kept {name} back: {version.reason}"
                log.warning("project %d: %s promotes what %s", project_id, by, warning)
        self.versions.promote(project_id, name, by=by)
        return warning

    def roll_back(self, project_id: int) -> str:
        """Take the last promotion back; return the name of the champion of before it.

        Raises:
            VersionError: Nothing was promoted, or the champion of before it cannot be used.
        """
        return self.versions.roll_back(project_id, self.check)

    def check(self, version: PromptVersion) -> None:
        """Check that the model in use can use a version.

        Raises:
            VersionError: It was made for another model, or its artefact is damaged or another one.
        """
        if version.model != self.model:
            raise VersionError(
                f"{version.name} was made for the vision-language model {version.model!r}, and this backend runs "
                f"{self.model!r}, where it means nothing"
            )
        try:
            digest = self._checked(self._root / version.path).digest
        except ConfigError as error:
            raise VersionError(f"{version.name} cannot be used: {error}") from error
        if digest != version.digest:
            raise VersionError(
                f"{version.name} cannot be used: its files have digest {digest} in place of {version.digest}; restore "
                f"{self._root / version.path} from a backup"
            )

    def _checked(self, folder: Path) -> CheckedPrompts:
        """Check the files of a version against the model in use.

        Raises:
            ConfigError: They are damaged, or do not fit.
        """
        checked = check_prompts(folder)
        if checked.rows and self._width is not None and checked.width != self._width:
            raise ConfigError(
                f"the soft prompts are {checked.width} wide, the model's embeddings are {self._width}"
            )
        if len(checked.glossary.entries) > _ENTRIES:
            raise ConfigError(
                f"the glossary has {len(checked.glossary.entries)} words; {_ENTRIES} are the most"
            )
        return checked

    def edit_glossary(self, project_id: int, glossary: Glossary, *, by: str) -> PromptVersion | None:
        """Give a project's champion another glossary: a new version, and the champion from now on.

        Args:
            project_id: The project.
            glossary: The new glossary.
            by: Names the person or the program that asked for it.

        Returns:
            The version; ``None`` where the glossary is the one in use, and nothing changes.

        Raises:
            ConfigError: The champion's files are damaged.
            ArtefactError: The disk is full or not writable.
        """
        champion = self.champion(project_id)
        if glossary == self.glossary(champion):
            return None
        source = self._preset_prompts if champion is None else self._root / champion.path
        with scratch_folder(self._root / FOLDER) as scratch:
            digest = with_glossary(source, glossary, scratch)
            path = self.keep(scratch, digest)
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

    def keep(self, folder: Path, digest: str, glossary: Glossary | None = None) -> str:
        """Take a pair of soft prompts into the data folder and return its path relative to that.

        Equal files are kept once, whoever they belong to. The digest says nothing of who taught or wrote a word, so
        the folder's name has a hash of the glossary's file beside it.

        Args:
            folder: Where :meth:`steerseg.soft_prompts.SoftPrompts.save` wrote it.
            digest: Its digest.
            glossary: Takes the place of one that says the same: models know prompts by their digest, and may have
                written the glossary of another version.

        Raises:
            ArtefactError: The disk is full or not writable.
            VersionError: The pair cannot be read.
            ConfigError: Its glossary is damaged.
        """
        try:
            contents = _files(folder)
        except OSError as error:
            raise VersionError(f"the soft prompts in {folder} cannot be read: {error.strerror}") from error
        if glossary and glossary.digest == Glossary.load(folder).digest:
            contents[GLOSSARY_FILE] = glossary.to_bytes()
        words = contents.get(GLOSSARY_FILE)
        name = digest if words is None else f"{digest}-{hashlib.sha256(words).hexdigest()[:16]}"
        relative = Path(FOLDER) / name
        with building_folder(self._root / relative) as building:
            for part, content in contents.items():
                write_bytes(building / part, content)
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

        What it says is checked against a schema, and its matrices against their card and the model in use.

        Args:
            project_id: The project.
            archive: What :meth:`export` made: the zip, or a folder of its files.

        Raises:
            VersionError: It is not such a thing, is damaged, or is of another model.
            ArtefactError: The disk is full or not writable.
        """
        with scratch_folder(self._root / FOLDER) as scratch:
            card = _unpack(archive, scratch)
            if card.model != self.model:
                raise VersionError(
                    f"{archive} was made for the vision-language model {card.model!r}, this backend runs "
                    f"{self.model!r}: soft prompts fit no other model than their own"
                )
            try:
                prompts = self._checked(scratch)
            except ConfigError as error:
                raise VersionError(f"{archive} holds no usable soft prompts: {error}") from error
            if not prompts.rows and not prompts.glossary:
                raise VersionError(f"{archive} is empty: it holds neither soft prompts nor words")
            path = self.keep(scratch, prompts.digest)
        new = NewVersion(
            path=path,
            digest=prompts.digest,
            model=self.model,
            origin="imported",
            parent_id=None,
            curve=card.curve,
            metrics=card.metrics,
            reason=f"imported; there it was {card.name}: {card.reason}",
            kept_back=card.was_kept_back,
        )
        return self.versions.add(project_id, new)


@dataclass(frozen=True)
class Inspection:
    """What a page shows of a version's files.

    Attributes:
        glossary: Its glossary; empty where that cannot be read.
        damage: What is damaged of the version, for a person; empty where nothing is.
    """

    glossary: Glossary
    damage: str


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
            _check_sizes(
                archive,
                {name: (archive / name).stat().st_size for name in _PARTS}
                | {name: (archive / name).stat().st_size for name in _OPTIONAL if (archive / name).is_file()},
            )
            contents = _files(archive)
            contents[VERSION_FILE] = (archive / VERSION_FILE).read_bytes()
        else:
            with zipfile.ZipFile(archive) as opened:
                parts = (*_PARTS, *(name for name in _OPTIONAL if name in opened.namelist()))
                _check_sizes(archive, {name: opened.getinfo(name).file_size for name in parts})
                contents = {name: opened.read(name) for name in parts}
        card = ReceivedVersion.model_validate_json(contents.pop(VERSION_FILE))
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(map(str, wrong["loc"])) or "the whole"
        raise VersionError(f"{archive}: {VERSION_FILE} cannot be read: {field}: {wrong['msg']}") from error
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise VersionError(
            f"{archive} is not an exported version ({error}); expected {', '.join(_PARTS)} in a zip or a folder"
        ) from error
    for name, content in contents.items():
        write_bytes(target / name, content)
    return card


def _check_sizes(archive: Path, sizes: Mapping[str, int]) -> None:
    """Refuse what is larger than any version.

    Raises:
        VersionError: It is.
    """
    text = sum(size for name, size in sizes.items() if name != WEIGHTS_FILE)
    if sum(sizes.values()) > _IMPORT_BYTES or text > _TEXT_BYTES:
        raise VersionError(f"{archive} unpacks to {sum(sizes.values()) // 2**20} MiB; a version has a few")
