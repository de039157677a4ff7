"""Multi-layer perceptrons on sums of code embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from dp_risk.data.coding import Coding
from dp_risk.models.embedding import CodeSum
from dp_risk.models.prior import Block, Prior
from dp_risk.privacy.perceptron import Perceptron

# Variance of how far a weight moves: bounds the steps where there is little noise.
_MOVE = 0.16


class _Mlp(nn.Module):
    def __init__(self, coding: Coding, *, width: int, depth: int) -> None:
        super().__init__()
        fan_in = coding.n_values + len(set(coding.slot_names))
        linear = coding.n_values > 0
        self.first = CodeSum(coding, width=width, linear=linear, std=max(1, fan_in) ** -0.5)
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [nn.Tanh(), nn.Linear(width, width)]
        self.rest = nn.Sequential(*layers, nn.Tanh(), nn.Linear(width, 1))

    def forward(self, codes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.rest(self.first(codes, values)).squeeze(-1)
        return logits

    def perceptron(self) -> Perceptron:
        """Return the layers."""
        linear = tuple(layer for layer in self.rest if isinstance(layer, nn.Linear))
        return Perceptron(codes=self.first.codes, values=self.first.values, rest=linear)


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """A perceptron with tanh units (Papernot et al. 2021 on bounded activations under DP).

    Parameters
    ----------
    width : int
        Units a layer, 1 to 4096.
    depth : int
        Hidden layers, 1 to 8.
    """

    width: int = 32
    depth: int = 1

    def __post_init__(self) -> None:
        if type(self.width) is not int or type(self.depth) is not int:
            raise ValueError("width and depth are whole numbers")
        if not 1 <= self.width <= 4096 or not 1 <= self.depth <= 8:
            raise ValueError("width lies in 1..4096 and depth in 1..8")

    def build(self, coding: Coding) -> nn.Module:
        """Return the module with random initial weights."""
        return _Mlp(coding, width=self.width, depth=self.depth)

    @property
    def bias(self) -> str:
        """The parameter that is added to the logit."""
        return f"rest.{2 * self.depth - 1}.bias"

    def prior(self, coding: Coding) -> Prior:
        """Return what is expected of the weights: nothing, but that they move little."""
        parameters = self.build(coding).named_parameters()
        return [
            Block(name=name, start=0, covariance=np.full(p.numel(), _MOVE), power=None)
            for name, p in parameters
        ]
