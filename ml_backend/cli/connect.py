"""Set a Label Studio project up for the backend, and again without harm: what is right already stays."""

from __future__ import annotations

import argparse
import posixpath
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ml_backend.cli.colours import compare_colours
from ml_backend.cli.introduction import description, instructions, switches, task_list
from ml_backend.cli.options import add_setting, backend_address, label_studio_client, read_settings
from ml_backend.importing.text_files import read_text
from ml_backend.label_studio.client import MEASURED_VERSION, LabelStudioClient
from ml_backend.label_studio.config import parse_controls
from ml_backend.label_studio.controls import Controls
from ml_backend.label_studio.errors import BackendRefusedError, LabelStudioError, LabelStudioUnreachableError
from ml_backend.models.fingerprint import reads_expressions
from ml_backend.web.access import SECRET_HEADER
from steerseg.errors import ConfigError

BACKEND_TITLE = "SteerSeg"

WEBHOOK_ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
    "PROJECT_UPDATED",
)
"""What the backend wants to hear of. START_TRAINING is none of them: Label Studio sends it to the model."""


@dataclass(frozen=True)
class Connection:
    """A project that is set up.

    Attributes:
        project: Its id.
        title: Its title.
        url: Its page in Label Studio.
        controls: What of its labelling configuration is used.
        steps: What was found and done, for people; no secret in it.
        warnings: What still deserves a look.
    """

    project: int
    title: str
    url: str
    controls: Controls
    steps: tuple[str, ...]
    warnings: tuple[str, ...]


def connect(
    client: LabelStudioClient,
    backend_url: str,
    *,
    project: int | None = None,
    title: str | None = None,
    label_config: str | None = None,
    storage_path: str | None = None,
    webhook_secret: str | None = None,
    interactive: bool = True,
    basic_auth: tuple[str, str] | None = None,
    extra_params: Mapping[str, Any] | None = None,
) -> Connection:
    """Create or update a project, its local storage, its model connection and its webhook.

    Args:
        client: Connection to Label Studio.
        backend_url: Address of the running backend as Label Studio reaches it.
        project: Id of an existing project; else it is found or created by ``title``.
        title: Title of the project.
        label_config: Labelling configuration to give it; needed for a new project.
        storage_path: Folder of the imported media as Label Studio sees it, below its
            ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``; no storage is made without it.
        webhook_secret: Secret that webhooks carry in the header ``X-SteerSeg-Secret``.
        interactive: Whether annotators may ask the backend while they label.
        basic_auth: User name and password that the backend asks for.
        extra_params: What Label Studio sends at every set-up, such as ``{"expression": "the dog"}``.

    Raises:
        ConfigError: The labelling configuration or the addresses cannot be used.
        LabelStudioError: Label Studio refuses a step; those before it stand, and ``connect`` can be repeated.
    """
    backend_url = _backend_address(backend_url)
    if (project is None) == (title is None):
        raise ConfigError("name the project either by its id or by its title")
    if label_config is not None:
        parse_controls(label_config)  # a useless configuration is refused before anything is changed
    log = _Log()
    _greet(client, log)
    found = _project(client, project, title, label_config, log)
    controls = parse_controls(str(found["label_config"]))
    _warn_of(controls, log)
    identity = int(found["id"])
    if storage_path is not None:
        _storage(client, identity, storage_path, log)
    version = _backend(client, identity, backend_url, interactive, basic_auth, extra_params, log)
    _webhook(client, identity, backend_url, webhook_secret, log)
    _introduce(client, found, controls, reads_expressions(version), log)
    return Connection(
        project=identity,
        title=str(found["title"]),
        url=f"{client.url}/projects/{identity}/data",
        controls=controls,
        steps=tuple(log.steps),
        warnings=tuple(log.warnings),
    )


class _Log:
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.warnings: list[str] = []

    def did(self, text: str) -> None:
        self.steps.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _warn_of(controls: Controls, log: _Log) -> None:
    """Say what in the labelling configuration fails elsewhere, or can be read in two ways."""
    if controls.frames is not None and controls.frames.click is not None and controls.frames.box is None:
        log.warn(
            "the configuration has KeyPointLabels but no RectangleLabels on its frames: every export of "
            "Label Studio 1.23 then fails. Add a RectangleLabels control"
        )
    prompts = () if controls.frames is None else (controls.frames.click, controls.frames.box)
    for prompt in prompts:
        if prompt is not None and not prompt.smart:
            kind = "clicks" if prompt.kind == "keypoint" else "boxes"
            log.warn(f'{kind} of {prompt.name!r} ask nothing; give it smart="true"')
    for note in controls.notes:
        log.warn(note)


def _backend_address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigError("the backend's address is unusable; expected one such as http://localhost:9090")
    return url.rstrip("/")


def _greet(client: LabelStudioClient, log: _Log) -> None:
    server = client.server_info()
    log.did(f"reached Label Studio {server.version} at {client.url} as {server.user}")
    if server.release < MEASURED_VERSION:
        wanted = ".".join(str(number) for number in MEASURED_VERSION)
        log.warn(f"this was built for Label Studio {wanted}; with {server.version} some of it may not work")


def _project(
    client: LabelStudioClient, project: int | None, title: str | None, label_config: str | None, log: _Log
) -> dict[str, Any]:
    found = client.projects.find(str(title)) if project is None else client.projects.get(project)
    if found is None:
        if label_config is None:
            raise ConfigError(
                f"there is no project {title!r}; give a labelling configuration to create it, such as "
                "label_config/frames.xml"
            )
        created = client.projects.create(str(title), label_config)
        log.did(f"created project {created['id']} {created['title']!r}")
        return created
    name = f"project {found['id']} {found['title']!r}"
    changes: dict[str, Any] = {}
    if label_config is not None and not _same_text(str(found["label_config"]), label_config):
        changes["label_config"] = label_config
    if not found.get("show_collab_predictions", True):
        changes["show_collab_predictions"] = True  # else annotators see no proposals
    if not changes:
        log.did(f"{name} is as it should be")
        return found
    updated = client.projects.update(found["id"], **changes)
    log.did(f"changed {name}: {', '.join(changes)}")
    return updated


def _same_text(a: str, b: str) -> bool:
    return a.split() == b.split()


def _introduce(
    client: LabelStudioClient, project: Mapping[str, Any], controls: Controls, reads: bool, log: _Log
) -> None:
    """Give the project texts and a list of tasks, where nobody has made any."""
    texts = {"description": description(controls, reads), "expert_instruction": instructions(controls, reads)}
    missing = {name: text for name, text in texts.items() if not project.get(name)}
    if missing:
        client.projects.update(project["id"], **missing)
        log.did("wrote the project's " + " and ".join(name.replace("expert_", "") for name in missing))
    if not client.views.of_project(project["id"]):
        client.views.create(project["id"], task_list(controls, client.views.columns(project["id"])))
        log.did("made a list of tasks that shows a picture of each")
    toggles = switches(controls)
    if toggles:
        log.did(f"annotators: {toggles}")


def _storage(client: LabelStudioClient, project: int, path: str, log: _Log) -> None:
    wanted = posixpath.normpath(path)
    for storage in client.storages.of_project(project):
        covered = posixpath.normpath(str(storage["path"]))
        if wanted == covered or wanted.startswith(covered + "/"):
            log.did(f"local storage {storage['id']} serves {covered} already")
            return
    try:
        created = client.storages.create(project, wanted, f"{BACKEND_TITLE} media")
    except LabelStudioUnreachableError:
        raise
    except LabelStudioError as error:
        raise LabelStudioError(
            f"{error}. Expected a folder that is there, where Label Studio runs, below its "
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT: make it, or give another --storage-path",
            error.status,
        ) from error
    log.did(f"added local storage {created['id']} for {wanted}")


def _backend(
    client: LabelStudioClient,
    project: int,
    url: str,
    interactive: bool,
    basic_auth: tuple[str, str] | None,
    extra_params: Mapping[str, Any] | None,
    log: _Log,
) -> str:
    """Connect the backend, and return the version that it answers as."""
    known = client.backends.of_project(project)
    # One that was connected under another address is moved: with two, every task would be asked for twice.
    mine = next((b for b in known if b["url"].rstrip("/") == url), None) or next(
        (b for b in known if b["title"] == BACKEND_TITLE), None
    )
    fields: dict[str, Any] = {"is_interactive": interactive}
    if extra_params is not None:
        fields["extra_params"] = dict(extra_params)
    if basic_auth is not None:
        user, password = basic_auth
        fields |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
    try:
        if mine is None:
            backend = client.backends.create(project, url, BACKEND_TITLE, **fields)
            log.did(f"connected backend {backend['id']} at {url}")
        else:
            backend = client.backends.update(mine["id"], project, url, **fields)
            moved = "" if mine["url"].rstrip("/") == url else f", moved from {mine['url']}"
            log.did(f"backend {backend['id']} at {url} is connected{moved}")
            if moved:
                _forget_webhook(client, project, mine["url"], log)
    except BackendRefusedError as error:
        if mine is None and error.backend_id is not None:
            client.backends.delete(error.backend_id)
            log.did(f"removed the half-made connection {error.backend_id}")
        raise BackendRefusedError(
            f"{error}. Expected a backend that answers Label Studio at {url}: start it with `steerseg-backend "
            "serve`, name its address as Label Studio reaches it with --backend-url, and give the user name and "
            "password that it asks for, if any, by STEERSEG_BASIC_AUTH_USERNAME and _PASSWORD",
            error.status,
            None,
        ) from error
    if backend["state"] != "CO":
        raise LabelStudioError(
            f"Label Studio does not get on with the backend at {url}: "
            f"{backend.get('error_message') or backend.get('readable_state')}; look into the backend's log"
        )
    log.did(f"the backend answers as model version {backend['model_version']!r}")
    return str(backend["model_version"])


def _forget_webhook(client: LabelStudioClient, project: int, backend_url: str, log: _Log) -> None:
    """Remove the webhook of an address that the backend has left; Label Studio keeps it by itself."""
    for webhook in client.webhooks.of_project(project):
        if webhook["url"] == _webhook_url(backend_url):
            client.webhooks.delete(webhook["id"])
            log.did(f"removed webhook {webhook['id']} to the old address")


def _webhook(
    client: LabelStudioClient, project: int, backend_url: str, secret: str | None, log: _Log
) -> None:
    url = _webhook_url(backend_url)
    headers = {} if secret is None else {SECRET_HEADER: secret}
    # Label Studio makes a webhook with each connection, but without the secret.
    found = [webhook for webhook in client.webhooks.of_project(project) if webhook["url"] == url]
    for double in found[1:]:
        client.webhooks.delete(double["id"])
        log.did(f"removed webhook {double['id']}, which was there twice")
    if not found:
        created = client.webhooks.create(project, url, WEBHOOK_ACTIONS, headers)
        log.did(f"added webhook {created['id']} to {url}" + (", with the secret header" if secret else ""))
    elif _is_set(found[0], headers):
        log.did(f"webhook {found[0]['id']} to {url} is as it should be")
    else:
        client.webhooks.update(found[0]["id"], url, WEBHOOK_ACTIONS, headers)
        log.did(f"set webhook {found[0]['id']} to {url}" + (", with the secret header" if secret else ""))
    if secret is None:
        log.warn("the webhook has no secret: whoever reaches the backend can send it false corrections")


def _is_set(webhook: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    return bool(
        webhook["headers"] == headers
        and set(webhook["actions"]) == set(WEBHOOK_ACTIONS)
        and webhook["is_active"]
        and webhook["send_payload"]
        and not webhook["send_for_all_actions"]
    )


def _webhook_url(backend_url: str) -> str:
    return backend_url.rstrip("/") + "/webhook"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
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
    parser.add_argument(
        "--colours",
        action="store_true",
        help="give the labels of masks the colours that stand out best from the pictures of the project's tasks",
    )
    for name in ("host", "port", "label_studio_url", "basic_auth_username"):
        add_setting(parser, name)


def run(options: argparse.Namespace) -> int:
    """Connect the project and print what was done.

    Raises:
        SteerSegError: It cannot be connected.
    """
    settings = read_settings(options)
    basic_auth = None
    if settings.basic_auth_username is not None and settings.basic_auth_password is not None:
        basic_auth = (settings.basic_auth_username, settings.basic_auth_password.get_secret_value())
    secret = settings.webhook_secret
    client = label_studio_client(settings)
    connection = connect(
        client,
        backend_address(options, settings),
        project=options.project,
        title=options.title,
        label_config=None if options.label_config is None else read_text(options.label_config),
        storage_path=options.storage_path,
        webhook_secret=None if secret is None else secret.get_secret_value(),
        interactive=options.interactive,
        basic_auth=basic_auth,
        extra_params=None if options.expression is None else {"expression": options.expression},
    )
    colours = compare_colours(client, connection.project, settings, write=options.colours)
    print("\n".join((*connection.steps, *colours.steps)))
    for warning in (*connection.warnings, *colours.warnings):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"project {connection.project} {connection.title!r}: {connection.url}")
    return 0
