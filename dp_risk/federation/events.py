"""What a service says of an event: words, and facts by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def plain(event: str, facts: Mapping[str, Any]) -> str:
    """Return an event as text of one line, whatever is in it; a fact that is None is left out."""
    known = [f"{name}={_word(value)}" for name, value in facts.items() if value is not None]
    return " ".join([_printable(event), *known])


def _word(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    quoted = not text or " " in text or '"' in text or not text.isprintable()
    return json.dumps(text) if quoted else text


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
