"""Options that several commands share, made from the settings."""

from __future__ import annotations

import argparse
import json
import types
import typing
from pathlib import Path
from typing import Any

from ml_backend.database.database import Database
from ml_backend.label_studio.client import LabelStudioClient
from ml_backend.settings import ENV_PREFIX, Settings, load_settings
from ml_backend.web.understands import own_address
from steerseg.errors import ConfigError

# Secrets would show in the list of processes: these come from the environment only.
SECRETS = frozenset({"basic_auth_password", "webhook_secret", "label_studio_api_key", "database_url"})


def add_setting(parser: argparse.ArgumentParser, name: str) -> None:
    """Add a setting as an option whose value, when left out, comes from the environment or the default."""
    field = Settings.model_fields[name]
    flag = "--" + name.replace("_", "-")
    text = f"{field.description} [{ENV_PREFIX}{name.upper()}; {_shown(field.default)}]".replace("%", "%%")
    kind = _plain_type(field.annotation)
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif kind is tuple:
        text = text.replace(", as JSON", ", one after the other or as JSON")
        parser.add_argument(flag, nargs="*", action=_ListAction, default=None, metavar="VALUE", help=text)
    else:
        parser.add_argument(flag, default=None, metavar=kind.__name__.upper(), help=text)


class _ListAction(argparse.Action):
    """Takes values one after the other, or all as JSON, as their variable has them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        if len(values) == 1 and values[0].lstrip().startswith("["):
            try:
                values = json.loads(values[0])
            except ValueError as error:
                parser.error(f"{option}: {values[0]!r} is no JSON ({error})")
        setattr(namespace, self.dest, values)


def _plain_type(annotation: typing.Any) -> type:
    """``str`` for ``str | None``, ``tuple`` for ``tuple[str, ...]``, and so on."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType)
    plain: type = typing.get_origin(annotation) or annotation
    return plain


def _shown(default: object) -> str:
    return "unset" if default is None or default == () else f"default {default}"


def positive(text: str) -> int:
    """An integer of at least 1, as a type of arguments."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def read_settings(options: argparse.Namespace) -> Settings:
    """The settings in force: options first, then the environment, then the defaults.

    Raises:
        ConfigError: One of them is unusable.
    """
    return load_settings(**{name: getattr(options, name, None) for name in Settings.model_fields})


def label_studio_client(settings: Settings) -> LabelStudioClient:
    """A connection to the Label Studio of the settings.

    Raises:
        ConfigError: Address or token are missing.
    """
    if settings.label_studio_url is None or settings.label_studio_api_key is None:
        raise ConfigError(
            "the address or the token of Label Studio is missing; set STEERSEG_LABEL_STUDIO_URL and "
            "STEERSEG_LABEL_STUDIO_API_KEY (Account & Settings in Label Studio shows tokens)"
        )
    return LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key.get_secret_value())


def open_database(settings: Settings) -> Database:
    """The database of a data folder.

    Raises:
        ConfigError: There is none.
    """
    require_database(settings)
    return Database(settings.database)


def require_database(settings: Settings) -> None:
    """Make sure that there is a database, since a new one would say that nothing was ever learned.

    Raises:
        ConfigError: There is none.
    """
    address = settings.database
    if isinstance(address, Path) and not address.exists():
        raise ConfigError(
            f"there is no database at {address}; name the server's data folder by --data-dir or {ENV_PREFIX}DATA_DIR, "
            f"or its database by {ENV_PREFIX}DATABASE_URL"
        )


def backend_address(options: argparse.Namespace, settings: Settings) -> str:
    """Where the backend is, seen from this machine."""
    if options.backend_url:
        return str(options.backend_url)
    return own_address(settings)
