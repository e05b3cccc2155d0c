"""Requests that nobody would send, to every route: none is answered by 500, and nothing that is kept fails later.

``pytest tests/adversarial/test_fuzz.py --campaign-examples 200000`` goes on for an hour or two.
"""

from __future__ import annotations

import copy
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.routing import Rule

from ml_backend.database.json_values import check_json, parse_json
from ml_backend.models.executor import Executor
from ml_backend.settings import Settings
from ml_backend.web.app import create_app
from ml_backend.web.assemble import build_service
from ml_backend.web.pages.csrf import FIELD
from tests.support import proposal_targets
from tests.support.backend import FIXTURES, NamedMedia, recorded

pytestmark = pytest.mark.timeout(0)

JSON_SHARE = 0.75  # of the examples; the others go to pages and to routes without a body
_SECRET = "the-secret-of-this-session"
_EXAMPLES = 2000


def short(value: Any) -> Any:
    """A recorded body with the first two of its tasks, drafts and regions each; more of a kind find nothing more."""
    if isinstance(value, dict):
        return {key: short(part) for key, part in value.items()}
    if isinstance(value, list):
        return [short(part) for part in (value[:2] if value and isinstance(value[0], dict) else value)]
    return value


BODIES: dict[str, list[Any]] = {
    path: [short(recorded(file.stem)) for file in sorted(FIXTURES.glob(f"{path[1:]}*.json"))]
    for path in ("/setup", "/predict", "/webhook")
}
TEXTS = {path: [json.dumps(body) for body in bodies] for path, bodies in BODIES.items()}

ODD_NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**63, 10**30, 0.5, 1e308, -1e-308)
ODD_WORDS = (
    *("", " ", "x", "0", "-1", "9" * 20, "1.5", "1e999", "NaN", "null", "true", "٣", "1.2.3"),
    *("\0", "a\0b", "\ud800", "\udfff", "\u202e", "\x1b[2J", "a\r\nb", "\uffff", "𝕏", "é" * 300),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://",
        "http://[",
        "//x",
        "data:,x",
        "s3://b",
    ),
    *(
        "<script>",
        "{{7*7}}",
        "%s%n",
        "' OR 1=1 --",
        "9999-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00+14:00",
    ),
    *("<View/>", "<View>", "<!DOCTYPE x><View/>", '<View><Video name="v" value="$v"/></View>', "[1]", "{}"),
    *("[" * 2000, '{"a":' * 500, '{"a": 99999999999999999999}'),
)
NUMBERS = st.sampled_from(ODD_NUMBERS) | st.integers() | st.floats()
WORDS = st.sampled_from(ODD_WORDS) | st.text(max_size=12)
PLAIN = st.none() | st.booleans() | NUMBERS | WORDS
VALUES = st.recursive(
    PLAIN,
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(WORDS, inside, max_size=3),
    max_leaves=6,
)


@dataclass(frozen=True)
class Fuzzed:
    """A backend that takes what the campaign sends.

    Attributes:
        app: Its app.
        client: A browser with an open form.
        data_dir: Its data folder.
    """

    app: Flask
    client: FlaskClient
    data_dir: Path

    def require_sound(self) -> None:
        """Fail where something that is kept makes a page fail, or cannot be read."""
        paths = ["/", "/health", "/jobs", "/metrics", "/versions", "/pages/jobs", "/pages/settings"]
        with closing(sqlite3.connect(self.data_dir / "steerseg.sqlite", timeout=30)) as connection:
            for (number,) in connection.execute("SELECT id FROM projects").fetchall():
                below = ("", "/corrections", "/versions", "/words")
                paths += [f"/pages/projects/{number}{page}" for page in below]
                paths += [f"/projects/{number}/corrections", f"/projects/{number}/refinement"]
                paths += [f"/versions?project={number}"]
            for (number,) in connection.execute("SELECT id FROM proposals LIMIT 20").fetchall():
                paths.append(f"/pages/proposals/{number}")
            for (text,) in connection.execute("SELECT payload FROM events"):
                parse_json(text)
            for (text,) in connection.execute("SELECT extra_params FROM projects"):
                parse_json(text)
        for path in paths:
            answer = self.client.get(path)
            assert answer.status_code == 200, f"{path}: {answer.get_data(as_text=True)}"


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    chosen = Settings(
        data_dir=tmp_path_factory.mktemp("fuzz"),
        expression_key="expr",
        predict_timeout=0.02,
        max_queue=10**9,
        push_predictions=False,
        refine_after=0,
    )
    service = build_service(
        chosen,
        executor=Executor.local([proposal_targets.proposing], max_attempts=1),
        loader=NamedMedia(),
        base_version="steerseg-test",
        model="test-model",
    )
    service.start()
    app = create_app(service)
    client = app.test_client()
    with client.session_transaction() as session:
        session["csrf"] = _SECRET
    for body in (body for bodies in BODIES.values() for body in bodies if "label_config" in body):
        described = {**recorded("setup"), "project": body["project"], "schema": body["label_config"]}
        assert client.post("/setup", json=described).status_code == 200
    yield Fuzzed(app, client, chosen.data_dir)
    service.close()


@pytest.fixture(scope="module")
def examples(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--campaign-examples", default=_EXAMPLES))


def campaign(examples: int, strategy: st.SearchStrategy[Any], attempt: Callable[[Any], None]) -> None:
    """Make up so many examples; the same ones every time in a short campaign."""
    chosen = settings(
        max_examples=max(1, examples),
        deadline=None,
        database=None,
        derandomize=examples <= _EXAMPLES,
        suppress_health_check=list(HealthCheck),
    )
    chosen(given(strategy)(attempt))()


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A recorded body with up to three parts put in the place of others, left out, or added."""
    path = draw(st.sampled_from(sorted(TEXTS)))
    body = json.loads(draw(st.sampled_from(TEXTS[path])))
    for _ in range(draw(st.integers(1, 3))):
        body = mutate(draw, body)
    content = json.dumps(body).encode()
    if draw(st.integers(0, 19)) == 0:  # what is no JSON at all
        start = draw(st.integers(0, len(content)))
        content = content[:start] + draw(st.binary(max_size=8)) + content[start + draw(st.integers(0, 8)) :]
    return path, content


def mutate(draw: st.DrawFn, value: Any) -> Any:
    """A value with one of its parts changed; which one is drawn on the way down."""
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 4))
    key = draw(st.sampled_from(keys))
    action = draw(st.integers(0, 9))
    if action == 0:
        del value[key]
    elif action == 1 and isinstance(value, dict):
        value[draw(WORDS)] = draw(VALUES)
    elif action == 1:
        value.extend(copy.deepcopy(value[:2]))
    else:
        value[key] = mutate(draw, value[key])
    return value


def test_json_routes(fuzzed: Fuzzed, examples: int) -> None:
    def attempt(example: tuple[str, bytes]) -> None:
        path, content = example
        answer = fuzzed.client.post(path, data=content, content_type="application/json")
        assert answer.status_code < 500, answer.get_data(as_text=True)

    campaign(round(examples * JSON_SHARE), mutated(), attempt)
    fuzzed.require_sound()


def test_paths_queries_and_forms(fuzzed: Fuzzed, examples: int) -> None:
    rules = sorted(fuzzed.app.url_map.iter_rules(), key=str)
    segments = WORDS.filter(lambda word: word not in ("", ".", "..") and "/" not in word)
    numbers = st.sampled_from([number for number in ODD_NUMBERS if isinstance(number, int)]) | st.integers()
    fields = st.dictionaries(st.sampled_from(["name", "term", "meaning", FIELD, "x"]), WORDS, max_size=4)
    queries = st.dictionaries(st.sampled_from(["project", "from", "x"]), WORDS, max_size=2)

    def fill(rule: Rule, draw: st.DrawFn) -> str:
        path = str(rule)
        for name in rule.arguments:
            start, end = path.index("<"), path.index(">")
            is_number = path[start + 1 : end] == f"int:{name}" and draw(st.integers(0, 9)) > 0
            given = str(draw(numbers)) if is_number else draw(segments)
            path = path[:start] + quote(given, errors="surrogatepass") + path[end + 1 :]
        return path

    @st.composite
    def drawn(draw: st.DrawFn) -> dict[str, Any]:
        rule = draw(st.sampled_from(rules))
        method = draw(st.sampled_from(sorted(rule.methods or ())))
        query = {
            key: value.encode(errors="surrogatepass").decode("latin-1")
            for key, value in draw(queries).items()
        }
        form = {key: value.encode(errors="replace").decode() for key, value in draw(fields).items()}
        if draw(st.integers(0, 9)) > 0:
            form[FIELD] = _SECRET
        asked: dict[str, Any] = {"path": fill(rule, draw), "method": method, "query_string": query}
        return asked if method != "POST" else {**asked, "data": form}

    def attempt(example: dict[str, Any]) -> None:
        answer = fuzzed.client.open(**example)
        assert answer.status_code < 500, answer.get_data(as_text=True)

    campaign(round(examples * (1 - JSON_SHARE)), drawn(), attempt)
    fuzzed.require_sound()


def test_what_was_recorded_works_after_all(fuzzed: Fuzzed) -> None:
    for path, bodies in BODIES.items():
        for body in bodies:
            answer = fuzzed.client.post(path, json=body)
            assert answer.status_code in (200, 201), f"{path}: {answer.get_data(as_text=True)}"
            check_json(answer.get_json())
    loops = fuzzed.client.get("/health").get_json()["loops"]
    assert all(loop["alive"] for loop in loops), loops
