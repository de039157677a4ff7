"""Scratch sites: a sample of the configured rows, dealt out under policies of the audit's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dp_risk import models
from dp_risk.cli.audit.reserved import Reserved
from dp_risk.cli.settings import Audit, Settings
from dp_risk.cli.simulate import make_sites
from dp_risk.data.partition import Iid
from dp_risk.data.source import column_names, read_table
from dp_risk.privacy.dpsgd import MAX_WEIGHT
from dp_risk.types import Trust


@dataclass(frozen=True, kw_only=True)
class Scratch:
    """Where an audit makes its sites.

    Parameters
    ----------
    settings : Settings
        The audited configuration.
    folder : Path
        Everything is below it, and is thrown away at the end.
    """

    settings: Settings
    folder: Path

    @property
    def fewest(self) -> int:
        """Fewest sites of a round that the configured trust works with."""
        asked = self.settings.asked
        return asked.max_colluding + 2 if asked.trust == Trust.DISTRIBUTED else 1

    def rows(self, most: int | None, *, seed: int) -> pa.Table:
        """Return at most so many of the configured rows, chosen at random; None: all."""
        table = read_table(self.settings.data.file)
        if most is None or table.num_rows <= most:
            return table
        chosen = np.random.default_rng(seed).choice(table.num_rows, most, replace=False)
        return table.take(np.sort(chosen))

    def reserved(self, *, codes: int, slots: int) -> Reserved:
        """Return the configured schema with a reserved column."""
        data = self.settings.data
        taken = column_names(data.file)
        return Reserved.of(data.load_schema(), codes=codes, slots=slots, taken=taken)

    def sites(
        self,
        name: str,
        reserved: Reserved,
        rows: pa.Table,
        *,
        sites: int | None = None,
        private: bool = False,
        **federation: Any,
    ) -> tuple[Settings, list[Path]]:
        """Make sites; return their settings and folders.

        Parameters
        ----------
        name : str
            Folder of these sites.
        reserved : Reserved
            The extended schema.
        rows : pyarrow.Table
            Rows of all sites together.
        sites : int, optional
            How many sites, dealt out evenly; None deals out as configured.
        private : bool
            Whether the policies call the rows private, as on real data: nothing exact then leaves.
        **federation
            Fields of the federation to change.
        """
        place = self.folder / name
        settings = reserved.configured(self.settings, place, rows)
        data, partition = settings.data, settings.partition
        if private:
            data = dataclasses.replace(data, public=False, public_size=False, stable_ids=True)
        if sites is not None:
            federation["sites"] = sites
            partition = Iid(seed=settings.seed)
        federation.setdefault("min_sites", None)
        settings = dataclasses.replace(
            settings,
            data=data,
            partition=partition,
            federation=dataclasses.replace(settings.federation, **federation),
        )
        # Room for the run and for what is tried beside it, and yet a filter that is exact enough.
        lifetime = 1.3 * float(settings.asked.epsilon or 0.0) + 3
        return settings, make_sites(settings, place / "sites", lifetime_epsilon=lifetime)

    def part(self, asked: Audit) -> dict[str, Any]:
        """Return how much of the configured run is done, as keywords of `sites`."""
        federation, found = self.settings.federation, {}
        if asked.max_rounds is not None:
            found["rounds"] = min(asked.max_rounds, federation.rounds or asked.max_rounds)
        if asked.max_sites is not None:
            found["sites"] = min(max(asked.max_sites, self.fewest), federation.sites)
        return found

    def module(self, reserved: Reserved) -> Any:
        """Return the configured model on the extended coding, as a run would start it."""
        s = self.settings
        return models.build(s.model_name, s.model_options, reserved.coding, s.seed)


def embedding(module: Any, reserved: Reserved) -> str:
    """Return the name of the weights that hold one row a code."""
    names = _embeddings(module, reserved)
    return next(names)


def _embeddings(module: Any, reserved: Reserved) -> Iterator[str]:
    for name, weights in module.named_parameters():
        if weights.shape[:1] == (reserved.coding.n_codes,):
            yield name


def starting_weights(module: Any, reserved: Reserved) -> dict[str, NDArray[Any]]:
    """Return the model's first weights with those of reserved codes at zero.

    A server may send any weights. These keep the units of hidden layers where they are steep, so
    that nearly all of a reserved unit's gradient lies on its own code.
    """
    start = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}
    return _silenced(start, module, reserved)


def wild_weights(module: Any, reserved: Reserved) -> dict[str, NDArray[Any]]:
    """Return random weights, again the same, with those of reserved codes at zero.

    The logits of ordinary units are then far apart, which shows whether one moves another's.
    """
    generator = np.random.default_rng(1)
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    drawn = {name: generator.standard_normal(shape) for name, shape in shapes.items()}
    return _silenced(drawn, module, reserved)


def _silenced(
    weights: dict[str, NDArray[Any]], module: Any, reserved: Reserved
) -> dict[str, NDArray[Any]]:
    for name in _embeddings(module, reserved):
        weights[name][reserved.codes.start :] = 0
    return weights


def steep_weights(start: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return weights that are sure of the label 0: a unit of the label 1 pulls with all its might.

    The last weight of every model is added to each logit. A unit of the label 0 has no gradient
    at all then.
    """
    *_, last = start
    return {**start, last: np.full_like(start[last], -MAX_WEIGHT)}
