"""How each figure of a report is computed: what the names in its tables and tiles lead to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Method:
    """How one kind of figure is computed.

    Parameters
    ----------
    name : str
        What the figure is.
    words : str
        How it is computed, for an engineer who wants to do it again.
    source : str
        Paper, section, or where the figure stands before it is in the report.
    """

    name: str
    words: str
    source: str


METHODS: dict[str, Method] = {
    "epsilon-run": Method(
        name="Epsilon of a run",
        words="Composed over everything that the run reserved at a site before it read a row, "
        "spare rounds included: for each split the privacy loss distribution of its events at "
        "this delta, losses rounded up; the larger split counts, because a unit is in one of them "
        "only. Unsampled Gaussians are composed exactly. dp-risk ledger show prints the same from "
        "a site's ledger, and dp-risk verify computes it anew from the sites' statements.",
        source="Koskela, Jälkö & Honkela 2020; Doroshenko et al. 2022 (dp_accounting.pld). "
        "run.json: epsilon_spent.",
    ),
    "epsilon-target": Method(
        name="Epsilon asked for",
        words="The setting privacy.epsilon. The noise is the smallest whose epsilon of a run, "
        "computed as above, is not larger.",
        source="config.yaml: privacy.epsilon.",
    ),
    "epsilon-charge": Method(
        name="Epsilon of one charge",
        words="The cost of this charge's events alone, at the run's delta. Charges of one split "
        "compose to less than their sum, so this column does not add up.",
        source="run.json: charges[].epsilon.",
    ),
    "share": Method(
        name="Share of a charge",
        words="The charge's Renyi divergence at order 2 over that of all charges of its split. "
        "Divergences at one order add up exactly, epsilons do not; order 2 is used for shares "
        "only, and is not the order of the lifetime filter.",
        source="Mironov 2017, Proposition 1. run.json: charges[].share.",
    ),
    "lifetime": Method(
        name="Lifetime budget: spent, left, used",
        words="All runs of a ledger together, by a Renyi filter at one order a, fixed when the "
        "ledger was opened (3 for a budget of 10 at delta 1e-5). Divergences at that order add "
        "up; used is their sum over the filter's capacity. As an epsilon the sum is divergence "
        "+ log((a - 1)/a) - (log delta + log a)/(a - 1): the constant is added once, so that the "
        "first run seems dear. Rounds that were reserved and never ran are given back here, and "
        "only here.",
        source="Feldman & Zrnic 2021; Canonne, Kamath & Steinke 2020, Proposition 12. run.json: "
        "sites[].accounts.",
    ),
    "epsilon-search": Method(
        name="Epsilon of a sweep",
        words="The same composition over all that the trials of the sweep reserved at a site.",
        source="run.json: search.epsilon.",
    ),
    "delta": Method(
        name="Delta",
        words="The setting privacy.delta or the data's own; it must be below one over the number "
        "of units, declared or released.",
        source="run.json: delta.",
    ),
    "scope": Method(
        name="Unit, adjacency, contribution, trust",
        words="Settings that say what is protected from whom. Every site checks them against its "
        "own policy before it reads a row, and signs them in its statement.",
        source="run.json: unit, adjacency, trust, max_records_per_account, max_sites_per_unit, "
        "min_sites, max_colluding, randomness.",
    ),
    "noise": Method(
        name="Noise multiplier, clip norm",
        words="Each unit's gradient is clipped to the L2 norm C (the clip norm). The released "
        "sum, in local trust each site's own, carries integer noise on a fine grid "
        "whose standard deviation is the noise multiplier times C; its distance to the accounted "
        "Gaussian is computed and added to delta. Gaussian(s) in a list of events is one release "
        "with noise multiplier s; 60 x Gaussian(s) is sixty of them.",
        source="Abadi et al. 2016, Algorithm 1; Canonne, Kamath & Steinke 2020 (discrete "
        "Gaussian). run.json: sigma, clip_norm.",
    ),
    "sampling": Method(
        name="Sampling rate",
        words="The probability with which each unit takes part in a step, independently of all "
        "others (Poisson). 1 is every unit in every step. The sampler that ran is the one charged.",
        source="run.json: q.",
    ),
    "schedule": Method(
        name="Steps, rounds, spare rounds",
        words="Fixed before any row was read. A round is one question to all sites; spare rounds "
        "replace rounds that are lost with a site, and are charged in advance with the rest.",
        source="run.json: steps, rounds, spare_rounds.",
    ),
    "lost": Method(
        name="Lost rounds and answers",
        words="Counted by the server. In a secure sum a round with a missing site is abandoned: "
        "nothing of it can be read and the sites that answered keep the charge. In local trust "
        "the others' answers are used. A site's own count of rounds is in its statement.",
        source="run.json: rounds_abandoned, answers_lost, dropped, sites[].rounds_joined; "
        "rounds.jsonl: one line a round.",
    ),
    "units": Method(
        name="Number of units",
        words="Of the training split: declared public by the site's policy, or released with "
        "noise and charged (purpose counts). The exact number never leaves a site. In a secure "
        "sum only the sum over all sites is released.",
        source="run.json: units, sites[].units.",
    ),
    "start-values": Method(
        name="Share of positives, ridge, learning rate",
        words="The share of positives among training units is read from the noisy gradients of "
        "the first rounds and sets the model's intercept; it is not the share of positives in "
        "the evaluation, which comes from other units with noise of its own. The ridge steadies "
        "the preconditioner that is made from the same releases. Both cost nothing beyond the "
        "rounds that they come from.",
        source="run.json: positives, ridge, learning_rate; docs/decisions/015-defaults.md.",
    ),
    "utility-exact": Method(
        name="Utility on public data",
        words="Computed from the scores of the held-out units, which is allowed because every "
        "site's policy declares its data public. Intervals: percentiles (2.5 and 97.5) of "
        "resamples of the units with replacement.",
        source="config.yaml: evaluation.bootstrap. run.json: utility.",
    ),
    "utility-charged": Method(
        name="Utility on private data",
        words="Estimated from noisy histograms of scores by label on public bins, charged to the "
        "holdout's budget. Intervals are percentiles of simulated noise and resampling together. "
        "Where an interval is the whole range the table says cannot tell: the histogram's noise "
        "is larger than what is to be estimated, which more held-out units or a larger share of "
        "the budget for the evaluation would change. The threshold is the probability above which "
        "the review capacity of all units lies; with a score that is nearly 1 for that many units "
        "it prints as 1.000.",
        source="Cormode & Markov 2023. run.json: estimates; docs/decisions/009.",
    ),
    "calibration": Method(
        name="Calibration",
        words="Neighbouring bins are joined until the noise is small. The expected calibration "
        "error is the mean distance of observed rate and mean score over ten bins, less what "
        "noise alone would show, and at least 0: an error of 0 with an interval above it means "
        "that the noise hides it.",
        source="Cormode & Markov 2023, Section 5. run.json: estimates.reliability.",
    ),
    "subgroups": Method(
        name="Utility by subgroup",
        words="Over the held-out units of one value of a column, on public data only. AUROC and "
        "AUPRC are computed as for all units. The threshold is the score of the last unit within "
        "the review capacity over all groups, and is taken as fixed; share flagged, true positive "
        "rate and false positive rate are the shares at or above it of the group, its positives "
        "and its negatives, with Clopper-Pearson intervals. Calibration gap: mean score less share "
        "of positives, with Student's t interval. ECE is left out: chance inflates it the more, "
        "the smaller a group is. A group of fewer than 20 units has no figures; one with fewer "
        "than 30 positives or negatives has only the shares, because the other intervals would be "
        "too short.",
        source="config.yaml: evaluation.capacity, bootstrap. run.json: subgroups.",
    ),
    "subgroups-charged": Method(
        name="Utility by subgroup, estimated",
        words="For each column that the plan names, a noisy histogram over group, label and bin "
        "of the scores: a unit has a weight of one over all cells, so that it moves the histogram "
        "by at most one; an account whose records are of several groups is divided among them. The "
        "bins are those of the evaluation, joined to at most eight; the edge "
        "nearest to the review threshold stays one, and units above it are flagged. Metrics are "
        "computed as for all units. Intervals hold the noise, the sampling of units and what "
        "nobody sees inside a bin: a quarter of its width in the calibration gap, .15 of its "
        "pairs in the AUROC, as one standard deviation. Figures of fewer than 20 units, of fewer "
        "than 30 of a label, or whose denominator does not exceed three standard deviations of its "
        "noise are left out, and so is the AUROC where one bin holds more than half of the pairs. "
        "An AUPRC of so few bins would be guesses. Units and positives are estimates too. Other "
        "and missing values are shown where they stand out of the noise. All groups together are "
        "estimated from the evaluation.",
        source="plan.json: subgroups, subgroups_noise. run.json: subgroups.",
    ),
    "frontier": Method(
        name="Points of the frontier",
        words="Each seed is a run of its own with a fresh ledger; a point is the mean over seeds, "
        "smallest to largest. The interval is that of Student's t for the mean over seeds, cut "
        "to [0, 1].",
        source="frontier.json: points, baselines.",
    ),
    "effects": Method(
        name="Effects of features",
        words="What a feature's value adds to the log-odds: the model's own weights on public "
        "bins and values, nothing is estimated. Range is the largest less the smallest.",
        source="model.safetensors, model.json; dp-risk score gives the same sums for rows.",
    ),
    "progress": Method(
        name="Figures by round",
        words="Epsilon: of what had been asked of the sites by that round, counts included, "
        "composed as for the run. AUPRC: of the public holdout where there is one, by the weights "
        "after that round. Seconds since the start.",
        source="rounds.jsonl.",
    ),
    "resources": Method(
        name="Time and memory",
        words="Of the process that coordinated the run: wall clock, and the largest resident "
        "memory.",
        source="run.json: seconds, peak_rss_mb.",
    ),
    "recorded": Method(
        name="What was recorded",
        words="Written down by the program that ran; nothing is computed.",
        source="run.json: run, finished, versions, commit, start.",
    ),
    "ledger-head": Method(
        name="Ledger head",
        words="The hash of the last entry of a site's ledger when the run was closed, signed with "
        "the site's key. It stands for the whole chain before it; the first twelve of its 64 "
        "digits are shown.",
        source="run.json: sites[].ledger_head, ledger_signature; dp-risk ledger export.",
    ),
    "verdict": Method(
        name="Verdict of an audit",
        words="Falsified, if any check failed; not falsified otherwise, never verified. The gate "
        "fails if its lower bound, at its own strict level, lies above the claimed epsilon.",
        source="audit.json: verdict, checks, gate.",
    ),
    "bound": Method(
        name="Lower bound on epsilon",
        words="What the audit can show that the trainer leaks at least, at the stated confidence. "
        "White box: Clopper-Pearson bounds of false positives and false negatives at a threshold "
        "fixed beforehand, turned into a noise multiplier and composed over the plan. One run: "
        "the smallest epsilon that makes so many right guesses unlikely. Rounded down.",
        source="Nasr et al. 2023; Steinke, Nasr & Jagielski 2023, Theorem 5.2; Mahloujifar, Melis "
        "& Chaudhuri 2025. audit.json: results, gate.",
    ),
    "ceiling": Method(
        name="Ceiling of a bound",
        words="The bound that a perfect attack with as many observations would reach. Below the "
        "claim the method could not have falsified it.",
        source="audit.json: results[].ceiling.",
    ),
    "observations": Method(
        name="Canaries and observations",
        words="A canary is a unit of the auditor's, with a reserved code of its own, in or out by "
        "a logged fair coin. An observation is the released sum in the direction of one canary, "
        "in units of the clip norm times the share of the canary's gradient on its code.",
        source="audit.json: evidence.canaries, evidence.observations.",
    ),
    "tradeoff": Method(
        name="Trade-off of errors",
        words="Claimed: the smallest rate of false negatives that the claim allows at each rate "
        "of false positives. Measured: of thresholds on the canaries' observations, "
        "with Clopper-Pearson limits, point by point.",
        source="Dong, Roth & Su 2022. audit.json: evidence.tradeoff.",
    ),
    "sensitivity": Method(
        name="How far a unit moves a sum",
        words="The L2 distance of two releases with equal noise, with and without one unit; "
        "allowed is what the plan charges for.",
        source="audit.json: evidence.sensitivity.",
    ),
    "controls": Method(
        name="Controls",
        words="The same attack where the answer is known: without noise it must find much, "
        "between absent canaries nothing.",
        source="audit.json: evidence.controls.",
    ),
    "check": Method(
        name="Checks",
        words="Each looks at what the real trainer did under watch. A statistical check fails on "
        "an honest trainer with probability at most 1e-6, the gate with 1e-3.",
        source="docs/audit.md. audit.json: checks.",
    ),
    "membership": Method(
        name="Membership attack",
        words="Scores how likely a unit was trained on, by the ratio of its likelihood under the "
        "model and under reference models, against population units. Natural units are not in by "
        "a fair coin of the auditor's, so the figures are heuristic and decide nothing.",
        source="Zarifzadeh, Liu & Shokri 2024. audit.json: evidence.membership.",
    ),
    "compared": Method(
        name="Comparison",
        words="Every figure is the one of the run's own report.json, whose SHA-256 stands in the "
        "table of folders. Figures within 0.01 % of each other count as the same. Two estimates "
        "are told apart only where their 95 % intervals do not overlap, which is stricter than a "
        "test on the same held-out units would be.",
        source="report.json: comparison.",
    ),
    "signature": Method(
        name="Signature of the facts",
        words="Ed25519 over all of report.json but the signature. The first twelve digits are "
        "shown, so that a sheet of paper can be compared with the file; dp-risk verify checks all.",
        source="report.json: signature.",
    ),
    "statement": Method(
        name="Ledger statement",
        words="What a site says that it charged for this run: signed with the site's key, with "
        "the entries of its chain that belong to the run.",
        source="ledgers/SITE.json; report.json: sites[].statement.",
    ),
}

GLOSSARY: dict[str, str] = {
    "account": "All records with one account id, where the unit is an account.",
    "adjacency": "Which two data sets a guarantee compares. Add-remove: one has a unit more.",
    "AUPRC": "Area under the curve of precision against recall; the share of positives by chance.",
    "AUROC": "Probability that a positive is scored above a negative; .5 by chance.",
    "Brier score": "Mean square of score less outcome; 0 is best.",
    "canary": "A unit that an auditor places, to see whether releases tell that it is there.",
    "charge": "An entry of a ledger, written before a mechanism runs, that says what it costs.",
    "clip norm": "The largest L2 norm that one unit may add to a sum.",
    "delta": "The probability with which the bound by epsilon may fail.",
    "distributed trust": "Sites add shares of the noise and mask what they send, so that the "
    "server sees only the noisy sum.",
    "DP-SGD": "Training by gradients of which each unit's is clipped and to whose sum noise is "
    "added.",
    "ECE": "Expected calibration error: how far scores lie from observed rates on average.",
    "epsilon": "A bound on how much likelier any outcome may become through one unit: a factor of "
    "e to the epsilon. Smaller protects more.",
    "event": "What a mechanism did, as far as its cost goes: its noise and its sampling.",
    "falsified": "An audit found evidence against the claim. The opposite is not proof of it.",
    "f-DP": "A way to state a guarantee by the errors of the best test instead of epsilon.",
    "filter": "The rule that stops a ledger before all runs together exceed a lifetime budget.",
    "gate": "The bound of an audit at a strict level that decides, beside the checks.",
    "holdout": "Units that are never trained on; a keyed hash of the id decides, for ever.",
    "ledger": "A site's record of everything that was charged: append-only, chained, signed.",
    "ledger head": "Hash of a ledger's last entry; it stands for all entries before it.",
    "local trust": "Each site adds all of the noise before anything leaves it.",
    "noise multiplier": "Standard deviation of the noise over the clip norm; sigma.",
    "PLD": "Privacy loss distribution: a tight way of composing costs that were fixed beforehand.",
    "Poisson sample": "Each unit takes part by a coin of its own, independently of all others.",
    "preconditioner": "A matrix, made from noisy gradients, that scales steps so that fewer do.",
    "release": "Numbers that left a site through a mechanism that was charged.",
    "ridge": "What is added to a preconditioner so that noise does not make it unstable.",
    "round": "One question of the server's to the sites, and their answers.",
    "rule of aggregation": "How answers of sites become one: their sum, or a rule that bears "
    "sites that lie.",
    "sampling rate": "Probability with which a unit takes part in a step; q.",
    "secure sum": "A protocol by which a server learns the sum of what sites send, nothing else.",
    "share of the noise": "What one site adds in distributed trust.",
    "site": "One data holder: a region, a business unit, a partner.",
    "sites of a unit": "At how many sites data of one unit may lie; the cost is counted for all.",
    "spare round": "A round that was planned and charged in case one is lost.",
    "split": "Training units or holdout units; each has a budget of its own where ids are stable.",
    "trust": "Who is trusted with what: see local and distributed.",
    "white box": "An audit that sees every release and chooses the weights.",
    "unit": "What is protected: one record, or all records of an account.",
}
