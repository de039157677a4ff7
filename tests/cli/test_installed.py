"""A defect planted by hand in an installed copy of the program, as an auditor would try it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_RUN = "import sys; from dp_risk.cli.main import main; main()"


def audit(copy: Path, place: Path, data: Path) -> subprocess.CompletedProcess[str]:
    """Run the quick audit of a copy of the packages."""
    environment = {
        **os.environ, "PYTHONPATH": str(copy), "XDG_CONFIG_HOME": str(place / "home"),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    overrides = [
        "data=file", f"data.path={data}", f"data.schema={data.with_suffix('.schema.yaml')}",
        "data.delta=1e-5", "data.public=true", "federation.sites=2", "partition=iid",
        "privacy.epsilon=2", "audit=quick", "run.dir=audit",
    ]  # fmt: skip
    place.mkdir()
    return subprocess.run(
        [sys.executable, "-c", _RUN, "audit", *overrides],
        cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_defect_planted_by_hand_exits_5_and_names_the_check(
    tmp_path: Path, tiny_file: Path
) -> None:
    copy = tmp_path / "copy"
    for package in ("dp_risk", "server", "clients", "conf"):
        shutil.copytree(ROOT / package, copy / package)
    honest = audit(copy, tmp_path / "honest", tiny_file)
    assert honest.returncode == 0, honest.stderr
    source = copy / "dp_risk" / "privacy" / "dpsgd.py"
    text = source.read_text()
    planted = text.replace("bound = self.max_grad_norm * ", "bound = 2 * self.max_grad_norm * ")
    assert planted != text
    source.write_text(planted)
    found = audit(copy, tmp_path / "planted", tiny_file)
    assert found.returncode == 5
    assert "sensitivity" in found.stderr.splitlines()[-1]
    written = json.loads((tmp_path / "planted" / "audit" / "audit.json").read_text())
    assert written["verdict"] == "falsified"
