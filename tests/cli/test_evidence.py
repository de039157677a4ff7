"""`dp-risk verify`: what a folder says twice, and who signed it, also where it was signed again."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp_risk.cli import artefacts, manifest
from dp_risk.cli import main as cli
from dp_risk.cli.verify import verify
from dp_risk.privacy import keys
from dp_risk.types import VerificationError
from tests import federation

from .conftest import Run, log_levels

STRANGER = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a private run over two sites."""
    import pyarrow.parquet as pq
    import yaml

    here = tmp_path_factory.mktemp("made")
    pq.write_table(federation.rows(), here / "tiny.parquet")
    (here / "tiny.schema.yaml").write_text(yaml.safe_dump(federation.SCHEMA, sort_keys=False))
    # Fixtures of a module are made before those that guard a test.
    with pytest.MonkeyPatch.context() as patch, log_levels():
        patch.chdir(here)
        patch.setenv("XDG_CONFIG_HOME", str(here / "config"))
        code = cli.run(
            [
                "train", "privacy.epsilon=2", "data=file", f"data.path={here}/tiny.parquet",
                f"data.schema={here}/tiny.schema.yaml", "data.delta=1e-5", "partition=iid",
                "federation.sites=2", "federation.rounds=3", "evaluation.subgroups=[kind]",
                "run.dir=out",
            ]
        )  # fmt: skip
        assert code == 0
        yield here / "out"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def all_keys(folder: Path) -> list[str]:
    sites = [site["key"] for site in read(folder / "run.json")["sites"]]
    return [read(folder / "manifest.json")["public_key"], *sites]


def test_it_lists_what_holds_and_what_no_folder_shows(run: Run, folder: Path) -> None:
    said = run("verify", folder)
    assert said.code == 0, said.err
    figures = said.out.split(" figures of report.html")[0].splitlines()[-1]
    assert int(figures) > 100
    [signer] = {line[-16:] for line in said.out.splitlines() if line.startswith("signed: ")}
    assert said.out.splitlines() == [
        "10 files hold against the manifest, and its signature holds",
        "run.json has the settings, charges and sites of the plan that the sites signed",
        "2 ledger heads are signed by the keys that the record names",
        "2 ledger statements hold: signatures, entries, charges, and each gives the run's epsilon "
        "again",
        "report.json holds against its own signature",
        "report.json has the published form of version 2",
        "the facts of report.json follow from the files beside it",
        f"{figures} figures of report.html are those of report.json",
        "report.html is, byte for byte, the page that report.json gives",
        "not checked: who signed: integrity only, because no keys were given (--keys FILE)",
        "not checked: whether 2 of these keys are the sites' own",
        "not checked: what the ledgers held before this run, and since (dp-risk ledger verify, at "
        "each site or on its export)",
        "not checked: what only the record's signer says: sizes, model and utility",
        "not checked: whether the sites read these rows and drew this noise: no file shows it",
        f"signed: manifest by {signer}",
        f"signed: report.json by {signer}",
    ]
    found = json.loads(run("verify", folder, "--json").out)
    lines = [*found["checked"], *(f"not checked: {line}" for line in found["not_checked"])]
    lines += [f"signed: {what} by {key[:16]}" for what, key in found["signers"].items()]
    assert lines == said.out.splitlines()
    assert set(found["signers"]) == {"manifest", "report.json"}


def test_with_everybodys_keys_only_what_is_outside_the_folder_is_open(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("\n".join(all_keys(folder)))
    said = run("verify", folder, "--keys", "keys")
    assert said.code == 0, said.err
    assert said.out.count("not checked") == 3
    assert "all of them are keys that you trust" in said.out


@pytest.mark.parametrize(
    ("small", "sampled"), [(0, 25), pytest.param(2500, 200, marks=pytest.mark.slow)]
)
def test_a_byte_of_any_file_counts(folder: Path, small: int, sampled: int) -> None:
    draw = random.Random(4)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(paths) == 11
    for path in paths:
        whole = path.read_bytes()
        places = range(len(whole))
        if len(whole) > small:
            places = [0, len(whole) - 1, *draw.sample(places, sampled)]
        for at in places:
            changed = bytearray(whole)
            changed[at] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(changed))
            with pytest.raises(VerificationError):
                verify(folder, None)
        path.write_bytes(whole)
    verify(folder, None)


def test_a_byte_of_every_file_is_an_exit_code(run: Run, folder: Path) -> None:
    for path in (path for path in sorted(folder.rglob("*")) if path.is_file()):
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        said = run("verify", folder)
        assert (said.code, said.out) == (5, ""), path
        assert said.line
        path.write_bytes(whole)


def edited(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Change the JSON of a file."""

    def edit(folder: Path) -> None:
        said = read(folder / name)
        change(said)
        (folder / name).write_text(json.dumps(said, indent=2) + "\n")

    return edit


def reported(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Change the report and sign it as somebody else."""

    def edit(folder: Path) -> None:
        said = read(folder / "report.json")
        change(said)
        del said["signature"]
        signed = artefacts._signed(said, STRANGER)
        (folder / "report.json").write_text(json.dumps(signed, indent=2) + "\n")

    return edit


def replaced(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return edit


def swapped(folder: Path) -> None:
    one, two = (folder / "ledgers" / f"site-0{n}.json" for n in (0, 1))
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


def cheaper(record: Any) -> None:
    record["epsilon_spent"] /= 2
    record["epsilon_by_split"] = {k: v / 2 for k, v in record["epsilon_by_split"].items()}


def silenced(record: Any) -> None:
    record["sites"][0] |= {"statement": None, "no_statement": "it was away"}


def other_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 0x40
    path.write_bytes(bytes(whole))


EDITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a figure of the report": (
        edited("report.json", lambda r: r["settings"].update(epsilon_spent=0.5)),
        "report.json: changed since it was signed",
    ),
    "the report's signer": (
        edited("report.json", lambda r: r["signature"].update(public_key="ab" * 32)),
        "report.json: changed since it was signed",
    ),
    "a figure, and the report signed anew": (
        reported(lambda r: r["settings"].update(epsilon_spent=0.5)),
        "/settings/epsilon_spent: not what the files beside it say",
    ),
    "a field more, and the report signed anew": (
        reported(lambda r: r.update(remark="very private")),
        "report.json: the whole: Additional properties",
    ),
    "a site less, and the report signed anew": (
        reported(lambda r: r["sites"].pop()),
        "/counts/sites|/sites: not what the files beside it say",
    ),
    "the record's epsilon": (edited("run.json", cheaper), "another epsilon than run.json says"),
    "the record's charges": (
        edited("run.json", lambda r: r["charges"][1]["event_json"].update(noise_multiplier=99.0)),
        "other charges than run.json says",
    ),
    "the record's statement": (
        edited("run.json", lambda r: r["sites"][0]["statement"].update(plan="0" * 64)),
        "another statement than run.json says",
    ),
    "a statement kept silent": (edited("run.json", silenced), "site-00.json: of no site whose"),
    "a site's budget": (
        edited("run.json", lambda r: r["sites"][0].update(epsilon_lifetime_left=9.9)),
        "other budgets than run.json says",
    ),
    "a site's account": (
        edited("run.json", lambda r: r["sites"][0].update(accounts={})),
        "other budgets than run.json says",
    ),
    "the words of a charge": (
        edited("run.json", lambda r: r["charges"][0].update(event="Gaussian(99)")),
        "not what its event costs",
    ),
    "the epsilon of a charge": (
        edited("run.json", lambda r: r["charges"][0].update(epsilon=0.01)),
        "not what its event costs",
    ),
    "the share of a charge": (
        edited("run.json", lambda r: r["charges"][0].update(share=0.9)),
        "not what its event costs",
    ),
    "a site twice": (
        edited("run.json", lambda r: r["sites"].append(r["sites"][0])),
        "the key of site-00 is also that of site-00|not what the files beside it say",
    ),
    "a name that leads out of the folder": (
        edited("run.json", lambda r: r["sites"][0].update(site="../../other")),
        "other sites take part than run.json says",
    ),
    "a site that was not there": (
        edited("run.json", lambda r: r["sites"].append({**r["sites"][0], "site": "site-07"})),
        "other sites take part than run.json says",
    ),
    "less noise than was planned": (
        edited("run.json", lambda r: r.update(sigma=2 * r["sigma"])),
        "sigma is another than run.json says",
    ),
    "a trust that was not planned": (
        edited("run.json", lambda r: r.update(trust="distributed")),
        "trust is another than run.json says",
    ),
    "another plan": (
        edited("plan.json", lambda p: p["plan"].update(rounds=p["plan"]["rounds"] + 1)),
        "not the plan whose digest run.json names",
    ),
    "a plan that is none": (replaced("plan.json", "{", "["), "plan.json"),
    "a name twice in a record": (
        replaced("run.json", "{", '{"epsilon_spent": 0.1,'),
        "run.json: does not hold: not well formed",
    ),
    "a name twice in the report": (
        replaced("report.json", "{", '{"claim": [],'),
        "report.json: does not hold: not well formed",
    ),
    "a report of an older version": (
        edited("report.json", lambda r: (r.update(schema_version=1), r.pop("signature"))),
        "of an older version than the record beside it",
    ),
    "a report without its signature": (
        edited("report.json", lambda r: r.pop("signature")),
        "of an older version than the record beside it",
    ),
    "a report of a comparison": (
        reported(lambda r: r.update(kind="comparison")),
        "of a comparison, in the folder of a run|report.json: ",
    ),
    "an entry of a ledger": (
        edited("ledgers/site-00.json", lambda s: s["entries"].pop(2)),
        "site-00.json: the run statement does not hold: the chain is broken",
    ),
    "a signed figure": (
        edited("ledgers/site-00.json", lambda s: s["statement"].update(lifetime_epsilon=11.0)),
        "site-00.json: the run statement does not hold",
    ),
    "the ledgers of two sites": (swapped, "site-00.json: another statement than run.json says"),
    "a ledger missing": (
        lambda f: (f / "ledgers" / "site-01.json").unlink(),
        "a statement of the record is not there: site-01.json",
    ),
    "a ledger too many": (
        lambda f: (f / "ledgers" / "site-07.json").write_text("{}") and None,
        "site-07.json: of no site whose",
    ),
    "a round": (replaced("rounds.jsonl", '"round": 3', '"round": 4'), "/files/rounds.jsonl: not"),
    "the configuration": (replaced("config.yaml", "seed: 0", "seed: 1"), "/configuration: not"),
    "the weights": (other_weights, "/files/model.safetensors: not what"),
    "a word of the page": (replaced("report.html", "budget", "gadget"), "not the page that"),
    "no record": (lambda f: (f / "run.json").write_text("[]") and None, "not well formed"),
    "deep nesting": (
        lambda f: (f / "run.json").write_text("[" * 10**5) and None, "not well formed"
    ),
    "no text": (lambda f: (f / "report.html").write_bytes(b"\xff\xfe") and None, "not well formed"),
}  # fmt: skip


def freed(folder: Path, record: Any) -> None:
    """Put an earlier head of a ledger beside budgets of nobody's."""
    first = read(folder / "ledgers" / "site-00.json")["entries"][0]
    record["sites"][0] |= {
        "ledger_head": first["hash"], "ledger_signature": first["signature"],
        "ledger_entries": 10**6, "epsilon_lifetime": 99.0, "epsilon_lifetime_left": 9.99,
        "lifetime_used": 1e-4,
    }  # fmt: skip
    record["epsilon_lifetime"] = 99.0


def away(folder: Path, record: Any) -> None:
    """Let no site have said anything, and a run cost less than was planned."""
    shutil.rmtree(folder / "ledgers")
    cheaper(record)
    for site in record["sites"]:
        site |= {"statement": None, "no_statement": "away", "epsilon_spent": 1.0}


def grouped(folder: Path, record: Any) -> None:
    record["subgroups"].append({**record["subgroups"][0], "column": "age"})


def exact(folder: Path, record: Any) -> None:
    record["utility_source"] = "exact"


def without_subgroups(folder: Path, record: Any) -> None:
    record["subgroups"], record["subgroups_note"] = [], "evaluation.subgroups names no column"


def without_plan(folder: Path, record: Any) -> None:
    (folder / "plan.json").unlink()
    record["sigma"] *= 2


# What whoever signs for the federation may write, but not for the sites.
FORGERIES: dict[str, tuple[Callable[[Path, Any], None], str]] = {
    "an earlier head that frees the budgets": (freed, "an earlier head of this ledger"),
    "a smaller part of the lifetime": (
        lambda _, r: r["sites"][0].update(lifetime_used_before=r["sites"][0]["lifetime_used"]),
        "other budgets than run.json says",
    ),
    "a smaller lifetime total": (
        lambda _, r: r.update(epsilon_lifetime=0.1), "not that of the site that spent most"
    ),
    "sites that were away": (away, "another epsilon than run.json says"),
    "a column that nobody planned": (grouped, "other subgroups than run.json says"),
    "no word of the columns that were charged": (without_subgroups, "does not tell of"),
    "exact figures of private rows": (exact, "the data of site-00 is not public"),
    "no plan": (without_plan, "plan.json: missing"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_the_federation_cannot_speak_for_the_sites(folder: Path, forgery: str) -> None:
    change, expected = FORGERIES[forgery]
    record = read(folder / "run.json")
    change(folder, record)
    (folder / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    artefacts.write_report(folder, html=True, key=STRANGER)
    manifest.sign(folder, STRANGER)
    with pytest.raises(VerificationError, match=re.escape(expected)):
        verify(folder, None)


def test_whoever_draws_the_page_again_does_not_sign_for_another_model(
    run: Run, folder: Path
) -> None:
    other_weights(folder)
    manifest.sign(folder, STRANGER)
    for words in ((), ("--audit", folder)):
        said = run("report", folder, *words)
        assert (said.code, "model.safetensors: not the file that" in said.line) == (5, True)


@pytest.mark.parametrize("edit", EDITS)
def test_whoever_signs_the_folder_again_is_still_caught(folder: Path, edit: str) -> None:
    change, expected = EDITS[edit]
    change(folder)
    manifest.sign(folder, STRANGER)
    with pytest.raises(VerificationError) as error:
        verify(folder, None)
    assert any(one in str(error.value) for one in expected.split("|")), error.value
    assert "\n" not in str(error.value)


def test_a_figure_of_the_page_is_compared_with_the_report(folder: Path) -> None:
    page = folder / "report.html"
    html = page.read_text()
    found = re.search(r'data-fact="[^"]*"[^>]*>[^<]*?(\d)', html)
    assert found
    other = str((int(found[1]) + 1) % 10)
    page.write_text(html[: found.start(1)] + other + html[found.end(1) :])
    manifest.sign(folder, STRANGER)
    with pytest.raises(VerificationError, match=r"report\.html: the page says"):
        verify(folder, None)


def test_a_page_of_another_version_is_checked_as_far_as_it_can_be(folder: Path) -> None:
    page = folder / "report.html"
    before, after = page.read_text().split('<meta name="generator" content="', 1)
    page.write_text(before + '<meta name="generator" content="x' + after)
    manifest.sign(folder, STRANGER)
    found = verify(folder, None)
    assert any(
        line.startswith("what report.html shows: another version") for line in found.not_checked
    )
    assert any("figures of report.html are" in line for line in found.checked)


def test_words_that_this_program_puts_otherwise_are_no_mistake(folder: Path) -> None:
    reported(lambda r: r.update(title="As another version called it"))(folder)
    (folder / "report.html").unlink()
    manifest.sign(folder, STRANGER)
    found = verify(folder, None)
    assert (
        "the words of report.json at /title: this program puts them otherwise" in found.not_checked
    )
    assert "report.html: there is none" in found.not_checked


def test_a_report_signed_by_a_stranger_is_no_report_of_the_federation(
    folder: Path, tmp_path: Path
) -> None:
    trusted = tmp_path / "keys"
    trusted.write_text("\n".join(all_keys(folder)))
    verify(folder, trusted)
    reported(lambda r: None)(folder)
    artefacts.write_page(folder)
    manifest.sign(folder, STRANGER)
    with pytest.raises(VerificationError, match=r"manifest\.json: signed by a key that is not in"):
        verify(folder, trusted)
    trusted.write_text("\n".join([*all_keys(folder)[1:], keys.public_hex(STRANGER)]))
    assert verify(folder, trusted).signers["report.json"] == keys.public_hex(STRANGER)


def test_drawing_a_page_again_keeps_the_reports_own_signature(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    key = tmp_path / "auditor.key"
    public = keys.public_hex(keys.load_or_create(key))
    before = (folder / "report.json").read_bytes()
    (folder / "report.html").write_text("torn")
    said = run("report", folder, "--key", key)
    assert said.code == 0, said.err
    assert (folder / "report.json").read_bytes() == before
    found = json.loads(run("verify", folder, "--json").out)
    assert found["signers"]["manifest"] == public
    assert (
        found["signers"]["report.json"] == read(folder / "report.json")["signature"]["public_key"]
    )
    assert found["signers"]["report.json"] != public
    # Who trusts the auditor alone does not trust the report.
    (tmp_path / "keys").write_text(public)
    said = run("verify", folder, "--keys", "keys")
    assert said.code == 5
    assert "report.json: signed by a key that is not in keys" in said.line


def test_a_site_without_a_statement_is_named(folder: Path) -> None:
    edited("run.json", silenced)(folder)
    (folder / "ledgers" / "site-00.json").unlink()
    artefacts.write_report(folder, html=True, key=STRANGER)
    manifest.sign(folder, STRANGER)
    found = verify(folder, None)
    assert "what site-00 charged: no statement: it was away" in found.not_checked
    assert any(line.startswith("1 ledger statements hold") for line in found.checked)


def test_a_folder_of_an_older_program_is_checked_as_far_as_it_goes(folder: Path) -> None:
    shutil.rmtree(folder / "ledgers")

    def older(record: Any) -> None:
        for site in record["sites"]:
            del site["statement"], site["no_statement"]

    def first(report: Any) -> None:
        report["schema_version"] = 1
        del report["signature"]

    edited("run.json", older)(folder)
    edited("report.json", first)(folder)
    artefacts.write_page(folder)
    manifest.sign(folder, STRANGER)
    found = verify(folder, None)
    assert any("no signature of its own" in line for line in found.not_checked)
    assert any("it is of version 1" in line for line in found.not_checked)
    assert not any("statement" in line for line in found.checked)
