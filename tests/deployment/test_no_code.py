"""The app bundle brings names only: server and sites run what they have installed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from flwr.cli.build import build_fab_from_disk

BUNDLE = Path(__file__).parent / "bundle"


def test_the_bundle_folder_holds_a_pyproject_alone():
    assert [path.name for path in BUNDLE.rglob("*")] == ["pyproject.toml"]


def test_what_flower_builds_and_sends_holds_no_code():
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(BUNDLE))) as built:
        sent = [name for name in built.namelist() if not name.startswith(".info/")]
    assert sent == ["pyproject.toml"]
