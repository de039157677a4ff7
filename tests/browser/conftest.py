from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, Tab

HERE = Path(__file__).parent
Show = Callable[[str], Tab]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for all tests, without anything of the user's."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium: install Debian's package `chromium`")
    browser = Chromium(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Tab]:
    """An empty page, 1,100 px wide and light."""
    opened = Tab(chromium)
    opened.emulate(1100, prefers_color_scheme="light")
    yield opened
    opened.close()


@pytest.fixture
def show(tab: Tab, tmp_path: Path) -> Show:
    """Show HTML in the browser."""

    def load(html: str) -> Tab:
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        tab.goto(path.as_uri())
        return tab

    return load


@pytest.fixture(scope="session")
def axe_core(pytestconfig: pytest.Config) -> str:
    """The source text of axe-core, installed once into pytest's own cache."""
    folder = pytestconfig.cache.mkdir("axe-core")  # type: ignore[union-attr]
    source = folder / "node_modules" / "axe-core" / "axe.min.js"
    wanted = (HERE / "package-lock.json").read_bytes()
    kept = folder / "package-lock.json"
    if not (source.is_file() and kept.is_file() and kept.read_bytes() == wanted):
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("no npm: install Debian's package `npm`")
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(HERE / name, folder / name)
        done = subprocess.run(
            [npm, "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            kept.unlink()
            last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            pytest.skip(f"npm could not install axe-core: {last[0]}")
    return source.read_text(encoding="utf-8")
