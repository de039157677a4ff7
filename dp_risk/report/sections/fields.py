"""What the rows of a comparison are called, how they are computed and how they are printed."""

from __future__ import annotations

from dp_risk.report.sections.claim import GROUPS
from dp_risk.report.words import AUDITED_WORDS

# Words, method, form.
Field = tuple[str, str, str]

SETTINGS: dict[str, Field] = {
    "claimed_epsilon": ("epsilon claimed", "epsilon-target", "up2"),
    **{key: (words, how, form) for _, group in GROUPS for key, words, how, form in group},
    "trusts": ("trust", "scope", "text"),
    "noise_multiplier": ("noise multiplier (sigma)", "noise", "figures4"),
    "sampling_rate": ("sampling rate (q)", "sampling", "figures4"),
}
SETTINGS |= {
    key: (words, "recorded", "figures4")
    for key, words in AUDITED_WORDS.items()
    if key not in SETTINGS
}
BUDGETS: dict[str, Field] = {
    "left": ("lifetime epsilon left", "lifetime", "down2"),
    "of": ("of a lifetime budget of", "lifetime", "general"),
    "run": ("share that the run took", "lifetime", "percent1"),
    "rest": ("share that is left", "lifetime", "percent1"),
    "site": ("at the site with least left", "lifetime", "text"),
}
LOSSES: dict[str, Field] = {
    "rounds_abandoned": ("rounds lost", "lost", "count"),
    "answers_lost": ("training answers lost", "lost", "count"),
    "away": ("sites that missed rounds", "lost", "count"),
    "dropped": ("answers that were not believed", "lost", "count"),
    "doubts": ("things that did not hold", "lost", "count"),
}
GLANCE: dict[str, Field] = {
    **SETTINGS,
    **LOSSES,
    "epsilon_spent": ("epsilon", "epsilon-run", "up2"),
    "dataset": ("data", "recorded", "text"),
    "left": BUDGETS["left"],
    "verdict": ("audit", "verdict", "text"),
    "lower_bound": ("lower bound on epsilon", "bound", "down3"),
    "failures": ("checks failed", "check", "count"),
}
