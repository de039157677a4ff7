"""The model of a run: may training go on from it, and its files at the end."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from dp_risk.federation import files
from dp_risk.privacy.dpsgd import load_weights
from dp_risk.types import FederationError
from server.aggregation import Weights
from server.job import Job

SCHEMA_VERSION = 1


def check(module: Any, weights: Weights, rounds: int) -> None:
    """Stop where the sites would refuse to go on.

    Parameters
    ----------
    module : Module
        The model; it gets the weights.
    weights : mapping of str to ndarray
        After a round.
    rounds : int
        Rounds so far.

    Raises
    ------
    FederationError
        If the weights are not finite, or too large for exact clipping.
    """
    try:
        load_weights(module, weights)
    except ValueError as error:
        raise FederationError(
            f"after round {rounds}: {error}: the learning rate is too large, or a site sent "
            "absurd sums; charges are kept"
        ) from None


def save(job: Job, weights: Weights) -> None:
    """Write ``model.safetensors`` and ``model.json`` into the run folder.

    Parameters
    ----------
    job : Job
        What was asked for, and the folder.
    weights : mapping of str to ndarray
        Of the model.
    """
    arrays: dict[str, NDArray[Any]] = {k: np.ascontiguousarray(v) for k, v in weights.items()}
    files.write(job.folder / "model.safetensors", safetensors.numpy.save(arrays))
    about = {
        "schema_version": SCHEMA_VERSION,
        "model": job.model,
        "options": dict(job.model_options),
        "schema": dict(job.schema),
        "seed": job.seed,
    }
    files.write(job.folder / "model.json", json.dumps(about, indent=2) + "\n")
