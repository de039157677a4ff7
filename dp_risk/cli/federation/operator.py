"""`dp-risk federation operator`: one more person who may start runs."""

from __future__ import annotations

from pathlib import Path

from dp_risk.federation import files
from dp_risk.federation.house import OPERATORS, House


def operator(folder: Path, name: str, out: Path) -> list[str]:
    """Make an operator with a key of its own, in a new folder.

    Returns
    -------
    list of str
        What a person should know now.

    Raises
    ------
    ConfigurationError
        If the name is taken or the folder exists; then nothing is written.
    """
    house = House.open(folder)
    with house.locked(), files.new_folder(out) as made:
        house.add_operator(name, made)
    return [
        f"written: {out}: give it to {name}: whoever has it can start runs",
        f"to shut {name} out again, remove the line from {folder / OPERATORS}",
    ]
