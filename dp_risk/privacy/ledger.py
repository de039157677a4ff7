"""The site's own record of every charge: append-only, signed, synced before any compute.

One file holds the accounts of all splits in one chain. A run first reserves its whole schedule;
each round then pays and releases. Rounds that never ran go back to the filter when the run is
closed; rounds that paid do not. Nothing here depends on the clock.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp_risk.privacy import keys, seal
from dp_risk.privacy.account import Account, Amendment
from dp_risk.privacy.accounting import Filter
from dp_risk.privacy.answers import Answers
from dp_risk.privacy.books import Books
from dp_risk.privacy.chain import Chain
from dp_risk.privacy.entries import Entry
from dp_risk.privacy.release import Release, arrays_digest
from dp_risk.privacy.schedule import MAX_RUNS, Purpose
from dp_risk.privacy.terms import Terms, amendment_of, in_force, lines_of, read_terms
from dp_risk.types import ConfigurationError, Refused

# What SQLite, a log and a person all read in the same way.
_NAME = re.compile(r"[\w.-]{1,100}")


class Ledger(Books):
    """The accounts of one site, on its own disk. Open with `Ledger.open`.

    The budget in force is the smaller one of the policy's and the chain's. Every file error is a
    `ConfigurationError` of one line, and then nothing was released.
    """

    @classmethod
    def open(
        cls, path: Path, account: Account | None = None, *, key: keys.Key | None = None
    ) -> Ledger:
        """Open a ledger, or create it for `account`.

        Parameters
        ----------
        path : Path
            The SQLite file.
        account : Account, optional
            What the policy says now; None asks nothing of the policy. Without a `partition` a
            ledger is opened, but none is made.
        key : Key, optional
            The site's key. Without it the ledger can only be read, and nothing is ever written.

        Raises
        ------
        ConfigurationError
            If the file is missing, unreadable, or of another version.
        Refused
            If the ledger was opened for another account, partition or key, or for a smaller
            budget; if it is older than its seal; or if it is gone and was there before.
        """

        def opening() -> dict[str, Any]:
            assert account is not None
            assert key is not None
            traces = seal.traces(path)
            # Another process may have made it meanwhile, and what lies around is of that one.
            if traces and not path.exists():
                raise Refused(
                    f"{path}: the ledger is gone and {traces[0].name} is there: restore it; a new "
                    "one would be a fresh budget on the same people"
                )
            try:
                order = Filter.open(account.lifetime_epsilon, account.delta).order
            except ValueError as error:
                raise ConfigurationError(f"{path}: {error}") from None
            terms = Terms(
                account=account, order=order, key=keys.public_hex(key), pays=account.splits[0]
            )
            return {**terms.body(), "filter": dict.fromkeys(account.splits, 0.0)}

        chain = Chain.open(path, key=key, opening=None if account is None else opening)
        try:
            ledger = cls(chain, in_force(chain), math.inf)
            if key is not None and chain.public_key != ledger.public_key:
                raise Refused(
                    f"{path}: the ledger belongs to another site key: {ledger.public_key[:16]} is "
                    f"in force, the key given is {chain.public_key[:16]}; restore site.key"
                )
            if account is not None or key is not None:
                seal.fit(chain)
            if account is not None:
                ledger._fit(account)
            # Before anything is charged: a ledger that vanishes from now on was there.
            if key is not None and not seal.place(path).exists():
                seal.write(chain)
        except BaseException:
            chain.close()
            raise
        return ledger

    def _fit(self, account: Account) -> None:
        for field in dataclasses.fields(Account):
            was, now = getattr(self._terms.account, field.name), getattr(account, field.name)
            if field.name not in ("lifetime_epsilon", "partition") and was != now:
                raise Refused(
                    f"{self._chain.path}: the ledger was opened with {field.name} {was}, the "
                    f"policy now says {now}; an account never changes"
                )
        fixed, asked = self._terms.account.partition, account.partition
        for part in sorted({*fixed, *asked} if asked else ()):
            if fixed.get(part) != asked.get(part):
                raise Refused(
                    f"{self._chain.path}: the {part} changed since the ledger was opened: who is a "
                    "unit, and on which side of the split, never changes; restore it"
                )
        allowed = self._allowed()
        if account.lifetime_epsilon > allowed:
            raise Refused(
                f"{self._chain.path}: the policy says lifetime_epsilon "
                f"{account.lifetime_epsilon:g}, the ledger {allowed:g}: lower the policy, or sign "
                "the larger budget with `dp-risk ledger raise`"
            )
        self._bound = account.lifetime_epsilon

    def close_file(self) -> None:
        """Close the file."""
        self._chain.close()

    def _not_retired(self) -> None:
        if self._retired:
            raise Refused("the ledger is retired: nothing is released any more")

    def reserve(self, *, run: str, plan_digest: str, schedule: tuple[Purpose, ...]) -> None:
        """Set the whole schedule of a run aside. A run still open is closed first.

        Raises
        ------
        Refused
            If a lifetime budget would be exceeded, a line names a split without an account, the
            run id was used before or is not a short word, or the ledger is retired.
        """
        for name in (run, *(text for line in schedule for text in (line.name, line.split))):
            if not _NAME.fullmatch(name):
                raise Refused(
                    "a run id, a purpose and a split are 1 to 100 letters, digits, _, . and -"
                )
        with self._chain.transaction():
            self._not_retired()
            current = self._open_reservation()
            if current is not None and current.body["run"] == run:
                if current.body["plan"] == plan_digest:
                    return
                raise Refused("the run was enrolled with another plan")
            if self._reservation(run) is not None:
                raise Refused("the run id was used before")
            [(runs,)] = self._chain.rows("SELECT COUNT(*) FROM entry WHERE kind = 'reserve'")
            if runs >= MAX_RUNS:
                raise Refused(f"the ledger holds {MAX_RUNS} runs, the most there may be")
            before, filter = self._settled(current), self.filter
            after = self._after(before, schedule)
            for split, total in after.items():
                asked = filter.epsilon(total)
                if not asked <= filter.lifetime_epsilon:
                    left = max(0.0, filter.lifetime_epsilon - filter.epsilon(before[split]))
                    raise Refused(
                        f"lifetime budget of {split}: epsilon {left:.4g} of "
                        f"{filter.lifetime_epsilon:.4g} is left, the run would bring the total to "
                        f"{asked:.4g}"
                    )
            self._close(current)
            self._chain.append(
                "reserve",
                {
                    "run": run,
                    "plan": plan_digest,
                    "schedule": lines_of(schedule),
                    "filter_before": before,
                    "filter": after,
                },
            )

    def pay(
        self, *, run: str, plan_digest: str, purpose: str, round: int, request: str
    ) -> Release | None:
        """Charge one round, synced to disk, or return its release if it was answered before.

        Parameters
        ----------
        run, purpose, round : str, str, int
            Which line of the open reservation.
        plan_digest : str
            The plan that will run: it must be the one that was reserved.
        request : str
            Digest of everything that the request says.

        Returns
        -------
        Release or None
            The stored release of an identical request; None when the charge was written now and
            the mechanism may run.

        Raises
        ------
        Refused
            If the run is not open, the round is not in its schedule or out of order, the round
            was started before with another request or without a stored answer, the policy's
            budget was lowered below what is reserved, or the ledger is retired.
        """
        with self._chain.transaction():
            self._not_retired()
            known = self._answers.request(run, purpose, round)
            if known is not None:
                if known[0] != request or known[1] is None:
                    raise Refused("the round was paid before and cannot be answered again")
                return self._answers.release(run, purpose, round)
            reservation = self._open_reservation()
            if reservation is None or reservation.body["run"] != run:
                raise Refused("the run is not open")
            if reservation.body["plan"] != plan_digest:
                raise Refused("another plan than the one that was reserved")
            line = next((x for x in self._terms.schedule(reservation) if x.name == purpose), None)
            if line is None or not 0 <= round < line.rounds:
                raise Refused("the round is not in the reserved schedule")
            if self._answers.last(run, purpose) >= round:
                raise Refused("the round is out of order")
            totals, filter = self._terms.totals(self._chain.last()), self.filter
            if filter.epsilon(totals[line.split]) > filter.lifetime_epsilon:
                raise Refused("the policy's lifetime budget is now below what the run reserved")
            self._chain.append(
                "charge",
                {
                    "run": run,
                    "purpose": purpose,
                    "round": round,
                    "request": request,
                    "split": line.split,
                    "event": line.event.to_dict(),
                    "filter": totals,
                },
            )
            self._answers.place(run, purpose, round, request)
        return None

    def mint(
        self, *, run: str, purpose: str, round: int, arrays: Mapping[str, NDArray[Any]]
    ) -> Release:
        """Store the output of a paid round and return it as a release.

        Raises
        ------
        Refused
            If the round was not paid, or has an answer already, or the ledger was retired
            meanwhile.
        """
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        digest = arrays_digest(whole)
        with self._chain.transaction():
            self._not_retired()
            totals = self._terms.totals(self._chain.last())
            body = {"run": run, "purpose": purpose, "round": round, "digest": digest}
            entry = self._chain.append("release", {**body, "filter": totals})
            self._answers.store(whole, entry)
        return self._answers.signed(whole, entry)

    def close(self, run: str) -> None:
        """End a run: give rounds that never ran back to the filter, drop answers, seal the file."""
        with self._chain.transaction():
            current = self._open_reservation()
            if current is None or current.body["run"] != run:
                return
            self._close(current)
        seal.write(self._chain)

    def _close(self, reservation: Entry | None) -> None:
        if reservation is None:
            return
        run, totals = reservation.body["run"], self._settled(reservation)
        paid = self._answers.paid(run)
        self._chain.append("close", {"run": run, "paid": paid, "filter": totals})
        self._answers.drop(run)

    def raise_budget(self, lifetime_epsilon: float, *, by: str, reason: str) -> Amendment:
        """Sign a larger lifetime budget (docs/decisions/007-amendments.md says what that means).

        A ledger that is open under a policy keeps to the smaller figure of that policy.

        Raises
        ------
        Refused
            If the ledger is retired.
        ConfigurationError
            If the budget is not larger than now, or a person or a reason is missing.
        """
        with self._chain.transaction():
            self._not_retired()
            now = self._allowed()
            if not now < lifetime_epsilon < math.inf:
                raise ConfigurationError(
                    f"the lifetime budget is {now:g} already; a smaller one needs no raise, the "
                    "policy alone lowers it"
                )
            body = {"lifetime_epsilon": lifetime_epsilon, "was": now}
            amendment = self._amend("raise", {**body, "by": by, "reason": reason})
        seal.write(self._chain)
        return amendment

    def retire(self, *, by: str, reason: str) -> Amendment:
        """Close the open run and refuse every release from now on.

        Raises
        ------
        Refused
            If the ledger is retired already.
        ConfigurationError
            If a person or a reason is missing.
        """
        with self._chain.transaction():
            self._not_retired()
            self._close(self._open_reservation())
            body = {"lifetime_epsilon": self._allowed(), "by": by, "reason": reason}
            amendment = self._amend("retire", body)
        seal.write(self._chain)
        return amendment

    def rekey(
        self, new: keys.Key, *, partition: Mapping[str, str], by: str, reason: str
    ) -> Amendment:
        """Let another key follow the site's; from here on this ledger is open with it.

        The old key signs for the new one, so whoever lost it cannot rotate. Put the new key where
        it will last before this is called.

        Parameters
        ----------
        new : Key
            A key that was never in force.
        partition : mapping of str to str
            The parts of the account's partition, digested under the new key.
        by, reason : str
            Who decides, and why.

        Raises
        ------
        Refused
            If a run is open, whose plan names the old key; or the ledger is retired.
        ConfigurationError
            If the key or the partition is impossible, or a person or a reason is missing.
        """
        with self._chain.transaction():
            self._not_retired()
            if self._open_reservation() is not None:
                raise Refused("a run is open, whose plan names the key that is in force: close it")
            earlier = {read_terms(self._chain).key, *(e.body["key"] for e in self.rekeys())}
            if keys.public_hex(new) in earlier:
                raise ConfigurationError("the key was in force before: make a new one")
            if set(partition) != set(self._terms.account.partition):
                raise ConfigurationError("a new key digests the same parts as the old one")
            body = {"lifetime_epsilon": self._allowed(), "by": by, "reason": reason}
            totals = self._terms.totals(self._chain.last())
            self._chain.rekey(new, {**body, "partition": dict(partition), "filter": totals})
            entry = self._chain.last()
            amendment = amendment_of(entry)
        self._chain = Chain(self._chain.path, self._chain.connection, new)
        self._answers = Answers(self._chain)
        self._terms = in_force(self._chain)
        seal.write(self._chain)
        return amendment

    def _amend(self, kind: str, body: Mapping[str, Any]) -> Amendment:
        totals = self._terms.totals(self._chain.last())
        return amendment_of(self._chain.append(kind, {**body, "filter": totals}))

    def sign(self, context: str, message: bytes) -> str:
        """Sign with the site's key."""
        return self._chain.sign(context, message)
