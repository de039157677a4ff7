"""Composition: every YAML fits its constructor, and every mistake is one line."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.utils import get_class

from dp_risk.cli import main as cli
from dp_risk.cli.compose import settings, sweep
from dp_risk.models import REGISTRY
from dp_risk.types import ConfigurationError

CONF = Path(str(resources.files("conf")))
GROUPS = sorted(
    path.relative_to(CONF)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name not in ("experiment", "__pycache__")
)


@pytest.mark.parametrize("path", GROUPS, ids=str)
def test_a_yaml_has_exactly_the_fields_of_its_constructor(path: Path) -> None:
    content = yaml.safe_load((CONF / path).read_text())
    fields = dataclasses.fields(get_class(content.pop("_target_")))
    assert set(content) == {field.name for field in fields}


@pytest.mark.parametrize("path", GROUPS, ids=str)
def test_a_yaml_builds_its_class(path: Path, tiny_file: Path) -> None:
    group, name = path.parent.name, path.stem
    overrides = ["privacy.epsilon=1", f"{group}={name}"]
    if (group, name) == ("data", "file"):
        overrides += [
            f"data.path={tiny_file}",
            f"data.schema={tiny_file.with_suffix('.schema.yaml')}",
            "data.delta=1e-5",
        ]
    built = settings(overrides)
    target = yaml.safe_load((CONF / path).read_text())["_target_"]
    made: Any = built.asked if group == "privacy" else None
    if group == "model":
        made = REGISTRY[built.model_name](**built.model_options)
    elif group != "privacy":
        made = getattr(built, group)
    assert type(made) is get_class(target)


@pytest.mark.parametrize("group", ["run", "sites", "server", "frontier"])
def test_the_root_has_exactly_the_fields_that_are_read(group: str) -> None:
    content = yaml.safe_load((CONF / "config.yaml").read_text())
    built = getattr(settings([]), group)
    assert set(content[group]) == {field.name for field in dataclasses.fields(built)}
    names = {next(iter(line)) for line in content["defaults"] if isinstance(line, dict)}
    assert names == {path.parent.name for path in GROUPS}
    assert set(content) == {"defaults", "seed", "run", "sites", "server", "frontier"}


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += parsers(child)
    return found


def examples() -> list[str]:
    lines: list[str] = []
    for parser in parsers(cli._parser()):
        for line in (parser.epilog or "").splitlines():
            if line.strip().startswith("dp-risk "):
                lines.append(line.strip())
    return sorted(set(lines))


def test_every_verb_has_an_example() -> None:
    spoken = {line.split()[1] for line in examples()}
    verbs = next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert spoken == set(verbs.choices)


@pytest.mark.parametrize("line", examples())
def test_an_example_of_the_help_parses_and_composes(line: str) -> None:
    options = cli._parser().parse_args(shlex.split(line)[1:])
    if "overrides" in options:
        sweeps = getattr(options, "multirun", False)
        jobs = list(sweep(options.overrides)) if sweeps else [options.overrides]
        for job in jobs:
            grid = ["grid=deployment"] if options.verb == "federation" else []
            built = settings([*grid, *job])
            if options.verb != "frontier":
                assert built.asked.epsilon is not None


def test_an_epsilon_that_nobody_gave_is_missing() -> None:
    assert settings([]).privacy is None
    with pytest.raises(ConfigurationError, match=r"privacy\.epsilon is required"):
        _ = settings([]).asked


def test_a_sweep_is_every_combination_in_order() -> None:
    jobs = list(sweep(["privacy.epsilon=1,2", "seed=0,1", "model=mlp"]))
    assert jobs == [
        [f"privacy.epsilon={e}", f"seed={s}", "model=mlp"] for e in (1, 2) for s in (0, 1)
    ]


def test_a_list_is_no_sweep() -> None:
    [job] = sweep(["frontier.epsilons=[1,2]"])
    assert settings(job).frontier.epsilons == [1.0, 2.0]


def test_the_delta_of_the_data_is_taken_unless_told() -> None:
    assert settings(["data=adult"]).privacy_values["delta"] == 1e-6
    assert settings(["data=adult", "privacy.delta=1e-7"]).privacy_values["delta"] == 1e-7
