"""The app bundle: what a server sends with a run. It names the installed apps and holds no code.

Flower's own bundle (FAB) is a zip that brings the code of both sides. Whoever starts a run would
then run code at every site, so only a bundle without any is accepted. It is read in memory; nothing
of it is imported, installed or written.
"""

from __future__ import annotations

import hashlib
import io
import stat
import tomllib
import zipfile
from collections.abc import Mapping
from functools import cache
from typing import Any

from dp_risk.types import Refused

PYPROJECT, CONTENT = "pyproject.toml", ".info/CONTENT"
COMPONENTS = {"serverapp": "server.app:app", "clientapp": "clients.app:app"}
# The official bundle has about 1 KB.
MAX_BYTES = 64 * 1024
_OFFICIAL = """\
[project]
name = "dp-risk-run"
version = "0.1.0"
description = "A dp-risk run: server and sites use what they have installed."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "dp-risk"

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "clients.app:app"

[tool.flwr.app.config]
job = ""
"""
# Flower's own date of everything in a bundle.
_DATE = (2024, 10, 1, 0, 0, 0)
_UNIX = 3
_FILE = (stat.S_IFREG | 0o600) << 16
_ENCRYPTED = 0x1
_PROJECT = {"name", "version", "description", "license", "dependencies"}
_APP = {"publisher", "components", "config"}


@cache
def official_bundle() -> bytes:
    """Return the bundle of every run: the same bytes on every machine, so sites can approve it.

    Its run configuration has one key, `job`: the whole run as JSON.
    """
    pyproject = _OFFICIAL.encode()
    manifest = f"{PYPROJECT},{hashlib.sha256(pyproject).hexdigest()},{len(pyproject) * 8}"
    made = io.BytesIO()
    # Stored, because what a compressor writes depends on its version.
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in ((PYPROJECT, pyproject), (CONTENT, manifest.encode())):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system, entry.external_attr = _UNIX, _FILE
            archive.writestr(entry, content)
    return made.getvalue()


def check_bundle(content: bytes) -> str:
    """Check that a bundle holds no code and names the installed apps.

    Parameters
    ----------
    content : bytes
        The bundle as it arrived.

    Returns
    -------
    str
        Its SHA-256, in hexadecimal.

    Raises
    ------
    Refused
        With the reason, if it is anything else than two small files that install nothing.
    """
    if len(content) > MAX_BYTES:
        raise Refused(f"a bundle above {MAX_BYTES} bytes")
    try:
        files = _files(content)
        config = tomllib.loads(files[PYPROJECT].decode())
    except Refused:
        raise
    except Exception as error:
        # Parsers of foreign bytes raise what they like: RecursionError, NotImplementedError, ...
        raise Refused(f"no readable bundle: {type(error).__name__}") from None
    _check_config(config)
    return hashlib.sha256(content).hexdigest()


def _files(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if PYPROJECT not in names:
            raise Refused(f"a bundle without {PYPROJECT}")
        foreign = next((name for name in names if name not in (PYPROJECT, CONTENT)), None)
        if foreign is not None:
            raise Refused(f"a bundle that holds more than its {PYPROJECT}: {foreign[:80]!r}")
        if len(set(names)) < len(names):
            raise Refused("a bundle with a name twice")
        for entry in entries:
            if entry.flag_bits & _ENCRYPTED:
                raise Refused("a bundle that is encrypted")
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise Refused("a bundle with something that is no file")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Refused("a bundle in an unknown compression")
        if sum(entry.file_size for entry in entries) > MAX_BYTES:
            raise Refused(f"a bundle that expands above {MAX_BYTES} bytes")
        # Never more than the size that the entry claims is expanded.
        return {entry.filename: archive.read(entry) for entry in entries}


def _check_config(config: Mapping[str, Any]) -> None:
    project, tool = config.get("project"), config.get("tool")
    flower = tool.get("flwr") if isinstance(tool, dict) else None
    app = flower.get("app") if isinstance(flower, dict) else None
    if not isinstance(project, dict) or not isinstance(app, dict):
        raise Refused("a bundle whose pyproject.toml names no app")
    if app.get("components") != COMPONENTS:
        raise Refused("a bundle that does not name server.app:app and clients.app:app alone")
    if project.get("dependencies", []) != []:
        raise Refused("a bundle with dependencies")
    for where, found, known in (
        ("", set(config), {"project", "tool"}),
        ("tool.", set(tool or {}), {"flwr"}),
        ("tool.flwr.", set(flower or {}), {"app"}),
        ("tool.flwr.app.", set(app), _APP),
        ("project.", set(project), _PROJECT),
    ):
        # A build system, extras, or what a later Flower may act on.
        for name in sorted(found - known):
            raise Refused(f"a bundle with {where}{name[:80]} in its pyproject.toml")
