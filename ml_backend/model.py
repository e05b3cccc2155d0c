"""For those who run Label Studio's stock 2.x server (``label_studio_ml``): a model class that only delegates.

Nothing else imports this module, since the stock server is optional (the extra ``stock-server``).
Point its ``_wsgi.py`` at :class:`SteerSegModel` and configure by ``STEERSEG_...`` variables. Of these,
``STEERSEG_LABEL_STUDIO_URL`` and ``STEERSEG_LABEL_STUDIO_API_KEY`` are needed, for the stock server passes
neither on. Run it with one worker process and several threads, since the service owns a model process.

``steerseg-backend serve`` does more: the stock server drops ``ANNOTATIONS_DELETED`` events, among others.
"""

from __future__ import annotations

import functools
from typing import Any

from ml_backend.database.json_values import check_json
from ml_backend.database.server_lock import server_lock
from ml_backend.service import Service
from ml_backend.settings import load_settings
from ml_backend.web.assemble import create_service
from steerseg.errors import ConfigError

try:
    from label_studio_ml.model import LabelStudioMLBase
except ImportError as error:
    raise ImportError(
        "the stock server is not installed: `pip install '.[stock-server]'` in the source folder, or use our own "
        "server, `steerseg-backend serve`, which needs nothing further"
    ) from error


@functools.cache
def shared_service() -> Service:
    """The one service of this process; every request gets a model object of its own.

    Raises:
        ConfigError: Another server works with the data folder.
    """
    settings = load_settings()
    lock = server_lock(settings.database, settings.data_dir)
    if not lock.lasting:
        raise ConfigError(
            "the stock server cannot stand by; unset STEERSEG_DATABASE_URL, or run `steerseg-backend serve`"
        )
    if not lock.acquire():  # it ends with this process
        raise ConfigError(
            f"another server works with {lock.what}; stop it, or name another folder by STEERSEG_DATA_DIR"
        )
    return create_service(settings)


class SteerSegModel(LabelStudioMLBase):
    """What the stock server makes for each request; holds nothing by itself."""

    def setup(self) -> None:
        """Introduce the project and name the version of its predictions."""
        self.set("model_version", self._introduce())

    def set_extra_params(self, extra_params: object) -> None:
        """Keep the parameters of the model connection."""
        self._introduce(extra_params=extra_params)

    def predict(
        self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[Any]:
        """One item for each task, as :meth:`ml_backend.service.Service.predict` gives them."""
        body = {
            "tasks": tasks,
            "project": self.project_id,
            "label_config": self.label_config,
            "params": {**kwargs, "context": context},
        }
        check_json(body)
        answer = shared_service().predict(body)
        results: list[Any] = answer.to_json()["results"]
        return results

    def fit(self, event: str, data: dict[str, Any], **_: Any) -> dict[str, int]:
        """Commit a webhook event."""
        body = {**data, "action": event}
        check_json(body)
        return {"event": shared_service().webhook(body)}

    def _introduce(self, **fields: Any) -> str:
        body = {"project": self.project_id, "schema": self.label_config, **fields}
        check_json(body)
        return shared_service().setup(body)
