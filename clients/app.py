"""The site's ClientApp: `clients.app:app`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from clients.gate import gate
from clients.site import Site
from clients.telling import tell
from dp_risk import wire
from dp_risk.privacy.plan import Plan
from dp_risk.privacy.schedule import COUNTS, EVALUATION, SCORE_BINS, SUBGROUPS, TRAINING

# What a server may ask; the only messages that are read at all.
MESSAGE_TYPES = frozenset(
    {
        "train",
        *(
            f"query.{name}"
            for name in (
                *("status", "enrol", "meet", "close"),
                *(COUNTS, SCORE_BINS, EVALUATION, SUBGROUPS),
            )
        ),
    }
)


class SiteApp(ClientApp):  # type: ignore[misc]
    """A ClientApp that refuses what it has no handler for: an exception's text would leave."""

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message."""
        try:
            return super().__call__(message, context)
        except Exception:
            kind = message.metadata.message_type
            tell(logging.WARNING, "refused", message=kind, reason="no handler")
            return Message(wire.refusal_record(), reply_to=message)


def make_app(*, remember: bool = True, open_site: Callable[[Path], Site] = Site.open) -> ClientApp:
    """Return the ClientApp.

    Parameters
    ----------
    remember : bool
        Keep opened sites between messages of one process. Without it every message opens the site
        from disk, as in a deployment where each message has a process of its own.
    open_site : callable
        Opens a site's folder; an audit opens it under watch.
    """

    def open_path(folder: str) -> Site:
        return open_site(Path(folder))

    opened = lru_cache(maxsize=None)(open_path) if remember else open_path

    def site_of(context: Context) -> Site:
        return opened(str(context.node_config["site"]))

    app = SiteApp()
    mods = [gate(site_of)]

    def release(purpose: str, message: Message, context: Context) -> Message:
        request = wire.read_request(message)
        answer = site_of(context).answer(
            plan_digest=str(request.values["plan"]),
            purpose=purpose,
            round=int(request.values["round"]),
            request=request.digest,
            weights=request.weights,
            edges=request.values.get("edges"),
            column=request.values.get("column"),
            participants=request.values.get("participants"),
        )
        return Message(wire.release_record(answer), reply_to=message)

    def statement(message: Message, context: Context) -> Message:
        said = site_of(context).statement(*wire.read_request(message).about)
        return Message(wire.statement_record(said), reply_to=message)

    @app.query("status", mods=mods)
    def status(message: Message, context: Context) -> Message:
        return statement(message, context)

    @app.query("enrol", mods=mods)
    def enrol(message: Message, context: Context) -> Message:
        plan = Plan.from_dict(wire.read_request(message).values["plan"])
        site_of(context).enrol(plan)
        return statement(message, context)

    @app.query("meet", mods=mods)
    def meet(message: Message, context: Context) -> Message:
        values = wire.read_request(message).values
        site_of(context).meet(str(values["plan"]), values["enrolments"])
        return statement(message, context)

    @app.query("close", mods=mods)
    def close(message: Message, context: Context) -> Message:
        site_of(context).close(str(wire.read_request(message).values["run"]))
        return statement(message, context)

    @app.query(COUNTS, mods=mods)
    def counts(message: Message, context: Context) -> Message:
        return release(COUNTS, message, context)

    @app.query(SCORE_BINS, mods=mods)
    def score_bins(message: Message, context: Context) -> Message:
        return release(SCORE_BINS, message, context)

    @app.query(EVALUATION, mods=mods)
    def evaluation(message: Message, context: Context) -> Message:
        return release(EVALUATION, message, context)

    @app.query(SUBGROUPS, mods=mods)
    def subgroups(message: Message, context: Context) -> Message:
        return release(SUBGROUPS, message, context)

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        return release(TRAINING, message, context)

    return app


app = make_app()
