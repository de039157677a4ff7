"""The auditor's page, docs/verification.md, block by block, on two machines."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "verification.md").read_text()
SECONDS = 500

pytestmark = pytest.mark.slow


def paste(block: str, here: Path) -> str:
    """Run a block of the page in a shell; return what it said."""
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    home = {"XDG_CONFIG_HOME": str(here / "config"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e", "-c", block],
        cwd=here,
        env={**os.environ, **home, "PATH": os.pathsep.join(paths), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stderr}"
    return done.stdout


def test_from_the_folder_to_a_verdict(tmp_path: Path) -> None:
    made, *checks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.S | re.M)
    there, here = tmp_path / "federation", tmp_path / "auditor"
    there.mkdir()
    paste(made, there)
    # All that the auditor gets.
    shutil.copytree(there / "runs" / "mine", here / "runs" / "mine")
    for name in ("site-00.json", "keys.txt"):
        shutil.copy(there / name, here)
    shutil.rmtree(there)
    folder, chain, same, epsilon, plan, audit, again = checks

    said = paste(folder, here)
    assert "3 ledger statements hold" in said
    assert "byte for byte" in said
    assert said.count("not checked") == 3
    assert "signed by a key that you trust" in paste(chain, here)
    assert paste(same, here) == "same chain\n"

    record = json.loads((here / "runs" / "mine" / "run.json").read_text())
    lines = [line.split() for line in paste(epsilon, here).splitlines()]
    for site in ("site-00", "site-01", "site-02"):
        found = max(float(figure) for name, _, figure in lines if name == site)
        assert found <= record["epsilon_spent"] + 5e-5
        assert found == pytest.approx(record["epsilon_spent"], abs=1e-3)

    paste(plan, here)
    plans = json.loads((here / "plan.json").read_text())["plans"]
    [sigma] = [one["sigma"] for one in plans if one["epsilon"] == 1]
    assert sigma == pytest.approx(record["sigma"], rel=1e-9)

    assert "claim not falsified" in paste(audit, here)
    paste(again, here)


def test_the_form_that_the_page_names_is_there() -> None:
    [named] = re.findall(r"`(\S+/schemas/\S+\.json)`", PAGE)
    assert json.loads((ROOT / named).read_text())["$schema"]
