from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from clients.policy import Policy
from dp_risk.types import ConfigurationError
from tests.federation import KEY, plan, policy, public_plan, replaced


def test_a_policy_survives_its_file(tmp_path: Path) -> None:
    for rules in (policy(), policy(public=True, units=7)):
        rules.save(tmp_path / "policy.yaml")
        assert Policy.load(tmp_path / "policy.yaml") == rules


WRONG: dict[str, Any] = {
    "site": 7,
    "dataset": None,
    "delta": "small",
    "lifetime_epsilon": float("inf"),
    "run_epsilon": float("nan"),
    "min_noise_multiplier": True,
    "purposes": "training",
    "models": [1],
    "trusts": None,
    "public": "yes",
    "units": -1,
    "stable_ids": 1,
    "max_records_per_account": 1.5,
    "min_sites": "2",
    "max_colluding": None,
    "max_sites_per_unit": True,
    "roster": ["site-00"],
    "bundles": "ab",
}


def test_every_field_of_a_policy_file_has_a_comment(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    policy(roster={"site-00": "aa" * 32, "b": "cc" * 32}).save(path)
    lines = path.read_text().splitlines()
    for field in dataclasses.fields(Policy):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{field.name}:"))
        assert lines[at - 1].startswith("# "), field.name


@pytest.mark.parametrize("field", WRONG)
def test_a_policy_with_a_wrong_type_names_the_field(tmp_path: Path, field: str) -> None:
    path = tmp_path / "policy.yaml"
    policy().save(path)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), field: WRONG[field]}))
    with pytest.raises(ConfigurationError, match=field):
        Policy.load(path)


def test_a_missing_or_unknown_field_or_no_mapping_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    with pytest.raises(ConfigurationError, match="no readable policy"):
        Policy.load(path)
    policy().save(path)
    whole = yaml.safe_load(path.read_text())
    for name in set(whole) - {"bundles"}:
        path.write_text(yaml.safe_dump({k: v for k, v in whole.items() if k != name}))
        with pytest.raises(ConfigurationError, match=f"{name} is missing"):
            Policy.load(path)
    path.write_text(yaml.safe_dump({**whole, "publik": True}))
    with pytest.raises(ConfigurationError, match="unknown field publik"):
        Policy.load(path)
    for text in ("[1]", "{", "words"):
        path.write_text(text)
        with pytest.raises(ConfigurationError):
            Policy.load(path)


def objections(rules: Policy, **changes: Any) -> str:
    return "; ".join(rules.objections(plan(**changes)))


def test_an_honest_plan_meets_no_objection() -> None:
    assert objections(policy()) == ""
    assert list(policy(public=True).objections(public_plan())) == []


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"dataset": "other"}, "another dataset"),
        ({"delta": 1e-6}, "another delta"),
        ({"trusts": ()}, "trust local is not allowed"),
        ({"models": ("mlp",)}, "model additive is not allowed"),
        ({"randomness": ()}, "randomness system is not allowed"),
        ({"purposes": ("training", "score_bins", "evaluation")}, "purpose counts is not allowed"),
        ({"purposes": ("counts", "score_bins", "evaluation")}, "purpose training is not allowed"),
        ({"purposes": ("counts", "training", "evaluation")}, "purpose score_bins is not allowed"),
        ({"min_noise_multiplier": 1e3}, "below the smallest allowed"),
        ({"max_clip_norm": 0.5}, "above the largest allowed"),
        ({"run_epsilon": 1.5}, "above the cap of 1.5"),
        ({"stable_ids": False}, "another account"),
        ({"min_sites": 2}, "fewer sites"),
        ({"max_sites_per_unit": 2}, "fewer sites of a unit"),
        ({"roster": {"site-00": "bb" * 32}}, "'site-00' is not in the roster with this key"),
        ({"roster": {"site-01": KEY}}, "'site-00' is not in the roster"),
    ],
)
def test_each_rule_objects_alone(rules: dict[str, Any], said: str) -> None:
    reasons = list(replaced(policy(), **rules).objections(plan()))
    assert len(reasons) == 1
    assert said in reasons[0]


def test_the_roster_names_every_partner() -> None:
    both = {"site-00": KEY, "site-01": "cc" * 32}
    assert objections(policy(roster=both)) == ""
    assert objections(policy(roster=both), participants=both) == ""
    stranger = {**both, "site-02": "dd" * 32}
    assert "'site-02' is not in the roster" in objections(
        policy(roster=both), participants=stranger
    )


def test_a_plan_may_not_ask_for_fewer_answers_than_the_policy_wants() -> None:
    many = {"site-00": KEY, "site-01": "cc", "site-02": "dd" * 32}
    rules = policy(min_sites=3)
    assert objections(rules, participants=many, min_sites=3) == ""
    assert objections(rules, participants=many, min_sites=2) == "fewer sites than allowed"
    assert objections(rules, min_sites=3) == "fewer sites than allowed"


def test_the_cap_of_an_account_is_the_sites() -> None:
    rules = policy(unit="account", max_records_per_account=32)
    assert objections(rules, unit="account", max_records_per_account=32) == ""
    said = objections(rules, unit="account", max_records_per_account=33)
    assert said == "more records of an account than allowed"


def test_colluding_sites_are_at_least_the_policys() -> None:
    rules = policy(max_colluding=2)
    assert objections(rules) == ""
    for most, wrong in ((1, True), (2, False)):
        partners = {f"site-{n:02d}": KEY for n in range(5)}
        said = objections(
            rules, trust="distributed", max_colluding=most, min_sites=4, participants=partners
        )
        assert ("fewer colluding sites" in said) is wrong


def test_the_site_prices_the_plan_itself() -> None:
    assert "more than the plan says" in objections(policy(), epsilon=1.99)
    assert objections(policy(), epsilon=2.01) == ""
    # 2 is what the plan costs, so a cap just below forbids it whatever the plan says.
    assert "above the cap" in objections(policy(run_epsilon=1.99), epsilon=2.0)


def test_seeded_noise_needs_public_rows_even_where_it_is_listed() -> None:
    listed = policy(randomness=("system", "seeded"))
    assert objections(listed, randomness="seeded") == "seeded noise needs public data"
    assert objections(policy(public=True), randomness="seeded") == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "household"},
        {"purposes": ("dump",)},
        {"max_records_per_account": 2},
        {"unit": "account", "max_records_per_account": 0},
        {"min_sites": 0},
        {"max_colluding": -1},
        {"max_sites_per_unit": 0},
        {"delta": 1.0},
        {"lifetime_epsilon": 0.0},
        {"run_epsilon": -1.0},
        {"adjacency": "replace-one"},
        {"trusts": ("central",)},
        {"randomness": ("dice",)},
        # One partner under two names would count twice.
        {"roster": {"site-00": KEY, "site-01": "cc" * 32, "site-02": "cc" * 32}},
        {"roster": {"site-00": KEY, "site-01": "CC" * 32}},
        {"roster": {"site-00": KEY, "site-01": "cc"}},
    ],
)
def test_a_policy_never_promises_what_is_not_built(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="policy: "):
        policy(**changes)


def test_a_policy_file_of_before_bundles_approves_any(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    policy().save(path)
    old = yaml.safe_load(path.read_text())
    del old["bundles"]
    path.write_text(yaml.safe_dump(old))
    assert Policy.load(path) == policy()
    assert Policy.load(path).approves("ab" * 32)


def test_a_policy_that_lists_bundles_approves_those_alone() -> None:
    rules = policy(bundles=("ab" * 32,))
    assert rules.approves("ab" * 32)
    assert not rules.approves("cd" * 32)
    with pytest.raises(ConfigurationError, match="bundles"):
        policy(bundles=("AB" * 32,))
