"""Sums of code embeddings: the first layer of every model."""

from __future__ import annotations

import torch
from torch import nn

from dp_risk.data.coding import Coding
from dp_risk.privacy.per_unit import SummedRows


class CodeSum(nn.Module):
    """Sum over slots of an embedding row, plus a linear map of the values.

    Code 0 means "nothing here": it is masked, so its row gets no gradient and costs no clip norm.

    Parameters
    ----------
    coding : Coding
        Number of codes and values.
    width : int
        Size of the output.
    std : float
        Standard deviation of the initial weights; 0 starts at zero.
    """

    def __init__(self, coding: Coding, *, width: int, linear: bool, std: float) -> None:
        super().__init__()
        self.slots = coding.slots
        self.codes = SummedRows(coding.n_codes, width) if coding.slots else None
        self.values = nn.Linear(coding.n_values, width, bias=False) if linear else None
        for layer in (self.codes, self.values):
            if layer is not None:
                nn.init.normal_(layer.weight, std=std) if std else nn.init.zeros_(layer.weight)

    def forward(self, codes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return shape (..., width) for codes (..., slots) and values (..., n_values).

        Raises
        ------
        ValueError
            If there is another number of slots.
        """
        if codes.shape[-1] != self.slots:
            raise ValueError("codes of another coding")
        parts = []
        if self.codes is not None:
            parts.append(self.codes(codes))
        if self.values is not None:
            parts.append(self.values(values))
        total: torch.Tensor = sum(parts[1:], parts[0])
        return total
