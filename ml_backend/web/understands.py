"""``/understands``: the page of what the demo's models understand, to which messages for annotators lead."""

from __future__ import annotations

import re
from collections.abc import Iterator

from flask import Flask, render_template
from markupsafe import Markup, escape

from ml_backend.requests import RequestError
from ml_backend.service import Service
from ml_backend.settings import Settings

PATH = "/understands"

_INLINE = re.compile(r"`([^`]+)`|\*([^*]+)\*")
_ROW = re.compile(r"^\|(.*)\|$")


def own_address(settings: Settings) -> str:
    """Where the server is, seen from this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def page_of_words(settings: Settings) -> str:
    """The address of the page, seen from this machine."""
    return own_address(settings) + PATH


def add_page_of_words(app: Flask, service: Service) -> None:
    """Add the page.

    Args:
        app: The app; it has the pages already, whose frame this one has.
        service: What answers annotators.
    """

    @app.get(PATH)
    def understands() -> str:
        if not service.guidance.reads_expressions:
            raise RequestError(
                404, "this server has no language model", "Click objects, or draw boxes around them."
            )
        if not service.guidance.lexicon.words:
            raise RequestError(
                404,
                "this preset has no list of words",
                "Its models read plain English; say what the object is, its colour, its position or how it moves.",
            )
        from steerseg.demo.understood import page  # with the catalogue, which other presets need not load

        title, *rest = page().splitlines()
        content = Markup("\n").join(_blocks("\n".join(rest)))
        return render_template("understands.html", title=title.removeprefix("# "), content=content)


def _blocks(markdown: str) -> Iterator[Markup]:
    """The blocks of a page in the Markdown that it uses: headings, tables and paragraphs, as HTML."""
    for block in filter(None, (part.strip() for part in markdown.split("\n\n"))):
        lines = block.splitlines()
        if all(_ROW.match(line) for line in lines):
            yield _table(lines)
        elif block.startswith("## "):
            yield Markup("<h2>{}</h2>").format(_inline(block.removeprefix("## ")))
        else:
            yield Markup("<p>{}</p>").format(_inline(" ".join(lines)))


def _table(lines: list[str]) -> Markup:
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    cells = Markup("").join(Markup("<th>{}</th>").format(_inline(cell)) for cell in head)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(Markup("<td>{}</td>").format(_inline(cell)) for cell in row)
        )
        for row in rows
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(cells, body)


def _inline(text: str) -> Markup:
    """A line of text with its code and its emphasis."""
    parts: list[Markup] = []
    last = 0
    for match in _INLINE.finditer(text):
        parts.append(escape(text[last : match.start()]))
        code, emphasis = match.groups()
        parts.append(
            Markup("<code>{}</code>").format(code) if code else Markup("<em>{}</em>").format(emphasis)
        )
        last = match.end()
    return Markup("").join((*parts, escape(text[last:])))
