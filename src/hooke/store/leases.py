"""Claims as lease objects in a store: for places without locks, where the dead are known only by their silence."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from typing import Any

from hooke.base.clock import Clock
from hooke.base.forks import on_fork
from hooke.store.backend import Backend, Sink
from hooke.store.claims import Claim

__all__ = ["LeaseClaims"]

LEASE_S = 60.0
"""A claim outlives its process by at most that. Renewed at a third of it, so that two lost renewals do no harm."""

TAKEOVER_S = 0.5
"""Who takes a dead one's lease over waits that long for another who does the same; the last writer has it."""


class LeaseClaims:
    """Claims under `folder` of a backend, renewed by a thread while they are held.

    Where the backend cannot write exclusively, or clocks differ by more than a lease, two may hold a claim at once:
    work is then done twice, and nothing else happens, since results are committed whole.
    """

    def __init__(self, backend: Backend, folder: str, clock: Clock, *, lease_s: float = LEASE_S) -> None:
        self._backend = backend
        self._folder = folder
        self._clock = clock
        self._lease_s = lease_s
        self._begin()
        on_fork(self)

    def _begin(self) -> None:
        self._held: dict[str, _Lease] = {}
        self._lock = threading.Lock()
        self._pause = threading.Event()
        self._thread: threading.Thread | None = None

    def claim(self, key: str) -> Claim | None:
        """See Claims."""
        lease = _Lease(self, key, os.urandom(8).hex(), self._clock.now())
        if not self._write(lease, exclusive=True):
            there = self._read(key)
            if there is not None and there["until"] > self._clock.now():
                return None
            self._write(lease, exclusive=False)
            time.sleep(TAKEOVER_S)
            if (self._read(key) or {}).get("token") != lease.token:
                return None
        with self._lock:
            self._held[lease.token] = lease
            self._start()
        return lease

    def held(self) -> dict[str, float]:
        """See Claims."""
        found = {}
        for stored in self._backend.list(f"{self._folder}/"):
            key = stored.name.rpartition("/")[2]
            there = self._read(key)
            if there is not None and there["until"] > self._clock.now():
                found[key] = float(there["since"])
        return found

    def drop(self, lease: _Lease) -> None:
        """End a lease that is held; nothing happens to one that another has taken over."""
        with self._lock:
            if self._held.pop(lease.token, None) is None:
                return
        if (self._read(lease.key) or {}).get("token") == lease.token:
            self._backend.remove(self._name(lease.key))

    def after_fork(self) -> None:
        """In a child: the leases are the parent's, who renews them."""
        self._begin()

    def _name(self, key: str) -> str:
        return f"{self._folder}/{key}"

    def _read(self, key: str) -> dict[str, Any] | None:
        view = self._backend.read(self._name(key))
        if view is None:
            return None
        try:
            facts: dict[str, Any] = json.loads(bytes(view.data))
            return {"token": facts["token"], "since": float(facts["since"]), "until": float(facts["until"])}
        except (ValueError, KeyError, TypeError):
            # Nobody's: whatever wrote this was no claim.
            return {"token": "", "since": 0.0, "until": 0.0}

    def _write(self, lease: _Lease, *, exclusive: bool) -> bool:
        facts = {"token": lease.token, "since": lease.since, "until": self._clock.now() + self._lease_s}

        def fill(sink: Sink) -> str:
            sink.write(json.dumps(facts).encode())
            return self._name(lease.key)

        return self._backend.write(fill, exclusive=exclusive) is not None

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._renew, name="hooke-leases", daemon=True)
            self._thread.start()

    def _renew(self) -> None:
        while not self._pause.wait(self._lease_s / 3):
            with self._lock:
                leases = list(self._held.values())
            for lease in leases:
                # The place may be out of reach for a while; the next renewal is soon enough.
                with suppress(Exception):
                    self._renew_one(lease)

    def _renew_one(self, lease: _Lease) -> None:
        there = self._read(lease.key)
        if there is not None and there["token"] != lease.token:
            with self._lock:
                self._held.pop(lease.token, None)
        elif lease.token in self._held:
            self._write(lease, exclusive=False)


class _Lease:
    def __init__(self, owner: LeaseClaims, key: str, token: str, since: float) -> None:
        self.key = key
        self.token = token
        self.since = since
        self._owner = owner

    def release(self) -> None:
        self._owner.drop(self)
