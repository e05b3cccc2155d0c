"""``steerseg-backend``: run the server, import videos, connect projects, ask for predictions."""

from __future__ import annotations

import argparse
import sys
import types
import typing
from collections.abc import Sequence
from importlib.metadata import version

from ml_backend.settings import ENV_PREFIX, Settings, load_settings
from steerseg.errors import SteerSegError

# Secrets would show in the list of processes: these come from the environment only.
_SECRETS = frozenset({"basic_auth_password", "webhook_secret", "label_studio_api_key"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for partial failure, 2 for an error, 130 for Ctrl-C."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
        return status
    except SteerSegError as error:
        print(f"steerseg-backend: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The command line. Options that are settings say by which environment variable they can be given."""
    parser = argparse.ArgumentParser(prog="steerseg-backend", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('steerseg')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the server and its model process")
    for name in Settings.model_fields:
        if name not in _SECRETS:
            _add_setting(serve, name)
    serve.set_defaults(run=_serve)

    predict = commands.add_parser("predict", help="ask for predictions of all tasks of a project")
    predict.add_argument("project", type=int, help="the project's number in Label Studio")
    predict.add_argument("--backend-url", help="address of the running backend (default: host and port)")
    predict.add_argument(
        "--jobs", type=_positive, default=2, help="tasks asked for at the same time (default: %(default)s)"
    )
    for name in ("host", "port", "label_studio_url"):
        _add_setting(predict, name)
    predict.set_defaults(run=_predict)
    return parser


def _add_setting(parser: argparse.ArgumentParser, name: str) -> None:
    """Add a setting as an option whose value, when left out, comes from the environment or the default."""
    field = Settings.model_fields[name]
    flag = "--" + name.replace("_", "-")
    text = f"{field.description} [{ENV_PREFIX}{name.upper()}; {_shown(field.default)}]".replace("%", "%%")
    kind = _plain_type(field.annotation)
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    elif kind is tuple:
        parser.add_argument(flag, nargs="*", default=None, metavar="VALUE", help=text)
    else:
        parser.add_argument(flag, default=None, metavar=kind.__name__.upper(), help=text)


def _plain_type(annotation: typing.Any) -> type:
    """``str`` for ``str | None``, ``tuple`` for ``tuple[str, ...]``, and so on."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not types.NoneType)
    plain: type = typing.get_origin(annotation) or annotation
    return plain


def _shown(default: object) -> str:
    return "unset" if default is None or default == () else f"default {default}"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _settings(options: argparse.Namespace) -> Settings:
    return load_settings(**{name: getattr(options, name, None) for name in Settings.model_fields})


def _serve(options: argparse.Namespace) -> int:
    # Each command imports what it needs, so that `--help` is quick and the model process imports little.
    from ml_backend.service import preset_version
    from ml_backend.serving import Server, require_free_address
    from ml_backend.store import Store

    settings = _settings(options)
    # What would make the worker fail at once is said here in one line, not in a traceback.
    require_free_address(settings)
    preset_version(settings.preset)
    Store(settings.database).close()
    Server(settings).run()
    return 0


def _predict(options: argparse.Namespace) -> int:
    from ml_backend.predicting import predict_project

    settings = _settings(options)
    summary = predict_project(
        settings, options.project, backend_url=options.backend_url, concurrency=options.jobs
    )
    print(summary)
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
