"""What a site keeps of a run between restarts: its secret, and who enrolled."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from dp_risk.privacy import keys
from dp_risk.privacy.plan import NAME
from dp_risk.privacy.release import canonical
from dp_risk.secure_sum.enrolment import Enrolment
from dp_risk.secure_sum.terms import refuse
from dp_risk.types import ConfigurationError


class RunKeys:
    """The secrets of open runs, in a folder of the site, in files for its owner alone.

    Parameters
    ----------
    folder : Path
        Made on first use.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, run: str, kind: str) -> Path:
        if not NAME.fullmatch(run):
            raise ConfigurationError("a run id is 1 to 100 letters, digits, points and dashes")
        return self._folder / f"{run}.{kind}"

    def secret(self, run: str) -> bytes:
        """Return the site's X25519 secret of a run, 32 bytes, made on first use.

        Ask only for a run that the ledger has reserved: it never reserves a run twice, so that a
        run whose secret was forgotten does not come back.

        Raises
        ------
        ConfigurationError
            If the file cannot be written, or holds something else.
        """
        path = self._path(run, "secret")
        if not path.exists():
            keys.write_once(path, secrets.token_hex(32) + "\n")
        try:
            found = bytes.fromhex(path.read_text())
        except (OSError, ValueError):
            found = b""
        if len(found) != 32:
            raise ConfigurationError(f"{path}: not a secret of 32 bytes in hexadecimal")
        return found

    def keep(self, run: str, statements: Sequence[Enrolment]) -> None:
        """Fix who is enrolled in a run: the first time counts.

        Raises
        ------
        Refused
            With the constant answer, if others were enrolled before.
        ConfigurationError
            If the file cannot be written or read.
        """
        path = self._path(run, "enrolled")
        said = [one.to_dict() for one in sorted(statements, key=lambda one: one.site)]
        if not path.exists():
            keys.write_once(path, canonical(said).decode())
        if [one.to_dict() for one in self.kept(run)] != said:
            refuse("other enrolments than before in the same run")

    def kept(self, run: str) -> tuple[Enrolment, ...]:
        """Return the enrolments of a run, none where it has none.

        Raises
        ------
        ConfigurationError
            If the file is damaged.
        """
        path = self._path(run, "enrolled")
        if not path.exists():
            return ()
        try:
            return tuple(Enrolment.from_dict(one) for one in json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            raise ConfigurationError(f"{path}: not the enrolments of a run") from None

    def forget(self, run: str) -> None:
        """Delete what is kept of a run, when it is closed: its masks can never be made again.

        A file system or a backup may still hold a copy.
        """
        for kind in ("secret", "enrolled"):
            self._path(run, kind).unlink(missing_ok=True)

    def forget_others(self, run: str) -> None:
        """Delete what is kept of every other run: those that nobody closed, when one opens."""
        for path in self._folder.glob("*"):
            if path.stem != run:
                path.unlink(missing_ok=True)
