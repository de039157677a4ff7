"""The page on a real federation, pasted line by line."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.deployment.processes import free_ports, processes

PAGE = (Path(__file__).parents[2] / "docs" / "federation.md").read_text()
SECONDS = 400

pytestmark = [pytest.mark.deployment, pytest.mark.slow]


def blocks() -> list[str]:
    """Return the blocks of the three terminals: folders, server, sites, operator."""
    [part] = re.findall(r"^## Three terminals.*?(?=^## )", PAGE, re.S | re.M)
    return re.findall(r"^```sh\n(.*?)^```", part, re.S | re.M)


def test_three_terminals(tmp_path: Path) -> None:
    folders, server, sites, operator = blocks()
    # Another server may have the port of the page.
    folders = folders.replace(
        "federation init fed", f"federation init fed --port {free_ports(1)[0]}"
    )
    with processes(tmp_path / "here", seconds=SECONDS) as running:
        here, scripts = running.folder, Path(sys.executable).parent

        def paste(block: str, *, code: int | None = 0) -> str:
            said = ""
            for line in block.splitlines():
                words = shlex.split(line)
                words[0] = str(scripts / words[0])
                done = subprocess.run(
                    words, cwd=here, capture_output=True, text=True, timeout=SECONDS, check=False
                )
                assert code in (None, done.returncode), f"{line}\n{done.stderr}"
                said += done.stdout
            return said

        paste(folders)
        running.start("server", *shlex.split(server))
        for number, command in enumerate(sites.split("&")[:3]):
            running.start(f"site-{number}", *shlex.split(command))
        deadline = time.monotonic() + 60
        first, *rest = operator.splitlines(keepends=True)
        while paste(first, code=None).count("online") < 3:
            assert time.monotonic() < deadline, "the sites do not come"
            time.sleep(1)
        said = paste("".join(rest))
    assert "run: epsilon 1 at each of 3 sites (delta 1e-05, trust distributed" in said
    assert (here / "runs" / "real" / "report.html").exists()
