"""Run folders: report and signed manifest."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dp_risk.cli.training import load_model
from dp_risk.data.coding import Coding
from dp_risk.data.schema import Schema
from dp_risk.federation.files import write
from dp_risk.models.additive import shapes
from dp_risk.privacy import keys as keyring
from dp_risk.privacy.entries import verify_head
from dp_risk.privacy.release import canonical
from dp_risk.report.audit_facts import build_audit
from dp_risk.report.facts import build
from dp_risk.report.render import render
from dp_risk.types import ConfigurationError, VerificationError
from server.provenance import commit, versions

SCHEMA_VERSION = 1
_MANIFEST = "manifest.json"
_MANIFEST_VERSION = 2
_CONTEXT = "dp-risk run"


def run_folder(asked: str | None, verb: str, job: int | None) -> Path:
    """Return a new, empty run folder.

    Raises
    ------
    ConfigurationError
        If the folder holds something already.
    """
    if asked is None:
        now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = Path("runs") / f"{now}-{verb}"
    else:
        folder = Path(asked)
    if job is not None:
        folder = folder / str(job) if asked else folder.with_name(f"{folder.name}-{job}")
    number, wanted = 1, folder
    while asked is None and folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    check_empty(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"run.dir: {folder}: {error.strerror}") from None
    return folder


def check_empty(folder: Path) -> None:
    """Refuse a run folder that holds something.

    Raises
    ------
    ConfigurationError
        If it does, or is no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"run.dir: {folder} is not empty; choose another, or leave it out")


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove a run folder that nothing useful was written to when a run fails."""
    try:
        yield
    except BaseException:
        if not any((folder / name).exists() for name in ("run.json", "audit.json")):
            for name in ("config.yaml", "rounds.jsonl"):
                (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        raise


def write_report(folder: Path, *, html: bool) -> None:
    """Build `report.json` from the other artefacts and render it."""
    record = read_json(folder / "run.json")
    frontier = None
    if (folder / "frontier.json").exists():
        frontier = read_json(folder / "frontier.json")
    about, weights = load_model(folder)
    explanation: list[dict[str, Any]] = []
    if about["model"] == "additive":
        coding = Coding(schema=Schema.from_dict(about["schema"]))
        explanation = shapes(weights, coding, float(about["options"]["value_scale"]))
    rounds = []
    if (folder / "rounds.jsonl").exists():
        rounds = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    report = build(
        "frontier" if frontier else "run",
        record,
        frontier,
        explanation,
        (folder / "config.yaml").read_text(),
        [line for line in rounds if line["auprc"] is not None or line["epsilon_spent"] is not None],
    )
    _write_report(folder, report, html=html)


def write_audit_report(folder: Path, *, html: bool) -> None:
    """Build `report.json` from `audit.json` and render it."""
    audit = read_json(folder / "audit.json")
    config = (folder / "config.yaml").read_text()
    report = build_audit(audit, config, versions(), commit())
    _write_report(folder, report, html=html)


def _write_report(folder: Path, report: dict[str, Any], *, html: bool) -> None:
    write(folder / "report.json", json.dumps(report, indent=2) + "\n")
    if html:
        write(folder / "report.html", render(report))


def read_json(path: Path, newest: int = SCHEMA_VERSION) -> dict[str, Any]:
    """Read an artefact of a version up to `newest`.

    Raises
    ------
    ConfigurationError
        If it is missing, malformed, or of a newer version.
    """
    try:
        data = json.loads(path.read_text())
        version = data["schema_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{path}: missing, or not an artefact of dp-risk") from None
    if not isinstance(version, int):
        raise ConfigurationError(f"{path}: its schema_version is no number")
    if version > newest:
        raise ConfigurationError(
            f"{path}: version {version} is newer than this program understands ({newest})"
        )
    return dict(data)


def _signing_key() -> keyring.Key:
    """Return this user's signing key, made on first use."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return keyring.load_or_create(home / "dp-risk" / "signing.key")


def sign(folder: Path, key: keyring.Key | None = None) -> None:
    """Write `manifest.json`: digests of all other files, signed with a key, else this user's."""
    digests = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _MANIFEST
    }
    key = key or _signing_key()
    body = {
        "schema_version": _MANIFEST_VERSION,
        "files": digests,
        "public_key": keyring.public_hex(key),
    }
    signature = keyring.sign(key, _CONTEXT, canonical(body))
    write(folder / _MANIFEST, _text({**body, "signature": signature}))


def _text(manifest: dict[str, Any]) -> str:
    files = {name: manifest["files"][name] for name in sorted(manifest["files"], key=Path)}
    order = ("schema_version", "files", "public_key", "signature")
    whole = {**{name: manifest[name] for name in order}, "files": files}
    return json.dumps(whole, indent=2) + "\n"


def _signed(manifest: dict[str, Any]) -> bool:
    body = {name: value for name, value in manifest.items() if name != "signature"}
    public, signature = body["public_key"], manifest["signature"]
    if manifest["schema_version"] == 1:
        # Version 1 signed without a context and without the key, and wrote base64.
        old = {"schema_version": 1, "files": body["files"]}
        bare = base64.b64decode(signature).hex()
        return keyring.verify(public, None, canonical(old), bare)
    return keyring.verify(public, _CONTEXT, canonical(body), signature)


def trusted(keys: Path, public: str) -> bool:
    """Whether a public key is in a file of trusted ones, one in hexadecimal a line.

    Raises
    ------
    ConfigurationError
        If the file cannot be read.
    """
    try:
        words = keys.read_text().split()
    except OSError as error:
        raise ConfigurationError(f"{keys}: {error.strerror}") from None
    except ValueError:
        words = []
    found = {word for word in words if len(word) == 64 and set(word) <= set("0123456789abcdef")}
    if not found:
        raise ConfigurationError(f"{keys}: holds no public key of 64 hexadecimal digits")
    return public in found


def check_unchanged(folder: Path, *, but: Sequence[str] = ()) -> dict[str, Any]:
    """Compare a run folder with its signed manifest, `but` files apart; return the manifest.

    Raises
    ------
    ConfigurationError
        If there is no manifest.
    VerificationError
        Naming the first thing that does not hold.
    """
    path = folder / _MANIFEST
    if not path.exists():
        raise ConfigurationError(f"{path}: missing, or not an artefact of dp-risk")
    try:
        manifest = read_json(path, newest=_MANIFEST_VERSION)
        good = path.read_bytes() == _text(manifest).encode() and _signed(manifest)
        files = dict(manifest["files"])
    except (ConfigurationError, ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise VerificationError(f"{path}: changed since it was signed: the signature does not hold")
    there = {
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != _MANIFEST
    }
    for name in sorted((set(files) | there) - set(but)):
        if name not in there:
            raise VerificationError(f"{folder / name}: missing")
        if name not in files:
            raise VerificationError(f"{folder / name}: not in the manifest")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != files[name]:
            raise VerificationError(f"{folder / name}: changed since it was signed")
    return manifest


def verify(folder: Path, keys: Path | None) -> list[str]:
    """Check a run folder against its manifest; return what was and was not checked.

    Parameters
    ----------
    folder : Path
        The run folder.
    keys : Path or None
        File with the trusted public keys, one in hexadecimal a line, obtained separately.

    Raises
    ------
    VerificationError
        Naming the first thing that does not hold.
    """
    manifest = check_unchanged(folder)
    files = manifest["files"]
    lines = [f"{len(files)} files hold against the manifest, and its signature holds"]
    if keys is None:
        lines.append("integrity only: no keys given, so who signed is not checked (--keys FILE)")
    elif not trusted(keys, str(manifest["public_key"])):
        raise VerificationError(f"{folder / _MANIFEST}: signed by a key that is not in {keys}")
    else:
        lines.append("signed by a key that you trust")
    return lines + _heads(folder, keys)


def _heads(folder: Path, keys: Path | None) -> list[str]:
    """Check the signatures of the ledger heads that a run's record holds."""
    if not (folder / "run.json").exists():
        # An audit's ledgers were thrown away.
        audit = json.loads((folder / "audit.json").read_text())
        failed = [check["name"] for check in audit["checks"] if not check["passed"]]
        return [
            f"the audit's verdict: claim {audit['verdict']}"
            + (f" ({', '.join(failed)})" if failed else "")
        ]
    record = json.loads((folder / "run.json").read_text())
    # Records of older runs hold no signatures.
    signed = [site for site in record.get("sites", ()) if "ledger_signature" in site]
    for site in signed:
        if not verify_head(site["key"], site["ledger_head"], site["ledger_signature"]):
            raise VerificationError(
                f"{folder / 'run.json'}: the ledger head of {site['site']} is not signed by its key"
            )
    lines = []
    if signed:
        lines.append(f"{len(signed)} ledger heads are signed by the keys that the record names")
        known = [s for s in signed if keys is not None and trusted(keys, s["key"])]
        if len(known) < len(signed):
            lines.append(
                f"not checked: whether {len(signed) - len(known)} of these keys are the sites' own"
            )
        else:
            lines.append("all of them are keys that you trust")
    lines.append(
        "not checked: what the ledgers hold (dp-risk ledger verify, at each site or on its export)"
    )
    return lines
