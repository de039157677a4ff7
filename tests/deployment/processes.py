"""Real Flower processes on loopback, each in a group of its own, none left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
_GRACE_SECONDS = 15


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on; all are held until the last is found."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for held in sockets:
            held.bind((HOST, 0))
        return [held.getsockname()[1] for held in sockets]


@dataclass(kw_only=True)
class Processes:
    """Starts the console scripts that sit beside this interpreter; their output goes to files."""

    folder: Path
    deadline: float
    _started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def home(self, name: str) -> Path:
        """Return the FLWR_HOME of a process; every machine has its own."""
        home = self.folder / f"{name}-home"
        home.mkdir(exist_ok=True)
        return home

    def start(self, name: str, script: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start a script in a new process group."""
        scripts = Path(sys.executable).parent
        # A process that is started again goes on in its log.
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(scripts / script), *map(str, arguments)],
                cwd=self.folder,
                env={
                    **os.environ,
                    # Flower looks its own helpers up on the path.
                    "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}",
                    "FLWR_HOME": str(self.home(name)),
                    "FLWR_TELEMETRY_ENABLED": "0",
                    "FLWR_DISABLE_UPDATE_CHECK": "1",
                    "NO_PROXY": HOST,
                    "no_proxy": HOST,
                    "OMP_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started[name] = process
        return process

    def wait_for_port(self, name: str, port: int) -> None:
        """Return once a started process listens."""
        while True:
            assert self._started[name].poll() is None, f"{name} ended"
            with socket.socket() as probe:
                if probe.connect_ex((HOST, port)) == 0:
                    return
            assert time.monotonic() < self.deadline, f"{name} does not listen in time"
            time.sleep(0.1)

    def wait_for_exit(self, name: str) -> int:
        """Return the exit code of a process that ends by itself."""
        return self._started[name].wait(max(0.0, self.deadline - time.monotonic()))

    def process(self, name: str) -> subprocess.Popen[bytes]:
        """Return a started process."""
        return self._started[name]

    def kill(self, name: str) -> None:
        """Kill a process and its group at once."""
        process = self._started[name]
        _signal_group(process, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End every process: asked first, so that Flower ends what it started, then killed."""
        for process in self._started.values():
            _signal_group(process, signal.SIGTERM)
        until = time.monotonic() + _GRACE_SECONDS
        for process in self._started.values():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            finally:
                _signal_group(process, signal.SIGKILL)
                process.wait()

    def logs(self) -> str:
        """Return what every process wrote."""
        texts = [
            f"===== {name} =====\n"
            + (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
            for name in self._started
        ]
        return "\n".join(texts)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


@contextmanager
def processes(folder: Path, *, seconds: float) -> Iterator[Processes]:
    """Yield a starter of processes that must be done in time; stop them all at the end.

    What they wrote is printed, which pytest shows when the test fails.
    """
    folder.mkdir()
    running = Processes(folder=folder, deadline=time.monotonic() + seconds)
    try:
        yield running
    finally:
        running.stop()
        print(running.logs())
