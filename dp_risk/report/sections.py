"""The sections of a report, one function each: facts in, HTML out, empty where nothing is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dp_risk.report import plots
from dp_risk.report.audit import AUDIT_SECTIONS
from dp_risk.report.html import (
    Cell,
    bullets,
    details,
    esc,
    figures,
    number,
    prose,
    section,
    signed,
    table,
)
from dp_risk.report.utility import estimate_cells, utility
from dp_risk.report.words import PURPOSE_WORDS, losses, rounded_down, rounded_up, whose
from dp_risk.types import Trust

Facts = Mapping[str, Any]
Section = Callable[[Facts], str]

SHAPES_DRAWN = 12
SHAPE_ROWS = 64
ROUND_ROWS = 60

SETTING_WORDS = {
    "run": "run",
    "finished": "finished",
    "epsilon_spent": "epsilon of this run (PLD)",
    "epsilon_target": "epsilon asked for",
    "epsilon_search": "epsilon of the sweep it is part of",
    "epsilon_lifetime": "lifetime total, all runs (filter)",
    "delta": "delta",
    "unit": "unit",
    "adjacency": "adjacency",
    "trust": "trust",
    "randomness": "randomness",
    "sigma": "noise multiplier sigma",
    "q": "sampling rate q",
    "positives": "share of positives (released)",
    "ridge": "ridge of the preconditioner",
    "learning_rate": "learning rate (plain steps)",
    "start": "weights it started from",
    "steps": "steps",
    "rounds": "rounds",
    "spare_rounds": "spare rounds",
    "rounds_abandoned": "rounds abandoned",
    "clip_norm": "clipping norm",
    "max_records_per_account": "records of an account, at most",
    "max_sites_per_unit": "sites of a unit, at most",
    "min_sites": "sites needed",
    "max_colluding": "colluding sites tolerated",
    "seconds": "seconds",
    "peak_rss_mb": "peak memory, MB",
}
_UNITS = "Units: training units, declared or released with noise"
_SUMMED_UNITS = "Units: only their sum over all sites was released, with noise"
_ACCOUNT_ONLY = ("max_records_per_account",)
_OF_ONE_RUN = (
    *("run", "finished", "epsilon_spent", "epsilon_target", "epsilon_lifetime"),
    *("sigma", "rounds_abandoned"),
    *("trust", "seconds", "peak_rss_mb"),
)


def title(report: Facts) -> str:
    """Title, warning box, the claim in words, and the figures behind it."""
    if report["kind"] == "audit":
        return ""
    subject = f'<p class="subject">{esc(report["subject"])}</p>' if report.get("subject") else ""
    box = ""
    if report["not_private"]:
        what = "These runs are" if report["kind"] == "frontier" else "This run is"
        box = (
            f'<aside class="warning" role="note"><strong>{what} not private</strong>'
            f"{bullets(report['not_private'])}</aside>"
        )
    claim = prose(report["claim"])
    hidden = _OF_ONE_RUN if report["kind"] == "frontier" else ()
    if report["settings"].get("unit") != "account":
        hidden = (*hidden, *_ACCOUNT_ONLY)
    if "Trust: distributed" not in claim:
        hidden = (*hidden, "max_colluding", "spare_rounds")
    shown = {
        words: _setting(name, report["settings"][name])
        for name, words in SETTING_WORDS.items()
        if name in report["settings"] and name not in hidden
    }
    needed, of = report["settings"].get("min_sites"), len(report["sites"])
    if needed and of:
        alone = ": none may stay away" if needed == of else ""
        shown[SETTING_WORDS["min_sites"]] = f"{needed} of {of}{alone}"
    return (
        f"<header>{subject}<h1>{esc(report['title'])}</h1></header>{box}"
        f'<section id="claim"><h2>The claim</h2><p class="claim">{claim}</p>'
        f"{figures(shown)}</section>"
    )


def frontier(report: Facts) -> str:
    """Draw utility against epsilon, with seeds, references and their table."""
    facts = report["frontier"]
    if not facts:
        return ""
    charts = "".join(
        f"<figure>{plots.both(plots.frontier, facts, metric)}</figure>"
        for metric in ("auroc", "auprc")
        if plots.has_metric(facts, metric)
    )
    many = any(len(point["seeds"]) > 1 for line in facts["series"] for point in line["points"])
    note = (
        "Lines join means over seeds; bands and bars reach from the smallest to the largest seed, "
        "faint dots are the seeds. "
        if many
        else ""
    )
    note += (
        "Dashed lines and level lines are references without the same protection: pooling needs "
        "all data in one place. The vertical axis does not start at 0; an arrow marks a reference "
        "that lies below it."
    )
    rows: list[list[Cell]] = []
    for line in facts["series"]:
        rows += [_frontier_row(line["label"], point) for point in line["points"]]
    rows += [_frontier_row(line["label"], line) for line in facts["references"]]
    head = ("Line", "epsilon", "seeds", "AUROC", "95 %", "AUPRC", "95 %", "seconds")
    caption = "Mean over seeds (smallest to largest), and the 95 % t-interval of the mean"
    return section(
        "frontier",
        "The frontier",
        f'{charts}<p class="note">{esc(note)}</p>'
        + "".join(f'<p class="note">{esc(line)}</p>' for line in facts.get("notes", ()))
        + details("Table of all points", table(caption, head, rows)),
    )


def sites(report: Facts) -> str:
    """Each site's spent and remaining budget."""
    rows = report["sites"]
    if not rows:
        if report["kind"] != "frontier":
            return ""
        words = (
            "Every point opened a fresh simulated ledger at every site; no real ledger was used."
        )
        return section("sites", "Sites and budgets", f"<p>{words}</p>")
    cost = report["settings"].get("epsilon_lifetime")
    chart = plots.both(plots.sites, rows, cost)
    earlier = any(site.get("epsilon_lifetime_budget") is not None for site in rows)
    legend = "".join(
        f'<span><i class="swatch {kind}"></i>{words}</span>'
        for kind, words, shown in (
            ("before", "earlier runs", earlier),
            ("spent", "this run", True),
            ("left", "left", True),
        )
        if shown
    )
    note = (
        "Bars are parts of the lifetime filter's capacity, which runs use up evenly. Turning a "
        "filter's total into an epsilon adds a constant once, so in epsilons the first run seems "
        "dear and later ones cheap; the epsilon of the run itself is the PLD figure in the table. "
    )
    lost = losses(report["settings"])
    note += f"{lost} " if lost else ""
    if len(rows) > plots.SITES_SHOWN:
        note += f"Drawn: the {plots.SITES_SHOWN} sites with least left. "
    head = (
        "Site",
        "Units",
        "epsilon, this run",
        "Lifetime left",
        "Filter used",
        "Rounds joined",
        "Ledger head",
    )
    body: list[list[Cell]] = [
        [
            str(site.get("site")),
            site.get("units"),
            _up(site.get("epsilon_spent")),
            _down(site.get("epsilon_lifetime_left")),
            _percent(site.get("lifetime_used")),
            site.get("rounds_joined"),
            str(site.get("ledger_head") or "–")[:12],  # noqa: RUF001
        ]
        for site in rows
    ]
    summed = report["settings"].get("trust") == Trust.DISTRIBUTED and all(
        site.get("units") is None for site in rows
    )
    return section(
        "sites",
        "Sites and budgets",
        whose(report)
        + f'<figure><p class="legend">{legend}</p>{chart}</figure><p class="note">{esc(note)}</p>'
        + details(
            "Table of sites",
            table(_SUMMED_UNITS if summed else _UNITS, head, body),
        )
        + _accounts(rows)
        + _amendments(rows),
    )


def _accounts(rows: Sequence[Facts]) -> str:
    """Show each split's own account."""
    head = ("Site", "Split", "Lifetime budget", "Spent", "Left", "Filter used")
    body: list[list[Cell]] = [
        [
            str(site.get("site")),
            split,
            _down(site.get("epsilon_lifetime_budget")),
            _up(balance.get("spent_epsilon")),
            _down(balance.get("left_epsilon")),
            _percent(balance.get("used")),
        ]
        for site in rows
        for split, balance in (site.get("accounts") or {}).items()
    ]
    if not body:
        return ""
    return details(
        "Table of budgets", table("Lifetime (filter): spent rounded up, left down", head, body)
    )


def _amendments(rows: Sequence[Facts]) -> str:
    """Show every change of a lifetime budget since its ledger was opened."""
    head = ("Site", "What", "Lifetime epsilon", "By", "Reason", "When")
    body: list[list[Cell]] = [
        [
            str(site.get("site")),
            *(change.get(name) for name in ("kind", "lifetime_epsilon", "by", "reason", "time")),
        ]
        for site in rows
        for change in site.get("amendments") or []
    ]
    return table("Budgets that were raised or retired", head, body) if body else ""


def search(report: Facts) -> str:
    """Say what a search that this run was part of cost in all."""
    facts = report.get("search")
    if not facts:
        return ""
    rows: list[list[Cell]] = [
        [
            job["overrides"] or "–",  # noqa: RUF001
            "this one" if job["job"] == facts["job"] else str(job["job"]),
            _up(job["epsilon"], 3),
            *estimate_cells(job["auroc"]),
            job["outcome"],
        ]
        for job in facts["trials"]
    ]
    head = ("Trial", "Job", "epsilon", "AUROC", "Low", "High", "Outcome")
    done = sum(job["outcome"] == "done" for job in facts["trials"])
    cost = "nothing" if facts["epsilon"] is None else f"epsilon {_up(facts['epsilon'])}"
    if not facts.get("protected", True):
        cost = "what no epsilon bounds, because a trial had no noise,"
    words = (
        f"This run is one of {len(rows)} trials of a sweep, of which {done} finished. Together "
        f"they cost {esc(cost)} at a site (PLD over all that was reserved): that is the figure "
        "behind any choice among them, and the epsilon of one trial is not. Runs before or after "
        "the sweep are not in it: the lifetime total has them."
    )
    return section(
        "search", "What the search cost", f"<p>{words}</p>" + table("Trials", head, rows)
    )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.1f} %"


def charges(report: Facts) -> str:
    """List what was charged, for what, and at which cost."""
    rows = report["charges"]
    if not rows:
        return ""
    head = ("Split", "Purpose", "epsilon", "Share", "Times", "Event")
    body: list[list[Cell]] = [
        [
            row["split"],
            PURPOSE_WORDS.get(row["purpose"], row["purpose"]),
            _up(row["epsilon"], 3),
            _percent(row["share"]),
            row["times"],
            row["event"],
        ]
        for row in rows
    ]
    note = (
        "The epsilon of a row is its cost alone; rows of one split compose to less than their sum. "
        "The share is that of the Renyi divergence at order 2, which adds up exactly. Train and "
        "holdout are disjoint units with a budget each, so the larger total counts; where the "
        "split is called both, one budget pays for both in sequence."
    )
    return section(
        "charges",
        "Charges",
        whose(report)
        + table("Everything that was priced, spare rounds included", head, body)
        + f'<p class="note">{note}</p>',
    )


def shapes(report: Facts) -> str:
    """Shape functions of the additive model: its exact explanation."""
    rows = report["shapes"]
    if not rows:
        return ""
    drawn, rest = rows[:SHAPES_DRAWN], rows[SHAPES_DRAWN:]
    values = [v for row in drawn for v in row["y"]]
    low, high = min(0.0, *values), max(0.0, *values)
    pad = 0.05 * max(high - low, 1e-6)
    cells = "".join(_shape(row, low - pad, high + pad) for row in drawn)
    note = (
        "Each panel shows what a feature adds to the log-odds of the positive class; the score is "
        "the sum of all of them. Panels share one vertical scale, widest effect first"
        + (f"; the other {len(rest)} are in the table." if rest else ".")
    )
    head = ("Feature", "Range", "Lowest at", "Lowest", "Highest at", "Highest")
    summary: list[list[Cell]] = [
        [row["feature"], row["range"], *_extreme(row, min), *_extreme(row, max)] for row in rows
    ]
    points: list[list[Cell]] = [
        [row["feature"], _where(row, i), signed(y, 3)]
        for row in drawn
        for i, y in enumerate(row["y"][:SHAPE_ROWS])
    ]
    cut = any(len(row["y"]) > SHAPE_ROWS for row in drawn)
    caption = "Effect on the log-odds" + (f", the first {SHAPE_ROWS} of each" if cut else "")
    return section(
        "shapes",
        "What the model learned",
        whose(report)
        + f'<p class="note">{esc(note)}</p><div class="grid">{cells}</div>'
        + details(f"Table of all {len(rows)} features", table("Effects in log-odds", head, summary))
        + details("Table of the panels", table(caption, ("Feature", "At", "Effect"), points)),
    )


def training(report: Facts) -> str:
    """AUPRC and epsilon by round."""
    rows = report["rounds"]
    if not rows:
        return ""
    panels = ""
    for name, words, colour in (("auprc", "AUPRC", 0), ("epsilon_spent", "epsilon spent", 1)):
        points = [
            (float(row["round"]), float(row[name])) for row in rows if row.get(name) is not None
        ]
        if points:
            panels += f"<figure>{plots.progress(points, words, colour)}</figure>"
    every = max(1, -(-len(rows) // ROUND_ROWS))
    chosen = [row for i, row in enumerate(rows) if i % every == 0 or i == len(rows) - 1]
    body: list[list[Cell]] = [
        [
            str(row.get("round")),
            _up(row.get("epsilon_spent"), 3),
            row.get("auprc"),
            row.get("seconds"),
        ]
        for row in chosen
    ]
    caption = "By round" + (f", every {every}th; all are in rounds.jsonl" if every > 1 else "")
    head = ("Round", "epsilon spent", "AUPRC", "Seconds")
    return section(
        "training",
        "Training",
        f'<div class="pair">{panels}</div>'
        + details("Table of rounds", table(caption, head, body)),
    )


def limits(report: Facts) -> str:
    """Assumptions, what was not audited, residual channels, unprotected quantities."""
    blocks = "".join(
        f"<h3>{words}</h3>{bullets(report[name])}"
        for name, words in (
            ("assumptions", "Assumptions"),
            ("not_audited", "Not audited"),
            ("residual", "Residual channels"),
            ("unprotected", "Not protected"),
        )
        if report.get(name)
    )
    if not blocks:
        return ""
    what = "audit" if report["kind"] == "audit" else "claim"
    return section("limits", f"What the {what} rests on", blocks)


def configuration(report: Facts) -> str:
    """Show the resolved configuration and the versions that ran."""
    versions: list[list[Cell]] = [
        [str(name), str(version)] for name, version in report["versions"].items()
    ]
    if report.get("commit"):
        versions.append(["commit", str(report["commit"])])
    listed = table("Versions", ("Package", "Version"), versions) if versions else ""
    text = f"<pre>{esc(report['configuration'].strip())}</pre>"
    return section(
        "configuration",
        "Configuration and versions",
        listed + details("Resolved configuration", text),
    )


SECTIONS: dict[str, Section] = {
    "title": title,
    **AUDIT_SECTIONS,
    "frontier": frontier,
    "utility": utility,
    "sites": sites,
    "charges": charges,
    "search": search,
    "shapes": shapes,
    "training": training,
    "limits": limits,
    "configuration": configuration,
}


def _up(value: Any, digits: int = 2) -> Cell:
    return rounded_up(value, digits) if isinstance(value, int | float) else value


def _down(value: Any, digits: int = 2) -> Cell:
    return rounded_down(value, digits) if isinstance(value, int | float) else value


def _setting(name: str, value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if name.startswith("epsilon"):
        return rounded_up(value)
    if name in ("seconds", "peak_rss_mb"):
        return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _frontier_row(label: str, point: Facts) -> list[Cell]:
    epsilon = point["epsilon"]
    row: list[Cell] = [
        label,
        "∞" if epsilon is None else f"{epsilon:g}",
        str(len(point["seeds"])),
    ]
    for metric in ("auroc", "auprc"):
        facts = point.get(metric)
        if not facts:
            row += [None, None]
            continue
        mean, several = number(facts["mean"]), facts["n"] > 1
        row.append(f"{mean} ({_span(facts['min'], facts['max'])})" if several else mean)
        row.append(_span(facts["low"], facts["high"]) if several else None)
    seconds = point.get("seconds")
    row.append(f"{seconds:.1f}" if seconds is not None else None)
    return row


def _span(low: float, high: float) -> str:
    return f"{low:.3f}–{high:.3f}"  # noqa: RUF001


def _where(row: Facts, i: int) -> str:
    x = row["x"][i]
    return f"{x:.4g}" if isinstance(x, int | float) else plots.bin_label(x)


def _extreme(row: Facts, pick: Callable[[Sequence[float]], float]) -> list[Cell]:
    value = pick(row["y"])
    return [_where(row, row["y"].index(value)), signed(value)]


def _shape(row: Facts, low: float, high: float) -> str:
    least, most = _extreme(row, min), _extreme(row, max)
    return (
        f'<figure class="panel"><figcaption>{esc(row["feature"])}</figcaption>'
        f"{plots.shape(row, low, high)}"
        f'<p class="extremes">highest <b>{esc(most[1])}</b> at {esc(most[0])}'
        f"<br>lowest <b>{esc(least[1])}</b> at {esc(least[0])}</p></figure>"
    )
