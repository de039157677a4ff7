"""Model families: one file each, and the closed registry of their names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dp_risk.data.coding import Coding
from dp_risk.models.additive import Additive
from dp_risk.models.mlp import Mlp
from dp_risk.types import ConfigurationError


class Model(Protocol):
    """The public constructor of a module: it sees the coding, never the data."""

    def build(self, coding: Coding) -> nn.Module:
        """Return a module whose forward takes (codes, values) and returns a logit a record.

        Codes have shape (..., slots), values (..., n_values) and logits (...): records, or
        accounts x records. The first axis is the unit, and units never see each other.
        """
        ...


_CHUNK = 65_536
REGISTRY: Mapping[str, type[Model]] = {"additive": Additive, "mlp": Mlp}


def create(name: str, options: Mapping[str, Any]) -> Model:
    """Return a model by its name in the registry.

    Raises
    ------
    ConfigurationError
        On an unknown name or options that do not fit.
    """
    if name not in REGISTRY:
        raise ConfigurationError(f"model: {name!r} is not one of {', '.join(REGISTRY)}")
    try:
        return REGISTRY[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"model {name}: {error}") from None


def build(name: str, options: Mapping[str, Any], coding: Coding, seed: int) -> nn.Module:
    """Return a freshly initialised float64 module; the seed is public."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create(name, options).build(coding).double()


def logits(module: nn.Module, codes: NDArray[Any], values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the logits of rows, shape (n,), for codes (n, slots) and values (n, n_values)."""
    out = []
    with torch.no_grad():
        for start in range(0, len(codes), _CHUNK):
            c = torch.from_numpy(codes[start : start + _CHUNK].astype(np.int64))
            v = torch.from_numpy(values[start : start + _CHUNK].astype(np.float64))
            out.append(module(c, v).numpy())
    return np.concatenate(out) if out else np.zeros(0)
