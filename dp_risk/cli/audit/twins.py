"""Two sites that differ in one unit, on either side of the split."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clients.site import POLICY
from dp_risk.cli.audit.reserved import (
    Reserved,
    coded_folder,
    plant,
    side,
    table_of,
)
from dp_risk.cli.audit.scratch import (
    Scratch,
)
from dp_risk.cli.settings import Settings
from dp_risk.data.groups import grouped
from dp_risk.types import Split, Unit

HEAVY, LIGHT = "heavy", "one code"
NOT_A_NUMBER, UNREADABLE, HUGE = "not a number", "codes out of range", "numbers out of range"
WELL_FORMED = (HEAVY, LIGHT)
UNITS = (*WELL_FORMED, NOT_A_NUMBER, UNREADABLE, HUGE)
# Rows of a site before a unit is added, and training rounds of a comparison.
ROWS, ROUNDS = 24, 3
_HUGE = 1e30
_CODES = 16
# Words of which one unit is trained on and one is held out, if any is.
_WORDS = 100


@dataclass(frozen=True, kw_only=True)
class Twins:
    """A scratch site, and copies of it with one unit more on either side of the split.

    Where sites share the noise, as few others as there may be come with it.

    Parameters
    ----------
    scratch : Scratch
        Where they are made.
    reserved : Reserved
        The extended schema.
    settings : Settings
        Configuration of the sites.
    folder : Path
        All sites without the unit; they are never opened themselves, only copied.
    """

    scratch: Scratch
    reserved: Reserved
    settings: Settings
    folder: Path

    @classmethod
    def make(cls, scratch: Scratch, name: str, *, slots: int, private: bool) -> Twins:
        """Make the site of which copies are compared."""
        reserved = scratch.reserved(codes=_CODES, slots=slots)
        sites = scratch.fewest
        settings, folders = scratch.sites(
            name,
            reserved,
            scratch.rows(ROWS * sites, seed=0),
            sites=sites,
            private=private,
            rounds=ROUNDS,
            steps_per_round=1,
            min_sites=sites,
        )
        return cls(scratch=scratch, reserved=reserved, settings=settings, folder=folders[0].parent)

    def copies(self, name: str, unit: str | None = None) -> list[Path]:
        """Copy all sites; the first gets one unit more in training and one in the holdout, or none.

        Parameters
        ----------
        name : str
            Folder of the copies.
        unit : str or None
            One of `UNITS`.
        """
        copy = self.folder.parent.parent / name
        shutil.copytree(self.folder, copy)
        sites = sorted(path.parent for path in copy.glob(f"*/{POLICY}"))
        if unit is None:
            return sites
        site = sites[0]
        trained, held = self.words(site)
        label = self.reserved.labels[1]
        plant(site, self.reserved, {trained: label}, records=self.records)
        if held is not None:
            # The records of one account may fall into several cells.
            plant(
                site,
                self.reserved,
                {held: label},
                records=self.records,
                mixed=True,
                kept=self.columns,
            )
        if unit != HEAVY:
            _spoil(coded_folder(site), self.reserved, unit)
        return sites

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns by whose groups the holdout is counted.

        Those that are asked for, else the first that has groups, if any has.
        """
        return tuple(self.settings.evaluation.subgroups) or grouped(self.reserved.coding)[:1]

    @property
    def records(self) -> int:
        """Records of an added unit: more than may take part, where it is an account."""
        if self.settings.privacy_values["unit"] == Unit.RECORD:
            return 1
        return 4 * int(self.settings.privacy_values["max_records_per_account"])

    def words(self, site: Path) -> tuple[str, str | None]:
        """Return a word whose unit is trained on, and one whose unit is held out if any is."""
        # Many, whatever the number of codes: of a few words none may be held out.
        words = [f"canary{number}" for number in range(_WORDS)]
        label = self.reserved.labels[1]
        rows = self.reserved.rows(table_of(site), dict.fromkeys(words, label), records=1)
        held = side(site, self.reserved, rows)
        trained = words[int(np.flatnonzero(~held)[0])]
        others = (word for word, out in zip(words, held, strict=True) if out)
        own = self.reserved.code(trained)
        return trained, next((word for word in others if self.reserved.code(word) != own), None)


def _spoil(coded: Path, reserved: Reserved, unit: str) -> None:
    for split in (Split.TRAIN, Split.HOLDOUT):
        codes, labels = (np.load(coded / split / f"{name}.npy") for name in ("codes", "labels"))
        values = np.load(coded / split / "values.npy")
        chosen = codes.max(1, initial=0) >= reserved.codes.start
        if unit == LIGHT:
            codes[chosen, :-1] = 0
        elif unit == HUGE:
            values[chosen] = _HUGE
        elif unit == UNREADABLE:
            codes[chosen] = 2**31 - 1
        elif split is Split.TRAIN:
            labels[chosen] = np.nan
            values[chosen] = np.inf
        else:
            values[chosen] = np.nan
            labels[chosen] = np.nan
        for name, array in (("codes", codes), ("values", values), ("labels", labels)):
            np.save(coded / split / f"{name}.npy", array)
