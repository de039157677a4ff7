"""Pages that nobody drew: refused soon, whatever stands in them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.report.page.reading import check_page
from dp_risk.types import VerificationError

PIECES = ["<a ", "</", "<!", "<!--", "<![x", "<?x", "<b>x", "</b>", '<a b="', "&", ">", "<style>"]


@pytest.mark.parametrize(
    "page",
    ["<a " * 10**6, "<!" * 10**6, "<![x" * 10**6, '<a b="' * 10**6, "<b>x" * 10**5, "<?" * 10**6],
    ids=lambda page: page[:6],
)
def test_a_page_that_would_take_hours_is_refused(page: str) -> None:
    with pytest.raises(VerificationError, match="not a page that this program draws"):
        check_page(page, {})


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_any_page_is_read_or_refused(page: str) -> None:
    with contextlib.suppress(VerificationError):
        assert check_page(page, {}) == 0


@pytest.mark.parametrize("index", ["²", "9" * 5000, "-1", " 0", ""])
def test_an_index_that_is_none_leads_nowhere(index: str) -> None:
    page = f'<data data-fact="/sites/{index}" data-form="text">x</data>'
    with pytest.raises(VerificationError, match=r"report\.json lacks"):
        check_page(page, {"sites": ["x"]})
