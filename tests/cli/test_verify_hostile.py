"""`dp-risk verify` on folders that somebody made to mislead it, to stop it, or to lead it out."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp_risk.cli import artefacts, evidence, manifest, planned
from dp_risk.cli.verify import verify
from dp_risk.federation import files
from dp_risk.privacy import keys, run_statement
from dp_risk.privacy.accounting import Event
from dp_risk.privacy.entries import CONTEXT
from dp_risk.privacy.ledger import Ledger
from dp_risk.privacy.release import canonical
from dp_risk.privacy.schedule import Purpose
from dp_risk.types import VerificationError
from tests.federation import policy

from .conftest import Run
from .test_evidence import STRANGER, edited, folder, made, read

__all__ = ["folder", "made"]
OTHER = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)


def speak_for(folder: Path, site: str, key: Ed25519PrivateKey) -> None:
    """Sign all that a site signs with another key, as whoever keeps the folder can."""
    record, path = read(folder / "run.json"), folder / "ledgers" / f"{site}.json"
    (row,) = (one for one in record["sites"] if one["site"] == site)
    kept, public = read(path), keys.public_hex(key)
    for entry in kept["entries"]:
        entry["signature"] = keys.sign(key, CONTEXT, entry["hash"].encode())
    body = {name: v for name, v in kept["statement"].items() if name != "signature"}
    body["public_key"] = public
    signature = keys.sign(key, run_statement.CONTEXT, canonical(body))
    kept["statement"] = row["statement"] = {**body, "signature": signature}
    row |= {
        "key": public,
        "ledger_signature": keys.sign(key, CONTEXT, row["ledger_head"].encode()),
    }
    path.write_text(json.dumps(kept))
    (folder / "run.json").write_text(json.dumps(record))
    artefacts.write_report(folder, html=True, key=STRANGER)
    manifest.sign(folder, STRANGER)


@pytest.mark.parametrize("theirs", ["the federation's", "another site's"])
def test_a_key_that_is_trusted_for_something_else_does_not_speak_for_a_site(
    folder: Path, tmp_path: Path, theirs: str
) -> None:
    key = STRANGER if theirs == "the federation's" else OTHER
    trusted = tmp_path / "keys"
    trusted.write_text("\n".join(map(keys.public_hex, (STRANGER, OTHER))))
    if theirs == "another site's":
        speak_for(folder, "site-01", OTHER)
    speak_for(folder, "site-00", key)
    with pytest.raises(VerificationError, match="another key than the plan names"):
        verify(folder, trusted)


def test_what_is_taken_out_of_a_record_is_missed(folder: Path) -> None:
    def bare(record: Any) -> None:
        for site in record["sites"]:
            del site["statement"], site["no_statement"], site["ledger_signature"]

    edited("run.json", bare)(folder)
    shutil.rmtree(folder / "ledgers")
    artefacts.write_report(folder, html=True, key=STRANGER)
    manifest.sign(folder, STRANGER)
    missed = verify(folder, None).not_checked
    assert "the ledger heads of 2 sites: not signed" in missed
    for site in ("site-00", "site-01"):
        assert any(line.startswith(f"what {site} charged: no statement") for line in missed)
    (folder / "plan.json").unlink()
    edited("run.json", lambda r: r.update(sites=[]))(folder)
    artefacts.write_report(folder, html=True, key=STRANGER)
    manifest.sign(folder, STRANGER)
    missed = verify(folder, None).not_checked
    assert "what was charged: the record names no site" in missed
    assert any(line.startswith("the plan that the sites signed") for line in missed)


def test_a_page_beside_the_page_is_named(folder: Path) -> None:
    (folder / "Report.html").write_text("epsilon 0.01")
    manifest.sign(folder, STRANGER)
    missed = verify(folder, None).not_checked
    assert "what Report.html say: no file of a run folder" in missed


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(".")


def outside(path: Path) -> None:
    (path.parent.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent.parent / "elsewhere")


@pytest.mark.parametrize("make", [pipe, link, loop, outside])
@pytest.mark.parametrize("name", ["report.json", "manifest.json", "audit", "x"])
def test_nothing_but_plain_files_is_opened(
    run: Run, folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    (folder / name).unlink(missing_ok=True)
    if name == "report.json":
        manifest.sign(folder, STRANGER)
    make(folder / name)
    for said in (run("verify", folder), run("report", folder)):
        assert said.code in ((2, 5) if name == "manifest.json" else (5,))
        assert said.out == ""
        assert "Traceback" not in said.err
    with pytest.raises(VerificationError, match="neither a plain file nor a folder"):
        manifest.sign(folder, STRANGER)


def test_an_audit_inside_an_audit_is_none(folder: Path) -> None:
    (folder / "audit" / "audit").mkdir(parents=True)
    for place in (folder / "audit" / "audit", folder / "audit", folder):
        (place / "a").write_text("")
        manifest.sign(place, STRANGER)
    with pytest.raises(VerificationError, match="an audit inside an audit"):
        verify(folder, None)


def test_a_manifest_that_nests_deeply_is_one_line(run: Run, folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 10**5)
    said = run("verify", folder)
    assert (said.code, said.out) == (5, "")
    assert said.line.endswith("the signature does not hold")


def test_what_others_wrote_does_not_write_lines_of_its_own(run: Run, folder: Path) -> None:
    def silenced(record: Any) -> None:
        why = "away\n9 files hold\x1b[1A\ud800"
        record["sites"][0] |= {"statement": None, "no_statement": why}

    edited("run.json", silenced)(folder)
    (folder / "ledgers" / "site-00.json").unlink()
    (folder / "report.html").unlink()
    artefacts.write_report(folder, html=False, key=STRANGER)
    manifest.sign(folder, STRANGER)
    said = run("verify", folder)
    assert said.code == 0, said.err
    assert r"no statement: away\u000a9 files hold\u001b[1A\ud800" in said.out


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)


def test_a_configuration_of_aliases_is_not_unfolded(folder: Path) -> None:
    (folder / "config.yaml").write_text(f"{BOMB}report: {{owner: *j}}\n")
    artefacts.write_report(folder, html=True, key=STRANGER)
    manifest.sign(folder, STRANGER)
    assert read(folder / "report.json")["review"]["owner"] is None
    verify(folder, None)


@pytest.mark.parametrize(
    "name", [".report.json.0123456789abcdef", ".manifest.json.0123456789abcdef"]
)
def test_a_report_that_was_killed_is_repaired_by_the_next(
    run: Run, folder: Path, name: str
) -> None:
    (folder / name).write_text("half")
    assert run("verify", folder).code == 5
    said = run("report", folder)
    assert said.code == 0, said.err
    assert run("verify", folder).code == 0


def test_a_comparison_that_was_killed_leaves_no_half_folder(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, out = shutil.copytree(folder, tmp_path / "other"), tmp_path / "both"

    def killed(*_: object, **__: object) -> None:
        # What a killed process leaves stays: nothing is tidied up.
        assert not out.exists() or not any(out.iterdir())
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dp_risk.cli.manifest.sign", killed)
        assert run("report", "--compare", folder, other, "--out", out).code == 130
    said = run("report", "--compare", folder, other, "--out", out)
    assert said.code == 0, said.err
    assert run("verify", out).code == 0


def deep(folder: Path) -> None:
    place = folder
    for _ in range(30):
        place = place / "a"
        place.mkdir()


def huge_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 20 << 30)


def huge_page(folder: Path) -> None:
    os.truncate(folder / "report.html", 200 << 30)


def many_large(folder: Path) -> None:
    for number in range(5):
        path = folder / f"{number}.safetensors"
        path.touch()
        os.truncate(path, 1 << 30)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (deep, "nest deeper than 20"),
        (huge_manifest, "manifest.json: larger than"),
        (huge_page, "report.html: larger than"),
        (many_large, ".safetensors: larger than"),
    ],
)
def test_what_is_too_large_is_one_line_before_it_is_read(
    run: Run, folder: Path, make: Callable[[Path], None], named: str
) -> None:
    make(folder)
    for verb in ("verify", "report"):
        said = run(verb, folder)
        assert (said.code, said.out) == (5, "")
        assert named in said.line


@pytest.mark.parametrize("name", ["ledgers", "report.html", "manifest.json", "hidden", "."])
def test_what_cannot_be_read_is_one_line(folder: Path, name: str) -> None:
    """As a user who is not root, where the tests are root's."""
    (folder / "hidden").mkdir()
    child = multiprocessing.get_context("fork").Process(target=_as_nobody, args=(folder, name))
    child.start()
    child.join()
    (folder / name).chmod(0o755)
    assert child.exitcode == 5


def _as_nobody(folder: Path, name: str) -> None:
    # From inside: others may not pass the folders above.
    os.chdir(folder)
    (folder / name).chmod(0)
    if os.geteuid() == 0:
        os.setuid(65534)
    try:
        verify(Path(), None)
    except VerificationError as error:
        sys.exit(5 if str(error).endswith(": Permission denied") else 1)


def charged(folder: Path, ledger: Path, event: Event, rounds: int, *, lines: int = 1) -> None:
    """Let a site of its own making charge an event, and the record say so."""
    record = read(folder / "run.json")
    row, path = record["sites"][0], folder / "ledgers" / "site-00.json"
    account = replace(
        policy(lifetime_epsilon=1e9).account, dataset=record["dataset"], delta=record["delta"],
        unit=record["unit"], partition={"column of ids": "a" * 64},
    )  # fmt: skip
    books = Ledger.open(ledger, account, key=OTHER)
    schedule = [
        Purpose(name=f"training-{n}", split="train", event=event, rounds=rounds)
        for n in range(lines)
    ]
    books.reserve(run=record["run"], plan_digest=record["plan"], schedule=tuple(schedule))
    books.close(record["run"])
    made = run_statement.make(books, site="site-00", run=record["run"])
    assert made is not None
    path.write_text(json.dumps({**read(path), **made}))
    said = made["statement"]
    balances = said["balances"]
    row |= {
        "key": keys.public_hex(OTHER),
        "statement": said,
        "ledger_head": said["head"],
        "ledger_signature": keys.sign(OTHER, CONTEXT, said["head"].encode()),
        "ledger_entries": said["entries"],
        "accounts": balances,
        "amendments": said["amendments"],
        "epsilon_lifetime_budget": said["lifetime_epsilon"],
        "epsilon_lifetime_left": min(one["left_epsilon"] for one in balances.values()),
        "epsilon_lifetime": max(one["spent_epsilon"] for one in balances.values()),
        "lifetime_used": max(one["used"] for one in balances.values()),
        "lifetime_used_before": 0.0,
    }
    record["charges"] = [
        {"purpose": line.name, "split": line.split, "event_json": line.total.to_dict()}
        for line in schedule
    ]
    # As an older program wrote it: no plan that would be compared first.
    for site in record["sites"]:
        del site["no_statement"]
    (folder / "plan.json").unlink()
    (folder / "run.json").write_text(json.dumps(record))
    manifest.sign(folder, STRANGER)


@pytest.mark.parametrize(
    ("noise", "rate", "rounds", "lines"),
    [
        (0.05, 0.01, 10**6, 1),
        (0.01, 0.5, 1000, 1),
        (0.1, 0.5, 10**6, 1),
        (1e4, 0.5, 10**7, 1),
        (1.0, 0.5, 10, 2),
        (1.0, 1.0, 10, 7),
    ],
)
def test_what_no_plan_charges_is_not_priced(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    noise: float,
    rate: float,
    rounds: int,
    lines: int,
) -> None:
    event = Event(noise_multiplier=noise, sampling_rate=rate)
    charged(folder, tmp_path / "ledger.sqlite", event, rounds, lines=lines)

    def slow(*_: object) -> None:
        raise AssertionError("priced")

    monkeypatch.setattr(evidence, "costs", slow)
    monkeypatch.setattr(evidence, "epsilon", slow)
    with pytest.raises(VerificationError, match="its charges are none that a plan can have"):
        verify(folder, None)


@pytest.mark.parametrize(
    ("noise", "rate", "rounds"), [(0.3, 0.01, 1000), (1.0, 1e-3, 10**6), (0.01, 1.0, 10**7)]
)
def test_what_a_plan_may_charge_is_priced(noise: float, rate: float, rounds: int) -> None:
    event = Event(noise_multiplier=noise, sampling_rate=rate)
    planned.check_price([Purpose(name="training", split="train", event=event, rounds=rounds)])


def test_charges_that_differ_are_not_priced(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged(folder, tmp_path / "ledger.sqlite", Event(noise_multiplier=1.0), 3)
    edited("run.json", lambda r: r["charges"].pop())(folder)
    manifest.sign(folder, STRANGER)
    monkeypatch.setattr(evidence, "costs", lambda *_: pytest.fail("priced"))
    with pytest.raises(VerificationError, match="other charges than"):
        verify(folder, None)


@pytest.mark.parametrize("error", [MemoryError, ZeroDivisionError])
def test_a_check_that_cannot_end_is_one_line(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def ends(*_: object) -> None:
        raise error

    monkeypatch.setattr(evidence, "costs", ends)
    said = run("verify", folder)
    assert (said.code, said.out) == (5, "")
    assert said.line.endswith(f"run.json: does not hold: not well formed ({error.__name__})")


def test_what_a_killed_writer_left_is_called_unfinished(run: Run, folder: Path) -> None:
    (folder / ".report.html.0123456789abcdef").write_text("half")
    said = run("verify", folder)
    assert said.code == 5
    assert said.line.endswith(".report.html.0123456789abcdef: unfinished: run dp-risk report again")


def test_a_report_waits_for_another(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other is writing is there until it is done."""
    half, entered = folder / ".report.html.0123456789abcdef", threading.Event()
    tidied, said = files.tidy, []

    def tidy(place: Path) -> None:
        entered.set()
        tidied(place)

    monkeypatch.setattr(files, "tidy", tidy)
    with files.held(folder):
        half.write_text("half")
        other = threading.Thread(target=lambda: said.append(run("report", folder)))
        other.start()
        assert not entered.wait(1.0)
        half.unlink()
    other.join()
    assert entered.is_set()
    assert said[0].code == 0, said[0].err


def test_a_report_of_no_folder_is_one_line(run: Run, tmp_path: Path) -> None:
    said = run("report", tmp_path / "none")
    assert (said.code, said.out) == (2, "")
    assert said.line


def test_a_full_disk_leaves_no_folder_of_a_comparison(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, out = shutil.copytree(folder, tmp_path / "other"), tmp_path / "both"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    manifest.signing_key()
    monkeypatch.setattr(os, "fsync", full)
    said = run("report", "--compare", folder, other, "--out", out)
    assert said.code == 1
    assert "No space left" in said.line
    assert not out.exists()
