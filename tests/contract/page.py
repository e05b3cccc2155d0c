"""What a page consists of beside its words: links, forms, tables and what scripts hold on to."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

_LINKS = {"a": "href", "link": "href", "script": "src", "img": "src", "video": "src"}
_FIELDS = frozenset({"input", "select", "textarea"})
SECRET = "<secret>"


@dataclass
class Page:
    """The parts of a page.

    Attributes:
        links: Every address that it names.
        forms: Action, method and fields of each form, in order.
        tables: Of each table, how many headers and rows it has.
        live: Names of the parts that scripts renew.
        token: The secret of its forms; empty without a form.
    """

    links: set[str] = field(default_factory=set)
    forms: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, int]] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    token: str = ""

    def to_json(self) -> dict[str, Any]:
        """Everything but the secret."""
        return {"links": sorted(self.links), "forms": self.forms, "tables": self.tables, "live": self.live}


def read_page(text: str) -> Page:
    """Read a page's HTML."""
    reader = _Reader()
    reader.feed(text)
    return reader.page


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        page = self.page
        if tag in _LINKS and _LINKS[tag] in given:
            page.links.add(given[_LINKS[tag]])
        if "data-live" in given:
            page.live.append(given.get("id", ""))
        if tag == "form":
            confirmed = "data-confirm" in given
            page.forms.append(
                {
                    "action": given.get("action", ""),
                    "method": given.get("method", "get"),
                    "fields": {},
                    "confirmed": confirmed,
                }
            )
        elif tag in _FIELDS:
            value = given.get("value", "")
            if given["name"] == "csrf_token":
                page.token, value = value, SECRET
            page.forms[-1]["fields"][given["name"]] = value
        elif tag == "table":
            page.tables.append({"headers": 0, "rows": 0})
        elif tag == "th" and page.tables:
            page.tables[-1]["headers"] += 1
        elif tag == "tr" and page.tables:
            page.tables[-1]["rows"] += 1
