"""What the front answers itself, as the same problem documents (RFC 9457) that replicas give. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from hooke.serving.front.settings import FrontSettings

__all__ = ["replies"]


def replies(settings: FrontSettings) -> dict[str, Any]:
    """Envoy's `local_reply_config`: by Envoy's own flag of what happened, else by status."""
    flags = [
        *_metrics(settings),
        _mapper(_flag("UH"), 503, "no replica is up at this moment", retry_after_s=1),
        _mapper(_flag("UF"), 503, "no replica could be reached", retry_after_s=1),
        _mapper(_flag("UO"), 503, "more is under way than can be", retry_after_s=1),
        _mapper(_flag("OM"), 503, "the front is short of memory", retry_after_s=1),
        # 502 and not 503: unlike with those above the request may have been done.
        _mapper(_flag("UC"), 502, "the replica ended before its answer; what was asked may have been done"),
        _mapper(_flag("UT"), 504, f"no answer within {settings.timeout_s:g} s"),
    ]
    statuses = [
        _mapper(_status(413), 413, f"the body is larger than {settings.body_limit} bytes"),
        _mapper(
            _status(431),
            431,
            f"the headers are more than {settings.most_headers}, or longer than {settings.header_limit_kb} KiB",
        ),
        _mapper(_status(429), 429, f"more than {settings.rate_limit} requests a second", retry_after_s=1),
        _mapper(_status(408), 408, "the request did not arrive in time"),
        _mapper(_status(426), 426, "HTTP/1.1 is spoken here, and nothing older"),
        _mapper(_status(403), 403, "no connection becomes one of another protocol here"),
        # A coding of the body that is not known is the caller's fault, and is told as one.
        _mapper(_status(501), 400, "a body has no transfer-encoding but chunked: %RESPONSE_CODE_DETAILS%"),
        _mapper(_status(400), 400, "this is not taken as a request of HTTP/1.1: %RESPONSE_CODE_DETAILS%"),
    ]
    rest = {"status": "%RESPONSE_CODE%", "detail": "%RESPONSE_CODE_DETAILS%"}
    return {"mappers": [*flags, *statuses], "body_format": _format(rest)}


def _metrics(settings: FrontSettings) -> list[dict[str, Any]]:
    """The replicas may all be well, so it says who is not."""
    if settings.metrics_socket is None:
        return []
    path = {"header_filter": {"header": {"name": ":path", "string_match": {"prefix": settings.metrics_path}}}}
    silent = {"response_flag_filter": {"flags": ["UF", "UC", "UT", "UH", "UO"]}}
    said = "the supervisor, which knows what all replicas counted, does not answer; requests are answered without it"
    return [_mapper({"and_filter": {"filters": [path, silent]}}, 503, said, retry_after_s=5)]


def _mapper(which: dict[str, Any], status: int, detail: str, *, retry_after_s: int = 0) -> dict[str, Any]:
    made: dict[str, Any] = {
        "filter": which,
        "status_code": status,
        "body_format_override": _format(
            {"title": HTTPStatus(status).phrase, "status": "%RESPONSE_CODE%", "detail": detail}
        ),
    }
    if retry_after_s:
        made["headers_to_add"] = [{"header": {"key": "retry-after", "value": str(retry_after_s)}}]
    return made


def _format(document: dict[str, str]) -> dict[str, Any]:
    # Clients of the Open Inference Protocol look for what is wrong under `error`.
    told = {**document, "error": document["detail"]}
    return {"json_format": told, "content_type": "application/problem+json"}


def _flag(name: str) -> dict[str, Any]:
    return {"response_flag_filter": {"flags": [name]}}


def _status(code: int) -> dict[str, Any]:
    # Envoy wants a name under which the number could be changed at run time; nothing does.
    return {
        "status_code_filter": {
            "comparison": {"op": "EQ", "value": {"default_value": code, "runtime_key": "none"}}
        }
    }
