"""A fresh machine: what is pinned, what `make` says when it cannot, what the wheel holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
INSTALL_FILES = ("Makefile", ".ci", "pyproject.toml", "constraints.txt")

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    # Inside `make test` a make would think itself a child and announce its directory.
    outside = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**outside, "PYTHON": "", "TORCH_INDEX": "", **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def own_lines(completed: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what we said on stderr, without the line make adds about the failed target."""
    return [line for line in completed.stderr.splitlines() if not line.startswith("make: ***")]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "a check out"
    folder.mkdir()
    for name in INSTALL_FILES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_every_declared_requirement_is_pinned_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pinned = pins()
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_pins_leave_the_build_of_torch_to_the_machine() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"[0-9a-z.]+", version), f"{name}=={version}"
        assert not name.startswith(("nvidia", "triton"))


@needs_make
def test_help_is_the_default_and_lists_the_targets() -> None:
    shown = run("make", cwd=ROOT)
    assert shown.returncode == 0
    for target in ("demo", "test", "test-all", "lint", "format", "clean"):
        assert re.search(rf"make {target} +\S", shown.stdout)


@needs_make
def test_an_old_python_is_one_line_and_costs_nothing(checkout: Path) -> None:
    kept = checkout / ".venv" / "kept"
    script(kept, "")
    old = script(checkout / "python3.9", "echo 3.9.2")
    refused = run("make", f"PYTHON={old}", "demo", cwd=checkout)
    assert refused.returncode != 0
    [line] = own_lines(refused)
    assert line.startswith(f"make: dp-risk needs Python 3.11 or newer; {old} is 3.9.2; set PYTHON=")
    assert kept.exists()


@needs_make
def test_a_full_disk_is_one_line(checkout: Path) -> None:
    df = "echo Filesystem blocks used available; echo /dev/x 9 9 1024000 99% /"
    shims = script(checkout / "shims" / "df", df).parent
    path = f"{shims}{os.pathsep}{os.environ['PATH']}"
    refused = run("make", f"PYTHON={sys.executable}", "demo", cwd=checkout, env={"PATH": path})
    assert refused.returncode != 0
    [line] = own_lines(refused)
    assert "1000 MB free" in line
    assert "needs 3000 MB" in line
    assert not (checkout / ".venv").exists()


@needs_make
def test_clean_keeps_the_runs(checkout: Path) -> None:
    ledger = checkout / "runs" / "sites" / "site-0" / "__pycache__" / "ledger"
    script(ledger, "")
    script(checkout / ".venv" / "bin" / "python", "")
    script(checkout / "server" / "__pycache__" / "app.pyc", "")
    assert run("make", "clean", cwd=checkout).returncode == 0
    assert ledger.exists()
    assert not (checkout / ".venv").exists()
    assert not (checkout / "server" / "__pycache__").exists()


@pytest.mark.slow
@needs_make
def test_no_network_is_one_line_and_leaves_the_log(checkout: Path) -> None:
    (checkout / "README.md").touch()
    offline = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9",
        "PIP_RETRIES": "1",
    }
    refused = run("make", f"PYTHON={sys.executable}", "demo", cwd=checkout, env=offline)
    assert refused.returncode != 0
    [line] = own_lines(refused)
    assert line.startswith("make: install failed: no network")
    assert (checkout / ".venv" / "install.log").read_text()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source") / "dp-risk"
    unwanted = shutil.ignore_patterns(".*", "runs", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=unwanted)
    folder = tmp_path_factory.mktemp("wheel")
    built = run(
        sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source, cwd=source
    )
    assert built.returncode == 0, built.stderr
    [path] = folder.glob("dp_risk-*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_code_configuration_and_data_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "dp_risk/py.typed",
        "dp_risk/data/builtin/spambase.parquet",
        "dp_risk/data/builtin/adult.yaml",
        "dp_risk/data/builtin/NOTICE",
        "dp_risk/evaluation/dp_ebm.json",
        "server/app.py",
        "clients/app.py",
        "conf/__init__.py",
        "conf/config.yaml",
    } <= names
    roots = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert roots == {"dp_risk", "server", "clients", "conf"}


@pytest.mark.slow
def test_the_wheel_trains_beside_files_that_bear_its_names(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    made = run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    python = environment / "bin" / "python"
    packages = "import sysconfig; print(sysconfig.get_path('purelib'))"
    # A path file lends the dependencies without the editable install beside them.
    there = Path(run(python, "-c", packages, cwd=tmp_path).stdout.strip())
    (there / "dependencies.pth").write_text(
        run(sys.executable, "-c", packages, cwd=tmp_path).stdout
    )
    installed = run(
        *(sys.executable, "-m", "pip", "--python", python),
        *("install", "-q", "--no-deps", "--ignore-installed", wheel),
        cwd=tmp_path,
    )
    assert installed.returncode == 0, installed.stderr

    work = tmp_path / "work"
    for stray in ("server.py", "clients.py", "conf/__init__.py"):
        script(work / stray, "").write_text("raise SystemExit('the wrong module')\n")
    trained = run(
        *(environment / "bin" / "dp-risk", "train", "data=spambase", "federation.sites=2"),
        *("privacy.epsilon=1", "federation.rounds=3"),
        *(f"run.dir={work / 'out'}", f"sites.dir={work / 'sites'}"),
        cwd=work,
    )
    assert trained.returncode == 0, trained.stderr
    assert (work / "out" / "run.json").exists()
