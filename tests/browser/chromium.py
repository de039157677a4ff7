"""Headless Chromium over its own debugging protocol.

The protocol is spoken over a pipe (``--remote-debugging-pipe``, as Playwright does), so nothing is
installed for it: no driver package, no web socket, no port, and a machine without a browser
installs no more than before. Chromium ends by itself when the pipe closes, also when a test run is
killed.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 60.0  # seconds for any one answer
KEYS = {"Tab": 9, "Enter": 13}
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-default-apps", "--disable-extensions", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--remote-debugging-pipe"),
)

Facts = dict[str, Any]


class Chromium:
    """One browser; close it."""

    def __init__(self, program: str, profile: Path) -> None:
        commands, self._commands = _pipe()
        self._answers, answers = _pipe()

        def wire() -> None:
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=wire,
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        self._rest, self._last = b"", 0
        self.hear: dict[str, Callable[[str, Facts], None]] = {}

    def call(self, method: str, session: str | None = None, **params: Any) -> Facts:
        """Send one command and return its result; events that come before it are handed on."""
        self._last += 1
        message: Facts = {"id": self._last, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while (answer := self._next(deadline)).get("id") != self._last:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    def wait(self, until: Callable[[], bool]) -> None:
        """Hand on events until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            self._next(deadline)

    def close(self) -> None:
        """End the browser and all of its processes."""
        os.close(self._commands)
        os.close(self._answers)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _next(self, deadline: float) -> Facts:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            part = os.read(self._answers, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("chromium does not answer" if not ready else "chromium ended")
            self._rest += part
        first, _, self._rest = self._rest.partition(b"\0")
        message: Facts = json.loads(first)
        if "method" in message and message.get("sessionId") in self.hear:
            self.hear[message["sessionId"]](message["method"], message["params"])
        return message


class Tab:
    """One page of the browser; close it.

    Attributes
    ----------
    said : list of str
        What the page wrote to the console, exceptions and the browser's own complaints.
    asked : list of str
        Every address that the page asked for, the page itself first.
    """

    def __init__(self, browser: Chromium) -> None:
        self._browser = browser
        self._target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)
        self._session: str = attached["sessionId"]
        self.said: list[str] = []
        self.asked: list[str] = []
        self._loaded = False
        browser.hear[self._session] = self._event
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **params: Any) -> Facts:
        """Send one command to this page."""
        return self._browser.call(method, self._session, **params)

    def goto(self, address: str) -> None:
        """Load a page and wait until it is drawn."""
        self._loaded = False
        if "errorText" in (answer := self.call("Page.navigate", url=address)):
            raise RuntimeError(f"{address}: {answer['errorText']}")
        self._browser.wait(lambda: self._loaded)
        self.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def evaluate(self, script: str) -> Any:
        """Return the value of a script, awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(_words(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def emulate(self, width: int, height: int = 900, *, media: str = "", **features: str) -> None:
        """Set the size in CSS pixels, media features (``prefers_color_scheme``) and the medium.

        Without a medium it is the screen, and paper for `pdf`.
        """
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        named = [{"name": n.replace("_", "-"), "value": value} for n, value in features.items()]
        self.call("Emulation.setEmulatedMedia", media=media, features=named)

    def press(self, key: str) -> None:
        """Press and release a key of `KEYS`."""
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **code, **text
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def picture(self) -> bytes:
        """Return the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def pdf(self) -> bytes:
        """Return the page as it prints, with the paper and the margins that its style asks for."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False}
        done = self.call("Page.printToPDF", preferCSSPageSize=True, **paper)
        return base64.b64decode(done["data"])

    def close(self) -> None:
        """Close the page."""
        self._browser.call("Target.closeTarget", targetId=self._target)
        del self._browser.hear[self._session]

    def _event(self, method: str, params: Facts) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif method == "Runtime.consoleAPICalled":
            words = [str(a.get("value", a.get("description"))) for a in params["args"]]
            self.said.append(f"{params['type']}: {' '.join(words)}")
        elif method == "Runtime.exceptionThrown":
            self.said.append(_words(params["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.said.append(f"{params['entry']['level']}: {params['entry']['text']}")


def _words(details: Facts) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])


def _pipe() -> tuple[int, int]:
    """Return a pipe whose ends are not 3 or 4, which the browser's are to be."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
