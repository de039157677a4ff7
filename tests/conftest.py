from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests import federation
from tests.federation import Server


@pytest.fixture(autouse=True, scope="session")
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Calibrated noise is kept in a folder of the tests, also by the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site with private rows and a private size."""
    return federation.make_site(tmp_path / "site-00", federation.rows(), federation.policy())


@pytest.fixture
def public_site(tmp_path: Path) -> Path:
    """A site whose own policy says that its rows are public."""
    rules = federation.policy(public=True, units=240)
    return federation.make_site(tmp_path / "public-00", federation.rows(), rules)


@pytest.fixture
def server(site: Path) -> Server:
    """A server before the private site, which forgets everything between messages."""
    return Server(site)


@pytest.fixture
def sites(tmp_path: Path) -> Callable[..., list[Path]]:
    """Make a federation: 300 rows dealt out to some sites under one policy."""

    def make(count: int = 2, *, table: pa.Table | None = None, **changes: object) -> list[Path]:
        whole = federation.rows() if table is None else table
        return [
            federation.make_site(
                tmp_path / "sites" / f"site-{number:02d}",
                whole.take(list(range(number, whole.num_rows, count))),
                federation.policy(site=f"site-{number:02d}", **changes),
            )
            for number in range(count)
        ]

    return make


@pytest.fixture
def tiny_file(tmp_path: Path) -> Path:
    """A Parquet file of 300 synthetic rows with its filled-in schema beside it."""
    pq.write_table(federation.rows(), tmp_path / "tiny.parquet")
    (tmp_path / "tiny.schema.yaml").write_text(yaml.safe_dump(federation.SCHEMA, sort_keys=False))
    return tmp_path / "tiny.parquet"
