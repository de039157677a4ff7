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
from dp_risk.models.prior import Prior
from dp_risk.privacy.isolation import isolated
from dp_risk.privacy.units import Batch, only
from dp_risk.types import ConfigurationError


class Model(Protocol):
    """The public constructor of a module: it sees the coding, never the data."""

    def build(self, coding: Coding) -> nn.Module:
        """Return a module whose forward takes (codes, values) and returns a logit a record.

        Codes have shape (..., slots), values (..., n_values) and logits (...): records, or
        accounts x records. The first axis is the unit, and units never see each other.
        """
        ...

    @property
    def bias(self) -> str:
        """The parameter that is added to the logit."""
        ...

    def prior(self, coding: Coding) -> Prior:
        """Return what is expected of the weights that training moves, from public facts."""
        ...


# Rows of every batch that is scored.
_ROWS = 1024
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
    """Return the logits of rows, shape (n,), for codes (n, slots) and values (n, n_values).

    Privacy
    -------
    A row's logit is a function of that row and the module alone, to the last bit: batches have one
    shape, filled up with blank rows, and it is probed before a row is read. Where this machine
    does not keep rows apart they are taken one by one.
    """

    def blank(size: int) -> Batch:
        return Batch(
            inputs=(
                torch.zeros(size, codes.shape[1], dtype=torch.int64),
                torch.zeros(size, values.shape[1], dtype=torch.float64),
            ),
            labels=torch.zeros(size, dtype=torch.float64),
        )

    size = _ROWS if isolated(_forward, module, blank(_ROWS)) else 1
    out = np.zeros(len(codes))
    for start in range(0, len(codes), size):
        rows = slice(start, min(start + size, len(codes)))
        batch = blank(size)
        for target, source in zip(batch.inputs, (codes, values), strict=True):
            target.numpy()[: rows.stop - start] = source[rows]
        there = torch.arange(size) < rows.stop - start
        out[rows] = _scored(module, batch, there)[: rows.stop - start]
    return out


def _scored(module: nn.Module, batch: Batch, there: torch.Tensor) -> NDArray[np.float64]:
    """Return the logits of the rows that are there; NaN for one that the model cannot read."""
    try:
        return np.asarray(_forward(module, batch)[0].numpy())
    except Exception:
        places, out = there.nonzero().flatten(), np.full(len(there), np.nan)
        if len(places) <= 1:
            return out
        # One bad row takes nobody along: look for it in either half, with blanks for the other.
        for half in (places[: len(places) // 2], places[len(places) // 2 :]):
            part = torch.zeros_like(there)
            part[half] = True
            out[half.numpy()] = _scored(module, only(batch, part), part)[half.numpy()]
        return out


def _forward(module: nn.Module, batch: Batch) -> list[torch.Tensor]:
    with torch.no_grad():
        return [module(*batch.inputs)]
