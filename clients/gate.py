"""The gate: the outermost layer of a site. Only charged releases and public statements pass."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable

from clients.site import Site
from dp_risk import wire

LOG = logging.getLogger("dp_risk.site")
Open = Callable[[Context], Site]


def gate(open_site: Open) -> Callable[[Message, Context, ClientAppCallable], Message]:
    """Return a Flower mod that lets through only what the ledger or the policy accounts for.

    A release passes when the digest recomputed over its names, dtypes, shapes and bytes is the one
    that the ledger minted for that round. A statement passes when the site, asked again, says the
    same. All else, every exception included, becomes one constant refusal; the reason stays in the
    site's own log.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            reply = call_next(message, context)
            _check(reply, message, open_site(context))
            return Message(reply.content, reply_to=message)
        except Exception as error:
            LOG.warning("refused %s: %s", message.metadata.message_type, error)
            LOG.debug("refused", exc_info=True)
            return Message(wire.refusal_record(), reply_to=message)

    return mod


def _check(reply: Message, message: Message, site: Site) -> None:
    content = reply.content
    if wire.STATEMENT in content:
        run = wire.read_request(message).values.get("run")
        if wire.read_statement(content) != site.statement(run if isinstance(run, str) else None):
            raise ValueError("a statement that policy and ledger do not make")
        return
    release = wire.read_release(content)
    minted = site.ledger.released(run=release.run, purpose=release.purpose, round=release.round)
    if minted != release.digest:
        raise ValueError("arrays that the ledger did not release")
