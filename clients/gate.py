"""The gate: the outermost layer of a site. Only charged releases and public statements pass."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app import Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from clients.site import Site
from clients.telling import reason, tell
from dp_risk import wire
from dp_risk.types import Refused

Open = Callable[[Context], Site]


def gate(open_site: Open) -> Callable[[Message, Context, ClientAppCallable], Message]:
    """Return a Flower mod that lets through only what the ledger or the policy accounts for.

    A release passes when the digest recomputed over its names, dtypes, shapes and bytes is the one
    that the ledger minted for that round. A statement passes when the site, asked again, says the
    same. What leaves is encoded anew from what was checked, so that nothing hides beside it: no
    bytes behind an array, no key twice. All else, every exception included, becomes one constant
    refusal; the reason stays in the site's own log, which holds nothing private either.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            reply = call_next(message, context)
            content = _checked(reply, message, open_site(context))
            return Message(content, reply_to=message)
        except Exception as error:
            kind, why = message.metadata.message_type, reason(error)
            tell(logging.WARNING, "refused", message=kind, reason=why)
            return Message(wire.refusal_record(), reply_to=message)

    return mod


def _checked(reply: Message, message: Message, site: Site) -> RecordDict:
    content = reply.content
    if wire.STATEMENT in content:
        said = site.statement(*wire.read_request(message).about)
        if wire.read_statement(content) != said:
            raise Refused("a statement that policy and ledger do not make")
        return wire.statement_record(said)
    release = wire.read_release(content)
    run, purpose, round = release.run, release.purpose, release.round
    if site.ledger.released(run=run, purpose=purpose, round=round) != release.digest:
        raise Refused("arrays that the ledger did not release")
    if site.ledger.head_at(run=run, purpose=purpose, round=round) != release.ledger_head:
        raise Refused("another ledger head than that of the release")
    if not release.signed_by(site.ledger.public_key):
        raise Refused("a release without the site's signature")
    return wire.release_record(release)
