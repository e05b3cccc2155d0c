"""Whether a request that changes something was meant by the person whose browser sends it.

Browsers add a person's credentials to every request, also to one that another site's page begins. So each form
holds a secret of the session, which such a page cannot read. What browsers say of a request's origin is heeded for
every route by :mod:`ml_backend.web.door`.
"""

from __future__ import annotations

import hmac
import secrets

from flask import Request, session

from ml_backend.requests import RequestError

FIELD = "csrf_token"
_KEY = "csrf"


def form_token() -> str:
    """The secret of this session, for a form's hidden field; made with the first form."""
    if _KEY not in session:
        session[_KEY] = secrets.token_urlsafe(24)
    token: str = session[_KEY]
    return token


def require_own_form(request: Request) -> None:
    """Refuse a form that no page of this session held.

    Raises:
        RequestError: The secret is missing or another one.
    """
    given, expected = request.form.get(FIELD, ""), session.get(_KEY)
    if not isinstance(expected, str) or not hmac.compare_digest(given.encode(), expected.encode()):
        raise RequestError(
            403,
            "this form is not of a page that your browser has open, or the server was started anew since",
            "Go back, load the page again, and press the button once more.",
        )
