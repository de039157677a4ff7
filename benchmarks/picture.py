"""Draw a frontier's plot: `python benchmarks/picture.py RUN docs/frontier.svg`."""

from __future__ import annotations

import json
import sys
from importlib.resources import files
from pathlib import Path

from dp_risk.report.plots import run as plots


def main(run: Path, out: Path) -> None:
    """Write one plot of a report as a picture that stands alone."""
    report = json.loads((run / "report.json").read_text())
    picture = plots.frontier(report["frontier"], "auroc", width=760, cls="wide")
    style = (files("dp_risk.report.page") / "style.css").read_text()
    head, _, body = picture.partition(">")
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ')
    paper = '<rect width="100%" height="100%" fill="var(--paper)"/>'
    out.write_text(f"{head}><style>{style}</style>{paper}{body}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
