"""The public description of a table: columns, bounds, categories, label and ids.

Everything in a schema is public. Nothing in it may be read off private rows: bounds and category
lists come from documentation or from the person who knows the column.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from dp_risk.types import ConfigurationError

DEFAULT_MISSING = ("", "NA", "NaN", "null", "?")
MAX_BINS = 4096
MAX_BUCKETS = 1 << 20


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigurationError(message)


@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A number with public bounds.

    Parameters
    ----------
    low, high : float
        Public bounds in the column's own unit, ``low < high``; values outside are clipped.
    scale : {"linear", "log", "signed_log"}
        How a value becomes ``u`` in [0, 1]: ``(x - low) / (high - low)``;
        ``log1p((x - low) / unit) / log1p((high - low) / unit)``; or ``(s(x) - s(low)) /
        (s(high) - s(low))`` with ``s(x) = sign(x) log1p(abs(x) / unit)``, for amounts that may be
        below zero.
    unit : float
        Distance from `low` (log) or from zero (signed_log) at which the scale turns from linear to
        logarithmic, positive.
    bins : int
        Equal bins of ``u``, 0 to 4096; 0 means the linear term only.

    Raises
    ------
    ConfigurationError
        If a parameter is out of range.
    """

    low: float
    high: float
    scale: Literal["linear", "log", "signed_log"] = "linear"
    unit: float = 1.0
    bins: int = 16

    def __post_init__(self) -> None:
        # 1 and 1.0 must give one digest.
        for name in ("low", "high", "unit"):
            object.__setattr__(self, name, float(getattr(self, name)))
        span = self.high - self.low
        _check(
            math.isfinite(span) and span > 0,
            f"low and high must be finite with low < high, not {self.low} and {self.high}",
        )
        _check(
            self.scale in ("linear", "log", "signed_log"),
            f"scale must be linear, log or signed_log, not {self.scale}",
        )
        _check(
            self.scale != "signed_log" or self.low <= 0 <= self.high,
            f"signed_log needs low <= 0 <= high, not {self.low} and {self.high}",
        )
        _check(
            math.isfinite(self.unit) and self.unit > 0 and math.isfinite(span / self.unit),
            f"unit must be a positive number, not {self.unit}",
        )
        _check(0 <= self.bins <= MAX_BINS, f"bins must be 0 to {MAX_BINS}, not {self.bins}")


@dataclass(frozen=True, kw_only=True)
class Categorical:
    """A category from a public list, or hashed to buckets.

    Parameters
    ----------
    values : tuple of str
        The public list; any other value shares one code of its own.
    buckets : int
        Number of hash buckets, 1 to 2**20. Give exactly one of `values` and `buckets`.

    Raises
    ------
    ConfigurationError
        If both or neither are given, or a value appears twice.
    """

    values: tuple[str, ...] = ()
    buckets: int = 0

    def __post_init__(self) -> None:
        _check(bool(self.values) != bool(self.buckets), "give either values or buckets")
        _check(len(set(self.values)) == len(self.values), "a value appears twice in values")
        _check(
            0 <= self.buckets <= MAX_BUCKETS,
            f"buckets must be 1 to {MAX_BUCKETS}, not {self.buckets}",
        )


@dataclass(frozen=True, kw_only=True)
class Text:
    """Free text as the set of its distinct hashed n-grams.

    Parameters
    ----------
    buckets : int
        Number of hash buckets, 1 to 2**20.
    ngram_low, ngram_high : int
        Shortest and longest n-gram, ``1 <= ngram_low <= ngram_high <= 8``.
    analyzer : {"word", "char"}
        N-grams of words or of characters, both in lower case.
    max_ngrams : int
        At most this many distinct n-grams a row (the first ones), 1 to 4096.

    Raises
    ------
    ConfigurationError
        If a parameter is out of range.
    """

    buckets: int = 1024
    ngram_low: int = 1
    ngram_high: int = 2
    analyzer: Literal["word", "char"] = "word"
    max_ngrams: int = 64

    def __post_init__(self) -> None:
        _check(
            1 <= self.buckets <= MAX_BUCKETS,
            f"buckets must be 1 to {MAX_BUCKETS}, not {self.buckets}",
        )
        _check(
            1 <= self.ngram_low <= self.ngram_high <= 8,
            f"ngram_low and ngram_high must satisfy 1 <= low <= high <= 8, "
            f"not {self.ngram_low} and {self.ngram_high}",
        )
        _check(self.analyzer in ("word", "char"), f"analyzer must be word or char: {self.analyzer}")
        _check(1 <= self.max_ngrams <= 4096, f"max_ngrams must be 1 to 4096: {self.max_ngrams}")


# Written in C where PyYAML has it.
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)

Feature: TypeAlias = Numeric | Categorical | Text
_TYPES: dict[str, type[Numeric] | type[Categorical] | type[Text]] = {
    "numeric": Numeric,
    "categorical": Categorical,
    "text": Text,
}
_TYPE_NAMES: dict[type, str] = {cls: name for name, cls in _TYPES.items()}


@dataclass(frozen=True, kw_only=True)
class Label:
    """The column to predict.

    Parameters
    ----------
    column : str
        Name of the column.
    positive : tuple of str
        Values, compared as text, that mean 1.
    negative : tuple of str
        Values that mean 0; when empty, every other value that is not missing does. A row with any
        other label is left out of training.

    Raises
    ------
    ConfigurationError
        If `positive` is empty or shares a value with `negative`.
    """

    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(bool(self.positive), "label: fill positive with the values that mean 1")
        _check(
            not set(self.positive) & set(self.negative),
            "label: a value is both positive and negative",
        )


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The public description of one table.

    Parameters
    ----------
    name : str
        Name of the data set.
    label : Label
        The column to predict.
    features : mapping of str to Numeric, Categorical or Text
        Columns to learn from, in coding order.
    id, account, time, silo : str, optional
        Columns that hold the stable record id, the account id, the time and the natural silo.
    missing : tuple of str
        Texts that mean "no value" in any column, after trimming.
    ignore : tuple of str
        Columns that are never read.

    Raises
    ------
    ConfigurationError
        If there is no feature, or a feature is also the label, the id or the account.
    """

    name: str
    label: Label
    features: Mapping[str, Feature]
    id: str | None = None
    account: str | None = None
    time: str | None = None
    silo: str | None = None
    missing: tuple[str, ...] = DEFAULT_MISSING
    ignore: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", dict(self.features))
        _check(bool(self.features), f"schema {self.name}: features is empty")
        for role in ("id", "account"):
            column = getattr(self, role)
            _check(
                column is None or column not in self.features,
                f"schema {self.name}: column {column} is the {role} and cannot be a feature",
            )
        _check(
            self.label.column not in self.features,
            f"schema {self.name}: column {self.label.column} is the label, not a feature",
        )
        for column in self.ignore:
            _check(column not in self.features, f"schema {self.name}: {column} is in ignore")

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the schema reads, features first, each once."""
        extra = (self.label.column, self.id, self.account, self.time, self.silo)
        return tuple(dict.fromkeys([*self.features, *(name for name in extra if name)]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON; the order of the features counts."""
        content = self.to_dict()
        content["features"] = list(content["features"].items())
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings and numbers; `from_dict` reads them back."""
        content: dict[str, Any] = {"name": self.name, "label": _plain(self.label)}
        for key in ("id", "account", "time", "silo"):
            if getattr(self, key) is not None:
                content[key] = getattr(self, key)
        content["missing"] = list(self.missing)
        content["ignore"] = list(self.ignore)
        content["features"] = {
            name: {"type": _TYPE_NAMES[type(feature)], **_plain(feature)}
            for name, feature in self.features.items()
        }
        return content

    def to_yaml(self) -> str:
        """Return the schema as YAML that `from_yaml` reads back."""
        text: str = yaml.safe_dump(
            self.to_dict(), sort_keys=False, allow_unicode=True, width=100, default_flow_style=None
        )
        return text

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, source: str = "schema") -> Schema:
        """Build a schema from plain values.

        Parameters
        ----------
        content : mapping
            As `to_dict` returns it. A column named as label, id or account, or in ``ignore``, is
            dropped from ``features``.
        source : str
            Where `content` comes from, for error messages.

        Raises
        ------
        ConfigurationError
            If a key is unknown or a value is not filled in; names source, column and key.
        """
        _check(isinstance(content, Mapping), f"{source}: not a mapping")
        known = {item.name for item in fields(cls)}
        for key in content:
            _check(key in known, f"{source}: unknown key {key}")
        label = _label(content.get("label"), source)
        roles = {role: _optional(content.get(role)) for role in ("id", "account", "time", "silo")}
        ignore = _texts(content.get("ignore", ()), f"{source}: ignore")
        dropped = {label.column, roles["id"], roles["account"], *ignore}
        declared = content.get("features")
        if not isinstance(declared, Mapping) or not declared:
            raise ConfigurationError(f"{source}: features: fill in at least one column")
        features = {
            str(name): _feature(value, f"{source}: column {name}")
            for name, value in declared.items()
            if str(name) not in dropped
        }
        try:
            return cls(
                name=_optional(content.get("name")) or Path(source).stem,
                label=label,
                features=features,
                missing=_texts(content.get("missing", DEFAULT_MISSING), f"{source}: missing"),
                ignore=ignore,
                **roles,
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"{source}: {error}") from None

    @classmethod
    def from_yaml(
        cls, path: str | Path, *, label: str | None = None, account: str | None = None
    ) -> Schema:
        """Read a schema from a YAML file.

        Parameters
        ----------
        path : str or Path
            The file.
        label, account : str, optional
            Columns that replace the file's own. A label without ``positive`` values in the file
            takes "1", "true" and "True".

        Raises
        ------
        ConfigurationError
            If the file cannot be read, is still a draft, or is wrong.
        """
        try:
            # Scalars stay as typed: `positive: [True]` or `[01]` must match the text of the data.
            content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_LOADER)
        except OSError as error:
            raise ConfigurationError(f"schema {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"schema {path}: not UTF-8 text") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at line {mark.line + 1}" if mark else ""
            raise ConfigurationError(f"schema {path}: not valid YAML{where}") from None
        _check(isinstance(content, dict), f"schema {path}: not a mapping")
        if label is not None:
            old = content.get("label")
            values = dict(old) if isinstance(old, dict) else {"positive": ["1", "true", "True"]}
            content["label"] = {**values, "column": label}
        if account is not None:
            content["account"] = account
        return cls.from_dict(content, source=str(path))


def _plain(value: Feature | Label) -> dict[str, Any]:
    pairs = ((item.name, getattr(value, item.name)) for item in fields(value))
    return {name: list(part) if isinstance(part, tuple) else part for name, part in pairs}


def _unfilled(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip() in ("", "null", "~"))


def _optional(value: Any) -> str | None:
    return None if _unfilled(value) else str(value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if _unfilled(value):
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"{where}: must be a list")
    return tuple(_text(item) for item in value)


def _label(value: Any, source: str) -> Label:
    if _unfilled(value):
        raise ConfigurationError(f"{source}: label: fill in column and positive")
    where = f"{source}: label"
    _check(isinstance(value, Mapping), f"{where}: must hold column and positive")
    for key in value:
        _check(key in ("column", "positive", "negative"), f"{where}: unknown key {key}")
    column = _optional(value.get("column"))
    if column is None:
        raise ConfigurationError(f"{where}: fill in column")
    try:
        return Label(
            column=column,
            positive=_texts(value.get("positive"), f"{where}: positive"),
            negative=_texts(value.get("negative"), f"{where}: negative"),
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {str(error).removeprefix(f'{source}: ')}") from None


def _feature(value: Any, where: str) -> Feature:
    _check(isinstance(value, Mapping), f"{where}: must hold a type and its parameters")
    kind = str(value.get("type"))
    if kind not in _TYPES:
        raise ConfigurationError(f"{where}: type must be one of {', '.join(_TYPES)}, not {kind}")
    cls = _TYPES[kind]
    known = {item.name: item for item in fields(cls)}
    arguments: dict[str, Any] = {}
    for key, part in value.items():
        if key == "type":
            continue
        _check(key in known, f"{where}: unknown key {key} for a {kind} column")
        if not _unfilled(part):
            arguments[key] = _argument(part, str(known[key].type), f"{where}: {key}")
        elif known[key].default is MISSING:
            raise ConfigurationError(f"{where}: fill in {key} (a public bound)")
    for name, item in known.items():
        if item.default is MISSING and name not in arguments:
            raise ConfigurationError(f"{where}: fill in {name} (a public bound)")
    if kind == "categorical" and not arguments.get("values") and not arguments.get("buckets"):
        raise ConfigurationError(f"{where}: fill in values (the public list) or buckets")
    try:
        return cls(**arguments)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _argument(value: Any, kind: str, where: str) -> Any:
    if kind.startswith("tuple"):
        return _texts(value, where)
    if kind in ("int", "float"):
        try:
            return int(str(value)) if kind == "int" else float(str(value))
        except ValueError:
            noun = "a whole number" if kind == "int" else "a number"
            raise ConfigurationError(f"{where}: must be {noun}, not {value}") from None
    return str(value)
