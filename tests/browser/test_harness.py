"""Every check of a page can fail: tiny pages with one fault each."""

from __future__ import annotations

import pytest

from tests.browser import checks
from tests.browser.conftest import Show

pytestmark = pytest.mark.browser

HEAD = '<!doctype html><html lang="en"><head><title>A page</title><meta charset="utf-8"><style>'
STYLE = ":focus-visible { outline: 2px solid #000 } body { margin: 0; background: #fff }"


def page(body: str, style: str = "") -> str:
    return (
        f"{HEAD}{STYLE}{style}</style></head><body><main><h1>A page</h1>{body}</main></body></html>"
    )


def plot(inner: str, after: str = "<table><tbody><tr><td>1</td></tr></tbody></table>") -> str:
    shapes = '<rect width="40" height="40" class="mark"/><line x2="90" y2="9" stroke="#000"/>'
    return page(
        '<section><h2>Plot</h2><svg role="img" aria-label="p" viewBox="0 0 200 100" width="200" '
        f'height="100">{shapes}{inner}</svg>{after}</section>'
    )


TABLE = "<table><tbody><tr><td>first<td>second<tr><td>third<td>fourth</tbody></table>"
GOOD = plot('<text x="50" y="80">one</text>') + '<a href="#top">up</a><p id="top">text</p>'


def test_a_good_page_has_no_complaint(show: Show, axe_core: str) -> None:
    tab = show(page(f'<p id="top">text</p><p><a href="#top">up</a></p>{TABLE}'))
    assert checks.quiet(tab) == []
    assert checks.axe(tab, axe_core) == []
    assert checks.keyboard(tab) == []
    tab = show(plot('<text x="50" y="80">one</text><text x="50" y="60">two</text>'))
    assert checks.plots(tab) == []
    for name in ("links", "fits", "cells", "whole", "muted", "swatches"):
        assert checks.ask(tab, name) == []
    assert checks.pages(tab.pdf()) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<script>console.error('lost')</script>", "error: lost"),
        ("<script>console.log('hello')</script>", "log: hello"),
        ("<script>throw new Error('broken')</script>", "Error: broken"),
        ('<img alt="" src="http://127.0.0.1:9/a.png">', "asked for http://127.0.0.1:9/a.png"),
        ('<link rel="stylesheet" href="other.css">', "other.css"),
    ],
)
def test_what_a_page_says_and_asks_for_is_heard(show: Show, body: str, words: str) -> None:
    assert words in "\n".join(checks.quiet(show(page(body))))


@pytest.mark.parametrize(
    ("html", "words"),
    [
        (plot('<text x="180" y="50">far too long</text>'), "is cut by"),
        (plot('<text x="50" y="2">high</text>'), "is cut by"),
        (plot('<text x="50" y="80">one</text><text x="55" y="82">two</text>'), "lies over"),
        (plot('<text x="50" y="80" fill="#aaa">faint</text>'), "has contrast"),
        (plot('<text x="50" y="80" font-size="6">small</text>'), "6.0 px high"),
        (plot('<path class="curve" d="M0,0L9,9" fill="none" stroke="#ddd"/>'), "has contrast 1.3"),
        (plot("", after=""), "has no table"),
        (plot("").replace("<rect", "<rect fill='none'"), "draws 1 shapes"),
        (plot("").replace('width="200" height="100"', 'width="2" height="1"'), "has no size"),
    ],
)
def test_a_bad_plot_is_found(show: Show, html: str, words: str) -> None:
    assert words in "\n".join(checks.plots(show(html)))


@pytest.mark.parametrize(
    ("name", "html", "words"),
    [
        ("links", page('<a href="#nowhere">x</a>'), "leads to #nowhere"),
        ("links", page('<a id="a" href="other.html">x</a>'), "leads to other.html"),
        ("links", page('<p id="a">x</p><p id="a">y</p>'), "id a is there twice"),
        ("links", page('<img alt="" src="data:,">'), "loads something"),
        ("links", page('<p style="background:url(#a)">x</p>'), "loads something"),
        ("fits", page('<p style="width:2000px">x</p>'), "too wide"),
        ("fits", page(f'<p style="overflow:hidden;white-space:nowrap">{"x " * 999}</p>'), "hides"),
        ("cells", page(TABLE, "td { display: block } td + td { margin-top: -9px }"), "lies over"),
        ("cells", page(TABLE, "table { width: 9px } td { max-width: 3px }"), "lies over"),
        ("cells", page(TABLE, "tr { display: grid } tr + tr { margin-top: -9px }"), "lies over"),
        ("whole", page("<details><summary>s</summary><p>x</p></details>"), "stays folded"),
        ("whole", page('<p style="width:2000px">x</p>'), "cut at the right"),
        ("whole", page(f'<pre style="overflow:auto">{"x" * 999}</pre>'), "px wide of"),
        ("muted", page('<p>a <i style="font-size:1.1em">b</i></p>'), "larger than"),
        (
            "muted",
            page('<p style="color:#444;font-size:2em">b</p>', ":root{--soft:#444}"),
            "larger",
        ),
        ("swatches", page('<p>a <i class="swatch"></i></p>', ".swatch{background:#fff}"), "swatch"),
    ],
)
def test_a_bad_layout_is_found(show: Show, name: str, html: str, words: str) -> None:
    assert words in "\n".join(checks.ask(show(html), name))


@pytest.mark.parametrize(
    ("html", "words"),
    [
        (page('<p style="color:#999">faint</p>'), "color-contrast"),
        (page('<img src="data:,">'), "image-alt"),
        (page("<h3>deep</h3>"), "heading-order"),
    ],
)
def test_axe_is_at_work(show: Show, axe_core: str, html: str, words: str) -> None:
    assert words in "\n".join(checks.axe(show(html), axe_core))


@pytest.mark.parametrize(
    ("html", "words"),
    [
        (page('<p id="a"><a href="#a" tabindex="-1">x</a></p>'), "Tab misses"),
        (page('<a href="#">x</a> <a href="#" tabindex="1">y</a>'), "out of order"),
        (page('<a href="#" style="outline:none">x</a>'), "does not show the focus"),
        (
            page("<details><summary onkeydown='event.preventDefault()'>s</summary>x</details>"),
            "Enter does not unfold",
        ),
    ],
)
def test_a_bad_keyboard_is_found(show: Show, html: str, words: str) -> None:
    assert words in "\n".join(checks.keyboard(show(html)))


def test_dark_is_dark(show: Show) -> None:
    tab = show(page("", "@media (prefers-color-scheme: dark) { body { width: 99px } }"))
    tab.emulate(checks.WIDE, prefers_color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).width") == "99px"


def test_a_long_page_prints_on_many(show: Show) -> None:
    assert checks.pages(show(page("<p>line</p>" * 200)).pdf()) > 2
