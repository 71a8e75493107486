"""Calls of a Kubernetes API server by a provider: its errors as those of a provider."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hooke.kubernetes.client import ApiError, ApiUnreachable
from hooke.kubernetes.pods import lacks_right, refusal_of
from hooke.machines.provider import Impossible, NotAllowed, OverQuota, ProviderError, Unreachable

__all__ = ["reached", "refused_call"]


@contextlib.contextmanager
def reached() -> Iterator[None]:
    """Raises a branch of ProviderError for an error of the API server."""
    try:
        yield
    except (ApiError, ApiUnreachable) as error:
        raise refused_call(error) from error


def refused_call(error: ApiError | ApiUnreachable) -> ProviderError:
    """An error of the API server as a provider's. Pure."""
    if isinstance(error, ApiUnreachable):
        return Unreachable(f"{error.what}: {error.why}")
    trouble = refusal_of(error)
    if trouble.kind == "busy":
        return Unreachable(trouble.says)
    if trouble.kind == "quota":
        return OverQuota(trouble.says, fix=trouble.fix)
    kind = NotAllowed if lacks_right(error) else Impossible
    return kind(trouble.says, fix=trouble.fix)
