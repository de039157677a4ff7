"""Who is a unit, and on which side of the split: what a site's ledger fixes of it.

A ledger gives each side a budget of its own because no unit changes sides. So what decides that
is written into the founding entry as keyed digests: they compare, and say nothing.
"""

from __future__ import annotations

from clients.policy import Policy
from clients.shard import Shard
from dp_risk.privacy import keys
from dp_risk.privacy.release import canonical
from dp_risk.types import Unit

CONTEXT = "dp-risk partition"


def partition(policy: Policy, shard: Shard, key: keys.Key) -> dict[str, str]:
    """Return the keyed digest of each part, by the name that a refusal gives it.

    With a column of ids, features may come and go. Without one a row is recognised by what its
    columns hold, so that, where the splits have accounts of their own, the columns are fixed too.
    No part reads a row.
    """
    schema = shard.schema
    column = schema.account if shard.unit == Unit.ACCOUNT else schema.id
    missing = [] if column is None else sorted(set(schema.missing))
    content = [*schema.features, schema.label.column]
    parts = {
        "split key": shard.key.hex(),
        "holdout fraction": shard.holdout,
        "column of ids": column,
        "list of missing tokens": missing,
        "list of columns that rows are recognised by": (
            content if column is None and policy.stable_ids else []
        ),
    }
    return {
        part: keys.keyed_digest(key, CONTEXT, canonical([part, said]))
        for part, said in parts.items()
    }
