"""Additive models: logistic regression on binned features; its shape functions explain it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dp_risk.data.coding import Coded, Coding, unscale
from dp_risk.models.embedding import CodeSum
from dp_risk.models.prior import Block, Prior, smooth
from dp_risk.privacy.perceptron import Perceptron

# Variances in squared log-odds, of a code's weight, of a slope over a column's whole scale, and of
# how far the bias moves from where the share of positives puts it.
_CODE, SLOPE, _BIAS = 1.0, 0.5, 0.25


class _Additive(nn.Module):
    def __init__(self, coding: Coding, *, linear: bool, value_scale: float) -> None:
        super().__init__()
        self.terms = CodeSum(coding, width=1, linear=linear, std=0.0)
        self.value_scale = value_scale
        self.bias = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.bias.weight)

    def forward(self, codes: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        one = torch.ones(*codes.shape[:-1], 1, dtype=values.dtype)
        logits: torch.Tensor = self.terms(codes, values * self.value_scale) + self.bias(one)
        return logits.squeeze(-1)

    def perceptron(self) -> Perceptron:
        """Return the layers."""
        return Perceptron(
            codes=self.terms.codes,
            values=self.terms.values,
            scale=self.value_scale,
            bias=self.bias,
        )


@dataclass(frozen=True, kw_only=True)
class Additive:
    """Logistic regression on codes, with an optional linear term on the scaled values.

    Parameters
    ----------
    linear : bool
        Add a linear term on each numeric column's public transform to [0, 1].
    value_scale : float
        Public factor on those values, above 0: how much of the clip norm the linear term gets.
    """

    linear: bool = True
    value_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.value_scale <= 100:
            raise ValueError("value_scale lies in (0, 100]")

    def build(self, coding: Coding) -> nn.Module:
        """Return the module, all weights zero."""
        return _Additive(coding, linear=self._slopes(coding), value_scale=self.value_scale)

    @property
    def bias(self) -> str:
        """The parameter that is added to the logit."""
        return "bias.weight"

    def prior(self, coding: Coding) -> Prior:
        """Return what is expected of the weights: bins like their neighbours, codes alone."""
        blocks = [Block(name=self.bias, start=0, covariance=np.array([_BIAS]), power=None)]
        for name in coding.schema.features:
            codes = coding.feature_codes(name)
            if len(codes):
                # The last code of a numeric column is "missing", and like no bin.
                covariance = np.full(len(codes), _CODE)
                if name in coding.value_names:
                    covariance = np.diag(covariance)
                    covariance[:-1, :-1] = smooth(len(codes) - 1)
                blocks.append(
                    Block(
                        name="terms.codes.weight",
                        start=codes.start,
                        covariance=covariance,
                        power=1,
                    )
                )
        if self._slopes(coding):
            slopes = np.full(coding.n_values, SLOPE / self.value_scale**2)
            blocks.append(Block(name="terms.values.weight", start=0, covariance=slopes, power=2))
        return blocks

    def _slopes(self, coding: Coding) -> bool:
        return self.linear and coding.n_values > 0


def shapes(
    weights: Mapping[str, NDArray[Any]], coding: Coding, value_scale: float
) -> list[dict[str, Any]]:
    """Return the shape function of every feature, in log-odds.

    Returns
    -------
    list of {"feature", "kind": "bins" | "linear", "x", "y"}
        For "bins", `x` are labels; for "linear", `x` are values in the feature's own units.
    """
    out: list[dict[str, Any]] = []
    codes, values = weights.get("terms.codes.weight"), weights.get("terms.values.weight")
    for feature in coding.schema.features:
        column = coding.value_names.index(feature) if feature in coding.value_names else None
        slope = 0.0
        if values is not None and column is not None:
            slope = float(values[0, column]) * value_scale
        code_range = coding.feature_codes(feature)
        if codes is not None and len(code_range):
            heights = [float(codes[code, 0]) for code in code_range]
            if column is not None:
                bins = len(heights) - 1
                for i in range(bins):
                    heights[i] += slope * (i + 0.5) / bins
            names = [coding.code_label(code).removeprefix(feature) for code in code_range]
            labels = [name.strip(" =:").removeprefix("in ") for name in names]
            out.append({"feature": feature, "kind": "bins", "x": labels, "y": heights})
        elif column is not None:
            grid = np.linspace(0.0, 1.0, 21)
            x = unscale(grid, coding.numeric(feature)).tolist()
            y = (slope * grid).tolist()
            out.append({"feature": feature, "kind": "linear", "x": x, "y": y})
    return out


def contributions(
    weights: Mapping[str, NDArray[Any]], coding: Coding, coded: Coded, value_scale: float
) -> dict[str, NDArray[np.float64]]:
    """Return each feature's exact contribution to each unit's log-odds.

    Returns
    -------
    mapping of feature name to ndarray, shape (n,)
        With "bias" they sum to the logit.
    """
    codes, values = weights.get("terms.codes.weight"), weights.get("terms.values.weight")
    out = {"bias": np.full(len(coded), float(weights["bias.weight"][0, 0]))}
    for feature in coding.schema.features:
        total = np.zeros(len(coded))
        if codes is not None:
            for slot, name in enumerate(coding.slot_names):
                if name.partition("#")[0] == feature:
                    chosen = coded.codes[:, slot]
                    total += np.where(chosen != 0, codes[chosen, 0], 0.0)
        if values is not None and feature in coding.value_names:
            column = coding.value_names.index(feature)
            total += values[0, column] * value_scale * coded.values[:, column]
        out[feature] = total
    return out
