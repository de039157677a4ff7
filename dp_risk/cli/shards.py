"""`dp-risk data partition`: one file dealt out to sites by whoever owns all of it.

Rows are read and written as they are and nothing is said about them: what is written is as private
as the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dp_risk.types import ConfigurationError

_KINDS = ("iid", "dirichlet", "column", "time")
_MOST_SITES = 1000


def add_arguments(verb: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    verb.add_argument("file", metavar="FILE", help="CSV or Parquet, or spambase or adult")
    verb.add_argument("--sites", type=int, required=True, help="number of sites")
    verb.add_argument("--out", type=Path, required=True, help="new folder of the shards")
    verb.add_argument("--schema", type=Path, help="filled-in schema; needed for a file")
    verb.add_argument(
        "--by",
        choices=_KINDS,
        default="iid",
        help="equal shares at random, label skew, values of a column, or spans of time; accounts "
        "of the schema stay whole, except by column (default: iid)",
    )
    verb.add_argument("--column", help="for column and time (default: the schema's silo or time)")
    verb.add_argument("--alpha", type=float, default=1.0, help="for dirichlet: small is more skew")
    verb.add_argument("--seed", type=int, default=0, help="for iid and dirichlet (default: 0)")
    verb.set_defaults(act=_act)


def _act(options: argparse.Namespace) -> None:
    names = ("sites", "out", "schema", "by", "column", "alpha", "seed")
    for line in deal(options.file, **{name: getattr(options, name) for name in names}):
        print(line)


def deal(
    source: str,
    *,
    sites: int,
    out: Path,
    schema: Path | None,
    by: str,
    column: str | None,
    alpha: float,
    seed: int,
) -> list[str]:
    """Write site-00.parquet and so on into a new folder, for built-in data with the schema.

    Parameters
    ----------
    source : str
        Name of built-in data, or a file.
    sites : int
        In [1, 1000].
    out : Path
        The new folder.
    schema : Path or None
        Schema of a file.
    by : str
        "iid", "dirichlet", "column" or "time".
    column : str or None
        For "column" and "time"; None takes the schema's.
    alpha : float
        For "dirichlet", positive.
    seed : int
        For "iid" and "dirichlet", at least 0.

    Returns
    -------
    list of str
        Which files were written, and nothing about what is in them.

    Raises
    ------
    ConfigurationError
        If a value or file is wrong, or the folder exists; then nothing is written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from dp_risk.data.files import BUILTIN
    from dp_risk.data.partition import ByColumn, ByTime, Dirichlet, Iid, Partition
    from dp_risk.data.schema import Schema
    from dp_risk.data.source import builtin_path, read_table
    from dp_risk.federation import files

    if not 1 <= sites <= _MOST_SITES:
        raise ConfigurationError(f"--sites: {sites} is not from 1 to {_MOST_SITES}")
    if seed < 0:
        raise ConfigurationError(f"--seed: {seed} is not at least 0")
    built_in = source in BUILTIN
    file = builtin_path(source) if built_in else Path(source)
    if built_in and schema is not None:
        raise ConfigurationError(f"--schema: {source} has its own")
    if not built_in and schema is None:
        raise ConfigurationError(f"--schema: needed for {source}: it says what an account is")
    described = file.with_suffix(".yaml") if schema is None else schema
    kind: Partition
    if by == "iid":
        kind = Iid(seed=seed)
    elif by == "dirichlet":
        kind = Dirichlet(seed=seed, alpha=alpha)
    else:
        kind = (ByColumn if by == "column" else ByTime)(column=column)
    description, table = Schema.from_yaml(described), read_table(file)
    site_of = kind(table, description, sites)
    width = max(2, len(str(sites - 1)))
    names = [f"site-{number:0{width}d}.parquet" for number in range(sites)]
    with files.new_folder(out) as made:
        for number, name in enumerate(names):
            pq.write_table(table.filter(pa.array(site_of == number)), made / name)
        if built_in:
            files.write(made / "schema.yaml", files.read(described))
    lines = [f"written: {out}: {names[0]} to {names[-1]}"]
    if built_in:
        lines.append(f"schema: {out / 'schema.yaml'}")
    return lines
