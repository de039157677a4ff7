"""The model that a run starts from."""

from __future__ import annotations

from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from dp_risk import models
from dp_risk.data.coding import Coding
from dp_risk.privacy.dpsgd import load_weights
from dp_risk.types import ConfigurationError
from server.job import Job


def first_module(job: Job, coding: Coding) -> Any:
    """Return the job's model with its first weights: of the seed, or of a file.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or holds another model's weights.
    """
    module = models.build(job.model, job.model_options, coding, job.seed)
    if job.start is not None:
        try:
            weights = safetensors.numpy.load_file(job.start)
        except (OSError, ValueError, TypeError, AttributeError, SafetensorError):
            raise ConfigurationError(f"run.start: {job.start} is no safetensors file") from None
        try:
            load_weights(module, weights)
        except ValueError as error:
            raise ConfigurationError(
                f"run.start: {job.start} holds no weights of this model and schema: {error}"
            ) from None
    return module
