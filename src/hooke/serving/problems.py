"""Refusals and failures of requests, as a status and a problem document (RFC 9457)."""

from __future__ import annotations

import logging
import math
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from hooke.base.errors import Temporary, UsageError
from hooke.base.user_code import is_users

__all__ = [
    "MEDIA_TYPE",
    "PASSED_ON",
    "PRIORITY_HEADER",
    "REPEATABLE",
    "RESUMABLE_HEADER",
    "RESUMED_HEADER",
    "RETRY_HEADER",
    "SANE_ID",
    "STREAM_HEADER",
    "TIMEOUT_HEADER",
    "UNTOUCHED",
    "VERSION_HEADER",
    "FieldError",
    "Problem",
    "ServiceRaised",
    "WrongField",
    "phrase_of",
    "problem_of",
    "too_many",
]

_log = logging.getLogger("hooke")

MEDIA_TYPE = b"application/problem+json"
RETRY_HEADER = "x-hooke-again"
"""A header of a 429 or 503 that allows a proxy to ask another replica: UNTOUCHED or REPEATABLE."""
SANE_ID = "[A-Za-z0-9._~:/+=@-]{1,128}"
"""A pattern of the request ids that are accepted from clients: searchable in a log, and harmless to it."""
PRIORITY_HEADER = "x-hooke-priority"
"""A header of clients: `low` for a request that may be shed first, `high`, the default, for others."""
TIMEOUT_HEADER = "x-hooke-timeout"
"""A header of clients of language models: how long they wait for the first token, such as `2s`; at most the service's timeout."""
VERSION_HEADER = "x-hooke-version"
"""A header of clients: `new` or `old` for the one or the other version while a new one is on trial."""
STREAM_HEADER = "x-hooke-stream"
"""A header of the proxy's, equal for all tries of one request and for no other request."""
RESUMABLE_HEADER = "x-hooke-resumable"
"""A header of the proxy's, which can go on with a stream of tokens on another replica; and of the answer, if its marks allow that."""
RESUMED_HEADER = "x-hooke-resumed"
"""A header of the proxy's: the stream began on a replica that has ended. So many bytes at the end of the body are a `ResumedStream`."""
UNTOUCHED = "untouched"
"""Nothing was done."""
REPEATABLE = "repeatable"
"""The request may be done twice. It is retried once only: it may be what kills each process that gets it."""

_PHRASES = {
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    416: "Requested Range Not Satisfiable",
    422: "Unprocessable Entity",
}
"""Python 3.13 has other phrases; metrics, logs and clients have these on each version."""


def phrase_of(status: int) -> str:
    """The phrase of a status, the same on each version of Python. Raises ValueError for a number that is no status."""
    return _PHRASES.get(status) or HTTPStatus(status).phrase


class FieldError(msgspec.Struct, frozen=True):
    """A field of the request, such as `rows[0]`, and its fault."""

    field: str
    detail: str


class _Document(msgspec.Struct, frozen=True, omit_defaults=True):
    title: str
    status: int
    detail: str
    errors: tuple[FieldError, ...] = ()
    request_id: str | None = None
    type: str | None = None  # left out it means about:blank: the status tells the kind
    error: str | None = None  # where clients of the Open Inference Protocol look for the message


class Problem(Exception):
    """A request that is refused, or has failed. `retry_after_s` goes with 429 and 503, `headers` with the answer.

    `reason` names it in the counts of refusals, where the status is not enough.
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
        self.raised = ""
        """What the service's code raised, and where: its type and line without its text, which may be confidential."""
        self._headers = headers or {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own __reduce__ passes the detail alone.
        return _problem, (self.status, self.detail, self.__dict__)

    @property
    def title(self) -> str:
        """The phrase of its status."""
        return phrase_of(self.status)

    def body(self, request_id: str | None = None, *, as_error: bool = False) -> bytes:
        """The document with the request's id; with its detail also as `error`, for clients of V2."""
        error = self.detail if as_error else None
        document = _Document(self.title, self.status, self.detail, self.errors, request_id, error=error)
        return msgspec.json.encode(document)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Its headers, beside type and length."""
        headers = [(name.encode(), value.encode()) for name, value in self._headers.items()]
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(max(1, math.ceil(self.retry_after_s))).encode()))
        return headers


class WrongField(Problem):
    """A field of a request that is refused (400). Empty: the body as a whole."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(400, f"{field}: {why}" if field else f"invalid body: {why}")
        self.field = field


def _problem(status: int, detail: str, state: dict[str, Any]) -> Problem:
    made = Problem(status, detail)
    made.__dict__.update(state)
    return made


PASSED_ON = "passed on"
"""The reason of a refusal that makes the proxy ask another replica, once. That one counts the request, and this one does not."""


def too_many(detail: str, *, retry_after_s: float, pass_on: bool) -> Problem:
    """The refusal of a request for which there is no room here; the model never saw it. `pass_on`: the proxy asks another replica."""
    if pass_on:
        headers = {RETRY_HEADER: UNTOUCHED}
        return Problem(429, detail, retry_after_s=retry_after_s, headers=headers, reason=PASSED_ON)
    return Problem(429, detail, retry_after_s=retry_after_s)


class ServiceRaised(Exception):
    """An exception of a service's code in another process: its type's name and its traceback as text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"in the process of the model:\n{self.text}"


def problem_of(error: BaseException, method: str, request_id: str | None = None) -> Problem:
    """The answer for an exception in the service's own code: `UsageError` is the client's fault, `Temporary` passes.

    Of any other exception only the type is shown, since its text may be confidential; all of it goes to the logger `hooke`, with
    the request's id: the given one, or that of the current request.
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
    problem = Problem(500, f"{method} raised {kind}; the log of the service has its traceback")
    problem.raised = f"{method} raised {kind}{_place_of(error)}"
    return problem


def _place_of(error: BaseException) -> str:
    """The last line of user code that it passed through, as ` (file.py, line 3)`; empty if none is known."""
    if isinstance(error, ServiceRaised):
        found = re.findall(r'File "([^"]+)", line (\d+)', error.text)
    else:
        found = [(frame.filename, str(frame.lineno)) for frame in traceback.extract_tb(error.__traceback__)]
    users = [(file, line) for file, line in found if is_users(file)]
    return f" ({os.path.basename(users[-1][0])}, line {users[-1][1]})" if users else ""
