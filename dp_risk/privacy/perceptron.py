"""The forward and backward pass of a perceptron by hand: no graph, no hooks, float32 inside.

A model of this shape says so by a method `perceptron`; all others go through `one_pass`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from dp_risk.privacy.per_unit import Part, SummedRows, linear_parts, parts, summed_rows
from dp_risk.privacy.units import Batch, loss_gradients


@dataclass(frozen=True, kw_only=True, eq=False)
class Perceptron:
    """Sums of table rows and a linear map of values, then layers that each read a tanh.

    With layers behind the first, forward and backward are in float32; without, in float64. Only
    what each unit adds is rounded so, as that unit alone says: the parts hold what is summed, in
    float64. Weights are read and never changed.

    Parameters
    ----------
    codes : SummedRows or None
        Reads the first input of a batch.
    values : Linear or None
        Reads the last input of a batch, times `scale`. One of these two there is.
    scale : float
        Public factor.
    bias : Linear or None
        A map without bias from a constant 1, added to these sums; `values` then has no bias.
    rest : tuple of Linear
        In order; the last one of the model has one output.
    """

    codes: SummedRows | None
    values: nn.Linear | None
    scale: float = 1.0
    bias: nn.Linear | None = None
    rest: tuple[nn.Linear, ...] = ()

    def backward(self, batch: Batch) -> tuple[torch.Tensor, list[Part]]:
        """Return the logits and the parts of each unit's gradient.

        Parameters
        ----------
        batch : Batch
            One that the model can read.

        Returns
        -------
        (Tensor of float64, list of Part)
            Logits of the shape of the labels.
        """
        with torch.no_grad():
            return self._backward(batch)

    def forget(self) -> None:
        """Drop nothing: nothing is held of a pass."""

    def close(self) -> None:
        """Leave the module as it was."""

    def _backward(self, batch: Batch) -> tuple[torch.Tensor, list[Part]]:
        dtype = torch.float32 if self.rest else torch.float64
        codes, values = batch.inputs[0], batch.inputs[-1]
        if self.scale != 1:
            values = values * self.scale
        before = self._first(codes, values.to(dtype))
        weights = [_weights(layer, dtype) for layer in self.rest]
        reads: list[torch.Tensor] = []
        for both in weights:
            reads.append(_tanh(before))
            before = nn.functional.linear(reads[-1], *both)
        logits = before.squeeze(-1).to(torch.float64)
        errors = loss_gradients(logits, batch).unsqueeze(-1)
        found: list[Part] = []
        for layer, read, (weight, _) in reversed(list(zip(self.rest, reads, weights, strict=True))):
            found += parts(layer, read, errors)
            errors = torch.ops.aten.tanh_backward(errors.to(dtype) @ weight, read)
        if self.codes is not None and self.codes.weight.requires_grad:
            found += parts(self.codes, codes, errors)
        if self.values is not None:
            bias = self.values.bias if self.bias is None else self.bias.weight
            found += linear_parts(self.values.weight, bias, values, errors)
        elif self.bias is not None:
            found += linear_parts(None, self.bias.weight, errors, errors)
        return logits, found

    def _first(self, codes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        sums = []
        if self.values is not None:
            sums.append(nn.functional.linear(values, *_weights(self.values, values.dtype)))
        if self.codes is not None:
            sums.append(summed_rows(self.codes.weight.to(values.dtype), codes))
        if self.bias is not None:
            sums.append(self.bias.weight.to(values.dtype).T)
        return sum(sums[1:], sums[0])


@runtime_checkable
class Described(Protocol):
    """A module that is a perceptron."""

    def perceptron(self) -> Perceptron:
        """Return its layers: their sum and order is all that the module computes."""
        ...


def _tanh(x: torch.Tensor) -> torch.Tensor:
    """Overwrite with 1 - 2 / (exp(2 x) + 1): twice as fast as torch's tanh, within 2e-7 of it."""
    return x.mul_(2).exp_().add_(1).reciprocal_().mul_(-2).add_(1)


def _weights(layer: nn.Linear, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    return layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype)
