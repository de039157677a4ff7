"""`dp-risk site tune`: a site chooses a learning rate and a clip norm on its own rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from clients.site import Site
from clients.tuning import DEFAULTS, Choice, Tuning, Winner, tune
from dp_risk.types import ConfigurationError


def run(
    folder: Path,
    *,
    epsilon: float,
    delta: float | None,
    candidates: str,
    model: str,
    out: Path | None,
    close_open_run: bool,
) -> list[str]:
    """Tune, write the winner as JSON and return what a person should know.

    Parameters
    ----------
    folder : Path
        The site's folder.
    epsilon : float
        What the tuning may cost.
    delta : float or None
        None takes the policy's; another than the policy's is refused.
    candidates : str
        `defaults`, or a YAML file: a list of mappings with learning_rate and clip_norm.
    model : str
        Name in the model registry.
    out : Path or None
        The JSON file; None writes ``tuning.json`` into the folder.
    close_open_run : bool
        See `clients.tuning.tune`.

    Raises
    ------
    ConfigurationError, Refused
        See `clients.tuning.tune`; then nothing is written.
    """
    choices = DEFAULTS if candidates == "defaults" else read_choices(Path(candidates))
    target = folder / "tuning.json" if out is None else out
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such site")
    if not target.parent.is_dir():
        raise ConfigurationError(f"{target}: no such folder")
    # Batches are small: more threads cost more than they give.
    torch.set_num_threads(1)
    site = Site.open(folder)
    try:
        asked = Tuning(
            epsilon=epsilon,
            delta=site.policy.delta if delta is None else delta,
            choices=choices,
            model=model,
        )
        winner = tune(site, asked, close_open_run=close_open_run)
    finally:
        site.ledger.close_file()
    use = _use(winner)
    target.write_text(json.dumps({**winner.to_dict(), "use": use}, indent=2) + "\n")
    return [
        f"winner of {winner.candidates}: learning rate {winner.choice.learning_rate:.4g}, clip "
        f"norm {winner.choice.clip_norm:g} ({winner.model})",
        f"run: epsilon {winner.epsilon_run:.4g} (RDP, private selection, delta {winner.delta:g})",
        f"lifetime: epsilon {winner.epsilon_lifetime:.4g} by the filter, "
        f"{winner.lifetime_used:.1%} of the budget used",
        f"use it, beside your data and epsilon: {use}",
        f"written: {target}",
    ]


def _use(winner: Winner) -> str:
    return (
        f"model={winner.model} federation.learning_rate={winner.choice.learning_rate:.6g} "
        f"privacy.clip_norm={winner.choice.clip_norm:.6g}"
    )


def read_choices(path: Path) -> tuple[Choice, ...]:
    """Read candidates from a YAML file.

    Raises
    ------
    ConfigurationError
        If it is no list of mappings with exactly learning_rate and clip_norm.
    """
    try:
        found: Any = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise ConfigurationError(f"{path}: no readable list of candidates") from None
    known = {"learning_rate", "clip_norm"}
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and set(one) == known for one in found
    ):
        raise ConfigurationError(
            f"{path}: candidates are a list of mappings with learning_rate and clip_norm"
        )
    return tuple(Choice(**one) for one in found)
