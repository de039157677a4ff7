"""What each unit of a batch adds to the gradient of a layer, without a gradient for each unit.

From a layer's inputs a and from b, the gradients at its outputs, follow the squared norm of each
unit's gradient and the sum of clipped gradients ("book-keeping": Bu, Wang, Zha, Karypis 2023,
"Differentially private optimization on large foundation models at small cost", Section 3). A unit
with one record has the gradient b a^T in a linear layer, of squared norm |a|^2 |b|^2. With several
records its gradient is written out: gradients of records may cancel, and neither a norm from inner
products nor a sum over records would be exact relative to what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import nn

# Parameters, on which Opacus keeps more than their type knows.
Sums = list[tuple[Any, torch.Tensor]]


class SummedRows(nn.Embedding):
    """The sum of those rows of a table that some codes name.

    Code 0 means "nothing here": its row is not read and has no gradient.
    """

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return shape (..., width) for codes (..., slots)."""
        return summed_rows(self.weight, codes)


class Part(Protocol):
    """A part of the gradient of each unit: all of it in some parameters."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that the part is made of; the first axis is the unit."""
        ...

    def squares(self) -> torch.Tensor:
        """Return the squared norm of each unit's part, float64 of shape (units,)."""
        ...

    def sums(self, factor: torch.Tensor) -> Sums:
        """Return the sum of all units' parts, each times its factor, by parameter.

        The tensors are finite: 0 times anything else would not be 0.
        """
        ...

    def without(self, units: torch.Tensor) -> Self:
        """Return the same with zeros for the units that are flagged."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """Gradients that are written out.

    Parameters
    ----------
    parameter : Parameter
        Whose they are.
    gradients : Tensor of float64, shape (units, ...)
        As many coordinates a unit as the parameter has.
    """

    parameter: nn.Parameter
    gradients: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The gradients."""
        return (self.gradients,)

    def squares(self) -> torch.Tensor:
        """Return the squared norms."""
        return _squares(self.gradients)

    def sums(self, factor: torch.Tensor) -> Sums:
        """Return the weighted sum."""
        total = factor @ self.gradients.reshape(len(factor), -1)
        return [(self.parameter, total.view_as(self.parameter))]

    def without(self, units: torch.Tensor) -> Dense:
        """Return the same with zeros for some units."""
        return replace(self, gradients=_zeroed(self.gradients, units))


@dataclass(frozen=True, kw_only=True, eq=False)
class Outer:
    """Gradients of a linear layer for units of one record: b a^T, and b for the bias.

    Parameters
    ----------
    weight, bias : Parameter or None
        None where there is none, or none that is trained.
    inputs, errors : Tensor of float64, shapes (units, in) and (units, out)
        a and b.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    inputs: torch.Tensor
    errors: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Inputs and errors."""
        return self.inputs, self.errors

    def squares(self) -> torch.Tensor:
        """Return |b|^2 times |a|^2, or times |a|^2 + 1 with a bias."""
        out = _squares(self.errors)
        if self.weight is None:
            return out
        return out * (_squares(self.inputs) + (self.bias is not None))

    def sums(self, factor: torch.Tensor) -> Sums:
        """Return the weighted sums."""
        found: Sums = []
        if self.weight is not None:
            found.append((self.weight, (self.errors * factor.unsqueeze(-1)).T @ self.inputs))
        if self.bias is not None:
            found.append((self.bias, (factor @ self.errors).view_as(self.bias)))
        return found

    def without(self, units: torch.Tensor) -> Outer:
        """Return the same with zeros for some units."""
        inputs, errors = (_zeroed(t, units) for t in self.tensors)
        return replace(self, inputs=inputs, errors=errors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Gradients of a table for units of one record: b in every row that a code names.

    Parameters
    ----------
    table : Parameter
        Of a `SummedRows`.
    codes : Tensor of integers, shape (units, slots)
        In the range of the table.
    errors : Tensor of float64, shape (units, width)
        b.
    """

    table: nn.Parameter
    codes: torch.Tensor
    errors: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Codes and errors."""
        return self.codes, self.errors

    def squares(self) -> torch.Tensor:
        """Return |b|^2 times the sum of squares of how often each code is there."""
        return _squares(self.errors) * squared_counts(self.codes)

    def sums(self, factor: torch.Tensor) -> Sums:
        """Return the weighted sum; each slot adds to one row."""
        errors = self.errors * factor.unsqueeze(-1)
        if errors.shape[1] == 1:
            each = errors.unsqueeze(1).expand(-1, self.codes.shape[1], -1)
            return [(self.table, _by_row(self.table, self.codes, each))]
        # Slot by slot, three times as fast as a copy of the errors for every slot.
        total = torch.zeros(self.table.shape, dtype=torch.float64)
        for codes in self.codes.long().unbind(1):
            total.index_add_(0, codes, errors)
        total[0] = 0.0
        return [(self.table, total)]

    def without(self, units: torch.Tensor) -> Rows:
        """Return the same with zeros for some units."""
        return replace(self, errors=_zeroed(self.errors, units))


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseRows:
    """Gradients of a table that are written out, of the rows that a unit names alone.

    Parameters
    ----------
    table : Parameter
        Of a `SummedRows`.
    codes : Tensor of integers, shape (units, places)
        A row of the table for every place; 0 where a unit has no more.
    gradients : Tensor of float64, shape (units, places, width)
        Those of that row; no unit has two places with one code other than 0.
    """

    table: nn.Parameter
    codes: torch.Tensor
    gradients: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Codes and gradients."""
        return self.codes, self.gradients

    def squares(self) -> torch.Tensor:
        """Return the squared norms."""
        return _squares(self.gradients)

    def sums(self, factor: torch.Tensor) -> Sums:
        """Return the weighted sum."""
        each = self.gradients * factor.view(-1, 1, 1)
        return [(self.table, _by_row(self.table, self.codes, each))]

    def without(self, units: torch.Tensor) -> SparseRows:
        """Return the same with zeros for some units."""
        return replace(self, gradients=_zeroed(self.gradients, units))


def known(layer: nn.Module, *, products: bool = False) -> bool:
    """Whether `parts` knows the layer: its type and no other, which may compute anything.

    With `products` only those whose gradients are not written out for units of one record.
    """
    return type(layer) in _RULES and not (products and type(layer) is nn.LayerNorm)


def parts(layer: nn.Module, inputs: torch.Tensor, errors: torch.Tensor) -> Sequence[Part]:
    """Return what the units of a batch add to the gradient of a layer.

    Parameters
    ----------
    layer : Module
        One that is `known`.
    inputs, errors : Tensor, shapes (units, ..., in) and (units, ..., out)
        What the layer read in one call or, side by side on the second axis, in several; and the
        gradients of the sum of the units' losses at what it returned. Nothing is changed.

    Returns
    -------
    sequence of Part
        For those of its parameters that are trained; none of them overlap.
    """
    return _RULES[type(layer)](layer, inputs, errors.to(torch.float64))


def called_often(
    layer: nn.Module, inputs: Sequence[torch.Tensor], errors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the inputs and errors of several calls of a layer as those of one.

    What a layer does to a record is the same in every call, so that calls add up as records do.
    """
    own = len(layer.normalized_shape) if isinstance(layer, nn.LayerNorm) else 1

    def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        each = [t.reshape(len(t), -1, *t.shape[t.dim() - own :]) for t in tensors]
        return torch.cat(each, dim=1)

    return joined(inputs), joined(errors)


def linear_parts(weight: Any, bias: Any, inputs: torch.Tensor, errors: torch.Tensor) -> list[Part]:
    """Return what the units of a batch add to a weight, and to a bias of as many numbers as errors.

    Parameters
    ----------
    weight, bias : Parameter or None
        None where there is none; those that are not trained have no part.
    inputs, errors : Tensor, shapes (units, ..., in) and (units, ..., out)
        As for `parts`.
    """
    weight, bias = _trained(weight), _trained(bias)
    if weight is None and bias is None:
        return []
    a, b = _records(inputs.to(torch.float64)), _records(errors.to(torch.float64))
    if a.shape[1] == 1:
        return [Outer(weight=weight, bias=bias, inputs=a[:, 0], errors=b[:, 0])]
    found: list[Part] = []
    if weight is not None:
        found.append(Dense(parameter=weight, gradients=b.transpose(1, 2) @ a))
    if bias is not None:
        found.append(Dense(parameter=bias, gradients=b.sum(1)))
    return found


def summed_rows(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return the sum of the rows that codes name: (..., width) for (..., slots); row 0 is zeros."""
    nothing = torch.arange(len(table)).unsqueeze(-1) == 0
    rows, named = table.masked_fill(nothing, 0.0), codes.flatten()
    if table.shape[1] == 1:
        # Numbers are read faster than rows of one, and summed faster over the last axis.
        return rows.squeeze(1).index_select(0, named).view(codes.shape).sum(-1, keepdim=True)
    if table.dtype == torch.float32:
        # Five times as fast, in this type alone.
        summed = nn.functional.embedding_bag(codes.flatten(0, -2), rows, mode="sum")
        return summed.view(*codes.shape[:-1], table.shape[1])
    return rows.index_select(0, named).view(*codes.shape, table.shape[1]).sum(-2)


def squared_counts(codes: torch.Tensor) -> torch.Tensor:
    """Return for each unit the sum over codes of the square of how often it has them.

    Parameters
    ----------
    codes : Tensor of integers, shape (units, slots)
        Code 0 is not counted.

    Returns
    -------
    Tensor of float64, shape (units,)
    """
    found = (codes[:, 0] != 0).to(torch.float64) + (codes.shape[1] - 1)
    # Codes that rise from slot to slot are all different, and most often they do. The smallest
    # byte of a row is found three times as fast as whether all of it is true.
    if codes.shape[1] == 1:
        return found
    rising = (codes[:, 1:] > codes[:, :-1]).view(torch.uint8)
    again = (rising.amin(1) == 0).nonzero().squeeze(1)
    if not len(again):
        return found
    ordered = codes[again].sort(1).values
    counted = (ordered != 0).sum(1)
    for apart in range(1, codes.shape[1]):
        same = (ordered[:, apart:] == ordered[:, :-apart]) & (ordered[:, apart:] != 0)
        if not same.any():
            break
        counted += 2 * same.sum(1)
    found[again] = counted.to(torch.float64)
    return found


def _linear(layer: Any, inputs: torch.Tensor, errors: torch.Tensor) -> list[Part]:
    return linear_parts(layer.weight, layer.bias, inputs, errors)


def _layer_norm(layer: Any, inputs: torch.Tensor, errors: torch.Tensor) -> list[Part]:
    weight, bias, shape = _trained(layer.weight), _trained(layer.bias), layer.normalized_shape
    a, b = (t.reshape(len(t), -1, *shape) for t in (inputs.to(torch.float64), errors))
    found: list[Part] = []
    if weight is not None:
        scaled = nn.functional.layer_norm(a, shape, eps=layer.eps)
        found.append(Dense(parameter=weight, gradients=(scaled * b).sum(1)))
    if bias is not None:
        found.append(Dense(parameter=bias, gradients=b.sum(1)))
    return found


def _summed_rows(layer: Any, inputs: torch.Tensor, errors: torch.Tensor) -> list[Part]:
    codes, b = _records(inputs), _records(errors)
    if codes.shape[1] == 1:
        return [Rows(table=layer.weight, codes=codes[:, 0], errors=b[:, 0])]
    # Equal codes of a unit come together, in the order of its own records, and share a place.
    slots = codes.shape[2]
    ordered, order = codes.flatten(1).sort(dim=1, stable=True)
    new = torch.ones_like(ordered)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = new.cumsum(1) - 1
    units, places = ordered.shape
    each = b.gather(1, (order // slots).unsqueeze(-1).expand(-1, -1, b.shape[2]))
    each = each.masked_fill((ordered == 0).unsqueeze(-1), 0.0)
    at = place + torch.arange(units).unsqueeze(-1) * places
    gradients = torch.zeros(units * places, b.shape[2], dtype=b.dtype)
    gradients.index_add_(0, at.flatten(), each.flatten(0, 1))
    named = torch.zeros_like(ordered).scatter_(1, place, ordered)
    return [
        SparseRows(table=layer.weight, codes=named, gradients=gradients.view(units, places, -1))
    ]


_RULES = {nn.Linear: _linear, nn.LayerNorm: _layer_norm, SummedRows: _summed_rows}


def _trained(parameter: nn.Parameter | None) -> nn.Parameter | None:
    return parameter if parameter is not None and parameter.requires_grad else None


def _records(tensor: torch.Tensor) -> torch.Tensor:
    """Return shape (units, records, width)."""
    return tensor.reshape(len(tensor), -1, tensor.shape[-1])


def _squares(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.shape[1:].numel() == 1:
        return tensor.reshape(-1).square()
    # Four times as fast as squaring and summing, which fills another tensor.
    norms: torch.Tensor = torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), dim=1)
    return norms.square()


def _zeroed(tensor: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    return tensor.masked_fill(units.view(-1, *[1] * (tensor.dim() - 1)), 0.0)


def _by_row(table: torch.Tensor, codes: torch.Tensor, each: torch.Tensor) -> torch.Tensor:
    """Return the sum of (units, places, width) by the rows that (units, places) name; not row 0."""
    total = torch.zeros(table.shape, dtype=torch.float64)
    if each.shape[-1] == 1:
        # Four times as fast.
        total.view(-1).scatter_add_(0, codes.flatten().long(), each.reshape(-1))
    else:
        total.index_add_(0, codes.flatten().long(), each.flatten(0, 1))
    total[0] = 0.0
    return total
