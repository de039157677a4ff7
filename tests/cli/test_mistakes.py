"""Every mistake: exit code 2, one line that names it, no traceback, nothing left behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dp_risk import __version__

from .conftest import Run

BUILT_IN: dict[str, tuple[list[str], str]] = {
    "epsilon is a word": (["privacy.epsilon=abc"], "privacy.epsilon"),
    "epsilon below 0": (["privacy.epsilon=-1"], "privacy.epsilon"),
    "epsilon 0": (["privacy.epsilon=0"], "privacy.epsilon"),
    "epsilon NaN": (["privacy.epsilon=nan"], "privacy.epsilon"),
    "epsilon infinite": (["privacy.epsilon=inf"], "privacy.epsilon"),
    "epsilon null": (["privacy.epsilon=null"], "privacy.epsilon"),
    "epsilon a list": (["privacy.epsilon=[1]"], "privacy.epsilon"),
    "epsilon missing": ([], "privacy.epsilon"),
    "epsilon with trust none": (["privacy.epsilon=1", "privacy.trust=none"], "privacy.epsilon"),
    "an unknown trust": (["privacy.epsilon=1", "privacy.trust=me"], "privacy.trust"),
    "an unknown key": (["privacy.epsilon=1", "privacy.epsilom=1"], "epsilom"),
    "an unknown key with plus": (["privacy.epsilon=1", "+privacy.epsilom=1"], "epsilom"),
    "an unknown root key": (["privacy.epsilon=1", "sede=1"], "sede"),
    "an unknown group": (["privacy.epsilon=1", "modle=mlp"], "modle"),
    "an unknown option": (["privacy.epsilon=1", "model=oracle"], "oracle"),
    "an unknown data set": (["privacy.epsilon=1", "data=oracle"], "oracle"),
    "no assignment": (["privacy.epsilon"], "privacy.epsilon"),
    "an unknown experiment": (["+experiment=oracle"], "oracle"),
    "delta above 1/units": (["privacy.epsilon=1", "privacy.delta=0.5"], "privacy.delta"),
    "delta 0": (["privacy.epsilon=1", "privacy.delta=0"], "privacy.delta"),
    "delta 1": (["privacy.epsilon=1", "privacy.delta=1"], "privacy.delta"),
    "q above 1": (["privacy.epsilon=1", "privacy.sampling_rate=2"], "privacy.sampling_rate"),
    "q 0": (["privacy.epsilon=1", "privacy.sampling_rate=0"], "privacy.sampling_rate"),
    "clip norm 0": (["privacy.epsilon=1", "privacy.clip_norm=0"], "privacy.clip_norm"),
    "no sites": (["privacy.epsilon=1", "federation.sites=0"], "federation.sites"),
    "sites in words": (["privacy.epsilon=1", "federation.sites=abc"], "federation.sites"),
    "half a site": (["privacy.epsilon=1", "federation.sites=1.5"], "federation.sites"),
    "no rounds": (["privacy.epsilon=1", "federation.rounds=0"], "federation.rounds"),
    "too many min_sites": (["privacy.epsilon=1", "federation.min_sites=11"], "min_sites"),
    "no width": (["privacy.epsilon=1", "model=mlp", "model.width=0"], "model"),
    "an option of another model": (["privacy.epsilon=1", "model.width=3"], "width"),
    "a seed in words": (["privacy.epsilon=1", "seed=abc"], "seed"),
    "alpha 0": (["privacy.epsilon=1", "partition.alpha=0"], "alpha"),
    "no silo": (["privacy.epsilon=1", "partition=column"], "silo"),
    "no time": (["privacy.epsilon=1", "partition=time"], "time"),
    "more sites than rows": (["privacy.epsilon=1", "federation.sites=100000"], "sites"),
    "a lifetime of 0": (["privacy.epsilon=1", "sites.lifetime_epsilon=0"], "lifetime_epsilon"),
    "a file without a path": (["privacy.epsilon=1", "data=file"], "data.path"),
}


@pytest.mark.parametrize(("overrides", "named"), BUILT_IN.values(), ids=BUILT_IN)
def test_a_mistake_on_the_command_line(
    run: Run, tmp_path: Path, overrides: list[str], named: str
) -> None:
    said = run("train", *overrides)
    assert said.code == 2
    assert named in said.line
    assert len(said.line) < 400
    assert not said.out
    assert not list(tmp_path.rglob("run*.json"))
    assert not list(tmp_path.glob("runs/*-train*"))
    assert not list(tmp_path.rglob("ledger.sqlite"))


FILES: dict[str, tuple[dict[str, str | None], str]] = {
    "no such file": ({"data.path": "absent.csv"}, "absent.csv"),
    "a folder": ({"data.path": "."}, "data.path"),
    "another kind of file": ({"data.path": "tiny.schema.yaml"}, "tiny.schema.yaml"),
    "no schema": ({"data.schema": None}, "data.schema"),
    "no such schema": ({"data.schema": "absent.yaml"}, "absent.yaml"),
    "rows for a schema": ({"data.schema": "tiny.parquet"}, "tiny.parquet"),
    "no delta": ({"data.delta": None}, "delta"),
    "a holdout of all": ({"data.holdout": "1"}, "holdout"),
    "delta above 1/units": ({"data.delta": "0.01", "data.public_size": "true"}, "privacy.delta"),
}


@pytest.mark.parametrize(("changes", "named"), FILES.values(), ids=FILES)
def test_a_mistake_about_a_file(
    run: Run, tmp_path: Path, private: list[str], changes: dict[str, str | None], named: str
) -> None:
    given = {**dict(pair.split("=") for pair in private), **changes}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    said = run("train", "privacy.epsilon=2", *overrides)
    assert said.code == 2
    assert named in said.line
    assert not said.out
    assert not list(tmp_path.rglob("run.json"))
    assert not list(tmp_path.rglob("ledger.sqlite"))


@pytest.mark.parametrize(
    "override", ["model._target_=os.system", "data._target_=dp_risk.data.schema.Text"]
)
def test_a_class_that_is_not_of_the_group(run: Run, override: str) -> None:
    said = run("train", "privacy.epsilon=1", override)
    assert said.code == 2
    assert override.split(".")[0] in said.line


def test_a_column_that_the_file_does_not_have_costs_nothing(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    said = run("train", "privacy.epsilon=2", *private, "data.label=absent")
    assert said.code == 2
    assert "absent" in said.line
    assert not list(tmp_path.rglob("ledger.sqlite"))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_schema_that_is_not_filled_in(
    run: Run, tmp_path: Path, private: list[str], tiny_file: Path, suffix: str
) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    rows = tmp_path / f"mine{suffix}"
    pyarrow.csv.write_csv(pyarrow.parquet.read_table(tiny_file), tmp_path / "mine.csv")
    rows.write_bytes(tiny_file.read_bytes() if suffix == ".parquet" else rows.read_bytes())
    drafted = run("data", "schema", rows)
    assert drafted.code == 0, drafted.err
    draft = tmp_path / "mine.schema.yaml"
    said = run("train", "privacy.epsilon=2", *private, f"data.path={rows}", f"data.schema={draft}")
    assert said.code == 2
    assert "mine.schema.yaml" in said.line
    assert "fill" in said.line
    again = run("data", "schema", rows)
    assert again.code == 2
    assert "exists already" in again.line


def test_a_run_folder_that_is_not_empty(run: Run, tmp_path: Path, private: list[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").write_text("mine")
    said = run("train", "privacy.epsilon=2", *private, "run.dir=out")
    assert said.code == 2
    assert "run.dir" in said.line
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["kept"]


def test_a_run_folder_that_is_a_file(run: Run, tmp_path: Path, private: list[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert run("train", "privacy.epsilon=2", *private, "run.dir=out").code == 2
    said = run("train", "privacy.epsilon=2", *private, "run.dir=out/in")
    assert said.code == 2
    assert "run.dir" in said.line


PATHS = {
    "score without a model": ["score", "empty", "tiny.parquet"],
    "score without a run": ["score", "absent", "tiny.parquet"],
    "report without a run": ["report", "absent"],
    "verify without a run": ["verify", "absent"],
    "a ledger that is not there": ["ledger", "show", "absent"],
    "a chain that is not there": ["ledger", "verify", "absent"],
    "a draft of nothing": ["data", "schema", "absent.csv"],
    "columns of nothing": ["data", "describe", "absent.csv"],
    "columns of another kind": ["data", "describe", "tiny.schema.yaml"],
}


@pytest.mark.parametrize("arguments", PATHS.values(), ids=PATHS)
def test_a_path_that_leads_nowhere(
    run: Run, tmp_path: Path, tiny_file: Path, arguments: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    said = run(*arguments)
    assert said.code == 2
    assert any(part in said.line for part in arguments[1:])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", ["verify", "report"])
def test_a_folder_that_is_not_there_is_called_so(run: Run, verb: str) -> None:
    said = run(verb, "nowhere")
    assert said.code == 2
    assert said.line == "dp-risk: no such folder: nowhere"


@pytest.mark.parametrize(
    ("override", "quoted"),
    [
        ("evaluation.subgroups=[地域]", "evaluation.subgroups=['地域']"),
        ("evaluation.subgroups=[sex, 地域]", "evaluation.subgroups=[sex, '地域']"),
        ("report.owner=Müller & Söhne", "report.owner='Müller & Söhne'"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "train"])
def test_what_is_not_ascii_is_quoted(run: Run, verb: str, override: str, quoted: str) -> None:
    said = run(verb, "privacy.epsilon=1", override)
    assert said.code == 2
    assert said.line == f'dp-risk: {override}: quote what is not ASCII: "{quoted}"'


@pytest.mark.parametrize("arguments", [[], ["fly"], ["data"], ["score"], ["train", "--fly"]])
def test_a_command_that_does_not_parse_is_code_2(run: Run, arguments: list[str]) -> None:
    said = run(*arguments)
    assert said.code == 2
    assert "Traceback" not in said.err


@pytest.mark.parametrize("verb", ["train", "plan", "frontier", "score", "report", "verify", "data"])
def test_help_is_code_0(run: Run, verb: str) -> None:
    said = run(verb, "--help")
    assert said.code == 0
    assert f"dp-risk {verb}" in said.out


def test_the_version(run: Run) -> None:
    assert run("--version").out == f"dp-risk {__version__}\n"


def test_an_interruption_is_code_130_and_says_that_charges_stay(
    run: Run, private: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("server.rounds.Run._rounds", interrupted)
    said = run("train", "privacy.epsilon=2", *private, "run.dir=out")
    assert said.code == 130
    assert "charges are kept" in said.line


def test_an_internal_error_is_code_1_and_says_nothing_of_the_data(
    run: Run, private: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("jane-doe-4711")

    monkeypatch.setattr("server.rounds.Run.execute", fails)
    said = run("train", "privacy.epsilon=2", *private, "run.dir=out")
    assert said.code == 1
    assert "RuntimeError" in said.line
    assert "jane" not in said.err


@pytest.mark.parametrize("values", ["-1,2", "2,-1", "-1,-2"])
def test_a_mistake_in_any_job_of_a_sweep_is_found_before_one_is_charged(
    run: Run, tmp_path: Path, private: list[str], values: str
) -> None:
    said = run("train", "-m", f"privacy.epsilon={values}", *private, "run.dir=out")
    assert said.code == 2
    assert re.search(r"job [01]: privacy.epsilon.*no job was started", said.line)
    assert said.out == ""
    assert not list(tmp_path.glob("out/*"))
    assert not (tmp_path / "runs" / "sites").exists()


def test_a_second_sweep_does_not_mix_with_the_first(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    (tmp_path / "out" / "1").mkdir(parents=True)
    (tmp_path / "out" / "1" / "run.json").write_text("{}")
    said = run("train", "-m", "privacy.epsilon=1,2", *private, "run.dir=out")
    assert said.code == 2
    assert "job 1: run.dir" in said.line
    assert not (tmp_path / "runs" / "sites").exists()


def test_a_path_that_is_not_there_is_a_mistake_also_where_sites_hold_a_copy(
    run: Run, tmp_path: Path, private: list[str]
) -> None:
    assert run("train", "privacy.epsilon=1", *private).code == 0
    said = run("train", "privacy.epsilon=1", *private, "data.path=nowhere.csv", "data.name=tiny")
    assert said.code == 2
    assert "nowhere.csv" in said.line
