"""A bundle brings two names and no code, or the site does not take part."""

from __future__ import annotations

import hashlib
import io
import stat
import sys
import zipfile
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.install import install_from_fab
from flwr.common.config import get_fab_config
from hypothesis import given
from hypothesis import strategies as st

from dp_risk.federation.bundle import (
    COMPONENTS,
    CONTENT,
    MAX_BYTES,
    PYPROJECT,
    check_bundle,
    official_bundle,
)
from dp_risk.types import Refused

# On every machine and for every version of a compressor: sites approve it by this digest.
OFFICIAL = "dee434550dc03afee2f7873eb8efbf8c4acb297e9fddaf670e47f9310c81a01d"
STOCK = Path(__file__).parent.parent / "deployment" / "bundle"


def text(change: tuple[str, str] = ("", "")) -> bytes:
    with zipfile.ZipFile(io.BytesIO(official_bundle())) as archive:
        found = archive.read(PYPROJECT).decode()
    assert change[0] in found
    return found.replace(*change).encode()


def bundle(*files: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return made.getvalue()


def test_the_official_bundle_is_the_same_bytes_everywhere():
    assert hashlib.sha256(official_bundle()).hexdigest() == OFFICIAL
    assert check_bundle(official_bundle()) == OFFICIAL


def test_flower_reads_and_installs_the_official_bundle(tmp_path):
    app = get_fab_config(official_bundle())["tool"]["flwr"]["app"]
    assert app["components"] == COMPONENTS
    assert app["config"] == {"job": ""}
    placed = install_from_fab(official_bundle(), install_dir=tmp_path, skip_prompt=True)
    assert [path.name for path in placed.rglob("*") if path.is_file()] == [PYPROJECT]


def test_what_flower_builds_from_a_pyproject_alone_is_accepted():
    assert check_bundle(build_fab_from_disk(STOCK)) != OFFICIAL


@pytest.mark.parametrize(
    "name",
    [
        "clients/app.py",
        "server/__init__.py",
        "app.pyc",
        "../pyproject.toml",
        "/pyproject.toml",
        "./pyproject.toml",
        "pyproject.toml/",
        ".info/",
        ".info/app.py",
        "README.md",
        "PYPROJECT.TOML",
    ],
)
def test_anything_beside_the_pyproject_is_refused(name):
    with pytest.raises(Refused, match="more than its"):
        check_bundle(bundle((PYPROJECT, text()), (name, b"")))


def test_a_bundle_without_a_pyproject_is_refused():
    with pytest.raises(Refused, match="without"):
        check_bundle(bundle((CONTENT, b"")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused():
    with pytest.raises(Refused, match="twice"):
        check_bundle(bundle((PYPROJECT, text()), (PYPROJECT, b"")))


def test_a_symbolic_link_is_refused():
    link = zipfile.ZipInfo(PYPROJECT)
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(Refused, match="no file"):
        check_bundle(bundle((link, b"/etc/passwd")))


def test_an_encrypted_entry_is_refused():
    made = bytearray(bundle((PYPROJECT, text())))
    made[made.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(Refused, match="encrypted"):
        check_bundle(bytes(made))


def test_another_compression_is_refused():
    with pytest.raises(Refused, match="compression"):
        check_bundle(bundle((PYPROJECT, text()), method=zipfile.ZIP_LZMA))


def test_a_bundle_that_expands_is_refused():
    bomb = bundle((PYPROJECT, text() + b"#" * 20_000_000), method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < MAX_BYTES
    with pytest.raises(Refused, match="expands"):
        check_bundle(bomb)


def test_a_bundle_that_lies_about_what_it_expands_to_is_refused():
    big = text() + b"#" * 20_000_000
    bomb = bytearray(bundle((PYPROJECT, big), method=zipfile.ZIP_DEFLATED))
    for at in (bomb.index(b"PK\x03\x04") + 22, bomb.index(b"PK\x01\x02") + 24):
        bomb[at : at + 4] = (100).to_bytes(4, "little")
    with pytest.raises(Refused, match="no readable bundle"):
        check_bundle(bytes(bomb))


def test_a_large_bundle_is_refused_unread():
    with pytest.raises(Refused, match="above"):
        check_bundle(b"#" * (MAX_BYTES + 1))


@pytest.mark.parametrize(
    "change",
    [
        ('clientapp = "clients.app:app"', 'clientapp = "app:app"'),
        ('serverapp = "server.app:app"', 'serverapp = "server.app:other"'),
        ('clientapp = "clients.app:app"\n', ""),
        ('clientapp = "clients.app:app"', 'clientapp = ["clients.app:app"]'),
        ("[tool.flwr.app.config]", 'agentapp = "a:b"\n[tool.flwr.app.config]'),
        ("dependencies = []", 'dependencies = ["requests"]'),
        ("dependencies = []", 'dynamic = ["dependencies"]'),
        ("dependencies = []", 'optional-dependencies = { a = ["requests"] }'),
        ("[project]", '[build-system]\nrequires = ["x"]\n[project]'),
        ("[tool.flwr.app]", "[tool.pip]\nx = 1\n[tool.flwr.app]"),
        ('publisher = "dp-risk"', 'publisher = "dp-risk"\nfab-include = ["*.py"]'),
        ("[tool.flwr.app.components]", "[tool.flwr.other.components]"),
        ("[project]", "project = 1\n[other]"),
        ("[project]", "[project"),
        ("[project]", "a = " + "[" * 5000),
    ],
)
def test_a_pyproject_that_says_more_or_less_is_refused(change):
    with pytest.raises(Refused):
        check_bundle(bundle((PYPROJECT, text(change))))


def test_code_in_a_bundle_is_neither_run_nor_written(tmp_path, monkeypatch):
    """The planted bundle: its clients.app would send the rows, and leaves a trace when imported."""
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w').write('imported')\n".encode()
    planted = bundle(
        (PYPROJECT, text()), ("clients/__init__.py", code), ("clients/app.py", code),
        ("sitecustomize.py", code),
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    paths, modules = list(sys.path), set(sys.modules)
    with pytest.raises(Refused, match="more than its"):
        check_bundle(planted)
    assert (sys.path, set(sys.modules)) == (paths, modules)
    assert list(tmp_path.iterdir()) == []


@given(st.binary(max_size=2000))
def test_garbage_is_refused(garbage):
    with pytest.raises(Refused):
        check_bundle(garbage)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([PYPROJECT, CONTENT, "a.py", "b/", "../c", "d e"]),
            st.one_of(st.binary(max_size=50), st.just(text())),
        ),
        max_size=4,
        unique_by=lambda file: file[0],
    )
)
def test_a_zip_is_accepted_only_with_the_pyproject_and_flowers_list(files):
    names = {name for name, _ in files}
    fine = names <= {PYPROJECT, CONTENT} and dict(files).get(PYPROJECT) == text()
    made = bundle(*files)
    if fine:
        assert check_bundle(made) == hashlib.sha256(made).hexdigest()
    else:
        with pytest.raises(Refused):
            check_bundle(made)


@given(st.data())
def test_a_changed_byte_never_changes_what_the_bundle_names(data):
    made = bytearray(official_bundle())
    at = data.draw(st.integers(0, len(made) - 1))
    made[at] = data.draw(st.integers(0, 255))
    try:
        digest = check_bundle(bytes(made))
    except Refused:
        return
    # Only what is not read may differ: a date, a version, the list of Flower.
    assert digest == hashlib.sha256(made).hexdigest()
    assert get_fab_config(bytes(made))["tool"]["flwr"]["app"]["components"] == COMPONENTS
