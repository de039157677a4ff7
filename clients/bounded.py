"""HTTP that reads no more than an honest answer has, and no longer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import httpx

from dp_risk.types import Refused


class Bounded:
    """The last interceptor of a client of Flower: it sends the request itself.

    Flower's own client follows redirects, expands what is compressed, and reads without end.

    Parameters
    ----------
    http : httpx.Client
        Sends; its timeouts hold for each read.
    headers : mapping of str to str
        Added to every request.
    limits : mapping of str to int
        Largest answer in bytes, by the last part of the method's name; "" for every other.
    seconds : float
        For the whole body of one answer.
    """

    def __init__(
        self,
        http: httpx.Client,
        *,
        headers: Mapping[str, str],
        limits: Mapping[str, int],
        seconds: float,
    ) -> None:
        self._http = http
        self._headers = {**headers, "accept-encoding": "identity"}
        self._limits = limits
        self._seconds = seconds

    def intercept(self, context: Any, call_next: Any) -> httpx.Response:  # noqa: ARG002
        """Send a request and return its answer, read.

        Raises
        ------
        Refused
            If the answer is too large, or compressed.
        httpx.HTTPError
            If it does not come, or takes too long.
        """
        request = context.request
        request.headers.update(self._headers)
        limit = self._limits.get(context.rpc_method.rsplit("/", 1)[-1], self._limits[""])
        deadline = time.monotonic() + self._seconds
        response = self._http.send(request, stream=True)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise Refused("an answer that is compressed")
            body = bytearray()
            for piece in response.iter_raw():
                body += piece
                if len(body) > limit:
                    raise Refused(f"an answer above {limit} bytes")
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer takes too long")
        finally:
            response.close()
        return httpx.Response(response.status_code, content=bytes(body), request=request)
