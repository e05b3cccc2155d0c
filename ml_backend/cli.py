"""``steerseg-backend``: run the server, import videos, connect projects, predict, refine, export."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_backend.given_files import read_text
from ml_backend.settings import ENV_PREFIX, Settings, load_settings
from steerseg.errors import ConfigError, SteerSegError

if TYPE_CHECKING:
    from ml_backend.label_studio.client import LabelStudioClient
    from ml_backend.store import Store
    from ml_backend.versions import PromptLine

# Secrets would show in the list of processes: these come from the environment only.
_SECRETS = frozenset({"basic_auth_password", "webhook_secret", "label_studio_api_key"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for partial failure, 2 for an error, 130 for Ctrl-C,
    141 where nobody reads on."""
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
    except BrokenPipeError:  # whoever reads, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


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

    _add_import(commands.add_parser("import", help="make tasks of videos"))
    _add_connect(commands.add_parser("connect", help="set a project up for this backend, or update it"))

    predict = commands.add_parser("predict", help="ask for predictions of all tasks of a project")
    predict.add_argument("project", type=int, help="the project's number in Label Studio")
    predict.add_argument("--backend-url", help="address of the running backend (default: host and port)")
    predict.add_argument(
        "--jobs", type=_positive, default=2, help="tasks asked for at the same time (default: %(default)s)"
    )
    for name in ("host", "port", "label_studio_url"):
        _add_setting(predict, name)
    predict.set_defaults(run=_predict)

    refine = commands.add_parser("refine", help="refine a project's soft prompts with its corrections")
    refine.add_argument("project", type=int, help="the project's number in Label Studio")
    refine.add_argument("--wait", action="store_true", help="wait for the end and say how it went")
    refine.add_argument("--backend-url", help="address of the running backend (default: host and port)")
    for name in ("host", "port", "data_dir", "preset", "device", "label_studio_url"):
        _add_setting(refine, name)
    refine.set_defaults(run=_refine)

    _add_versions(
        commands.add_parser("versions", help="a project's prompt versions: look, promote, roll back")
    )

    corrections = commands.add_parser("corrections", help="list what annotators corrected, and what is amiss")
    corrections.add_argument("project", type=int, help="the project's number in Label Studio")
    corrections.add_argument(
        "--export", type=Path, metavar="FOLDER", help="write the masks to this folder, a JSON file for each"
    )
    for name in ("data_dir", "propagation_confidence"):
        _add_setting(corrections, name)
    corrections.set_defaults(run=_corrections)

    _add_export(commands.add_parser("export", help="write a project's accepted annotations as a dataset"))
    return parser


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    parser.add_argument(
        "--format",
        required=True,
        choices=("coco", "youtube-vos", "davis", "mots", "yolo-seg"),
        help="what to write",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="a new folder (default: export-PROJECT-FORMAT)"
    )
    parser.add_argument(
        "--categories",
        choices=("label", "expression"),
        default="label",
        help="what classes are: labels in Label Studio, or expressions (default: %(default)s)",
    )
    parser.add_argument(
        "--images",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether to write the pictures too",
    )
    parser.add_argument(
        "--videos",
        type=Path,
        metavar="FOLDER",
        help="folder of the original videos, to fill the frames between the pages of tasks with a stride",
    )
    for name in (
        *("data_dir", "preset", "device", "propagation_confidence"),
        *("label_studio_url", "local_files_root"),
    ):
        _add_setting(parser, name)
    parser.set_defaults(run=_export)


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    parser.add_argument("sources", nargs="*", help="video files, folders (of videos or of frames), patterns")
    parser.add_argument("--expression", help="what to track in all of them (default: left to the project)")
    parser.add_argument("--csv", type=Path, help="table with the columns 'video' and 'expression' instead")
    parser.add_argument(
        "--kind",
        choices=("auto", "frames", "video", "both"),
        default="auto",
        help="what tasks consist of (default: what the project can show)",
    )
    parser.add_argument("--stride", type=_positive, default=1, help="take one frame in so many as a page")
    parser.add_argument(
        "--max-pages", type=_positive, default=100, help="most pages of a task (default: %(default)s)"
    )
    parser.add_argument("--fps", type=float, help="frame rate of folders of frames (default: 25)")
    parser.add_argument(
        "--document-root",
        type=Path,
        help="Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT as this machine sees it "
        f"[{ENV_PREFIX}LOCAL_FILES_ROOT]",
    )
    parser.add_argument(
        "--media-dir", type=Path, help="where frames and videos are written (default: its folder 'steerseg')"
    )
    for name in ("label_studio_url", "expression_key"):
        _add_setting(parser, name)
    parser.set_defaults(run=_import)


def _add_connect(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--project", type=int, help="number of an existing project")
    which.add_argument("--title", help="title of the project; it is made if there is none")
    parser.add_argument(
        "--label-config", type=Path, help="labelling configuration to give it, e.g. label_config/frames.xml"
    )
    parser.add_argument(
        "--backend-url", help="address of this backend as Label Studio reaches it (default: host and port)"
    )
    parser.add_argument("--storage-path", help="folder of imported media as Label Studio sees it")
    parser.add_argument("--expression", help="what to track in tasks without an expression of their own")
    parser.add_argument(
        "--interactive",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether annotators may ask the backend while they label",
    )
    for name in ("host", "port", "label_studio_url", "basic_auth_username"):
        _add_setting(parser, name)
    parser.set_defaults(run=_connect)


def _add_versions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("project", type=int, help="the project's number in Label Studio")
    actions = parser.add_subparsers(metavar="ACTION")
    parser.set_defaults(run=_versions, action="list")
    actions.add_parser("list", help="all versions, which is the default")
    show = actions.add_parser("show", help="data, curve, metrics and lineage of one, as JSON")
    promote = actions.add_parser(
        "promote", help="make one the champion; 'preset' stands for the preset's own"
    )
    rollback = actions.add_parser("rollback", help="make the champion of before the champion again")
    export = actions.add_parser("export", help="write one to a zip file of safetensors and JSON")
    for action in (show, promote, export):
        action.add_argument("name", help="name of the version, from the list")
    export.add_argument("file", type=Path, help="the zip file to write")
    imported = actions.add_parser("import", help="add an exported version to the project, as a candidate")
    imported.add_argument("file", type=Path, help="the zip file, or a folder of its files")
    named = {"show": show, "promote": promote, "rollback": rollback, "export": export, "import": imported}
    for name, action in named.items():
        action.set_defaults(action=name)
    for name in ("data_dir", "preset"):
        _add_setting(parser, name)


def _add_setting(parser: argparse.ArgumentParser, name: str) -> None:
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


def _label_studio(settings: Settings) -> LabelStudioClient:
    """A connection to the Label Studio of the settings.

    Raises:
        ConfigError: Address or token are missing.
    """
    from ml_backend.label_studio.client import LabelStudioClient

    if settings.label_studio_url is None or settings.label_studio_api_key is None:
        raise ConfigError(
            "the address or the token of Label Studio is missing; set STEERSEG_LABEL_STUDIO_URL and "
            "STEERSEG_LABEL_STUDIO_API_KEY (Account & Settings in Label Studio shows tokens)"
        )
    return LabelStudioClient(settings.label_studio_url, settings.label_studio_api_key.get_secret_value())


def _backend_url(options: argparse.Namespace, settings: Settings) -> str:
    """Where the backend is, seen from this machine."""
    if options.backend_url:
        return str(options.backend_url)
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _import(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ml_backend.importing import import_videos

    settings = _settings(options)
    root = options.document_root or settings.local_files_root
    if root is None:
        raise ConfigError(
            "Label Studio serves imported frames from its local-files root, which is not known; give "
            "--document-root or set STEERSEG_LOCAL_FILES_ROOT"
        )
    if not root.is_dir():
        raise ConfigError(
            f"{root} is no folder; expected Label Studio's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT as this machine "
            "sees it (--document-root, STEERSEG_LOCAL_FILES_ROOT)"
        )
    with tqdm(total=100, unit="%", bar_format="{l_bar}{bar}| {postfix}") as bar:

        def show(name: str, fraction: float) -> None:
            bar.set_postfix_str(name)
            bar.update(round(fraction * 100) - bar.n)

        report = import_videos(
            _label_studio(settings),
            options.project,
            options.sources,
            media_dir=options.media_dir or root / "steerseg",
            document_root=root,
            expression=options.expression,
            csv_file=options.csv,
            kind=options.kind,
            stride=options.stride,
            max_pages=options.max_pages,
            fps=options.fps,
            expression_key=settings.expression_key,
            progress=show,
        )
    print("\n".join(report.lines()))
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _connect(options: argparse.Namespace) -> int:
    from ml_backend.connecting import connect

    settings = _settings(options)
    basic_auth = None
    if settings.basic_auth_username is not None and settings.basic_auth_password is not None:
        basic_auth = (settings.basic_auth_username, settings.basic_auth_password.get_secret_value())
    secret = settings.webhook_secret
    connection = connect(
        _label_studio(settings),
        _backend_url(options, settings),
        project=options.project,
        title=options.title,
        label_config=None if options.label_config is None else read_text(options.label_config),
        storage_path=options.storage_path,
        webhook_secret=None if secret is None else secret.get_secret_value(),
        interactive=options.interactive,
        basic_auth=basic_auth,
        extra_params=None if options.expression is None else {"expression": options.expression},
    )
    print("\n".join(connection.steps))
    for warning in connection.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"project {connection.project} {connection.title!r}: {connection.url}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from ml_backend.predicting import BackendClient, predict_project

    settings = _settings(options)
    summary = predict_project(
        _label_studio(settings),
        BackendClient(_backend_url(options, settings), settings),
        options.project,
        concurrency=options.jobs,
    )
    print(summary)
    return 1 if summary.failures else 0


def _refine(options: argparse.Namespace) -> int:
    from ml_backend.predicting import BackendClient
    from ml_backend.refine_command import refine

    settings = _settings(options)
    backend = BackendClient(_backend_url(options, settings), settings)
    done = refine(
        options.project,
        backend,
        settings,
        wait=options.wait,
        tell=lambda line: print(line, flush=True),
    )
    return 0 if done else 1


def _versions(options: argparse.Namespace) -> int:
    from ml_backend.versions import describe, lines, model_fingerprint

    settings = _settings(options)
    project: int = options.project
    with _prompt_line(settings, model_fingerprint(settings.preset)) as line:
        match options.action:
            case "list":
                print("\n".join(lines(line.versions.versions(project))))
            case "show":
                print(json.dumps(describe(line.versions.version(project, options.name)), indent=2))
            case "promote":
                line.versions.promote(project, options.name, by="the command line")
                print(f"project {project} uses {options.name} now")
            case "rollback":
                print(f"project {project} uses {line.versions.roll_back(project)} now")
            case "export":
                from steerseg.artefacts import write_bytes

                write_bytes(options.file, line.export(project, options.name))
                print(f"wrote {options.file}")
            case "import":
                version_ = line.import_(project, options.file)
                print(f"added {version_.name}; promote it with `versions {project} promote {version_.name}`")
    return 0


@contextlib.contextmanager
def _prompt_line(settings: Settings, model: str) -> Iterator[PromptLine]:
    """The prompt versions of a data folder, whether its server runs or not.

    Raises:
        ConfigError: There is no database.
    """
    from ml_backend.version_store import VersionStore
    from ml_backend.versions import PromptLine

    store = _open_store(settings)
    try:
        yield PromptLine(VersionStore(store), settings.data_dir, model)
    finally:
        store.close()


def _open_store(settings: Settings) -> Store:
    """The database of a data folder.

    Raises:
        ConfigError: There is none.
    """
    from ml_backend.store import Store

    if not settings.database.exists():
        raise ConfigError(
            f"there is no database at {settings.database}; name the server's data folder by --data-dir or "
            f"{ENV_PREFIX}DATA_DIR"
        )
    return Store(settings.database)


def _corrections(options: argparse.Namespace) -> int:
    from ml_backend.correction_report import export, report
    from ml_backend.correction_store import CorrectionStore
    from ml_backend.corrections import Weights

    settings = _settings(options)
    store = _open_store(settings)
    try:
        kept = CorrectionStore(store)
        usable = kept.corrections(options.project, Weights.from_settings(settings))
        aside = kept.list_set_aside(options.project)
        print("\n".join(report(options.project, kept.counts(options.project), usable, aside)))
        if options.export is not None:
            files = export(usable, options.export, settings.propagation_confidence)
            print(f"\n{len(files)} files written to {options.export}")
    finally:
        store.close()
    return 0


def _export(options: argparse.Namespace) -> int:
    from ml_backend.exporting.command import Exporter, ExportOptions, load_tracker
    from ml_backend.task_media import MediaLoader

    settings = _settings(options)
    if options.videos is not None and not options.videos.is_dir():
        raise ConfigError(f"{options.videos} is no folder; --videos expects that of the original videos")
    wanted = ExportOptions(
        format=options.format,
        output=options.output or Path(f"export-{options.project}-{options.format}"),
        categories=options.categories,
        images=options.images,
        videos=options.videos,
    )
    store = _open_store(settings)
    try:
        exporter = Exporter(settings, store, MediaLoader(settings), lambda: load_tracker(settings))
        report = exporter.export(options.project, wanted, tell=lambda line: print(line, flush=True))
    finally:
        store.close()
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{wanted.output}: {report}")
    return 1 if report.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
