"""Which data a run uses (the `data` group of the configuration)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dp_risk.data.schema import Schema
from dp_risk.data.source import builtin_path
from dp_risk.types import ConfigurationError, Unit


@dataclass(frozen=True, kw_only=True)
class Data:
    """A built-in data set or a file.

    Parameters
    ----------
    name : str or None
        Built-in name, or the dataset id of a file (None: the file's name).
    path, schema : str or None
        CSV or Parquet file and its filled-in schema; both None for built-in data. A schema alone
        stands for rows that are at the sites of a real federation.
    label, account : str or None
        Columns that replace the schema's.
    public : bool
        Whether the rows themselves are public.
    public_size : bool
        Whether each site's number of rows is public.
    holdout : float
        Fraction of units held out for evaluation, in [0, 1).
    stable_ids : bool or None
        Whether a unit keeps its id, and so its split, for ever. None: where the schema names an
        account or a record id, or the data is public.
    delta : float
        The delta that `privacy.delta` takes unless told otherwise.
    value_scale : float
        The scale that `model.value_scale` takes unless told otherwise.
    """

    name: str | None
    path: str | None
    schema: str | None
    label: str | None
    account: str | None
    public: bool
    public_size: bool
    holdout: float
    stable_ids: bool | None
    delta: float
    value_scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.holdout < 1:
            raise ConfigurationError(f"data.holdout: {self.holdout} is not in [0, 1)")
        if self.path is None and self.name is None:
            raise ConfigurationError("data: name a built-in data set or a path")

    @property
    def dataset(self) -> str:
        """Dataset id."""
        return self.name or Path(str(self.path)).name.split(".")[0]

    @property
    def file(self) -> Path:
        """The file of rows.

        Raises
        ------
        ConfigurationError
            If it does not exist.
        """
        if self.path is None:
            return builtin_path(str(self.name))
        path = Path(self.path)
        if not path.is_file():
            raise ConfigurationError(f"data.path: {path}: no such file")
        return path

    def keeps_ids(self, unit: str) -> bool:
        """Whether units keep their split for ever."""
        if self.stable_ids is not None:
            return self.stable_ids
        named = self.load_schema().id is not None or unit == Unit.ACCOUNT
        return self.public or named

    def load_schema(self) -> Schema:
        """Return the public schema.

        Raises
        ------
        ConfigurationError
            If the file is missing or not filled in.
        """
        path = Path(self.schema) if self.schema else self.file.with_suffix(".yaml")
        return Schema.from_yaml(path, label=self.label, account=self.account)
