"""The sections of a comparison; each is empty where a report is of something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from dp_risk.report.page.html import (
    Cell,
    How,
    Markup,
    Name,
    Shown,
    details,
    esc,
    fill,
    section,
    show,
    table,
)
from dp_risk.report.plots.comparison import dots, drawable
from dp_risk.report.plots.run import both
from dp_risk.report.sections.common import Facts, note, shares, up
from dp_risk.report.sections.fields import BUDGETS, GLANCE, LOSSES, SETTINGS, Field
from dp_risk.report.sections.matrix import Line, line, matrix, plain, tag, texts
from dp_risk.report.sections.subgroups import HOW, METRICS
from dp_risk.report.sections.utility import METRIC_WORDS
from dp_risk.report.words import CHECK_WORDS, PURPOSE_WORDS

_MEASURES = {"frontier": "frontier", "audit": "bound"}
_SOURCES = {"exact": "utility-exact", "charged": "utility-charged"}
_OPEN = 12  # rows of a column's groups that are not folded
_DOTS = (
    "Lines across a dot are 95 % intervals; the band is the reference's. What reaches into it "
    "cannot be told from the reference by these figures. The axis does not start at 0."
)
_AUDITED_DOTS = (
    "A dot is the epsilon that the audit can prove, the upright line the claim. A larger bound may "
    "mean a stronger attack, not a worse trainer."
)
_DRAWN = ("auroc", "auprc", "lower_bound")
_SENTENCES = (
    ("claim", "Who is protected from whom"),
    ("assumptions", "Assumptions"),
    ("audit_assumptions", "Assumptions of the audit"),
    ("not_audited", "Not audited"),
    ("residual", "Residual channels"),
    ("unprotected", "Not protected"),
)


def answers(report: Facts) -> Markup:
    """Return what the first page of a comparison says: cautions, and the rows that decide."""
    facts = report["comparison"]
    lines = [_line(row, GLANCE, facts) for row in facts["glance"]]
    key = fill(
        "↑ more, ↓ less, {} other than the reference; ≈ intervals overlap, so nobody can tell. "
        "What is grey is the same. Figures within 0.01 % of each other count as the same.",
        Markup('<span class="symbol">≠</span>'),
    )
    return Markup(matrix("At a glance", facts["runs"], lines) + note(key))


def at_a_glance(report: Facts) -> list[tuple[str, list[str], bool]]:
    """Return the rows that decide as plain text: name, a cell a run, and whether all are equal."""
    facts = report["comparison"]
    lines = [_line(row, GLANCE, facts) for row in facts["glance"]]
    return [(plain(one.name), texts(one), one.same) for one in lines]


def warning(report: Facts) -> str:
    """Say what would make the comparison mislead, or that nothing of that kind was found."""
    found = report["comparison"]["cautions"]
    if not found:
        return (
            '<div class="calm"><strong>These compare</strong><p>One data set, unit, adjacency, '
            "delta and trust; no intervals overlap.</p></div>"
        )
    items = "".join(f"<li>{show(one['words'])}</li>" for one in found)
    return (
        '<aside class="warning" aria-label="Warning"><strong>Before you compare</strong>'
        f"<ul>{items}</ul></aside>"
    )


def figures(report: Facts) -> str:
    """Draw what was measured, a dot a run with its interval, and list all of it."""
    facts = report.get("comparison")
    if not facts:
        return ""
    heading = "What the audits found" if facts["of"] == "audit" else "Utility"
    if not facts["measures"]:
        words = "None of these has a figure: the data is not public and no estimate was charged."
        return section("figures", heading, f"<p>{words}</p>")
    hows, runs = _hows(facts), facts["runs"]
    how = _how(facts)
    charts = "".join(
        f"<figure>{both(_dots, one, runs)}</figure>"
        for one in facts["measures"]
        if one["key"] in _DRAWN and drawable(one)
    )
    words = _AUDITED_DOTS if facts["of"] == "audit" else _DOTS
    if facts["of"] == "run":
        order = {key: i for i, key in enumerate(METRIC_WORDS)}
        ranked = sorted(facts["measures"], key=lambda one: order.get(one["key"], len(order)))
        lines = [_measured(one["key"], one["rows"][0], how) for one in ranked]
        tables: str = matrix("Figures with 95 % intervals", runs, lines)
    else:
        tables = "".join(
            matrix(_metric(one["key"]), runs, [_measured(r["label"], r, how) for r in one["rows"]])
            for one in facts["measures"]
        )
    listed = details("Table of all points", tables) if facts["of"] == "frontier" else tables
    estimated = [
        tag(i, run) for i, run in enumerate(runs) if run.get("utility_source") == "charged"
    ]
    said = Markup(esc(words))
    if facts["of"] == "run" and estimated:
        said = Markup(f"{said} Estimates from noisy releases: {' '.join(estimated)}.")
    return section("figures", heading, charts + note(said, *hows) + listed + _by_group(facts))


def _hows(facts: Facts) -> list[str]:
    """Return the methods by which the figures of the runs came about."""
    if facts["of"] != "run":
        return [_MEASURES[facts["of"]]]
    found = {run.get("utility_source") for run in facts["runs"]}
    return [how for source, how in _SOURCES.items() if source in found] or ["utility-exact"]


def _how(facts: Facts) -> str:
    """Return the method that a row of figures leads to; where they differ, how they compare."""
    hows = _hows(facts)
    return hows[0] if len(hows) == 1 else "compared"


def _by_group(facts: Facts) -> str:
    """Show the groups of every column that any of the runs was evaluated by."""
    out = ""
    for one in facts.get("subgroups", []):
        hows = [how for source, how in HOW.items() if source in one["sources"]]
        lines = [
            line(
                How(
                    name=f"{row['label']}: {METRICS[row['key']]}",
                    method=hows[0] if len(hows) == 1 else "compared",
                ),
                row,
                draw=partial(_estimate, form="rate3"),
            )
            for row in one["rows"]
        ]
        whole: str = matrix(f"Utility by {one['column']}", facts["runs"], lines)
        if len(lines) > _OPEN:
            whole = details("Table of all groups", whole)
        out += f"<h3>{fill('By {}', one['column'])}</h3>{whole}{note('', *hows, 'compared')}"
    return out


def _dots(one: Facts, runs: Sequence[Facts], *, width: float, cls: str) -> str:
    return dots(one, runs, _metric(one["key"]), width=width, cls=cls)


def _measured(label: str, row: Facts, how: str) -> Line:
    return line(How(name=_metric(label), method=how), row, draw=_estimate)


def _metric(key: str) -> str:
    return "Lower bound on epsilon" if key == "lower_bound" else METRIC_WORDS.get(key, key)


def _estimate(cell: Facts, form: str = "number") -> object:
    value, low, high = cell["value"], cell.get("low"), cell.get("high")
    if value is None:
        return Shown(value=None)
    if cell.get("ceiling") is not None:
        return fill("{} (ceiling {})", Shown(value=value, form="down3"), cell["ceiling"])
    shown = Shown(value=value, form=form)
    if low is None or high is None:
        return shown
    span = fill("{} to {}", *(Shown(value=end, form=form) for end in (low, high)))
    if low <= 0 and high >= 1:
        return Markup(f'cannot tell <small class="range">{span}</small>')
    return Markup(f'{show(shown)} <small class="range">{span}</small>')


def terms(report: Facts) -> str:
    """List the settings of the claim that differ, and fold those that do not."""
    facts = report.get("comparison")
    if not facts:
        return ""
    order = {key: i for i, key in enumerate(SETTINGS)}
    rows = sorted(facts["settings"], key=lambda row: order.get(row["key"], len(order)))
    lines = [_line(row, SETTINGS, facts) for row in rows]
    content = _split(
        "Settings that differ", "settings are the same", facts["runs"], lines,
        facts["counts"]["settings_same"],
    )  # fmt: skip
    return section("terms", "What is claimed, and by which mechanism", content + _words(facts))


def _words(facts: Facts) -> str:
    """Show sentences that some runs have and others have not, and fold the common ones."""
    out, common = "", ""
    for key, heading in _SENTENCES:
        found = facts["sentences"][key]
        if found["apart"]:
            out += f"<h3>{heading}</h3>{_apart(found['apart'], facts['runs'])}"
        if found["common"]:
            items = "".join(f"<li>{show(text)}</li>" for text in found["common"])
            common += f"<h3>{heading}</h3><ul>{items}</ul>"
    return out + (details("Sentences that all of them have", common) if common else "")


def _apart(found: Sequence[Facts], runs: Sequence[Facts]) -> Markup:
    items = "".join(
        "<li><span>"
        + "".join(tag(i, run) for i, run in enumerate(runs) if one["runs"][i])
        + f"</span><span>{show(one['text'])}</span></li>"
        for one in found
    )
    return Markup(f'<ul class="apart">{items}</ul>')


def prices(report: Facts) -> str:
    """Show every charge side by side, and what it left of the budgets."""
    facts = report.get("comparison")
    if not facts or not (facts["charges"] or facts["budgets"]):
        return ""
    lines = [
        line(How(name=_purpose(row), method="epsilon-charge"), row, draw=_charge)
        for row in facts["charges"]
    ]
    content = matrix("Cost alone, share of its split, event", facts["runs"], lines) if lines else ""
    content += note("", "epsilon-charge", "share") if lines else ""
    budgets = [_line(row, BUDGETS, facts) for row in facts["budgets"]]
    if budgets:
        content += "<h3>What is left</h3>" + matrix("Lifetime budgets", facts["runs"], budgets)
    return section("prices", "What it cost, and what is left", content)


def _purpose(row: Facts) -> str:
    return f"{row['split']}: {PURPOSE_WORDS.get(row['key'], row['key'])}"


def _charge(cell: Facts) -> object:
    if cell["event"] is None and cell["value"] is None:
        return "not charged"
    cost = fill("{}", up(cell["value"], 3)) if cell["value"] is not None else Markup()
    if cell["share"] is not None:
        cost = Markup(cost + fill(" ({})", shares(cell["share"])))
    times = cell["times"] or 1
    more = fill("{} times ", Shown(value=times, form="count")) if times != 1 else ""
    return Markup(f'{cost} <small class="range">{more}{show(cell["event"])}</small>')


def lost(report: Facts) -> str:
    """Show what was lost, and which sites took part in some runs only."""
    facts = report.get("comparison")
    if not facts:
        return ""
    lines = [_line(row, LOSSES, facts) for row in facts["losses"]]
    content = matrix("Lost with sites", facts["runs"], lines) if lines else ""
    found = facts["sites"]
    if found["apart"]:
        content += details(
            "Sites that took part in some of them only", _apart(found["apart"], facts["runs"])
        )
    return section("lost", "Lost rounds and sites", content) if content else ""


def checks(report: Facts) -> str:
    """Show the checks of audits side by side."""
    facts = report.get("comparison")
    if not facts or not facts["checks"]:
        return ""
    lines = [
        line(How(name=CHECK_WORDS.get(row["key"], row["key"]), method="check"), row)
        for row in facts["checks"]
    ]
    content = _split(
        "Checks that differ", "checks went the same way", facts["runs"], lines,
        facts["counts"]["checks_same"],
    )  # fmt: skip
    return section("tried", "Checks", content)


def changes(report: Facts) -> str:
    """List the keys of the configuration and the versions that differ."""
    facts = report.get("comparison")
    if not facts:
        return ""
    counts, content = facts["counts"], ""
    for rows, caption in (
        (facts["configuration"], "Keys of the configuration that differ"),
        (facts["versions"], "Versions that differ"),
    ):
        if rows:
            lines = [line(show(row["key"], "text"), row) for row in rows]
            content += matrix(caption, facts["runs"], lines)
        else:
            content += f"<p>{caption}: none.</p>"
    remark = fill(
        "{} of {} keys differ; {} versions are the same. The folder of a run (run.dir) is not "
        "counted.",
        counts["keys_differ"],
        counts["keys"],
        counts["versions_same"],
    )
    return section("changes", "Configuration and versions", content + note(remark, "recorded"))


def compared(report: Facts) -> str:
    """Say which folders were compared, so that another can do it again."""
    facts = report.get("comparison")
    if not facts:
        return ""
    head: tuple[Name, ...] = (
        "Folder", "Data", "Run", "Finished", *(
            How(name=words, method="resources") for words in ("Seconds", "Memory, MB")
        ), How(name="SHA-256 of report.json", method="compared"),
    )  # fmt: skip
    rows: list[list[Cell]] = [
        [
            Markup(f"{tag(i, run)} {show(run['name'], 'text')}"),
            run["subject"],
            run["run"],
            Shown(value=run["finished"], form="time"),
            Shown(value=run["seconds"], form="whole"),
            Shown(value=run["peak_rss_mb"], form="whole"),
            Shown(value=run["digest"], form="short"),
        ]
        for i, run in enumerate(facts["runs"])
    ]
    words = (
        "Each folder was held against its signed manifest before it was read. Whether the figures "
        "in it are true is for dp-risk verify to say, folder by folder."
    )
    return section("compared", "What was compared", table("Run folders", head, rows) + note(words))


def _line(row: Facts, fields: Mapping[str, Field], facts: Facts) -> Line:
    key = row["key"]
    if key in ("auroc", "auprc"):
        of_point = f", {row['label']}" if row.get("label") else ""
        return line(How(name=_metric(key) + of_point, method=_how(facts)), row, draw=_estimate)
    words, how, form = fields.get(key, (None, "recorded", "figures4"))
    name = How(name=words or str(key).replace("_", " "), method=how)
    return line(name, row, form)


def _split(
    differ: str, same: str, runs: Sequence[Facts], lines: Sequence[Line], count: object
) -> str:
    """Show the rows that differ, and fold the others."""
    unequal = [one for one in lines if not one.same]
    equal = [one for one in lines if one.same]
    out = matrix(differ, runs, unequal) if unequal else Markup(f"<p>{esc(differ)}: none.</p>")
    if not equal:
        return out
    return out + details(fill("{} {}", count, same), matrix("The same in all", runs, equal))


COMPARISON_SECTIONS: dict[str, Callable[[Facts], str]] = {
    "figures": figures,
    "terms": terms,
    "prices": prices,
    "lost": lost,
    "tried": checks,
    "changes": changes,
    "compared": compared,
}
