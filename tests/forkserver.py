"""Processes that start quickly, because what they need was imported before."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from typing import Any


def fresh(module: str) -> Any:
    """Return a context whose server has imported one module, not what another test chose."""
    # A process has one server, and the first module stays: Python's own tests stop it like this.
    forkserver._forkserver._stop()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context
