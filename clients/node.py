"""The loop of a site in a deployment: take a message, answer it with the installed app, send.

One process, no open port: the site calls the server. Everything that a site must not forget is in
its folder, so the process may end at any time.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from flwr.app import Context, Message, RecordDict

from clients.app import MESSAGE_TYPES, make_app
from clients.policy import Policy
from clients.site import POLICY, Site
from clients.telling import reason, tell
from dp_risk import wire
from dp_risk.federation.bundle import check_bundle
from dp_risk.types import FederationError, Refused

# Seconds between two questions for work: often in a run, and ever rarer when nothing comes.
_BUSY, _IDLE, _SLACKENING = 0.15, 1.0, 30.0
# Seconds before the next attempt to connect, doubled up to the second.
_FIRST_WAIT, _LONGEST_WAIT, _NOT_ADMITTED_WAIT = 0.5, 8.0, 15.0
_ATTEMPTS = 5
_BUNDLES = 16
_SAID = {"query.enrol": "enrolled", "query.close": "closed"}


class Lost(FederationError):
    """The connection is gone, or was never there; the site tries again."""


class NotAdmitted(Lost):
    """The server does not know this site's key, or the clocks differ."""


class Gone(FederationError):
    """The server does not want the answer any more: the run is over."""


class Ended(BaseException):
    """Somebody ended the process: no error, and nothing may catch it by the way."""


@dataclass(kw_only=True, eq=False)
class Errand:
    """A message that arrived without its content, and its answer once there is one.

    Parameters
    ----------
    node : int
        The id under which this site got it; an answer is accepted from that one only.
    message : Message
        The head of the message.
    parts : tuple of str
        Ids of the objects that its content is made of.
    """

    node: int
    message: Message
    parts: tuple[str, ...]
    answer: Message | None = None
    attempts: int = 0


class Link(Protocol):
    """A connection to the server. Each call raises `Lost` when it breaks; see also `Gone`."""

    @property
    def node(self) -> int:
        """The id under which the server knows this connection."""
        ...

    def receive(self) -> Errand | None:
        """Return the next message, if there is one."""
        ...

    def bundle(self, run: int) -> bytes:
        """Return the app bundle of a run, of bounded size."""
        ...

    def content(self, errand: Errand) -> RecordDict:
        """Return the content of a message, of bounded size; any exception means that it is bad."""
        ...

    def send(self, errand: Errand) -> None:
        """Send the answer; what the server has already is sent again without harm."""
        ...


Connect = Callable[[], AbstractContextManager[Link]]


class Ending:
    """What SIGTERM and SIGINT do: end at once, or after the answer that is being made.

    A second signal ends that too: what was charged stays charged, and is answered if it was
    released. `number` is the last signal, 0 before there was one.
    """

    def __init__(self) -> None:
        self.number = 0
        self._busy = False

    def __call__(self, number: int, _: object) -> None:
        """Handle a signal."""
        again, self.number = self.number != 0, number
        if again or not self._busy:
            raise Ended

    @contextmanager
    def after(self) -> Iterator[None]:
        """Keep the first signal until the block is done."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            if self.number:
                raise Ended


@dataclass(kw_only=True, eq=False)
class Node:
    """A site at work.

    Parameters
    ----------
    site : Path
        The site's folder.
    connect : callable
        Opens a connection; called again for ever.
    ending : Ending
        What ends the loop.
    pause : callable
        Waits so many seconds.
    """

    site: Path
    connect: Connect
    ending: Ending = field(default_factory=Ending)
    # An event, because a signal ends its wait at once.
    pause: Callable[[float], Any] = field(default_factory=lambda: threading.Event().wait)
    _errand: Errand | None = field(default=None, init=False)
    _said: tuple[str, dict[str, str]] | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _bundles: dict[int, str | Refused] = field(default_factory=dict, init=False)

    def serve(self) -> NoReturn:
        """Answer messages until somebody ends the process.

        Raises
        ------
        Ended
            Always, in the end.
        """
        while True:
            wait = 0.0
            try:
                with self.connect() as link:
                    self._say(logging.INFO, "connected")
                    self._work(link)
            except NotAdmitted as error:
                self._say(logging.ERROR, "not admitted", reason=str(error))
                wait = _NOT_ADMITTED_WAIT
            except Lost as error:
                self._say(logging.WARNING, "no connection, trying again", reason=str(error))
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(self._failures, 10))
            except Exception as error:
                # Whatever a library raises on what a server sends, the site keeps trying.
                self._say(logging.ERROR, "no connection, trying again", reason=reason(error))
                wait = _LONGEST_WAIT
            self._failures += 1
            # Many sites that lost one server do not come back at the same moment.
            self.pause(wait * random.uniform(0.5, 1.0))

    def _say(self, level: int, event: str, **facts: str) -> None:
        """Log a change of the connection; the same again is not said."""
        if self._said != (event, facts):
            tell(level, event, **facts)
        self._said = (event, facts)

    def _work(self, link: Link) -> NoReturn:
        if self._errand is not None and self._errand.node != link.node:
            tell(logging.WARNING, "message dropped", reason="the server was started anew")
            self._errand = None
        last = time.monotonic()
        while True:
            if self._errand is None:
                self._errand = link.receive()
                self._failures = 0
            if self._errand is None:
                idle = time.monotonic() - last
                self.pause(min(_IDLE, max(_BUSY, idle / _SLACKENING)))
                continue
            with self.ending.after():
                self._run(self._errand, link)
            self._errand, last = None, time.monotonic()

    def _run(self, errand: Errand, link: Link) -> None:
        """Answer and send; a lost connection leaves the errand as far as it came."""
        errand.attempts += 1
        try:
            if errand.answer is None:
                start = time.monotonic()
                errand.answer = self._answer(errand, link)
                _report(errand.message, errand.answer, time.monotonic() - start)
            link.send(errand)
        except Gone as error:
            tell(logging.INFO, "message dropped", reason=str(error))
        except Lost:
            if errand.attempts < _ATTEMPTS:
                raise
            self._errand = None
            tell(logging.WARNING, "message dropped", attempts=_ATTEMPTS)
            raise
        except Exception as error:
            # An answer that cannot be encoded: the metadata of the message are not of this world.
            tell(logging.WARNING, "message dropped", reason=reason(error))

    def _answer(self, errand: Errand, link: Link) -> Message:
        """Return the answer of the installed app, or the constant refusal."""
        message, sites = errand.message, []

        def opened(folder: Path) -> Site:
            sites.append(Site.open(folder))
            return sites[-1]

        try:
            if message.metadata.message_type not in MESSAGE_TYPES:
                raise Refused("a message of an unknown type")
            self._approve(message.metadata.run_id, link)
            message.content = link.content(errand)
            context = Context(
                run_id=message.metadata.run_id,
                node_id=errand.node,
                node_config={"site": str(self.site)},
                state=RecordDict(),
                run_config={},
            )
            # The app is made for one message: its policy and ledger are those of this moment.
            return make_app(open_site=opened)(message, context)
        except (Lost, Gone):
            raise
        except Exception as error:
            tell(logging.WARNING, "refused", reason=reason(error))
            return Message(wire.refusal_record(), reply_to=message)
        finally:
            for site in sites:
                site.ledger.close_file()

    def _approve(self, run: int, link: Link) -> None:
        """Refuse a run whose bundle is not one of names alone, or not one that the policy lists."""
        if run not in self._bundles:
            content = link.bundle(run)
            try:
                self._bundles[run] = check_bundle(content)
            except Refused as error:
                self._bundles[run] = error
            while len(self._bundles) > _BUNDLES:
                del self._bundles[next(iter(self._bundles))]
        found = self._bundles[run]
        if isinstance(found, Refused):
            raise Refused(str(found))
        if not Policy.load(self.site / POLICY).approves(found):
            raise Refused(f"the policy does not approve the bundle {found}")


def _report(message: Message, answer: Message, seconds: float) -> None:
    """Log what was answered; a refusal was said when it was made."""
    content, kind = answer.content, message.metadata.message_type
    if wire.RECEIPT in content:
        receipt = content.config_records[wire.RECEIPT]
        facts = {name: receipt[name] for name in ("run", "purpose", "round")}
        tell(logging.INFO, "answered", **facts, seconds=round(seconds, 3))
    elif wire.STATEMENT in content and kind in _SAID:
        run = wire.read_statement(content)["run"]["id"]
        tell(logging.INFO, _SAID[kind], run=run)
