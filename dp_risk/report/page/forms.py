"""The closed list of ways in which a figure may be printed; a page names the one it used."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

DASH = "–"  # noqa: RUF001


def number(value: object, digits: int = 3) -> str:
    """Return a number for reading; a dash where there is none; anything else as text."""
    if value is None:
        return DASH
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.{digits}f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"


def rate(value: float, digits: int = 3) -> str:
    """Return a rate with fixed decimals; one that they would show as 0 is below their smallest."""
    least = 10**-digits
    return f"<{least:g}" if 0 < value < least else f"{value:.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """Return an effect with its sign; zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")  # noqa: RUF001


def percent(share: float | None, digits: int = 4) -> str:
    """Return a share in [0, 1] as percent with the decimals that it needs, up to `digits`."""
    return DASH if share is None else f"{round(100 * share, digits):g}\u00a0%"


def rounded_up(x: float, digits: int = 2) -> str:
    """Return `x` with fixed decimals, never below `x`: a claim must not shrink in print."""
    scale = 10**digits
    if math.isinf(x * scale):
        return str(x)
    return f"{math.ceil(round(x * scale, 4)) / scale:.{digits}f}"


def rounded_down(x: float, digits: int = 2) -> str:
    """Return `x` with fixed decimals, never above `x`: for what is left of a budget."""
    scale = 10**digits
    if math.isinf(x * scale):
        return str(x)
    return f"{math.floor(round(x * scale, 4)) / scale:.{digits}f}"


def bin_label(label: object) -> str:
    """Return a bin's name as on an axis."""
    return str(label).strip(" :=").removeprefix("in ")


def _whole(x: float) -> str:
    return f"{x:,.0f}" if x >= 10 else f"{x:.1f}"


def _up(digits: int) -> Callable[[Any], str]:
    return lambda x: rounded_up(x, digits)


def _down(digits: int) -> Callable[[Any], str]:
    return lambda x: rounded_down(x, digits)


FORMS: dict[str, Callable[[Any], str]] = {
    "text": str,
    "number": number,
    "number2": lambda x: number(x, 2),
    "number4": lambda x: number(x, 4),
    "figures4": lambda x: f"{x:,}" if isinstance(x, int) else f"{x:.4g}",
    # Bounds are searched for up to 100.
    "ceiling": lambda x: "above 100" if x >= 100 else number(x),
    "general": lambda x: f"{x:g}",
    "fixed1": lambda x: f"{x:.1f}",
    "whole": _whole,
    "time": lambda x: f"{x[:16].replace('T', ' ')} UTC" if x.endswith("+00:00") else x,
    "count": lambda x: f"{int(x):,}",
    "plain": str,
    "up2": _up(2),
    "up3": _up(3),
    "down2": _down(2),
    "down3": _down(3),
    "rate3": rate,
    "signed2": signed,
    "signed3": lambda x: signed(x, 3),
    "percent": percent,
    "percent1": lambda x: f"{100 * x:.1f}\u00a0%",
    "short": lambda x: str(x)[:12],
    "bin": bin_label,
    "tenth": lambda x: f"{x:.1%}",
}


def printed(value: object, form: str) -> str:
    """Return a value in a form; a dash where there is none, and text as it is.

    Raises
    ------
    KeyError
        If there is no such form.
    """
    make = FORMS[form]
    if value is None:
        return DASH
    if isinstance(value, str):
        return make(value) if form in ("short", "bin", "time") else str(value)
    return make(value)
