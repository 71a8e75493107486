"""Why a request gets no answer, as a status and a problem document (RFC 9457)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from hooke.base.errors import Temporary, UsageError

__all__ = [
    "MEDIA_TYPE",
    "REPEATABLE",
    "RETRY_HEADER",
    "UNTOUCHED",
    "FieldError",
    "Problem",
    "ServiceRaised",
    "problem_of",
]

_log = logging.getLogger("hooke")

MEDIA_TYPE = b"application/problem+json"
RETRY_HEADER = "x-hooke-again"
"""A header of a 503 that says why a front may ask another replica: UNTOUCHED or REPEATABLE."""
UNTOUCHED = "untouched"
"""Nothing of it was done."""
REPEATABLE = "repeatable"
"""It may be done twice. It is asked once more and no further: it may be what ends each process that gets it."""


class FieldError(msgspec.Struct, frozen=True):
    """A field of the request, such as `rows[0]`, and what is wrong with it."""

    field: str
    detail: str


class _Document(msgspec.Struct, frozen=True, omit_defaults=True):
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] = ()
    request_id: str | None = None
    type: str | None = None  # left out it means about:blank: the status tells the kind
    error: str | None = None  # where clients of another protocol look for what is wrong


class Problem(Exception):
    """A request that is refused, or that failed. `retry_after_s` goes with 429 and 503, `headers` with the answer.

    `reason` is a word for it among the counts of refusals, where its status is not enough.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
        reason: str = "",
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s
        self.reason = reason or self.title.lower()
        self._headers = headers or {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with the detail alone.
        return _problem, (self.status, self.detail, self.__dict__)

    @property
    def title(self) -> str:
        """The name of its status."""
        return HTTPStatus(self.status).phrase

    def body(self, request_id: str | None = None, *, as_error: bool = False) -> bytes:
        """The document, for the request of this id; with its detail as `error`, too, where clients of V2 look for it."""
        error = self.detail if as_error else None
        document = _Document(self.title, self.status, self.detail, self.errors, request_id, error=error)
        return msgspec.json.encode(document)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Those that this status asks for, beside type and length."""
        headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(max(1, math.ceil(self.retry_after_s))).encode()))
        return headers


def _problem(status: int, detail: str, state: dict[str, Any]) -> Problem:
    made = Problem(status, detail)
    made.__dict__.update(state)
    return made


class ServiceRaised(Exception):
    """An exception of a service's code in another process: its type's name, and its traceback as text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"in the process of the model:\n{self.text}"


def problem_of(error: BaseException, method: str, request_id: str | None = None) -> Problem:
    """What the caller is told of an exception in the service's own code: `UsageError` is the caller's fault, `Temporary` time's.

    Of any other only its type is told, for what it says may be nobody else's business; all of it goes to the logger `hooke`, with
    the request's id: the one that is given, or that of the request that is being answered.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, UsageError):
        return Problem(422, f"{error.what}; {error.fix}" if error.fix else error.what)
    if isinstance(error, Temporary):
        return Problem(503, error.what, retry_after_s=error.delay_s or 1.0)
    extra = {"request_id": request_id} if request_id is not None else None
    _log.error("%s raised", method, exc_info=error, extra=extra)
    kind = error.kind if isinstance(error, ServiceRaised) else type(error).__name__
    return Problem(500, f"{method} raised {kind}; the log of the service has its traceback")
