"""`dp-risk report --compare`: a signed folder of its own that says what differs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from dp_risk.cli.compare import names

from .conftest import Run


@pytest.fixture
def two(run: Run, public: list[str]) -> tuple[Path, Path]:
    """Two small runs over the same sites."""
    for name, epsilon in (("one", 1), ("two", 4)):
        said = run("train", *public, f"privacy.epsilon={epsilon}", f"run.dir={name}")
        assert said.code == 0, said.err
    return Path("one"), Path("two")


def test_two_runs_side_by_side(run: Run, two: tuple[Path, Path]) -> None:
    said = run("report", "--compare", *two, "--out", "both")
    assert said.code == 0, said.err
    assert "2 runs side by side" in said.out
    assert re.search(r"epsilon\s*│ 1\.00\s*│ ↑ 4\.00", said.out)
    assert "mind: A and B charged ledgers of the same sites." in said.out
    assert {path.name for path in Path("both").iterdir()} == {
        *("report.json", "report.html", "manifest.json"),
    }
    report = json.loads(Path("both/report.json").read_text())
    assert (report["kind"], report["schema_version"]) == ("comparison", 2)
    assert [one["name"] for one in report["comparison"]["runs"]] == ["one", "two"]
    checked = run("verify", "both")
    assert checked.code == 0, checked.err
    assert "not checked: the folders that were compared, one, two: verify each" in checked.out
    # A comparison renders again like a run, and is no run itself.
    assert run("report", "both").code == 0
    assert "both holds no run" in run("report", "--compare", "one", "both").line
    for name in ("report.json", "report.html"):
        path = Path("both") / name
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"4.0", b"3.0", 1))
        assert run("verify", "both").code == 5
        path.write_bytes(whole)
    assert run("report", "--compare", *reversed(two)).code == 0
    [folder] = Path("runs").glob("*-compare")
    assert '"name": "two"' in (folder / "report.json").read_text().partition('"name": "one"')[0]
    _mistakes(run, two)


def _mistakes(run: Run, two: tuple[Path, Path]) -> None:
    one, other = two
    before = sorted(Path().rglob("*"))
    for arguments, code, words in (
        (["--compare", one], 2, "takes 2 to 8 run folders, not 1"),
        (["--compare", one, f"{one}/../one"], 2, "is given twice"),
        (["--compare", one, "absent"], 2, "absent"),
        ([one, "--compare", one, other], 2, "takes one RUN, or --compare"),
        ([], 2, "takes one RUN, or --compare"),
        ([one, "--out", "new"], 2, "--out goes with --compare only"),
        (["--compare", one, other, "--out", other], 2, "is not empty"),
        (["--compare", one, other, "--out", one / "new"], 2, "lies in a run folder"),
        (["--compare", one, other, "--out", "new.html"], 2, "a folder is written"),
        (["--compare", one, other, "--audit", one], 2, "not into a comparison"),
    ):
        said = run("report", *arguments)
        assert (said.code, said.out) == (code, ""), arguments
        assert words in said.line
    shutil.copytree(other, "changed")
    path = Path("changed/run.json")
    path.write_text(path.read_text().replace("4.0", "1.0", 1))
    said = run("report", "--compare", one, "changed", "--out", "new")
    assert said.code == 5
    assert "changed/run.json: changed since it was signed" in said.line
    shutil.rmtree("changed")
    assert sorted(Path().rglob("*")) == before


def test_names_are_short_and_unlike() -> None:
    assert names([Path("/a/one"), Path("/a/two")]) == ["one", "two"]
    assert names([Path("/a/s/0"), Path("/a/t/0")]) == ["s/0", "t/0"]
    assert names([Path("/"), Path("/x")]) == ["/", "x"]
    assert names([Path("/x"), Path("/y/x")]) == ["/x", "y/x"]
