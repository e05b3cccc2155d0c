"""The page of what the demo's models understand."""

from __future__ import annotations

from ml_backend.predictions.messages import Guidance
from ml_backend.settings import Settings
from ml_backend.web.understands import page_of_words
from steerseg.presets import BUILT_IN, load_preset
from tests.support.backend import Backend


def test_the_page_that_messages_lead_to_lists_the_demos_words(backend: Backend) -> None:
    backend.service.guidance = Guidance.of(load_preset(BUILT_IN["demo"]))
    address = page_of_words(Settings(host="0.0.0.0", port=9090))
    assert address == "http://127.0.0.1:9090/understands"
    answer = backend.client.get("/understands")
    html = answer.get_data(as_text=True)
    assert answer.status_code == 200
    assert "<h1>What the demo understands</h1>" in html
    assert "<code>the red car</code>" in html
    assert html.count("<table>") == html.count("</table>") == 8
    assert "<em>fruit</em>" in html
    assert not [
        mark for mark in ("`", "|", "## ", "&lt;") if mark in html.split("<main>")[1].split("</main>")[0]
    ]


def test_a_preset_of_plain_english_has_no_such_page(backend: Backend) -> None:
    answer = backend.client.get("/understands")
    assert answer.status_code == 404
    assert "no list of words" in answer.get_data(as_text=True)
