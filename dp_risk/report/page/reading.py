"""Reads a page back: every figure that it shows against the facts that it was made from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

from dp_risk.report.page.bound import resolve
from dp_risk.report.page.forms import FORMS, printed
from dp_risk.types import VerificationError

_RAGGED = re.compile(r"<(?:[^<>]*(?:<|\Z)|\?|!(?!doctype html>))", re.IGNORECASE)
_TAG = re.compile("<[^<>]*>")
_LONGEST_TAG, _DEEPEST = 100_000, 200
_VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}


def check_page(html: str, report: Mapping[str, Any]) -> int:
    """Compare every bound figure of a page with the facts; return how many there are.

    Parameters
    ----------
    html : str
        A page that `dp_risk.report.page.render` made.
    report : mapping
        ``report.json``.

    Raises
    ------
    VerificationError
        Naming the first place where page and facts say different things, or a place that the
        facts do not have.
    """
    reader = _read(html)
    for pointer, form, text in reader.found:
        try:
            fact = resolve(report, pointer)
        except KeyError:
            raise VerificationError(f"the page shows {pointer}, which report.json lacks") from None
        if form not in FORMS:
            raise VerificationError(f"the page shows {pointer} in an unknown form, {form}")
        try:
            expected = printed(fact, form)
        except (TypeError, ValueError, OverflowError):
            expected = None
        if text != expected:
            raise VerificationError(
                f"the page says {text!r} at {pointer}, report.json says {fact!r}"
            )
    return len(reader.found)


def generator(html: str) -> str | None:
    """Return the program that a page says it was made by; None where it says nothing."""
    return _read(html).generator


def _read(html: str) -> _Reader:
    """Read a page whose tags all end, as those of any version do: others can take hours to read."""
    if _RAGGED.search(html) or len(max(_TAG.findall(html), key=len, default="")) > _LONGEST_TAG:
        raise VerificationError("not a page that this program draws: a tag does not end")
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader


class _Reader(HTMLParser):
    """Collects (pointer, form, text) of every bound element; their text may hold other elements."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.generator: str | None = None
        self._open: list[tuple[str, tuple[str, str] | None, list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "meta" and given.get("name") == "generator":
            self.generator = given.get("content")
        if tag in _VOID:
            return
        pointer = given.get("data-fact")
        if len(self._open) >= _DEEPEST:
            raise VerificationError("not a page that this program draws: too deep")
        place = None if pointer is None else (pointer, given.get("data-form") or "text")
        self._open.append((tag, place, []))

    def handle_endtag(self, tag: str) -> None:
        while self._open:
            opened, place, words = self._open.pop()
            text = "".join(words)
            if place is not None:
                self.found.append((*place, text))
            if self._open:
                self._open[-1][2].append(text)
            if opened == tag:
                break

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][2].append(data)
