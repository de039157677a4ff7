"""An operator's way to the server of a federation."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from typing import Any, Self

import httpx

from dp_risk.federation import requests
from dp_risk.federation.operator import Operator
from dp_risk.types import (
    ConfigurationError,
    DpRiskError,
    FederationError,
    Refused,
    VerificationError,
)

BASE = "/dp-risk/v1/"
_SECONDS = 30.0
_KINDS = {
    kind.exit_code: kind
    for kind in (ConfigurationError, Refused, FederationError, VerificationError)
}


class Unreachable(FederationError):
    """No answer from the server: it may have one later."""


class SignedTooEarly(Unreachable):
    """Dated before the server was started, by a clock that is behind: it catches up."""


class Client:
    """Asks the server in an operator's name; trusts the federation's authority and nobody else.

    Parameters
    ----------
    operator : Operator
        Whose key signs.
    transport : BaseTransport or None
        Instead of the network, in tests.

    Raises
    ------
    ConfigurationError
        If the operator's folder is damaged.
    """

    def __init__(self, operator: Operator, transport: httpx.BaseTransport | None = None) -> None:
        self._operator = operator
        authority = operator.authority
        trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if authority is not None:
            trusted.load_verify_locations(cadata=authority.decode())
        self._client = httpx.Client(
            base_url=operator.url,
            verify=trusted,
            timeout=_SECONDS,
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._client.close()

    def status(self) -> dict[str, Any]:
        """Return nodes, runs and budgets."""
        return self._json("GET", "status")

    def submit(self, run: str, job: Mapping[str, Any], config: str) -> dict[str, Any]:
        """Ask for a run; asking again changes nothing. Return what became of it."""
        body = json.dumps({"run": run, "job": job, "config": config}, default=str).encode()
        return self._json("POST", "runs", body)

    def follow(self, run: str, offset: int) -> dict[str, Any]:
        """Return what became of a run, with the `lines` of its rounds from an `offset` on."""
        return self._json("GET", f"runs/{run}?offset={offset}")

    def stop(self, run: str) -> dict[str, Any]:
        """Ask for the end of a run; return what became of it."""
        return self._json("POST", f"runs/{run}/stop")

    def files(self, run: str) -> bytes:
        """Return the files of a finished run, as a tar archive."""
        return self._ask("GET", f"runs/{run}/files", b"").content

    def _json(self, method: str, path: str, body: bytes = b"") -> dict[str, Any]:
        try:
            return dict(self._ask(method, path, body).json())
        except (ValueError, TypeError):
            raise FederationError(f"{self._operator.url}: an answer that is no JSON") from None

    def _ask(self, method: str, path: str, body: bytes) -> httpx.Response:
        """Ask once.

        Raises
        ------
        Unreachable
            If there is no answer, or one that says to come again.
        DpRiskError
            What the server refuses with.
        """
        operator, whole = self._operator, BASE + path
        headers = requests.sign(
            operator.key, operator.name, method, whole, body, time.time(),
            federation=operator.federation,
        )  # fmt: skip
        try:
            answer = self._client.request(method, whole, content=body, headers=headers)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            if "CERTIFICATE_VERIFY_FAILED" in why:
                raise VerificationError(
                    f"{operator.url}: its certificate is not of this federation's authority"
                ) from None
            raise Unreachable(f"{operator.url}: no answer: {why}") from None
        if answer.status_code >= 500:
            raise Unreachable(f"{operator.url}: answers {answer.status_code}")
        if answer.status_code == httpx.codes.TOO_EARLY:
            raise SignedTooEarly(f"{operator.url}: {_refusal(answer)}")
        if answer.is_error:
            raise _refusal(answer)
        return answer


def failure(reason: object, exit_code: object) -> DpRiskError:
    """Return the error that a server speaks of."""
    code = exit_code if isinstance(exit_code, int) else None
    kind = _KINDS.get(code, FederationError) if code is not None else FederationError
    return kind(str(reason))


def _refusal(answer: httpx.Response) -> DpRiskError:
    try:
        said = dict(answer.json())
    except (ValueError, TypeError):
        said = {}
    if "error" not in said:
        return FederationError(f"{answer.url}: answers {answer.status_code}")
    return failure(said["error"], said.get("exit_code"))
