"""Requests of an operator to the server: who asks is proved by a signature, each time anew."""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dp_risk.privacy import keys
from dp_risk.privacy.release import canonical
from dp_risk.types import VerificationError

CONTEXT = "dp-risk operator request"
WINDOW_SECONDS = 300
MOST_NONCES = 100_000
OPERATOR, TIME, NONCE, SIGNATURE = (
    "dp-risk-operator",
    "dp-risk-time",
    "dp-risk-nonce",
    "dp-risk-signature",
)
_NOBODY = keys.public_hex(Ed25519PrivateKey.generate())


class TooEarly(VerificationError):
    """A request from before the server was started; signed a little later it is heard."""


class Nonces:
    """Which requests were seen already, for as long as their time is accepted.

    Parameters
    ----------
    start : float
        Seconds since 1970 when this memory began. What was signed before is refused: it may have
        been heard by a server that has forgotten it.
    most : int
        Largest number that is kept; beyond it everything is refused until some are too old.
    """

    def __init__(self, start: float, most: int = MOST_NONCES) -> None:
        self.start = start
        self._most = most
        # In the order in which they were heard, so that the oldest come first.
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def use(self, nonce: str, now: float) -> bool:
        """Whether a nonce is new; it is not any more from now on."""
        with self._lock:
            while self._until:
                oldest = next(iter(self._until))
                if self._until[oldest] > now:
                    break
                del self._until[oldest]
            if nonce in self._until or len(self._until) >= self._most:
                return False
            # A request may be dated a window ahead and is accepted for a window after its date.
            self._until[nonce] = now + 2 * WINDOW_SECONDS + 1
            return True


def sign(
    key: keys.Key,
    name: str,
    method: str,
    path: str,
    body: bytes,
    now: float,
    *,
    federation: str,
) -> dict[str, str]:
    """Return the headers of a request.

    Parameters
    ----------
    key : Key
        The operator's private key.
    name : str
        The operator's name at the federation.
    method, path : str
        "GET" or another; the path with its query, as it is sent.
    body : bytes
        The whole body.
    now : float
        Seconds since 1970.
    federation : str
        The federation's public key: the request is for no other one.
    """
    time, nonce = str(int(now * 1000)), secrets.token_hex(16)
    said = _said(federation, name, method, path, body_digest(body), time, nonce)
    return {OPERATOR: name, TIME: time, NONCE: nonce, SIGNATURE: keys.sign(key, CONTEXT, said)}


def verify(
    headers: Mapping[str, str],
    operators: Mapping[str, str],
    method: str,
    path: str,
    digest: str,
    now: float,
    seen: Nonces,
    *,
    federation: str,
) -> str:
    """Return the name of the operator who made a request.

    Parameters
    ----------
    headers : mapping of str to str
        Of the request, names in lower case.
    operators : mapping of str to str
        Public keys by name.
    method, path : str
        As received; the path with its query.
    digest : str
        `body_digest` of the body as received.
    now : float
        Seconds since 1970.
    seen : Nonces
        What was heard already.
    federation : str
        The federation's own public key.

    Raises
    ------
    VerificationError
        If no operator signed this request, or it is too old, too new, or was heard before. Who is
        an operator cannot be told from the answer or the time that it takes.
    TooEarly
        If an operator signed it before the server was started.
    """
    name, time, nonce, signature = (
        headers.get(header, "") for header in (OPERATOR, TIME, NONCE, SIGNATURE)
    )
    key = operators.get(name)
    # Every malformed field is refused by the signature too, which is made of none.
    formed = len(name) <= 100 and time.isascii() and time.isdigit() and len(time) <= 15
    formed = formed and len(nonce) == 32 and len(signature) == 128
    said = _said(federation, name, method, path, digest, time, nonce) if formed else b""
    signed = keys.verify(key or _NOBODY, CONTEXT, said, signature)
    if not (formed and signed and key is not None):
        raise VerificationError("the request is not signed by an operator of this federation")
    # The time is sent in milliseconds.
    when = int(time) / 1000
    if abs(now - when) > WINDOW_SECONDS:
        raise VerificationError(
            f"the request is dated {when - now:+.0f} seconds from the server's clock, more "
            f"than {WINDOW_SECONDS}: set the clocks"
        )
    if when < seen.start:
        raise TooEarly("the request was signed before the server was started: sign it again")
    if not seen.use(nonce, now):
        raise VerificationError("the request was heard before, or too many are remembered")
    return name


def body_digest(body: bytes) -> str:
    """Return the SHA-256 of a body, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def _said(
    federation: str, name: str, method: str, path: str, digest: str, time: str, nonce: str
) -> bytes:
    return canonical([federation, name, method, path, digest, time, nonce])
