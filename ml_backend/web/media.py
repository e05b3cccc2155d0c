"""The route by which hosts of a cluster fetch media: only what was offered to them, and only with their token."""

from __future__ import annotations

from flask import Flask, Response, request, send_file

from ml_backend.models.fleet.shared_media import SharedMedia
from ml_backend.requests import RequestError
from ml_backend.web.access import MEDIA_PATH


def add_media(app: Flask, shared: SharedMedia | None) -> None:
    """Add the route.

    Args:
        app: The app, which lets everybody come as far as this.
        shared: What was offered; ``None`` without a cluster, where there is nothing to fetch.
    """

    @app.get(f"{MEDIA_PATH}<digest>")
    def media(digest: str) -> Response:
        given = request.authorization
        if shared is None or not shared.allows(None if given is None else given.token):
            raise RequestError(
                401, "this address is for the hosts of a cluster", "They have a token, new with each start."
            )
        path = shared.find(digest)
        if path is None:
            raise RequestError(404, "no media of this digest were offered", "Ask for the prediction again.")
        # Streamed from the file; a host that breaks off asks for the whole again.
        return send_file(path, mimetype="application/octet-stream", conditional=False, etag=False, max_age=0)
