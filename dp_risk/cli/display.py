"""What a person sees while a run goes on: a live bar in a terminal, quiet elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


class Planned(Protocol):
    """What has a number of rounds: a plan, or what a server says of one."""

    @property
    def rounds(self) -> int:
        """Rounds of the whole run."""
        ...


Step = Callable[[int, Planned, float | None, float | None], None]


def console() -> Console:
    """Return a console on standard output; rich honours NO_COLOR."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


@contextmanager
def progress(title: str, *, as_json: bool) -> Iterator[Step]:
    """Give a callback that shows rounds, epsilon spent and AUPRC.

    Parameters
    ----------
    title : str
        What is running.
    as_json : bool
        One JSON line a report on standard error instead of a bar.
    """
    if as_json:
        yield _json_steps(title)
        return
    screen = Console(stderr=True, highlight=False)
    if not screen.is_terminal:
        yield quiet
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("round {task.completed}/{task.total}  {task.fields[facts]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task(title, total=1, facts="")
        shown = {"epsilon": "", "auprc": ""}

        def step(done: int, plan: Planned, spent: float | None, auprc: float | None) -> None:
            if spent is not None:
                shown["epsilon"] = f"epsilon {spent:.3f}"
            if auprc is not None:
                shown["auprc"] = f"AUPRC {auprc:.3f}"
            facts = "  ".join(v for v in shown.values() if v)
            bar.update(task, completed=done, total=plan.rounds, facts=facts)

        yield step


def quiet(*_: object) -> None:
    """Show nothing: the output is not a terminal."""


def _json_steps(title: str) -> Step:
    def step(done: int, plan: Planned, spent: float | None, auprc: float | None) -> None:
        if spent is None and auprc is None and done != plan.rounds:
            return
        line = {"run": title, "round": done, "rounds": plan.rounds}
        print(
            json.dumps({**line, "epsilon_spent": spent, "auprc": auprc}),
            file=sys.stderr,
            flush=True,
        )

    return step


def table(title: str, head: list[str], rows: list[list[Any]]) -> Table:
    """Return a plain table; numbers are right-aligned."""
    out = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column, name in enumerate(head):
        numeric = all(isinstance(row[column], int | float) or row[column] == "-" for row in rows)
        out.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        out.add_row(*[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row])
    return out


@contextmanager
def stages(title: str, *, as_json: bool) -> Iterator[Callable[[str, float], None]]:
    """Give a callback that shows what is being done and which part of the whole is over.

    Parameters
    ----------
    title : str
        What is running.
    as_json : bool
        One JSON line a report on standard error instead of a bar; where that is no terminal, one
        line a stage.
    """
    screen = Console(stderr=True, highlight=False)
    if as_json:

        def line(name: str, done: float) -> None:
            said = {"run": title, "stage": name, "done": round(done, 3)}
            print(json.dumps(said), file=sys.stderr, flush=True)

        yield line
    elif not screen.is_terminal:
        said: set[str] = set()

        def once(name: str, done: float) -> None:  # noqa: ARG001
            if name not in said:
                said.add(name)
                print(f"{title}: {name}", file=sys.stderr, flush=True)

        yield once
    else:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn())
        with Progress(*columns, console=screen, transient=True) as bar:
            task = bar.add_task(title, total=1.0)
            yield lambda name, done: bar.update(task, completed=done, description=name)
