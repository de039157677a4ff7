"""From Hydra overrides to checked settings, with one line for every mistake."""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dp_risk.cli.settings import (
    Audit,
    Deployment,
    Evaluation,
    Frontier,
    InProcess,
    Ray,
    Report,
    RunFolder,
    Server,
    Settings,
    Sites,
    Tuning,
)
from dp_risk.data.partition import ByColumn, ByTime, Dirichlet, Iid
from dp_risk.data.settings import Data
from dp_risk.models import REGISTRY
from dp_risk.privacy.planning import Privacy
from dp_risk.types import ConfigurationError
from server.job import Federation

_NOT_ASCII = re.compile(r"""[^\[\]{},:='"]*[^\x00-\x7f][^\[\]{},:='"]*""")
_KINDS: dict[str, tuple[Any, ...]] = {
    "data": (Data,),
    "partition": (Iid, Dirichlet, ByColumn, ByTime),
    "model": tuple(REGISTRY.values()),
    "federation": (Federation,),
    "grid": (InProcess, Ray, Deployment),
    "evaluation": (Evaluation,),
    "report": (Report,),
    "tuning": (Tuning,),
    "audit": (Audit,),
}


def settings(overrides: Sequence[str]) -> Settings:
    """Compose the configuration and build every group.

    Raises
    ------
    ConfigurationError
        One line: which key, and what is wrong with it.
    """
    config = _compose(overrides)
    built = {name: _build(config, name) for name in _KINDS}
    privacy_values = _values(_merged(Privacy, config["privacy"], "privacy", missing="epsilon"))
    privacy = None if privacy_values["epsilon"] == "???" else Privacy(**privacy_values)
    if privacy is not None:
        # Here, so that no site is made for a run that cannot be.
        built["federation"].fewest(privacy)
    model = built.pop("model")
    names = {cls: name for name, cls in REGISTRY.items()}
    seed = config.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigurationError(f"seed: {seed!r} is not a whole number")
    return Settings(
        **built,
        model_name=names[type(model)],
        model_options=dataclasses.asdict(model),
        privacy=privacy,
        privacy_values=privacy_values,
        run=_build(config, "run", RunFolder),
        sites=_build(config, "sites", Sites),
        server=_build(config, "server", Server),
        frontier=_build(config, "frontier", Frontier),
        seed=seed,
        yaml=_yaml(config),
    )


def with_privacy(base: Settings, *, seed: int, **changes: Any) -> Settings:
    """Return settings of one run of a frontier: other privacy fields and another public seed.

    Raises
    ------
    ConfigurationError
        If these sites cannot run with that privacy.
    """
    privacy = Privacy(**{**base.privacy_values, **changes})
    base.federation.fewest(privacy)
    partition = base.partition
    if hasattr(partition, "seed"):
        partition = dataclasses.replace(partition, seed=seed)
    return dataclasses.replace(base, privacy=privacy, seed=seed, partition=partition)


def sweep(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Yield one list of overrides for every job of a `-m` sweep (Hydra's grammar).

    Raises
    ------
    ConfigurationError
        On an override that does not parse.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        choices = []
        for override in parsed:
            if override.is_sweep_override():
                key = override.get_key_element()
                choices.append([f"{key}={v}" for v in override.sweep_string_iterator()])
            else:
                choices.append([str(override.input_line)])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(_unquoted(overrides) or _line(error)) from None
    yield from (list(job) for job in itertools.product(*choices))


def asked_for(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of overrides by key, as they are written; `group=choice` too.

    Raises
    ------
    ConfigurationError
        On an override that does not parse.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        return {override.get_key_element().lstrip("+~"): override.value() for override in parsed}
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(_unquoted(overrides) or _line(error)) from None


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        with initialize_config_module("conf", version_base="1.3"):
            return compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigurationError(_unquoted(overrides) or _line(error)) from None


def _unquoted(overrides: Sequence[str]) -> str | None:
    """Say how to quote the first override that parses only where what is not ASCII is quoted."""
    for override in overrides:
        key, _, value = override.partition("=")
        quoted = f"{key}={_NOT_ASCII.sub(_in_quotes, value)}"
        if quoted != override and not _parses(override) and _parses(quoted):
            return f'{override}: quote what is not ASCII: "{quoted}"'
    return None


def _in_quotes(found: re.Match[str]) -> str:
    text = found[0].strip()
    return found[0].replace(text, f"'{text}'")


def _parses(override: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([override])
    except HydraException:
        return False
    return True


def _class(config: DictConfig, name: str) -> Any:
    """Return the class of a group; only the group's own kinds are ever looked at."""
    target = config[name].get("_target_")
    for cls in _KINDS[name]:
        if target == f"{cls.__module__}.{cls.__qualname__}":
            return cls
    raise ConfigurationError(f"{name}._target_: {target} is no kind of {name}")


def _values(node: DictConfig) -> dict[str, Any]:
    return {str(key): value for key, value in OmegaConf.to_container(node, resolve=True).items()}  # type: ignore[union-attr]


def _merged(cls: Any, node: DictConfig, name: str, missing: str = "") -> DictConfig:
    """Return the fields of a group, merged into the types of its class."""
    schema: DictConfig = OmegaConf.structured(cls)
    # Frozen classes make read-only nodes.
    OmegaConf.set_readonly(schema, False)
    for key in map(str, node):
        if key == "_target_":
            continue
        try:
            if OmegaConf.is_missing(node, key):
                if key != missing:
                    raise ConfigurationError(f"{name}.{key} is required")
                continue
            value = node[key]
        except MissingMandatoryValue:
            raise ConfigurationError(
                f"{name}.{key} is required: a key that it takes is missing"
            ) from None
        except OmegaConfBaseException as error:
            raise ConfigurationError(f"{name}.{key}: {_line(error)}") from None
        kind = typing.get_type_hints(cls).get(key)
        if dataclasses.is_dataclass(kind) and isinstance(value, DictConfig):
            value = _merged(kind, value, f"{name}.{key}")
        try:
            schema[key] = value
        except OmegaConfBaseException as error:
            raise ConfigurationError(f"{name}.{key}: {_line(error)}") from None
    return schema


def _build(config: DictConfig, name: str, cls: Any = None) -> Any:
    cls = cls or _class(config, name)
    values = _values(_merged(cls, config[name], name))
    try:
        return cls(**values)
    except ConfigurationError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name}: {error}") from None


def _yaml(config: DictConfig) -> str:
    try:
        return OmegaConf.to_yaml(config, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_yaml(config)


def _line(error: BaseException) -> str:
    """Return what an error says, as one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    words = [line for line in lines if line and not line.startswith(("full_key:", "object_type="))]
    text = " ".join(" ".join(words).split())
    # Hydra's advice suits its own users: a search path, and a plus sign for what is a typo here.
    for advice in (" To append to your config", " Config search path"):
        text = text.partition(advice)[0]
    return text[:400] or type(error).__name__
