"""`dp-risk verify`: whether a run folder says one thing throughout, and who says it.

Everything here is read and computed again from the folder alone. What it cannot show is listed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

from dp_risk.audit.findings import FALSIFIED, NOT_FALSIFIED
from dp_risk.cli import agreement, artefacts, evidence
from dp_risk.cli.folders import parse, printable, read_json
from dp_risk.cli.manifest import MANIFEST, check_unchanged, trusted
from dp_risk.privacy.entries import GARBLED
from dp_risk.report.facts.comparison import KIND as COMPARISON
from dp_risk.report.facts.run import SCHEMA_VERSION as NEWEST
from dp_risk.report.facts.validation import validate
from dp_risk.report.page.reading import check_page, generator
from dp_risk.report.page.render import drawing, render
from dp_risk.types import ConfigurationError, VerificationError
from server.ledgers import FOLDER

SCHEMA_VERSION = 1
_RUN, _AUDITED = "run.json", "audit.json"
# The files and folders that a run, a frontier, an audit or a comparison leaves.
_KNOWN = frozenset(
    {
        _RUN, _AUDITED, artefacts.REPORT, artefacts.PAGE, artefacts.AUDIT, FOLDER,
        "frontier.json", "plan.json", "config.yaml", "rounds.jsonl", "model.json",
        "model.safetensors",
    }
)  # fmt: skip
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was checked and holds, and what could not be checked, one line each.

    Parameters
    ----------
    checked, not_checked : tuple of str
        In the order of the checks.
    signers : mapping of str to str
        The public keys that signed, in hexadecimal, by what they signed.
    falsified : tuple of str
        The checks by which an audit in the folder falsified the claim.
    """

    checked: tuple[str, ...]
    not_checked: tuple[str, ...]
    signers: Mapping[str, str]
    falsified: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Encode for `dp-risk verify --json`."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}


class Notes:
    """Collects the lines of `Found`."""

    def __init__(self, keys: Path | None) -> None:
        self._keys = keys
        self.checked: list[str] = []
        self.not_checked: list[str] = []
        self.signers: dict[str, str] = {}
        self.falsified: tuple[str, ...] = ()

    def holds(self, line: str) -> None:
        """Note what was checked."""
        self.checked.append(printable(line))

    def missing(self, line: str) -> None:
        """Note what could not be checked."""
        self.not_checked.append(printable(line))

    def signed(self, what: str, key: str, where: Path) -> None:
        """Note who signed something.

        Raises
        ------
        VerificationError
            If it is nobody whose key was given.
        """
        self.signers[what] = key
        if self._keys is not None and not trusted(self._keys, key):
            raise VerificationError(f"{where}: signed by a key that is not in {self._keys}")

    def known(self, keys: Iterable[str]) -> bool:
        """Whether one of these keys was given."""
        return self._keys is not None and any(trusted(self._keys, key) for key in keys)

    @property
    def found(self) -> Found:
        """What was noted."""
        return Found(
            checked=tuple(self.checked),
            not_checked=tuple(self.not_checked),
            signers=dict(self.signers),
            falsified=self.falsified,
        )


def verify(folder: Path, keys: Path | None) -> Found:
    """Check a run folder; return what was and was not checked.

    Parameters
    ----------
    folder : Path
        The folder of a run, a frontier or an audit.
    keys : Path or None
        File with the trusted public keys, one in hexadecimal a line, obtained separately.

    Raises
    ------
    ConfigurationError
        If there is no manifest, or the keys cannot be read.
    VerificationError
        Naming the first thing that does not hold.
    """
    notes = Notes(keys)
    manifest = check_unchanged(folder)
    notes.holds(
        f"{len(manifest['files'])} files hold against the manifest, and its signature holds"
    )
    notes.signed("manifest", str(manifest["public_key"]), folder / MANIFEST)
    if keys is None:
        notes.missing("who signed: integrity only, because no keys were given (--keys FILE)")
    else:
        notes.holds("signed by a key that you trust")
    if (folder / artefacts.AUDIT).exists():
        _attached(folder / artefacts.AUDIT, keys, notes)
    for name, check in _CHECKS.items():
        if (folder / name).exists():
            with_one_line(folder / name, check, folder, notes)
        elif name in (artefacts.REPORT, artefacts.PAGE):
            notes.missing(f"{name}: there is none")
    if (folder / _RUN).exists():
        with_one_line(folder / _RUN, _speakers, folder, notes)
    _unread(manifest["files"], notes)
    return notes.found


def _speakers(folder: Path, notes: Notes) -> None:
    evidence.one_key_each(folder, notes.signers)


def _unread(names: Iterable[str], notes: Notes) -> None:
    """Say which files nothing was compared with: a page may lie beside the one that was checked."""
    others = [name for name in sorted(names) if Path(name).parts[0] not in _KNOWN]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        notes.missing(f"what {', '.join(others[:_SHOWN])}{more} say: no file of a run folder")


def _attached(folder: Path, keys: Path | None, notes: Notes) -> None:
    """Check the audit in a run's folder like any other, by whoever it was signed."""
    if (folder / artefacts.AUDIT).exists():
        raise VerificationError(f"{folder / artefacts.AUDIT}: an audit inside an audit")
    report = folder / artefacts.REPORT
    if not report.exists() or read_json(report, newest=NEWEST)["schema_version"] < NEWEST:
        raise VerificationError(f"{report}: of an older version than the run's report needs")
    try:
        inside = verify(folder, keys)
    except ConfigurationError as error:
        # Nothing is wrong with what was asked: this folder lacks something.
        raise VerificationError(str(error)) from None
    for line in inside.checked:
        notes.holds(f"its audit: {line}")
    for line in inside.not_checked:
        notes.missing(f"its audit: {line}")
    notes.falsified = inside.falsified
    notes.signers.update({f"{folder.name}/{what}": key for what, key in inside.signers.items()})


def with_one_line(
    path: Path, check: Callable[[Path, Notes], None], folder: Path, notes: Notes
) -> None:
    """Run one check; whatever stands in the file, it fails in one line that names the file."""
    try:
        check(folder, notes)
    except VerificationError as error:
        text = str(error)
        raise VerificationError(text if str(folder) in text else f"{path}: {text}") from None
    except (
        RecursionError,
        MemoryError,
        ArithmeticError,
        IndexError,
        OSError,
        SafetensorError,
        yaml.YAMLError,
        *GARBLED,
    ) as error:
        why = type(error).__name__
        raise VerificationError(f"{path}: does not hold: not well formed ({why})") from None


def _report(folder: Path, notes: Notes) -> None:
    path = folder / artefacts.REPORT
    report = read_json(path, newest=NEWEST)
    if artefacts.SIGNATURE in report:
        key = artefacts.signer(report)
        if key is None:
            raise VerificationError("changed since it was signed: its own signature does not hold")
        notes.signed(artefacts.REPORT, key, path)
        notes.holds("report.json holds against its own signature")
    else:
        notes.missing("report.json: it has no signature of its own, as older programs wrote it")
    if artefacts.FILES not in report and report["kind"] != COMPARISON:
        notes.missing(
            "whether record and model are those that report.json was signed with: it names no "
            "digests, as older programs wrote it"
        )
    if report["kind"] == COMPARISON and any((folder / n).exists() for n in (_RUN, _AUDITED)):
        raise VerificationError("of a comparison, in the folder of a run")
    if (report["schema_version"] < NEWEST or artefacts.SIGNATURE not in report) and _stated(folder):
        raise VerificationError("of an older version than the record beside it")
    if report["schema_version"] < NEWEST:
        notes.missing(
            f"the form and the facts of report.json: it is of version "
            f"{report['schema_version']}, this program checks {NEWEST}"
        )
        return
    validate(report)
    notes.holds(f"report.json has the published form of version {NEWEST}")
    if report["kind"] == COMPARISON:
        compared = ", ".join(str(run["name"]) for run in report[COMPARISON]["runs"])
        notes.missing(f"the folders that were compared, {compared}: verify each of them")
        return
    otherwise = agreement.check(folder, report)
    notes.holds("the facts of report.json follow from the files beside it")
    if otherwise is not None:
        notes.missing(f"the words of report.json at {otherwise}: this program puts them otherwise")


def _stated(folder: Path) -> bool:
    """Whether a run's record is of a program that signed reports of this version."""
    if not (folder / _RUN).exists():
        return False
    record = parse((folder / _RUN).read_text())
    return any("no_statement" in site for site in record.get("sites", []))


def _page(folder: Path, notes: Notes) -> None:
    report = read_json(folder / artefacts.REPORT, newest=NEWEST)
    # As bytes: reading text would make one line end of another.
    html = (folder / artefacts.PAGE).read_bytes().decode()
    count = check_page(html, report)
    if not count and report["schema_version"] == NEWEST:
        raise VerificationError("not a page of report.json: it marks no figure")
    notes.holds(f"{count} figures of report.html are those of report.json")
    if generator(html) != drawing():
        notes.missing(
            "what report.html shows: another version drew it, and only the figures that it marks "
            "were compared; dp-risk report on a copy of the folder draws it anew"
        )
    elif html != render(report):
        raise VerificationError("not the page that report.json gives")
    else:
        notes.holds("report.html is, byte for byte, the page that report.json gives")


def _audit(folder: Path, notes: Notes) -> None:
    audit = parse((folder / _AUDITED).read_text())
    passed = {check["name"]: check["passed"] for check in audit["checks"]}
    failed = [str(name) for name, held in passed.items() if held is not True]
    gate, claimed = audit["gate"]["epsilon_lower_bound"], audit["claimed_epsilon"]
    if not passed:
        raise VerificationError("no check stands behind its verdict")
    if audit["verdict"] != (FALSIFIED if failed else NOT_FALSIFIED):
        raise VerificationError("its verdict is not what its checks say")
    if passed.get("gate") is True and gate > claimed:
        raise VerificationError("its gate held at more than the claim")
    notes.falsified = tuple(printable(name) for name in failed)
    named = f" ({', '.join(failed)})" if failed else ""
    notes.holds(f"the audit's verdict: claim {audit['verdict']}{named}")
    notes.missing("the audit's measurements: only a re-run repeats them (docs/verification.md)")


_CHECKS: Mapping[str, Callable[[Path, Notes], None]] = {
    _RUN: evidence.check,
    _AUDITED: _audit,
    artefacts.REPORT: _report,
    artefacts.PAGE: _page,
}
