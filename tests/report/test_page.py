"""What a page shows is what report.json says, and leads to how it is computed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.report import build, render
from dp_risk.report.facts.validation import validate
from dp_risk.report.page.bound import bind, escaped, pointer_of, resolve
from dp_risk.report.page.forms import FORMS, printed
from dp_risk.report.page.methods import METHODS
from dp_risk.report.page.reading import check_page
from dp_risk.types import VerificationError

from . import test_audit

Facts = dict[str, Any]
CONFIG = "data:\n  name: spambase\nreport:\n  owner: A. Person\n  review_by: 2027-06-30\n"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=4), inside, max_size=3)
    ),
    max_leaves=12,
)


@pytest.fixture(params=["run", "charged", "distributed", "frontier", "audit", "falsified"])
def report(
    request: pytest.FixtureRequest,
    run: Facts,
    frontier: Facts,
    shapes: list[Facts],
    rounds: list[Facts],
) -> Facts:
    kind = request.param
    if kind in ("audit", "falsified"):
        found = test_audit.audit() if kind == "audit" else test_audit.failing("gate", "sampler")
        return test_audit.facts(found)
    if kind == "charged":
        metrics = run["utility"]
        points = [{"score": 0.1, "rate": {"value": 0.12, "low": 0.02, "high": 0.3}}]
        estimates = {
            "metrics": metrics, "reliability": points, "capacity": 0.01, "bins": 8, "sites": 3
        }  # fmt: skip
        run |= {"estimates": estimates, "utility_source": "charged"}
    if kind == "distributed":
        run |= {"trust": "distributed", "max_colluding": 1, "spare_rounds": 9, "answers_lost": 2}
        run |= {"rounds_abandoned": 2, "doubts": ["A site has an older ledger"], "units": 1200}
        run["sites"][0] |= {"units": None, "rounds_joined": 41}
        dropped = {"site": "site-1", "purpose": "training", "reason": "norm", "answers": 3}
        run["dropped"] = [dropped]
    one = kind == "frontier"
    made = build(
        "frontier" if one else "run", run, frontier if one else None, shapes, CONFIG, rounds
    )
    return dict(json.loads(json.dumps(made)))


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{at}/{escaped(key)}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{at}/{i}")
    else:
        yield at, value


def _changed(report: Facts, pointer: str, value: Any) -> Facts:
    report = copy.deepcopy(report)
    above, _, last = pointer.rpartition("/")
    place = resolve(report, above)
    place[int(last) if isinstance(place, list) else last.replace("~1", "/").replace("~0", "~")] = (
        value
    )
    return report


def test_facts_have_the_published_form(report: Facts) -> None:
    validate(report)
    with pytest.raises(VerificationError, match="claim"):
        validate(report | {"claim": "one string"})
    with pytest.raises(VerificationError, match="'extra' was unexpected"):
        validate(report | {"extra": 1})


def test_a_page_shows_what_the_facts_say(report: Facts) -> None:
    assert check_page(render(report), report) > 60


def test_a_page_with_another_figure_is_found_out(report: Facts) -> None:
    html = render(report)
    bound = list(re.finditer(r"<data [^>]*>([^<]+)</data>", html))
    assert len(bound) > 30
    for match in bound[:: max(1, len(bound) // 40)]:
        changed = html[: match.start(1)] + "7" + html[match.start(1) :]
        with pytest.raises(VerificationError, match="the page says"):
            check_page(changed, report)
    for broken in ('data-fact="/no/such/place"', 'data-form="unheard-of"'):
        name = broken.partition("=")[0]
        with pytest.raises(VerificationError):
            check_page(re.sub(f'{name}="[^"]*"', broken, html, count=1), report)


def test_paper_is_tied_to_the_signed_file(report: Facts) -> None:
    signed = report | {"signature": {"public_key": "ab" * 32, "signature": "cd" * 64}}
    validate(signed)
    html = render(signed)
    assert check_page(html, signed) == check_page(render(report), report) + 2
    text = re.sub("<[^>]*>", "", html)
    assert "begins with abababababab, its signature with cdcdcdcdcdcd." in text


def _unbound(html: str) -> str:
    """Return a page without what is bound, drawn, or only repeats the facts as they are."""
    html = re.sub(r"<svg.*?</svg>", "", html, flags=re.S)
    html = re.sub(r"<data [^>]*>.*?</data>", "", html, flags=re.S)
    return re.sub(
        r'<span data-fact="[^"]*">(?:[^<]|<span class="together">[^<]*</span>)*</span>', "", html
    )


def test_every_number_that_depends_on_the_facts_is_bound(report: Facts) -> None:
    """Change any number a little: nothing but bound figures and drawings may change."""
    before = _unbound(render(report))
    numbers = [
        (at, value)
        for at, value in _leaves(report)
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and at != "/schema_version"
    ]
    assert len(numbers) > 40
    for at, value in numbers[:: max(1, len(numbers) // 150)]:
        more = value + 1 if isinstance(value, int) and value > 1 else value * (1 + 1e-6) + 1e-9
        if isinstance(value, int) and value <= 1:
            continue
        assert _unbound(render(_changed(report, at, more))) == before, at


class _Links(HTMLParser):
    """Collects ids and links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if "id" in found:
            self.ids.add(str(found["id"]))
        if tag == "a":
            self.links.add(str(found["href"]))


def test_links_lead_somewhere_and_ids_are_unique(report: Facts) -> None:
    html = render(report)
    read = _Links(html)
    assert {link[1:] for link in read.links} <= read.ids
    assert sorted(re.findall(r'\bid="([^"]*)"', html)) == sorted(read.ids)
    assert {f"how-{key}" for key in METHODS} <= read.ids


def test_every_figure_leads_to_how_it_is_computed(report: Facts) -> None:
    html = re.sub(r"<svg.*?</svg>", "", render(report), flags=re.S)
    checked = 0
    for block in re.findall(r"<table>.*?</table>", html, flags=re.S):
        heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", block)
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", block.partition("<tbody>")[2], flags=re.S):
            cells = re.findall(r"<(?:td|th)[^>]*>(.*?)</(?:td|th)>", row, flags=re.S)
            for head, cell in zip(heads, cells, strict=True):
                if "<data" in cell:
                    checked += 1
                    assert 'href="#how-' in head, (head, cell)
    rest = re.sub(r"<table>.*?</table>", "", html, flags=re.S)
    for tile in re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", rest, flags=re.S):
        if "<data" in tile[1]:
            checked += 1
            assert 'href="#how-' in tile[0], tile
    rest = re.sub(r"<dt>.*?</dd>", "", rest, flags=re.S)
    for section in re.findall(r"<section.*?</section>", rest, flags=re.S):
        if "<data" in section:
            assert 'href="#how-' in section
    assert checked > 20


@given(JSON)
def test_every_leaf_knows_its_place(value: Any) -> None:
    bound = bind(value)
    assert bound == value
    for at, leaf in _leaves(bound):
        if leaf is not None and not isinstance(leaf, bool):
            assert pointer_of(leaf) == at
            assert resolve(value, at) == leaf


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers() | st.none())
def test_a_figure_is_printed_the_same_whether_bound_or_not(value: Any) -> None:
    for form in FORMS:
        if form not in ("short", "bin", "time"):
            assert printed(bind(value), form) == printed(value, form)
