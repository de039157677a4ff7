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
            load_weights(module, safetensors.numpy.load_file(job.start))
        except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
            raise ConfigurationError(f"{job.start}: no weights of this model: {error}") from None
    return module
