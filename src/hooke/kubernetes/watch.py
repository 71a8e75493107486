"""Follows objects of one kind: every change since the first list comes out once, across lost connections and forgotten versions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from hooke.kubernetes.client import (
    ApiError,
    ApiForbidden,
    ApiUnreachable,
    Kubernetes,
    Manifest,
    Stream,
    TooOld,
    key_of,
    refused,
)

__all__ = ["Change", "Watch", "passes"]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
"""Between two tries to reach a server that does not answer."""
REFUSED_S = 60.0
"""How long a right that was there may be refused: an API server that has just started has not read all roles yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of an object."""

    how: str
    """`added`, `modified`, `deleted`."""
    object: Manifest
    """As it is now; as it was last where it is deleted."""


class Watch:
    """The objects that fit the selectors, and their changes while it is iterated, in one thread.

    Where the connection is lost, or the server is busy, it goes on from the last version. Where the server has forgotten
    that version (410) it lists anew, and what is different from what was known comes out as changes; several of one
    object are then one.
    """

    def __init__(
        self,
        client: Kubernetes,
        kind: str,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        trim: Callable[[Manifest], Manifest] = lambda each: each,
    ) -> None:
        """`trim` makes of each object what is kept and told of it; its name, UID and version must stay."""
        self.known: dict[tuple[str, str], Manifest] = {}
        """Namespace and name -> the object as it was seen last."""
        self.version = ""
        """The version that it goes on from; empty before the first list."""
        self.lists = 0
        """How often all were listed."""
        self.lost_at: float | None = None
        """Since when, on the monotonic clock, the server does not answer, or refuses; None while it answers."""
        self._client = client
        self._kind = kind
        self._chosen = {"namespace": namespace, "labels": labels, "fields": fields}
        self._trim = trim
        self._stopped = threading.Event()
        self._stream: Stream | None = None

    def __iter__(self) -> Iterator[Change]:
        """Until `stop`. Raises ApiError where the server refuses, and that does not pass."""
        pause = FIRST_PAUSE_S
        while not self._stopped.is_set():
            try:
                if not self.version:
                    yield from self._list()
                yield from self._follow()
                pause = FIRST_PAUSE_S
            except TooOld:
                self.version = ""
            except (ApiUnreachable, ApiError) as error:
                if self.lost_at is None:
                    self.lost_at, pause = time.monotonic(), FIRST_PAUSE_S
                if isinstance(error, ApiError) and not (self.lists and passes(error, self.lost_at)):
                    raise
                self._stopped.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    @property
    def follows(self) -> bool:
        """Whether changes come at this moment: the server has begun to tell them, and the connection is not lost."""
        return self._stream is not None and self.lost_at is None

    def stop(self) -> None:
        """End the iteration, from any thread."""
        self._stopped.set()
        stream = self._stream
        if stream is not None:
            stream.end()

    def _list(self) -> Iterator[Change]:
        found, version = self._client.list(self._kind, **self._chosen, trim=self._trim)
        self.lists += 1
        self.lost_at = None
        there = {key_of(each): each for each in found}
        gone = [key for key, each in self.known.items() if key not in there or _uid(there[key]) != _uid(each)]
        changes = [Change(how="deleted", object=self.known.pop(key)) for key in gone]
        for key, each in there.items():
            before = self.known.get(key)
            if before is None or _version(before) != _version(each):
                changes.append(Change(how="added" if before is None else "modified", object=each))
            self.known[key] = each
        self.version = version
        yield from changes

    def _follow(self) -> Iterator[Change]:
        with self._client.watch_from(self._kind, self.version, **self._chosen) as stream:
            self._stream = stream
            self.lost_at = None
            if self._stopped.is_set():  # `stop` may have seen no stream
                return
            try:
                for line in stream:
                    yield from self._read(msgspec.json.decode(line))
            finally:
                self._stream = None

    def _read(self, event: Manifest) -> Iterator[Change]:
        how, of = event["type"], event["object"]
        if how == "ERROR":
            raise refused(int(of.get("code", 0)), of, self._kind)
        self.version = _version(of)
        if how == "BOOKMARK":
            return
        of = self._trim(of)
        if how == "DELETED":
            self.known.pop(key_of(of), None)
        else:
            self.known[key_of(of)] = of
        yield Change(how=how.lower(), object=of)


def passes(error: ApiError, since: float) -> bool:
    """Whether the server, or what it stands on, may only be busy or have just started; `since` when it refuses, on the monotonic clock."""
    if isinstance(error, ApiForbidden):
        return time.monotonic() - since < REFUSED_S
    return error.code == 429 or error.code >= 500


def _uid(of: Manifest) -> str:
    return str(of["metadata"].get("uid", ""))


def _version(of: Manifest) -> str:
    return str(of["metadata"].get("resourceVersion", ""))
