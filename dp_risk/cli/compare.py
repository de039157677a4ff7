"""`dp-risk report --compare`: run folders side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dp_risk.cli import artefacts, manifest
from dp_risk.cli.display import console
from dp_risk.cli.folders import read_json, removed_if_empty, run_folder
from dp_risk.federation.files import new_folder
from dp_risk.privacy.keys import Key
from dp_risk.report.facts.comparison import FEWEST, MOST, Compared, build_comparison
from dp_risk.report.facts.run import SCHEMA_VERSION
from dp_risk.report.sections.comparison import at_a_glance
from dp_risk.types import ConfigurationError


def compare(folders: Sequence[Path], out: Path | None, *, key: Key | None) -> None:
    """Write a folder that holds runs side by side, signed, and say what differs.

    Parameters
    ----------
    folders : sequence of Path
        Two to eight run folders of one kind; the first is the reference.
    out : Path or None
        The new folder; None: one under ``runs/``.
    key : Key or None
        Signs it; None is this user's.

    Raises
    ------
    ConfigurationError
        On too few or too many folders, one twice, one that is no run folder, or an `out` that
        holds something.
    VerificationError
        If a folder is not what was signed.
    """
    if not FEWEST <= len(folders) <= MOST:
        raise ConfigurationError(
            f"--compare: takes {FEWEST} to {MOST} run folders, not {len(folders)}"
        )
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ConfigurationError(f"--compare: {folder} is given twice")
    if out is not None:
        _check_out(out, places)
    runs = [_read(folder, name) for folder, name in zip(folders, names(places), strict=True)]
    report = build_comparison(runs)
    folder = run_folder(None if out is None else str(out), "compare", None)
    # Whole or not at all: the folder of one that was killed is still empty.
    with removed_if_empty(folder), new_folder(folder) as made:
        artefacts.write_facts(made, report, html=True, key=key)
        manifest.sign(made, key)
    show(console(), report, folder)


def names(places: Sequence[Path]) -> list[str]:
    """Return names of folders: the last step of each path, and as many more as tell them apart."""
    longest = max(len(place.parts) for place in places)
    for steps in range(1, longest + 1):
        found = [str(Path(*place.parts[-steps:])) for place in places]
        if len(set(found)) == len(found):
            return found
    return [str(place) for place in places]


def _check_out(out: Path, places: Sequence[Path]) -> None:
    if out.suffix == ".html":
        raise ConfigurationError(f"--out: {out} looks like a file; a folder is written")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigurationError(f"--out: {out} is not empty; choose another, or leave it out")
    if any(place in (out.resolve(), *out.resolve().parents) for place in places):
        raise ConfigurationError(f"--out: {out} lies in a run folder, which is signed as it is")


def _read(folder: Path, name: str) -> Compared:
    # The page may be an older one: it is not read.
    signed = manifest.check_unchanged(folder, but=(artefacts.PAGE,))
    path = folder / artefacts.REPORT
    report = read_json(path, newest=SCHEMA_VERSION)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Compared(name=name, report=report, digest=digest, signer=str(signed["public_key"]))


def show(screen: Console, report: Mapping[str, Any], folder: Path) -> None:
    """Print what decides, run by run, and what to mind."""
    facts = report["comparison"]
    table = Table(title=report["title"], title_justify="left")
    table.add_column("")
    for i, run in enumerate(facts["runs"]):
        table.add_column(Text(f"{run['letter']} {run['name']}" + ("" if i else "\nreference")))
    for name, cells, same in at_a_glance(report):
        table.add_row(Text(name), *map(Text, cells), style="dim" if same else "")
    screen.print(table)
    for one in facts["cautions"]:
        screen.print(Text(f"mind: {one['words']}"))
    counts = facts["counts"]
    screen.print(
        f"{counts['settings_differ']} of {counts['settings']} settings and "
        f"{counts['keys_differ']} of {counts['keys']} keys of the configuration differ"
    )
    screen.print(Text(f"report: {folder / artefacts.PAGE}"), soft_wrap=True)
