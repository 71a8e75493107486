"""Leases: claims in a place without locks."""

import threading
import time

import pytest

from hooke.base.clock import SystemClock
from hooke.store.backends.memory import MemoryBackend
from hooke.store.claims import LeaseClaims


class HandClock:
    """A clock that is turned by hand."""

    time = 1e9

    def now(self):
        return self.time

    def monotonic(self):
        return self.time


class GatedBackend(MemoryBackend):
    """A place where a second write of a name takes until the gate opens."""

    def __init__(self):
        super().__init__()
        self.entered, self.gate, self.done = (threading.Event() for _ in range(3))

    def write(self, fill, *, size=0, exclusive=False):
        if not exclusive:
            self.entered.set()
            assert self.gate.wait(30)
            super().write(fill, size=size)
            self.done.set()
            return b""
        return super().write(fill, size=size, exclusive=exclusive)


def lease_threads():
    return [thread for thread in threading.enumerate() if thread.name == "hooke-leases"]


def test_a_release_during_a_renewal_frees_the_claim():
    backend = GatedBackend()
    claims = LeaseClaims(backend, "claims", SystemClock(), lease_s=0.03)
    claim = claims.claim("k")
    assert backend.entered.wait(30), "it is being renewed"
    releasing = threading.Thread(target=claim.release)
    releasing.start()
    releasing.join(0.2)
    backend.gate.set()
    assert backend.done.wait(30)
    releasing.join()
    assert list(backend.list("claims/")) == []
    again = LeaseClaims(backend, "claims", SystemClock()).claim("k")
    assert again is not None
    again.release()


def test_no_thread_stays_when_nothing_is_held():
    backend = MemoryBackend()
    for _ in range(5):
        claims = LeaseClaims(backend, "claims", SystemClock())
        claim = claims.claim("k")
        assert lease_threads()
        claim.release()
    deadline = time.monotonic() + 20
    while lease_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease_threads() == []


@pytest.mark.timeout(60)
def test_leases_of_dead_processes_are_taken_over_without_waiting():
    """Three hundred of them, which half a second each would make minutes of."""
    backend, clock = MemoryBackend(), HandClock()
    dead = LeaseClaims(backend, "claims", clock)
    for number in range(300):
        assert dead.claim(str(number)) is not None
    dead.after_fork()  # nobody renews them
    claims = LeaseClaims(backend, "claims", clock)
    assert claims.claim("7") is None
    clock.time += 61
    held = [claims.claim(str(number)) for number in range(300)]
    assert None not in held
    assert claims.claim("7") is None
    for claim in held:
        claim.release()
    assert claims.held() == {}
    assert list(backend.list("")) == []


def test_one_of_many_takes_an_expired_lease_over():
    for _ in range(20):
        backend, clock = MemoryBackend(), HandClock()
        dead = LeaseClaims(backend, "claims", clock)
        dead.claim("k")
        dead.after_fork()
        clock.time += 61
        begin, won = threading.Barrier(6), []

        def take(claims, begin=begin, won=won):
            begin.wait()
            won.append(claims.claim("k"))

        threads = [
            threading.Thread(target=take, args=(LeaseClaims(backend, "claims", clock),)) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(claim is not None for claim in won) == 1
        for claim in won:
            if claim is not None:
                claim.release()


def test_a_takeover_whose_process_died_is_taken_over_too():
    backend, clock = MemoryBackend(), HandClock()
    dead = LeaseClaims(backend, "claims", clock)
    dead.claim("k")
    (lease,) = dead._held
    dead.after_fork()
    clock.time += 61
    backend.write(
        lambda sink: (
            sink.write(b'{"token": "x", "since": 0, "until": %d}' % (clock.time + 60)),
            f"takeovers/k-{lease}",
        )[1]
    )
    claims = LeaseClaims(backend, "claims", clock)
    assert claims.claim("k") is None
    clock.time += 61
    assert claims.claim("k") is None, "the note is removed first"
    claim = claims.claim("k")
    assert claim is not None
    claim.release()
