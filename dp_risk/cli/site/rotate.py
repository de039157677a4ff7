"""`dp-risk site rotate-key`: another key for a site, and the letter that proves whose it is."""

from __future__ import annotations

from pathlib import Path

from clients import signing
from dp_risk.cli.site.letter import letter
from dp_risk.federation import node_keys
from dp_risk.federation.membership import LETTER, NODE_KEY, SITE_LETTER
from dp_risk.privacy.ledger import Ledger
from dp_risk.types import ConfigurationError, Refused


def rotate_key(
    folder: Path, *, by: str | None, reason: str | None, node: bool, close_open_run: bool
) -> list[str]:
    """Replace a key of a site and write site.json anew.

    Parameters
    ----------
    folder : Path
        The site's folder.
    by, reason : str or None
        Who decides, and why; needed where the ledger's key is rotated.
    node : bool
        Replace the key of the node instead: no entry tells of it.
    close_open_run : bool
        End a run that is still open at the site.

    Returns
    -------
    list of str
        What a person should know now.

    Raises
    ------
    ConfigurationError
        If a person or a reason is missing, or a file is missing or malformed.
    Refused
        If a run is open, or the ledger is retired.
    """
    if node:
        _replace_node(folder, close_open_run=close_open_run)
    elif by is None or reason is None:
        raise ConfigurationError("--by and --reason are needed: they stand in the ledger")
    else:
        from clients.rotation import rotate
        from clients.site import Site

        site = Site.open(folder)
        try:
            rotate(site, by=by, reason=reason, close_open_run=close_open_run)
        finally:
            site.ledger.close_file()
    lines = [f"rotated: {folder / (NODE_KEY if node else signing.KEY)}", *letter(folder)]
    if (folder / LETTER).exists():
        lines += [
            "this site takes part in no run until then: send the letter, `dp-risk federation admit "
            f"FED {SITE_LETTER}`, and every site joins anew with the {LETTER} that it writes",
        ]
    return lines


def _replace_node(folder: Path, *, close_open_run: bool) -> None:
    ledger = folder / signing.LEDGER
    if ledger.exists():
        opened = Ledger.open(ledger, key=signing.load(folder))
        try:
            run = opened.state.open_run
            if run is not None:
                if not close_open_run:
                    raise Refused(
                        f"run {run} is open at this site, which would be cut off: wait for its "
                        "end, or end it here with --close-open-run"
                    )
                opened.close(run)
        finally:
            opened.close_file()
    node_keys.replace(folder / NODE_KEY)
