"""The claim in words, and numbers that never flatter it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dp_risk.privacy.schedule import spares_cost
from dp_risk.report.page.forms import rounded_up

TRUST_WORDS = {
    "local": "Trust: local. Each site adds its own noise before anything leaves; the server and "
    "everyone else see only noisy sums.",
    "distributed": "Trust: distributed. Each site adds a share of the noise and masks its "
    "contribution; the server sees only the noisy sum over the sites of a round, and everyone else "
    "only the model.",
    "central": "Trust: central. The server sees the clipped update of each client and adds the "
    "noise; the claim holds against whoever sees the model, not against the server.",
    "none": "Trust: none. No noise was added: the server sees exact sums of private rows.",
}

SIMULATED = (
    "The sites were simulated: one person held all their rows and keys, so this holds against "
    "everyone but that person."
)

SEVERAL = "Whoever has k records is protected less: by up to k times this epsilon."
BESIDE = (
    "The guarantee is for what the sites released. Figures marked exact were computed beside it "
    "from held-out rows, because the sites call their data public."
)

SERIES_WORDS = {
    "local": "Local noise",
    "distributed": "Secure sum",
    "central": "Server noise",
    "none": "No noise",
}

BASELINE_WORDS = {
    "logistic": "Pooled logistic",
    "pooled_logistic": "Pooled logistic",
    "gradient_boosting": "Gradient boosting",
    "pooled_gradient_boosting": "Gradient boosting",
    "boosting": "Gradient boosting",
    "pooled_dp": "Pooled, with DP",
    "pooled_with_dp": "Pooled, with DP",
    "dp_pooled": "Pooled, with DP",
    "site_alone": "One site alone",
    "sites_alone": "One site alone",
    "alone": "One site alone",
    "dp_ebm": "DP-EBM, all data in one place",
}

PURPOSE_WORDS = {
    "counts": "counts (number of units)",
    "training": "training (DP-SGD)",
    "score_bins": "evaluation, bins of the scores",
    "evaluation": "evaluation, histogram of scores",
    "subgroups": "evaluation, histograms by subgroup",
    "tuning": "tuning (private selection)",
}

CHECK_WORDS = {
    "noise_std": "The noise in the released sums has the planned spread, in every round.",
    "noise_independence": "Noise is drawn anew: no correlation between coordinates, rounds, sites.",
    "noise_shape": "The noise is Gaussian, not only of the right spread.",
    "noise_grid": "Released numbers are whole grid steps: floats would give noise away.",
    "masks": "What a site sends alone looks random, and no mask is used twice.",
    "sensitivity": "One unit moves a sum by no more than the clipping norm allows.",
    "malformed_units": "Units that are empty, huge or not numbers move a sum no further.",
    "sampler": "Batches are Poisson samples at the planned rate.",
    "steps_charged": "Every step that was taken was charged.",
    "reads_in_mechanisms": "Private rows are read inside mechanisms only.",
    "transcript": "Nothing leaves a site that no mechanism released: one unit more or less changes "
    "only noisy numbers.",
    "splits_disjoint": "No unit is in the train split and in the holdout.",
    "system_randomness": "Noise and sampling take their bits from the system's generator.",
    "ledger": "The ledgers' chains and signatures hold, and say what was spent.",
    "policy": "A site refuses what its own policy forbids.",
    "reservation": "A site reserves a charge before it reads, and refuses what it cannot pay.",
    "accounting": "The claimed epsilon follows from the events that were charged, computed anew.",
    "gate": "The lower bound at the strict level stays below the claim.",
}

GUARANTEE_WORDS = {
    "bound": "unconditional",
    "conditional": "if its assumptions hold",
    "heuristic": "none; not counted",
}

NOISE = "discrete Gaussian on a grid"
SAMPLERS = {True: "every unit in every step", False: "Poisson"}
ACCOUNTANT = "privacy loss distributions, dp-accounting {}"
FILTER = "Renyi filter of order {}"

NOT_AUDITED = (
    "Nobody has tried to show this claim false. This does, on public data: {}. Then dp-risk report "
    "RUN --audit AUDIT puts what it found here."
)
ONE_SEED = "There is one seed only: small differences mean nothing."
POINTS_NOT_AUDITED = (
    "A frontier shows what epsilon costs. Audit the one configuration that you ship, and put the "
    "audit into the report of its run."
)
NOT_PROVED = (
    "An audit tried to show the claim false and did not. That is no proof: a weak attack and a "
    "true claim look the same."
)
FALSIFIED_BY = "An audit found evidence against the claim: {}. Do not rely on the epsilon above."

VERDICT_WORDS = {True: "Claim falsified", False: "Claim not falsified"}

AUDITED_WORDS = {
    "unit": "unit",
    "adjacency": "adjacency",
    "trust": "trust",
    "view": "the audit sees",
    "sites": "sites",
    "model": "model",
    "profile": "profile",
    "randomness": "randomness",
    "noise_multiplier": "noise multiplier sigma",
    "sampling_rate": "sampling rate q",
    "clip_norm": "clipping norm",
    "rounds": "rounds",
    "steps_per_round": "steps a round",
    "steps": "steps",
    "counts_noise": "noise of the counts",
    "score_bins_noise": "noise of the score bins",
    "evaluation_noise": "noise of the evaluation",
    "subgroups_noise": "noise of the subgroups",
    "codes": "reserved codes, a canary each",
    "runs": "probe runs",
    "share": "share of a canary's gradient on its code",
    "ordinary_units": "ordinary units at a site",
    "stopped": "probing stopped at",
    "seconds": "seconds",
}

RESIDUAL = (
    "Crashes, missed deadlines and timing are not covered by epsilon.",
    "Whatever a site publishes outside this system is not covered.",
    "The guarantee bounds what one unit changes; it does not hide facts about the whole group.",
)

UNPROTECTED = (
    "The schema: column names, bounds, value lists and buckets are public.",
    "Declared sizes: a unit count that a site's policy declares public is not protected; "
    "a released one carries noise and is charged.",
    "Which sites take part, the configuration, and the number of rounds.",
)


def baseline_words(name: object) -> str:
    """Return what a report calls a baseline; a name it does not know is made readable."""
    key = str(name).strip().lower().replace("-", "_").replace(" ", "_")
    return BASELINE_WORDS.get(key) or key.replace("_", " ").strip().capitalize()


def stored(baseline: Mapping[str, Any]) -> str:
    """Say where the numbers of a baseline come from that was not run with the rest."""
    versions = baseline.get("versions") or {}
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{baseline_words(baseline.get('name'))}: not run here; its numbers for these splits are "
        f"stored with dp-risk, made by {baseline.get('command')} ({made})."
    )


def factor(epsilon: float) -> str:
    """Return e to the epsilon as printed, rounded up, in words: ``e^1.00 (2.72)``."""
    shown = rounded_up(epsilon)
    value = float(shown)
    if value > 30:
        return f"e^{shown}"
    size = math.exp(value)
    return f"e^{shown} ({rounded_up(size) if size < 100 else format(math.ceil(size), ',')})"


def unit_phrase(unit: object) -> str:
    """Return what adjacency adds or removes."""
    return "all records of one account" if unit == "account" else "one record"


def not_private(run: Mapping[str, Any]) -> list[str]:
    """Return why a run carries no guarantee; empty if it carries one.

    A trust mode or kind of randomness that is missing or unknown is a reason too.
    """
    reasons = []
    trust, randomness = run.get("trust"), run.get("randomness")
    if trust == "none":
        reasons.append("Trust is none: no noise was added to what the sites sent.")
    elif trust not in TRUST_WORDS:
        reasons.append("The trust mode is not recorded or not known.")
    if randomness == "seeded":
        reasons.append(
            "Randomness is seeded: whoever knows the seed can subtract the noise. "
            "Seeded noise is for tests and simulation."
        )
    elif randomness != "system":
        reasons.append("Where the random bits came from is not recorded or not known.")
    return reasons


def claim(kind: str, run: Mapping[str, Any], trusts: Sequence[str] = ()) -> list[str]:
    """Return the claim as sentences that a compliance officer can sign.

    Parameters
    ----------
    kind : {"run", "frontier"}
        What was done.
    run : mapping
        The facts of ``run.json``; for a frontier those that all points share.
    trusts : sequence of str
        The trust modes of a frontier's points; empty: that of `run`.

    Returns
    -------
    list of str
        Sentences of one paragraph.
    """
    delta = run.get("delta")
    plus = _plus(delta)
    who = unit_phrase(run.get("unit"))
    trust = _trust(run, str(run.get("trust")))
    if kind == "frontier":
        return [
            "Every point of this frontier is a run of its own on public data, with a fresh "
            "simulated ledger at every site.",
            f"At a point with epsilon E, adding or removing {who} at one site changes the "
            "probability of any outcome of that run by at most a factor e^E"
            f"{plus or ', plus delta'}.",
            "The epsilons of the points do not compose to one number for a real site: making "
            "several points from the same private rows costs more than any one of them.",
            "Points and baselines without noise carry no guarantee.",
            *(_trust(run, mode) for mode in trusts or [str(run.get("trust"))] if mode != "none"),
        ]
    epsilon = run.get("epsilon_spent")
    if run.get("trust") == "none":
        return ["No differential privacy is claimed for this run.", trust]
    if not isinstance(epsilon, int | float):
        return ["No epsilon was recorded, so no differential privacy is claimed for this run."]
    copies = run.get("max_sites_per_unit") or 1
    where = "at one site" if copies == 1 else f"at up to {copies} sites"
    bound = (
        f"Adding or removing {who} {where} changes the probability of any outcome of this "
        f"run by at most a factor {factor(epsilon)}{plus}."
    )
    if run.get("trust") not in TRUST_WORDS or run.get("randomness") not in ("system", "seeded"):
        return ["No differential privacy is claimed for this run."]
    if run["randomness"] == "seeded":
        bound = "With noise from the system's generator this would hold: " + bound
        return ["No differential privacy is claimed for this run.", bound, trust]
    search = run.get("search") or {}
    whole = []
    if not search.get("protected", True):
        whole = [
            f"The run is one of {len(search['trials'])} trials of a sweep of which one had no "
            "noise: no epsilon bounds a choice among them."
        ]
    if search.get("epsilon") is not None:
        whole = [
            f"The run is one of {len(search['trials'])} trials of a sweep; a choice among them "
            f"costs epsilon {rounded_up(search['epsilon'])}, not this run's alone."
        ]
    simulated = [SIMULATED] if run.get("simulated") else []
    several = [] if run.get("unit") == "account" else [SEVERAL]
    beside = [BESIDE] if run.get("utility_source") == "exact" else []
    return [bound, *whole, *([trust] if trust else []), *several, *beside, *simulated]


def audit_claim(
    epsilon: float | None, delta: float | None, subject: Mapping[str, Any]
) -> list[str]:
    """Return the claim that was audited, and against whom it should hold.

    Parameters
    ----------
    epsilon, delta : float or None
        The claim.
    subject : mapping
        Who was audited: ``unit, adjacency, trust, view``.
    """
    if epsilon is None:
        return ["No epsilon is recorded, so there is no claim to falsify."]
    change = "adding or removing" if subject.get("adjacency") == "add-remove" else "changing"
    plus = _plus(delta)
    view = subject.get("view")
    return [
        f"The trainer claims: {change} {unit_phrase(subject.get('unit'))} at one site changes the "
        f"probability of any outcome of a run by at most a factor {factor(epsilon)}{plus}.",
        *filter(None, [_trust(subject, str(subject.get("trust")))]),
        *([f"The audit looks at {view}."] if view else []),
    ]


def _plus(delta: object) -> str:
    """Return the part of a claim that delta is; empty where there is none."""
    if not isinstance(delta, int | float) or isinstance(delta, bool):
        return ""
    odds = f" (1 in {round(1 / delta):,})" if 1e-15 < delta < 1 else ""
    return f", plus at most {delta:g}{odds}"


def _trust(run: Mapping[str, Any], mode: str) -> str:
    words = TRUST_WORDS.get(mode, "")
    if mode != "distributed":
        return words
    if run.get("trust") == mode and run.get("min_sites"):
        of = "over the sites of a round"
        words = words.replace(of, f"{of}, at least {run['min_sites']}")
    colluding = run.get("max_colluding")
    if colluding is not None:
        words += (
            f" It holds against the server together with up to {colluding} colluding "
            f"site{'' if colluding == 1 else 's'}."
        )
    return words


def losses(run: Mapping[str, Any]) -> str:
    """Return what was lost with sites and what it cost; empty where nothing is to be said."""
    rounds, spares = run.get("rounds"), run.get("spare_rounds")
    if run.get("trust") == "local" and run.get("answers_lost"):
        count = run["answers_lost"]
        return (
            f"{count} training answer{'s' if count != 1 else ''} did not come in time; the sums of "
            "those rounds are over the other sites, and a site that had charged keeps the charge."
        )
    if run.get("trust") != "distributed" or not rounds or spares is None:
        return ""
    lost, silent = run.get("rounds_abandoned") or 0, run.get("answers_lost") or 0
    found = (
        f"{lost} round{'s were' if lost != 1 else ' was'} lost with a site ({silent} training "
        f"answer{'s' if silent != 1 else ''} did not come): nothing of such a round can be read, "
        "and the sites that answered it keep the charge."
        if lost
        else "No round was lost with a site."
    )
    more = spares_cost(rounds, spares) - 1 if run.get("q") == 1 else None
    price = "" if more is None else f", which makes the noise of training {more:.1%} larger"
    s = "" if spares == 1 else "s"
    return f"{found} The plan held {spares} spare round{s} of training{price}."
