"""`dp-risk site letter`: what a site tells a federation about itself."""

from __future__ import annotations

from pathlib import Path

import yaml

from clients import signing
from clients.policy import Policy
from dp_risk.data.schema import Schema
from dp_risk.federation import checks, files, node_keys
from dp_risk.federation.agreement import Agreement
from dp_risk.federation.letters import SiteLetter
from dp_risk.federation.membership import NODE_KEY, SITE_LETTER
from dp_risk.privacy import keys
from dp_risk.privacy.entries import Entry
from dp_risk.privacy.ledger import Ledger
from dp_risk.types import ConfigurationError

# As in `clients.site`, which reads torch: that would take most of the time here.
POLICY, SITE = "policy.yaml", "site.yaml"


def letter(folder: Path) -> list[str]:
    """Write site.json as the policy says now, and a key for the site's node where it has none.

    Returns
    -------
    list of str
        What a person should know now.

    Raises
    ------
    ConfigurationError
        If the folder is no site's, or a name in it is too odd for a letter.
    """
    policy, key = Policy.load(folder / POLICY), signing.load(folder)
    agreed = agreement(folder, policy)
    checks.name(policy.site, "name of the site")
    node_key = node_keys.public_text(node_keys.load_or_create(folder / NODE_KEY))
    said = SiteLetter(
        site=policy.site,
        key=keys.public_hex(key),
        node_key=node_key,
        agreed=agreed,
        rekeys=_rekeys(folder),
    )
    files.write(folder / SITE_LETTER, said.signed(key))
    return [
        f"for the federation: {SITE_LETTER}, which holds no secret; whoever runs the server admits "
        "it, and compares by telephone:",
        f"  key {checks.fingerprint(bytes.fromhex(said.key))}",
        f"  node key {checks.fingerprint(node_key.encode())}",
    ]


def _rekeys(folder: Path) -> tuple[Entry, ...]:
    path = folder / signing.LEDGER
    if not path.exists():
        return ()
    ledger = Ledger.open(path)
    try:
        return ledger.rekeys()
    finally:
        ledger.close_file()


def agreement(folder: Path, policy: Policy) -> Agreement:
    """Return what a site's policy and schema say that its federation must say too.

    Raises
    ------
    ConfigurationError
        If site.yaml is missing or malformed, or a name in the policy is too odd for a letter.
    """
    path = folder / SITE
    try:
        schema = Schema.from_dict(yaml.safe_load(files.read(path))["schema"]).digest
    except (yaml.YAMLError, UnicodeError, KeyError, TypeError, ValueError):
        raise ConfigurationError(f"{path}: not the data configuration of a site") from None
    return Agreement(dataset=policy.dataset, schema=schema, unit=policy.unit, delta=policy.delta)
