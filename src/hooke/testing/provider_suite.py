"""The conformance suite of providers: `check_provider(make)` raises AssertionError with the broken guarantee."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hooke.providers.provider import Machine, Provider

__all__ = ["check_provider"]

PATIENCE_S = 120.0
"""Time limit for slow steps: a machine becomes ready, finishes, or is gone."""

FIRST, SECOND = "t1", "t2"


def check_provider(
    make: Callable[[str], Provider],
    *,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
    patience_s: float = PATIENCE_S,
) -> None:
    """Run all checks on real machines, which are ended again whatever comes. `make(tag)` gives a provider of the fleet of that tag.

    Two of one tag are of one fleet, as those of a controller that was killed and of the next one. `sleep` and `now` are
    those of virtual time, where the provider lives in that.
    """
    bench = _Bench(make=make, sleep=sleep, now=now, patience_s=patience_s)
    try:
        for check in (_lists, _is_found_by_its_tag, _retires, _releases, _bears_what_is_not_there):
            check(bench)
    finally:
        bench.end()


@dataclass(slots=True, kw_only=True)
class _Bench:
    make: Callable[[str], Provider]
    sleep: Callable[[float], None]
    now: Callable[[], float]
    patience_s: float
    tags: dict[str, Provider] = field(default_factory=dict)

    def provider(self, tag: str) -> Provider:
        return self.tags.setdefault(tag, self.make(tag))

    def await_that(self, what: str, holds: Callable[[], bool], patience_s: float | None = None) -> None:
        patience_s = self.patience_s if patience_s is None else patience_s
        deadline = self.now() + patience_s
        while not holds():
            assert self.now() < deadline, f"within {patience_s:g} s {what}"
            self.sleep(0.2)

    def ready(self, provider: Provider, token: str) -> Machine:
        machine = provider.launch(token)
        visible_s = provider.facts.visible_s
        self.await_that(
            f"a machine is listed, and its launch was asked for {visible_s:g} s ago (`visible_s`)",
            lambda: machine in _listed(provider),
            patience_s=visible_s + 5.0,
        )
        self.await_that("a machine is ready", lambda: _phase(provider, machine) == "ready")
        return _listed(provider)[machine]

    def gone(self, provider: Provider, machine: str) -> bool:
        return _phase(provider, machine) in {"", "ended"}

    def end(self) -> None:
        for provider in self.tags.values():
            left = [machine for machine in _listed(provider) if not self.gone(provider, machine)]
            for machine in left:
                self._end(provider, machine)

    def _end(self, provider: Provider, machine: str) -> None:
        def released() -> bool:
            provider.release(machine)
            return self.gone(provider, machine)

        self.await_that("a machine that was released is gone", released)


def _listed(provider: Provider) -> dict[str, Machine]:
    return {machine.id: machine for machine in provider.list()}


def _phase(provider: Provider, machine: str) -> str:
    found = _listed(provider).get(machine)
    return "" if found is None else found.phase


def _lists(bench: _Bench) -> None:
    provider = bench.provider("suite-a")
    before = bench.now()
    machines = [bench.ready(provider, token) for token in (FIRST, SECOND)]
    assert len({machine.id for machine in machines}) == 2, "two launches are two machines"
    assert [machine.token for machine in machines] == [FIRST, SECOND], (
        "a machine bears the token of its launch"
    )
    for machine in machines:
        assert before - 5 <= machine.started_at <= bench.now() + 5, "it is known when a machine began to cost"
        assert machine.healthy, "a machine is healthy until something is wrong with it"


def _is_found_by_its_tag(bench: _Bench) -> None:
    known = set(_listed(bench.provider("suite-a")))
    assert set(_listed(bench.make("suite-a"))) == known, "a fleet's machines are found whoever launched them"
    bench.ready(bench.provider("suite-b"), FIRST)
    assert set(_listed(bench.provider("suite-a"))) == known, "another fleet's machines are not listed"


def _retires(bench: _Bench) -> None:
    provider = bench.provider("suite-a")
    machine = next(each.id for each in provider.list() if each.token == FIRST)
    provider.retire(machine)
    provider.retire(machine)
    bench.await_that(
        "a machine that was retired has nothing left to do, or is gone",
        lambda: _phase(provider, machine) in {"", "retired", "ended"},
    )


def _releases(bench: _Bench) -> None:
    provider = bench.provider("suite-a")
    machine = next(each.id for each in provider.list() if each.token == SECOND)

    def released() -> bool:
        provider.release(machine)
        return bench.gone(provider, machine)

    bench.await_that("a machine that was released is gone", released)


def _bears_what_is_not_there(bench: _Bench) -> None:
    provider = bench.provider("suite-a")
    provider.retire("no-such-machine")
    provider.release("no-such-machine")
