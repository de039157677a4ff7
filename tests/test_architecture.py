"""Which room may import which: read off the sources, so that lazy imports count too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    p for room in ("dp_risk", "server", "clients", "conf") for p in (ROOT / room).rglob("*.py")
)
ROOMS = {"server", "clients", "conf", "dp_risk"}
BELOW = {
    "dp_risk": set(),
    "dp_risk.types": set(),
    "dp_risk.privacy": {"dp_risk.types"},
    "dp_risk.data": {"dp_risk.types", "dp_risk.privacy"},
    "dp_risk.models": {"dp_risk.types", "dp_risk.privacy", "dp_risk.data"},
    "dp_risk.evaluation": {"dp_risk.types", "dp_risk.privacy"},
    "dp_risk.audit": {"dp_risk.types", "dp_risk.privacy"},
    "dp_risk.secure_sum": {"dp_risk.types", "dp_risk.privacy"},
    "dp_risk.federation": {"dp_risk.types", "dp_risk.privacy"},
}
_LIBRARY = {
    "dp_risk.types",
    "dp_risk.privacy",
    "dp_risk.data",
    "dp_risk.models",
    "dp_risk.evaluation",
    "dp_risk.audit",
    "dp_risk.secure_sum",
    "dp_risk.federation",
}
BELOW["dp_risk.report"] = BELOW["dp_risk.wire"] = _LIBRARY
BELOW["server"] = BELOW["clients"] = _LIBRARY | {"dp_risk.report", "dp_risk.wire"}
BELOW["dp_risk.cli"] = BELOW["server"] | {"server", "clients", "conf", "dp_risk"}
BELOW["conf"] = set()


def imported(path: Path, root: Path = ROOT) -> set[str]:
    """Return the dotted names that a file imports, `from a import b` as a.b."""
    found: set[str] = set()
    package = list(path.relative_to(root).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def room(dotted: str) -> str:
    """Return the room of a dotted name: its top package, one deeper inside dp_risk."""
    parts = dotted.split(".")
    if parts[0] == "dp_risk" and len(parts) > 1 and not parts[1].startswith("__"):
        return ".".join(parts[:2])
    return parts[0]


def name_of(path: Path) -> str:
    """Return the dotted name of a source file, relative to the repository."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_point_downwards(path):
    here = room(name_of(path))
    assert here in BELOW, f"{here} has no place in the architecture: give it one"
    for target in imported(path):
        there = room(target)
        if target.split(".")[0] in ROOMS and there != here:
            assert there in BELOW[here], f"{name_of(path)} imports {target}"


def importers(package: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name.split(".")[0] == package for name in imported(path))
    }


def test_the_library_knows_flower_in_one_file_and_under_the_roof_only():
    inside = {path for path in importers("flwr") if path.startswith("dp_risk/")}
    assert "dp_risk/wire.py" in inside
    assert {path for path in inside if not path.startswith("dp_risk/cli/")} == {"dp_risk/wire.py"}


def test_opacus_has_two_rooms():
    rooms = {"dp_risk/privacy/dpsgd.py", "dp_risk/privacy/one_pass.py"}
    assert importers("opacus") == rooms


@pytest.mark.parametrize("package", ["hydra", "omegaconf"])
def test_hydra_stays_under_the_roof(package):
    found = importers(package)
    assert found
    assert all(path.startswith("dp_risk/cli/") for path in found)


def test_models_see_the_coding_of_data_and_nothing_else_of_it():
    for path in SOURCES:
        if room(name_of(path)) == "dp_risk.models":
            data = {name for name in imported(path) if room(name) == "dp_risk.data"}
            assert all(name.startswith("dp_risk.data.coding.") for name in data), path


def test_server_and_clients_never_meet():
    for mine, other in (("server", "clients"), ("clients", "server")):
        for path in SOURCES:
            if name_of(path).split(".")[0] == mine:
                assert other not in {name.split(".")[0] for name in imported(path)}, path


def test_dp_accounting_does_not_decode_input():
    # Its own codec imports a module that the data names.
    for path in SOURCES:
        assert "from_named_tuple" not in path.read_text(), path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import server.app", "server.app"),
        ("def f():\n    from clients import site", "clients.site"),
        ("from . import data", "dp_risk.privacy.data"),
        ("from ..data.coding import Coding", "dp_risk.data.coding.Coding"),
        ("from .. import data", "dp_risk.data"),
    ],
)
def test_the_reader_of_imports_sees(tmp_path, source, expected):
    path = tmp_path / "dp_risk" / "privacy" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert expected in imported(path, tmp_path)


def test_flowers_inner_parts_have_one_file_at_a_site():
    public = {"app", "clientapp"}
    found = {
        path.name
        for path in SOURCES
        for name in imported(path)
        if name_of(path).startswith("clients.")
        and name.split(".")[0] == "flwr"
        and name.split(".")[1] not in public
    }
    assert found == {"fleet.py"}
