"""`dp-risk verify`: a byte of a run folder counts, wherever it is."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import pytest

from dp_risk.cli import manifest
from dp_risk.privacy import keys
from dp_risk.privacy.release import canonical
from tests.privacy.children import KEY

from .conftest import Run


@pytest.fixture
def folder(run: Run, tmp_path: Path) -> Path:
    """A signed run folder."""
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    (folder / "run.json").write_text('{"rounds": 3}\n')
    (folder / "deep" / "model").write_bytes(bytes(range(256)))
    (folder / "empty").write_text("")
    manifest.sign(folder)
    return folder


def test_every_byte_of_every_file_counts(run: Run, folder: Path) -> None:
    assert run("verify", folder).code == 0
    draw = random.Random(1)
    for path in (folder / "run.json", folder / "deep" / "model", folder / "manifest.json"):
        whole = path.read_bytes()
        for at in range(len(whole)):
            changed = bytearray(whole)
            changed[at] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(changed))
            said = run("verify", folder)
            assert (said.code, said.out) == (5, ""), (path, at)
            assert said.line
        for other in (whole + b"\n", whole[:-1], b" " + whole, b""):
            path.write_bytes(other)
            assert run("verify", folder).code == 5
        path.write_bytes(whole)
    assert run("verify", folder).code == 0


@pytest.mark.parametrize("change", [{"indent": None}, {"indent": 4}, {"sort_keys": True}], ids=str)
def test_a_manifest_spelled_otherwise_does_not_hold(
    run: Run, folder: Path, change: dict[str, object]
) -> None:
    path = folder / "manifest.json"
    spelled = json.dumps(json.loads(path.read_text()), **{"indent": 2, **change})  # type: ignore[arg-type]
    path.write_text(spelled + "\n")
    assert run("verify", folder).code == 5
    path.unlink()
    assert run("verify", folder).code == 2


def test_a_manifest_of_version_1_still_holds(run: Run, folder: Path) -> None:
    path = folder / "manifest.json"
    body = {"schema_version": 1, "files": json.loads(path.read_text())["files"]}
    old = {
        **body,
        "public_key": keys.public_hex(KEY),
        "signature": base64.b64encode(KEY.sign(canonical(body))).decode(),
    }
    path.write_text(json.dumps(old, indent=2) + "\n")
    said = run("verify", folder)
    assert said.code == 0, said.err
    (folder / "empty").write_text("x")
    assert run("verify", folder).code == 5
