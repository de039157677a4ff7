"""Parts of JSON whose shape nobody vouches for: what is not of the kind asked for is empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml


class _Unfolded(yaml.SafeLoader):
    """Knows no aliases: a few lines of them can stand for more text than there is memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError
        return super().compose_node(parent, index)


def configuration(text: Any) -> Any:
    """Return what a configuration holds; None where it is no YAML, or has aliases."""
    try:
        return yaml.load(text, Loader=_Unfolded)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError):
        return None


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping as a dictionary, anything else as an empty one."""
    return dict(value) if isinstance(value, Mapping) else {}


def listing(value: Any) -> list[Any]:
    """Return a list, anything else (a string too) as an empty one."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the mappings of a list."""
    return [item for item in listing(value) if isinstance(item, Mapping)]


def number(value: Any) -> float | int | None:
    """Return a finite number as it is, anything else as None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def finite(value: Any) -> float | None:
    """Return a finite number as float, anything else as None."""
    found = number(value)
    return None if found is None else float(found)


def count(value: Any) -> int | None:
    """Return a finite number as int, anything else as None."""
    found = number(value)
    return None if found is None else int(found)


def leaf(value: Any) -> str | int | float | None:
    """Return a text or a finite number as it is, None as None, anything else as text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return str(value)
