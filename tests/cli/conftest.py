from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dp_risk.cli import main as cli


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The only line on standard error."""
        [line] = self.err.splitlines()
        assert line.startswith("dp-risk: ")
        assert "Traceback" not in self.err
        return line


Run = Callable[..., Said]


@contextmanager
def log_levels() -> Iterator[None]:
    """Leave the root logger to other tests as it was; the command line says what is logged."""
    root = logging.getLogger()
    before = root.level
    try:
        yield
    finally:
        root.setLevel(before)


@pytest.fixture(autouse=True)
def _log_levels() -> Iterator[None]:
    with log_levels():
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process, in a folder and a home of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def call(*arguments: str | Path) -> Said:
        capsys.readouterr()
        try:
            code = cli.run([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def private(tiny_file: Path) -> list[str]:
    """Overrides for a tiny run over two sites with private rows."""
    return [
        "data=file",
        f"data.path={tiny_file}",
        f"data.schema={tiny_file.with_suffix('.schema.yaml')}",
        "data.delta=1e-5",
        "partition=iid",
        "federation.sites=2",
        "federation.rounds=3",
    ]


@pytest.fixture
def public(private: list[str]) -> list[str]:
    """Overrides for a tiny run over two sites with public rows."""
    return [*private, "data.public=true", "data.public_size=true", "evaluation.bootstrap=5"]
