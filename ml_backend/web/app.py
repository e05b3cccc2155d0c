"""The web server: a Flask app over :class:`ml_backend.service.Service`."""

from __future__ import annotations

import secrets

from flask import Flask

from ml_backend.service import Service
from ml_backend.web.access import restrict_access
from ml_backend.web.api import create_api
from ml_backend.web.door import guard_door
from ml_backend.web.errors import answer_errors
from ml_backend.web.media import add_media
from ml_backend.web.pages.blueprint import create_pages
from ml_backend.web.request_log import log_requests
from ml_backend.web.understands import add_page_of_words


def create_app(service: Service) -> Flask:
    """Build the WSGI application.

    Args:
        service: What answers. The caller closes it.
    """
    app = Flask(__name__)
    settings = service.settings
    app.config["MAX_CONTENT_LENGTH"] = settings.max_request_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # Sessions hold nothing but the secret of their forms, which may change with every start.
    app.secret_key = secrets.token_bytes(32)
    app.config.update(SESSION_COOKIE_NAME="steerseg", SESSION_COOKIE_SAMESITE="Strict")
    log_requests(app, service.metrics)
    guard_door(app, settings)
    restrict_access(app, settings)
    answer_errors(app)
    app.register_blueprint(create_api(service))
    app.register_blueprint(create_pages(service))
    add_page_of_words(app, service)
    add_media(app, None if service.fleet is None else service.fleet.media)
    return app
