"""The numbers of classes, which are the same in every export of a project.

A class's number follows the labelling configuration: its attribute ``category``, or its place among the labels that
have none. Labels of which the export holds no instance keep their numbers. Expressions as classes have a table of
their own beside the database: a new expression gets the next number, and none is ever given to another.
"""

from __future__ import annotations

import fcntl
import itertools
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ml_backend.label_studio.config import label_categories
from steerseg.errors import ConfigError
from steerseg.runtime.artefacts import explained, write_json

MAX_CATEGORY = 9999
"""Largest number that a configuration may give: YOLO's list of names has an entry for every number below."""


@dataclass(frozen=True)
class ExportedClass:
    """A class of a dataset.

    Attributes:
        name: A label, or an expression.
        category: The number that the configuration gives; ``None`` where its place decides.
    """

    name: str
    category: int | None = None


@dataclass(frozen=True)
class ClassTable:
    """Every class of a project, those without an instance included.

    Attributes:
        classes: In the configuration's order.
        strangers: Names among them that the configuration does not know.
    """

    classes: tuple[ExportedClass, ...]
    strangers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names in their order."""
        return tuple(one.name for one in self.classes)

    def numbers(self, first: int, reserved: Collection[int] = ()) -> dict[str, int]:
        """The number of each class in a format.

        The configuration's own numbers stand as they are; every other class gets the next free number.

        Args:
            first: The format's first number.
            reserved: Numbers that mean something else in the format; a class that the configuration gives such a
                number is numbered like one without.
        """
        given = {
            one.name: one.category
            for one in self.classes
            if one.category is not None and one.category not in reserved
        }
        taken = {*given.values(), *reserved}
        free = (number for number in itertools.count(first) if number not in taken)
        return {one.name: given[one.name] if one.name in given else next(free) for one in self.classes}


def configured_classes(label_config: str, used: Iterable[str]) -> ClassTable:
    """The classes that a labelling configuration names, and after them what it does not know.

    Args:
        label_config: The project's labelling configuration.
        used: The categories of the instances that are exported.

    Raises:
        ConfigError: The configuration is unusable, a category is no whole number from 0 to 9999, or two labels
            have the same.
    """
    categories: dict[str, int | None] = {}
    for label, text in label_categories(label_config):
        number = _category(label, text)
        known = categories.get(label)
        if number is not None and known is not None and number != known:
            raise ConfigError(
                f"the label {label!r} has the categories {known} and {number} in the labelling configuration; "
                "give it the same in every control"
            )
        categories[label] = number if known is None else known
    owners: dict[int, str] = {}
    for label, number in categories.items():
        if number is not None and owners.setdefault(number, label) != label:
            raise ConfigError(
                f'the labels {owners[number]!r} and {label!r} both have category="{number}" in the labelling '
                "configuration; give each a number of its own"
            )
    strangers = tuple(sorted(set(used) - categories.keys()))
    named = tuple(ExportedClass(label, number) for label, number in categories.items())
    return ClassTable((*named, *map(ExportedClass, strangers)), strangers)


def expression_classes(data_dir: Path, project_id: int, used: Iterable[str]) -> ClassTable:
    """A project's expressions as classes, by the table that is kept in the data folder.

    Args:
        data_dir: The server's data folder.
        project_id: The project.
        used: The expressions of the instances that are exported; new ones are appended in this order.

    Raises:
        ConfigError: The table was damaged.
        ArtefactError: The data folder is not writable.
    """
    path = data_dir / "classes" / f"project-{project_id}.json"
    with _locked(path):
        known = _Expressions.read(path)
        expressions = tuple(dict.fromkeys((*known.expressions, *used)))
        if expressions != known.expressions:
            write_json(path, _Expressions(expressions=expressions).model_dump(mode="json"))
    return ClassTable(tuple(map(ExportedClass, expressions)))


class _Expressions(BaseModel):
    """The table of a project's expressions as it is kept; an expression's place is its number."""

    model_config = ConfigDict(frozen=True)

    expressions: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> _Expressions:
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise ConfigError(
                f"{path} cannot be read ({error.error_count()} errors); restore it from a backup, or delete it "
                "so that the expressions are numbered anew"
            ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one export at a time number expressions."""
    with explained(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _category(label: str, text: str) -> int | None:
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) > MAX_CATEGORY:
        raise ConfigError(
            f'the label {label!r} has category="{text}" in the labelling configuration; expected a whole number '
            f"from 0 to {MAX_CATEGORY}"
        )
    return int(text)
