"""Label Studio's API, as far as the backend and the command line need it.

Over ``requests`` rather than label-studio-sdk's generated client: every call gets a timeout, redirects are
never followed with a token, and errors become short typed messages that never hold a token.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from steerseg.errors import SteerSegError

MEASURED_VERSION = (1, 23)
"""The Label Studio release whose behaviour this package was built against."""

DEFAULT_TIMEOUT = 30.0
IMPORT_TIMEOUT = 300.0
IMPORT_CHUNK_TASKS = 100
IMPORT_CHUNK_BYTES = 8 * 1024 * 1024

_REFRESH_EARLY = 60.0  # seconds before an access token ends (they live 300 s)
_RETRIED_STATUSES = (502, 503, 504)
_SHOWN_CHARACTERS = 500


class LabelStudioError(SteerSegError):
    """Label Studio refused a request or cannot be reached.

    Attributes:
        status: The HTTP status, or ``None`` where there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class LabelStudioUnreachableError(LabelStudioError):
    """No answer: wrong address, not started, or too slow."""


class LabelStudioAuthError(LabelStudioError):
    """The token is not accepted, or it may not do this (401, 403)."""


class LabelStudioNotFoundError(LabelStudioError):
    """No such thing, or this account cannot see it (404)."""


class BackendRefusedError(LabelStudioError):
    """Label Studio would not connect the backend.

    Attributes:
        backend_id: A half-made connection that the refusal left behind, if any.
    """

    def __init__(self, message: str, status: int | None, backend_id: int | None) -> None:
        super().__init__(message, status)
        self.backend_id = backend_id


@dataclass(frozen=True)
class ServerInfo:
    """Who answers, and as whom it knows us."""

    version: str
    user: str

    @property
    def release(self) -> tuple[int, ...]:
        """The leading numbers of the version, such as ``(1, 23, 2)``."""
        match = re.match(r"\d+(?:\.\d+)*", self.version)
        return tuple(int(part) for part in match.group().split(".")) if match else ()


class LabelStudioClient:
    """A connection to one Label Studio with one token.

    The kind of token is told from its form. A personal access token is a *refresh* token: it is exchanged for
    access tokens that live five minutes, and renewed before they end. Anything else is a legacy token.
    Instances may be shared between threads.

    Args:
        url: Address of Label Studio, with the sub-path if it has one.
        api_key: Personal access token or legacy token, from Account & Settings in Label Studio.
        timeout: Seconds that one wait for the network may take.

    Raises:
        LabelStudioError: The address or the token cannot be one.
    """

    def __init__(self, url: str, api_key: str, timeout: float = DEFAULT_TIMEOUT) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise LabelStudioError(
                "the address of Label Studio is unusable; expected one such as http://localhost:8080"
            )
        self.url = url.rstrip("/")
        self._key = api_key.strip()
        if not re.fullmatch(r"[\x21-\x7e]+", self._key):
            # Such a token would break the header, and the complaint about it would print it.
            raise LabelStudioError(
                "the Label Studio token is empty or holds spaces or other characters that no token has; "
                "copy it again from Account & Settings"
            )
        self._timeout = timeout
        self._token = _read_jwt(self._key)
        self._lock = threading.Lock()
        self._access = ""
        self._access_ends = 0.0
        self._session = requests.Session()
        self._session.trust_env = False  # a .netrc must not replace the token
        retries = Retry(
            total=3,
            backoff_factor=0.3,
            status_forcelist=_RETRIED_STATUSES,
            allowed_methods=frozenset({"GET"}),
            raise_on_status=False,
            redirect=False,
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retries, pool_maxsize=32))

    def __repr__(self) -> str:
        return f"LabelStudioClient(url={self.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    # --- tokens

    def auth_headers(self) -> dict[str, str]:
        """The header that identifies us; renews the access token where needed.

        Raises:
            LabelStudioError: A personal access token could not be exchanged.
        """
        if self._token is None:
            return {"Authorization": f"Token {self._key}"}
        if self._token.get("token_type") == "access":
            return {"Authorization": f"Bearer {self._key}"}
        with self._lock:
            if time.time() >= self._access_ends - _REFRESH_EARLY:
                self._refresh()
            return {"Authorization": f"Bearer {self._access}"}

    def _refresh(self) -> None:
        response = self._send("POST", "/api/token/refresh/", headers={}, json={"refresh": self._key})
        if response.status_code != 200:
            raise LabelStudioAuthError(
                f"{self.url} does not accept the personal access token ({response.status_code}); it may be "
                "revoked or expired. Create a new one in Account & Settings › Personal Access Token",
                response.status_code,
            )
        access = str(_json(response, self.url).get("access", ""))
        claims = _read_jwt(access)
        if claims is None:
            raise LabelStudioError(f"{self.url} answered a token refresh without an access token")
        self._access = access
        # Our clock and the server's may differ: count its lifetime from now.
        lifetime = float(claims.get("exp", 0)) - float(claims.get("iat", time.time()))
        self._access_ends = time.time() + lifetime

    def _redact(self, text: str) -> str:
        for secret in (self._key, self._access):
            if secret:
                text = text.replace(secret, "<token>")
        return re.sub(r"eyJ[\w-]+\.[\w-]+\.[\w-]*", "<token>", text)

    # --- requests

    def request(
        self, method: str, path: str, *, timeout: float | None = None, action: str = "", **options: Any
    ) -> requests.Response:
        """Send one request and return its successful answer.

        Args:
            method: HTTP method.
            path: Path from Label Studio's address, beginning with ``/``.
            timeout: Seconds; the client's own if not given.
            action: What was tried, for messages ("create the project").
            options: Passed on to ``requests`` (``json``, ``params``, ``files``).

        Raises:
            LabelStudioError: No answer, or one that is not a success.
        """
        response = self._send(method, path, headers=self.auth_headers(), timeout=timeout, **options)
        if response.status_code == 401 and self._access and "files" not in options:
            with self._lock:
                self._access_ends = 0.0  # revoked or expired early: one fresh try
            response = self._send(method, path, headers=self.auth_headers(), timeout=timeout, **options)
        if not 200 <= response.status_code < 300:
            raise self._error(response, action or f"{method} {path}")
        return response

    def _send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        timeout: float | None = None,
        **options: Any,
    ) -> requests.Response:
        limit = self._timeout if timeout is None else timeout
        try:
            return self._session.request(
                method,
                self.url + path,
                headers=dict(headers),
                timeout=(min(limit, 10.0), limit),
                allow_redirects=False,
                **options,
            )
        except requests.Timeout:
            raise LabelStudioUnreachableError(
                f"{self.url} did not answer within {limit:g} s; check that Label Studio runs and is not "
                "overloaded"
            ) from None
        except requests.RequestException as error:
            reason = self._redact(_network_reason(error))
            raise LabelStudioUnreachableError(
                f"{self.url} cannot be reached ({reason}); check the address and that Label Studio runs"
            ) from None

    def _error(self, response: requests.Response, action: str) -> LabelStudioError:
        status = response.status_code
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("Location", ""))
            return LabelStudioError(
                f"could not {action}: {self.url} redirects to {target.scheme}://{target.netloc}; give Label "
                "Studio's final address",
                status,
            )
        detail = self._redact(_detail(response))
        message = f"could not {action}: Label Studio answered {status}" + (f" ({detail})" if detail else "")
        if status == 401:
            hint = (
                "; the token is not accepted. Legacy tokens can be switched off for an organisation: use a "
                "personal access token, or switch them on in Organization › API Tokens Settings"
            )
            return LabelStudioAuthError(message + hint, status)
        if status == 403 and "reserved network address" in detail:
            hint = (
                "; since 1.23.1 Label Studio refuses private addresses. Start it with "
                "LABEL_STUDIO_ML_BLOCK_LOCAL_IP=false and LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false"
            )
            return LabelStudioError(message + hint, status)
        if status == 403:
            return LabelStudioAuthError(message, status)
        if status == 404:
            return LabelStudioNotFoundError(message, status)
        return LabelStudioError(message, status)

    def _get(self, path: str, action: str, **params: Any) -> Any:
        return _json(self.request("GET", path, params=params, action=action), self.url)

    def _list(self, path: str, action: str, **params: Any) -> list[dict[str, Any]]:
        """All items of a list, whether the server pages it or not."""
        answer = self._get(path, action, **params)
        if isinstance(answer, list):
            return answer
        return list(answer["results"])

    def _write(self, method: str, path: str, body: Any, action: str, timeout: float | None = None) -> Any:
        return _json(self.request(method, path, json=body, action=action, timeout=timeout), self.url)

    # --- the server

    def server_info(self) -> ServerInfo:
        """Ask for version and account; so it also shows whether address and token are right."""
        version = self._get("/api/version", "ask for the version")
        release = version.get("release") if isinstance(version, dict) else None
        if not isinstance(release, str):
            raise LabelStudioError(f"{self.url} does not seem to be Label Studio; check the address")
        user = self._get("/api/current-user/whoami", "ask who the token belongs to")
        return ServerInfo(version=release, user=str(user.get("email", "")))

    # --- projects

    def project(self, project: int) -> dict[str, Any]:
        """One project with its labelling configuration."""
        return dict(self._get(f"/api/projects/{project}/", f"read project {project}"))

    def projects(self) -> Iterator[dict[str, Any]]:
        """All projects that this account sees."""
        page = 1
        while True:
            answer = self._get("/api/projects/", "list the projects", page=page, page_size=100)
            yield from answer["results"]
            if not answer.get("next"):
                return
            page += 1

    def find_project(self, title: str) -> dict[str, Any] | None:
        """The project of exactly this title; ``None`` without one.

        Raises:
            LabelStudioError: Several projects have the title.
        """
        found = [project for project in self.projects() if project["title"] == title]
        if len(found) > 1:
            ids = ", ".join(str(project["id"]) for project in found)
            raise LabelStudioError(
                f"several projects are called {title!r} ({ids}); give the project's id instead"
            )
        return self.project(found[0]["id"]) if found else None

    def create_project(self, title: str, label_config: str, **fields: Any) -> dict[str, Any]:
        """Create a project."""
        body = {"title": title, "label_config": label_config, **fields}
        return dict(self._write("POST", "/api/projects/", body, f"create the project {title!r}"))

    def update_project(self, project: int, **fields: Any) -> dict[str, Any]:
        """Change fields of a project."""
        return dict(self._write("PATCH", f"/api/projects/{project}/", fields, f"change project {project}"))

    # --- tasks

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Import tasks, in chunks that stay below a hundred tasks and 8 MiB.

        Args:
            project: The project's id.
            tasks: Either ``{"data": {...}}`` (perhaps with predictions) or the data alone.

        Returns:
            The ids of the new tasks, in order.
        """
        ids: list[int] = []
        for chunk in _chunks(tasks):
            answer = _json(
                self.request(
                    "POST",
                    f"/api/projects/{project}/import",
                    params={"return_task_ids": "true"},
                    json=chunk,
                    timeout=max(self._timeout, IMPORT_TIMEOUT),
                    action=f"import {len(chunk)} tasks into project {project}",
                ),
                self.url,
            )
            new = [int(task) for task in answer.get("task_ids", ())]
            if len(new) != len(chunk):
                raise LabelStudioError(
                    f"Label Studio made {len(new)} tasks of {len(chunk)} in project {project}; look at the "
                    "project before importing again"
                )
            ids += new
        return ids

    def tasks(
        self, project: int, *, page_size: int = 100, everything: bool = False
    ) -> Iterator[dict[str, Any]]:
        """All tasks of a project, page by page.

        Args:
            project: The project's id.
            page_size: Tasks a request.
            everything: With all annotations and predictions rather than their numbers alone.
        """
        page, seen = 1, 0
        while True:
            answer = self._get(
                "/api/tasks",
                f"list the tasks of project {project}",
                project=project,
                page=page,
                page_size=page_size,
                fields="all" if everything else "task_only",
            )
            yield from answer["tasks"]
            seen += len(answer["tasks"])
            if not answer["tasks"] or seen >= answer["total"]:
                return
            page += 1

    def task(self, task: int) -> dict[str, Any]:
        """One task with its annotations and predictions."""
        return dict(self._get(f"/api/tasks/{task}/", f"read task {task}"))

    def annotations(self, task: int) -> list[dict[str, Any]]:
        """The annotations of one task, without skipped ones, which Label Studio leaves out of the list."""
        return self._list(f"/api/tasks/{task}/annotations/", f"list the annotations of task {task}")

    def annotation(self, annotation: int) -> dict[str, Any]:
        """One annotation, skipped or not."""
        return dict(self._get(f"/api/annotations/{annotation}/", f"read annotation {annotation}"))

    def update_annotation(self, annotation: int, result: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Give an annotation other results."""
        body = {"result": list(result)}
        return dict(
            self._write("PATCH", f"/api/annotations/{annotation}/", body, f"change annotation {annotation}")
        )

    def prediction(self, prediction: int) -> dict[str, Any]:
        """One prediction."""
        return dict(self._get(f"/api/predictions/{prediction}/", f"read prediction {prediction}"))

    def predictions(self, task: int) -> list[dict[str, Any]]:
        """The predictions of one task."""
        return self._list("/api/predictions/", f"list the predictions of task {task}", task=task)

    def create_prediction(
        self, task: int, result: Sequence[Mapping[str, Any]], *, score: float | None, model_version: str
    ) -> int:
        """Store one prediction.

        Returns:
            Its id.

        Raises:
            LabelStudioError: The result is empty, which would mark the task as done for this version, or
                Label Studio refuses it.
        """
        if not result:
            raise LabelStudioError(
                f"an empty prediction for task {task} was not stored, since it would keep the task from "
                "being asked again"
            )
        body = {"task": task, "result": list(result), "score": score, "model_version": model_version}
        answer = self._write("POST", "/api/predictions/", body, f"store a prediction for task {task}")
        return int(answer["id"])

    def delete_prediction(self, prediction: int) -> None:
        """Delete one prediction."""
        self.request("DELETE", f"/api/predictions/{prediction}/", action=f"delete prediction {prediction}")

    # --- local files

    def local_storages(self, project: int) -> list[dict[str, Any]]:
        """The local-files storages of a project."""
        return self._list("/api/storages/localfiles/", "list the local storages", project=project)

    def create_local_storage(self, project: int, path: str, title: str) -> dict[str, Any]:
        """Let a project serve the files of a folder.

        The storage is never synchronised, which would make a task of every file.

        Args:
            project: The project's id.
            path: The folder as Label Studio sees it, below its ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``.
            title: How Label Studio lists it.

        Raises:
            LabelStudioError: Label Studio cannot or may not serve the folder; its answer says why.
        """
        body = {"project": project, "path": path, "title": title, "use_blob_urls": True}
        return dict(self._write("POST", "/api/storages/localfiles/", body, f"add the local folder {path}"))

    # --- machine learning backends

    def backends(self, project: int) -> list[dict[str, Any]]:
        """The connected backends of a project; Label Studio asks each for its health meanwhile."""
        return self._list("/api/ml", "list the connected models", project=project)

    def create_backend(self, project: int, url: str, title: str, **fields: Any) -> dict[str, Any]:
        """Connect a backend; Label Studio asks it for its health and sets it up meanwhile.

        Raises:
            BackendRefusedError: Label Studio refuses the backend, or cannot use it.
        """
        body = {"project": project, "url": url, "title": title, **fields}
        return self._write_backend("POST", "/api/ml", project, url, body)

    def update_backend(self, backend: int, project: int, url: str, **fields: Any) -> dict[str, Any]:
        """Change a connection; Label Studio sets the backend up again.

        Raises:
            BackendRefusedError: Label Studio refuses.
        """
        body = {"project": project, "url": url, **fields}
        return self._write_backend("PATCH", f"/api/ml/{backend}", project, url, body)

    def _write_backend(
        self, method: str, path: str, project: int, url: str, body: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            return dict(self._write(method, path, body, f"connect the backend {url}", timeout=60.0))
        except LabelStudioUnreachableError:
            raise
        except LabelStudioError as error:
            # With only the first switch set, the refusal leaves a connection behind that has no webhook.
            try:
                left = next((b["id"] for b in self.backends(project) if b["url"] == url), None)
            except LabelStudioError:
                left = None  # the refusal itself says more than that it cannot be looked at
            raise BackendRefusedError(str(error), error.status, left) from None

    def delete_backend(self, backend: int) -> None:
        """Disconnect a backend. Its webhook stays; delete that too."""
        self.request("DELETE", f"/api/ml/{backend}", action=f"disconnect backend {backend}")

    # --- webhooks

    def webhooks(self, project: int) -> list[dict[str, Any]]:
        """The webhooks of a project."""
        return self._list("/api/webhooks/", "list the webhooks", project=project)

    def create_webhook(
        self, project: int, url: str, actions: Sequence[str], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Create a webhook for these actions with these secret headers."""
        body = {"project": project, **_webhook_body(url, actions, headers)}
        return dict(self._write("POST", "/api/webhooks/", body, f"create the webhook {url}"))

    def update_webhook(
        self, webhook: int, url: str, actions: Sequence[str], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        """Set a webhook's address, actions and headers, and switch it on."""
        body = _webhook_body(url, actions, headers)
        return dict(self._write("PATCH", f"/api/webhooks/{webhook}/", body, f"change the webhook {url}"))

    def delete_webhook(self, webhook: int) -> None:
        """Delete a webhook."""
        self.request("DELETE", f"/api/webhooks/{webhook}/", action=f"delete webhook {webhook}")

    # --- uploads

    def upload_file(self, project: int, path: Path) -> str:
        """Upload a media file without making a task of it.

        Returns:
            Its address for a task's data, such as ``/data/upload/1/0a1b2c3d-clip.mp4``.
        """
        with path.open("rb") as file:
            answer = _json(
                self.request(
                    "POST",
                    f"/api/projects/{project}/import",
                    params={"commit_to_project": "false"},
                    files={"file": (path.name, file)},
                    timeout=max(self._timeout, IMPORT_TIMEOUT),
                    action=f"upload {path.name}",
                ),
                self.url,
            )
        uploads = answer.get("file_upload_ids") or []
        if len(uploads) != 1:
            raise LabelStudioError(f"Label Studio did not keep the upload of {path.name}")
        upload = self._get(f"/api/import/file-upload/{uploads[0]}", f"find the upload of {path.name}")
        return "/data/" + str(upload["file"]).lstrip("/")


def _webhook_body(url: str, actions: Sequence[str], headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "url": url,
        "send_payload": True,
        "send_for_all_actions": False,
        "actions": list(actions),
        "headers": dict(headers),
        "is_active": True,
    }


def _read_jwt(token: str) -> dict[str, Any] | None:
    """The claims of a JSON web token, unverified; ``None`` for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return None
    return claims if isinstance(claims, dict) and "token_type" in claims else None


def _chunks(tasks: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    chunk: list[Mapping[str, Any]] = []
    size = 0
    for task in tasks:
        length = len(json.dumps(task))
        if chunk and (len(chunk) >= IMPORT_CHUNK_TASKS or size + length > IMPORT_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(task)
        size += length
    if chunk:
        yield chunk


def _network_reason(error: requests.RequestException) -> str:
    """What went wrong on the network, in words."""
    text = str(error)
    for sign, words in (
        ("NameResolutionError", "the host's name is not known"),
        ("Connection refused", "nothing listens there"),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
    ):
        if sign in text:
            return words
    return text[:_SHOWN_CHARACTERS]


def _json(response: requests.Response, url: str) -> Any:
    try:
        return response.json()
    except ValueError:
        raise LabelStudioError(
            f"{url} answered with something other than JSON; check that the address is Label Studio's",
            response.status_code,
        ) from None


def _detail(response: requests.Response) -> str:
    """What Label Studio says about an error, in one line."""
    try:
        body = response.json()
    except ValueError:
        return ""
    if isinstance(body, dict):
        # Besides the message, errors carry an id, the version and a traceback.
        told = ("validation_errors", "detail", "error")
        rest = {k: v for k, v in body.items() if k not in ("id", "status_code", "version", "exc_info")}
        body = next((body[key] for key in told if body.get(key)), rest)
    text = re.sub(r"<[^>]*>", "", "; ".join(_leaves(body)))
    return " ".join(text.split())[:_SHOWN_CHARACTERS]


def _leaves(value: Any, name: str = "") -> Iterator[str]:
    """The messages in a nested answer, each with the field that it is about."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, "" if key == "non_field_errors" else str(key))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, name)
    elif value is not None:
        yield f"{name}: {value}" if name else str(value)
