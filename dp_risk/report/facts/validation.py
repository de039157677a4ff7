"""Whether facts have the published form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jsonschema

from dp_risk.types import VerificationError


@cache
def schema() -> Mapping[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``report.json``."""
    text = files("dp_risk.report").joinpath("schemas/report-2.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def validate(report: Mapping[str, Any]) -> None:
    """Check facts against the schema.

    Raises
    ------
    VerificationError
        Naming the first place that does not fit.
    """
    checker = jsonschema.Draft202012Validator(schema())
    error = next(
        iter(sorted(checker.iter_errors(report), key=lambda one: list(map(str, one.path)))), None
    )
    if error is not None:
        place = "/".join(map(str, error.absolute_path)) or "the whole"
        raise VerificationError(f"report.json: {place}: {error.message[:200]}")
