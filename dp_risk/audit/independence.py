"""Noise that tells about other noise: the same seed, the same vector, a correlation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dp_risk.audit.findings import Check
from dp_risk.audit.noise import ENOUGH, Residuals, unusable
from dp_risk.audit.tails import ALPHA, Tail, cosine, share, verdict

_COMPARED = 1024  # Vectors, or coordinates, of which all pairs are compared.
_CELL = 2.0**-18  # Two numbers this close, in standard deviations, count as equal.


def _white(group: Residuals) -> NDArray[np.float64]:
    """Return independent standard Gaussians, shape (sites, rounds_worth, coordinates).

    Centred rounds go through Helmert contrasts, which are independent: contrast k compares round
    k + 1 with the mean of those before it.
    """
    values = group.scores
    if not group.centred:
        return values
    k = np.arange(1, group.rounds_worth + 1)[:, None]
    before = np.cumsum(values, axis=1)[:, :-1]
    return np.asarray((before - k * values[:, 1:]) / np.sqrt(k * (k + 1)))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale rows to norm 1; a zero row, which is noise_std's to find, stays."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1))


def _some(count: int) -> NDArray[np.int64]:
    """Choose what all pairs are made of: everything, or a fixed public sample."""
    if count <= _COMPARED:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, _COMPARED, replace=False))


def _closest(
    first: NDArray[np.float64], second: NDArray[np.float64] | None = None
) -> tuple[float, int, tuple[int, int]]:
    """Return the largest absolute cosine of all pairs of rows, the number of pairs, and where."""
    left = _unit(first)
    gram = np.abs(left @ (left if second is None else _unit(second)).T)
    pairs = gram.size
    if second is None:
        np.fill_diagonal(gram, 0)
        pairs = len(gram) * (len(gram) - 1) // 2
    row, column = np.unravel_index(int(gram.argmax()), gram.shape)
    return float(gram[row, column]), pairs, (int(row), int(column))


def _pairs(group: Residuals, white: NDArray[np.float64]) -> Iterator[Tail]:
    """Compare vectors of (site, round), and series of coordinates, two at a time."""
    sites, rounds, coordinates = white.shape
    if coordinates >= ENOUGH and sites * rounds > 1:
        chosen = _some(sites * rounds)
        value, pairs, (i, j) = _closest(white.reshape(-1, coordinates)[chosen])
        (a, r), (b, s) = divmod(int(chosen[i]), rounds), divmod(int(chosen[j]), rounds)
        yield Tail(
            p_value=float(cosine(value, coordinates)) * pairs,
            figure=f"{group.name}: correlation {value:.3f} between site {a} round {r}"
            f" and site {b} round {s}",
        )
    series = white.reshape(-1, coordinates).T
    if sites * rounds >= ENOUGH and coordinates > 1:
        unit = _unit(series)
        near = np.abs((unit[1:] * unit[:-1]).sum(axis=1))
        at = int(near.argmax())
        yield Tail(
            p_value=float(cosine(near[at], sites * rounds)) * len(near),
            figure=f"{group.name}: correlation {near[at]:.3f} between coordinates {at}, {at + 1}",
        )
        chosen = _some(coordinates)
        value, pairs, (i, j) = _closest(series[chosen])
        yield Tail(
            p_value=float(cosine(value, sites * rounds)) * pairs,
            figure=f"{group.name}: correlation {value:.3f} between coordinates"
            f" {chosen[i]}, {chosen[j]}",
        )


def _pooled(group: Residuals, white: NDArray[np.float64]) -> Iterator[Tail]:
    """Find what is too weak in any one pair, along each of the three axes.

    Disjoint neighbours side by side are two long independent vectors; what all have in common
    shows in the square of their sum, whose share in all squares follows a Beta law.
    """
    for axis, name in enumerate(("sites", "rounds", "coordinates")):
        length = white.shape[axis]
        along = np.moveaxis(white, axis, 0).reshape(length, -1)
        for offset in (0, 1):
            second = along[offset + 1 :: 2]
            first = along[offset::2][: len(second)]
            if second.size < ENOUGH:
                continue
            value = _closest(first.reshape(1, -1), second.reshape(1, -1))[0]
            yield Tail(
                p_value=float(cosine(value, second.size)),
                figure=f"{group.name}: correlation {value:.4f} between neighbouring {name}",
            )
        if length > 1 and along.shape[1] >= ENOUGH:
            common = float(np.square(along.sum(axis=0)).sum()) / length
            everything = float(np.square(along).sum())
            part = common / everything if everything else 0.0
            yield Tail(
                p_value=share(part, along.shape[1], along.shape[1] * (length - 1)),
                figure=f"{group.name}: the sum over {name} has {part * length:.3f} of the"
                " variance of independent ones",
            )


def _repeats(group: Residuals) -> Tail:
    """Count vectors that were released more than once."""
    coordinates = group.values.shape[2]
    cells = np.rint(np.clip(group.scores / _CELL, -(2.0**62), 2.0**62))
    vectors = np.ascontiguousarray(cells.reshape(-1, coordinates).astype(np.int64))
    seen = {vector.tobytes() for vector in vectors}
    repeated = len(vectors) - len(seen)
    pairs = len(vectors) * (len(vectors) - 1) / 2
    # The difference of two draws has density at most 1/(2 sqrt(pi)) at 0.
    chance = pairs * (_CELL / np.sqrt(np.pi)) ** coordinates
    return Tail(
        p_value=float(chance) if repeated else 1.0,
        figure=f"{group.name}: {repeated} of {len(vectors)} noise vectors repeat another",
    )


def noise_independence(groups: Sequence[Residuals], *, alpha: float = ALPHA) -> Check:
    """Look for noise that tells about other noise.

    Compared are all pairs of (site, round) vectors within and across groups, all pairs and
    neighbours of coordinates (at most 1,024 of each, a fixed public sample), neighbours and sums
    along each axis, and exact repeats. Every law is exact for Gaussian noise of any size.

    Parameters
    ----------
    groups : sequence of Residuals
        No draws at all fail the check; comparisons with under 8 numbers are not made.
    alpha : float
        Probability of failing on an honest trainer.
    """
    name = "noise_independence"
    if (refusal := unusable(name, groups)) is not None:
        return refusal
    groups = [group for group in groups if group.draws]
    whites = [_white(group) for group in groups]
    tails: list[Tail] = []
    for group, white in zip(groups, whites, strict=True):
        tails += [*_pairs(group, white), *_pooled(group, white), _repeats(group)]
    for (a, first), (b, second) in itertools.combinations(enumerate(whites), 2):
        shared = min(first.shape[2], second.shape[2])
        if shared < ENOUGH:
            continue
        flat = [white[..., :shared].reshape(-1, shared) for white in (first, second)]
        value, pairs, _ = _closest(*(rows[_some(len(rows))] for rows in flat))
        tails.append(
            Tail(
                p_value=float(cosine(value, shared)) * pairs,
                figure=f"correlation {value:.3f} between {groups[a].name} and {groups[b].name}",
            )
        )
    draws = sum(group.draws for group in groups)
    return verdict(name, tails, f"nothing repeats or correlates in {draws:,} draws", alpha=alpha)
