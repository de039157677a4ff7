"""The site's own log: events and facts, no value of a row."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any

from dp_risk.federation.events import plain
from dp_risk.types import DpRiskError

LOG = logging.getLogger("dp_risk.site")


def tell(level: int, event: str, **facts: Any) -> None:
    """Log one event.

    Parameters
    ----------
    level : int
        Of `logging`.
    event : str
        What happened, in a few words.
    facts : object
        What else is known of it, as JSON data.
    """
    LOG.log(level, "%s", plain(event, facts), extra={"facts": {"event": event, **facts}})


def reason(error: Exception) -> str:
    """Return what may be said of an error: a library's own text may hold what it stumbled over."""
    if isinstance(error, DpRiskError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at line {frame[0].lineno} of {Path(frame[0].filename).name}" if frame else ""
    return f"{type(error).__name__}{where}"
