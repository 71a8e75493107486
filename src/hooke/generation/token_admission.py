"""Which requests of a language model begin in time, by the measured time of steps and what goes before them. Pure.

A step takes what `token_law` says of its work; here its last hundred steps say how long, without intervals, and at once. A request gets
its first token once it has a place, and its prompt and those before it are computed. It has a place when as many requests have ended as go before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hooke.generation.step_speeds import PARTS, non_negative
from hooke.generation.token_scheduler import StepWork, TokenRequest, TokenScheduler

__all__ = ["RecentSteps", "fit_step", "wait_for_first_s"]

FORGET = 0.99
"""A step's weight after one more: some hundred steps determine the times."""
EVERY, EVERY_S = 16, 0.01
"""Steps that are taken in at once, at least, and seconds that they took: before the first ones nothing is predicted."""
OUTLIER = 8.0
"""A step that took more than so many times what was expected counts as that: a pause of the machine is not the model's."""


class RecentSteps:
    """The time of a step by its work: least squares over the last steps, and no part of it below 0. Solved anew after EVERY steps that took EVERY_S."""

    def __init__(self) -> None:
        self._products = np.zeros((PARTS, PARTS))
        self._times = np.zeros(PARTS)
        self._new: list[tuple[float, ...]] = []
        self._new_s = 0.0
        self._found: tuple[float, ...] = ()

    @property
    def known(self) -> bool:
        """Whether there were enough steps."""
        return bool(self._found)

    def add(self, work: StepWork, took_s: float) -> bool:
        """A step was computed; whether times were found anew with it. Relative errors count: a step of a long prompt tells nothing of one of answers."""
        self._new_s += took_s
        self._new.append((1.0, *work, took_s))
        if len(self._new) < EVERY or (self._found and self._new_s < EVERY_S):
            return False
        self._solve()
        return True

    def seconds(self, prompt: float, requests: float, context: float, attention: float = 0.0) -> float:
        """The time of a step of this work, as in `StepWork`."""
        fixed, of_prompt, of_requests, of_context, of_attention = self._found
        return (
            fixed
            + of_prompt * prompt
            + of_requests * requests
            + of_context * context
            + of_attention * attention
        )

    def _solve(self) -> None:
        rows, count = np.array(self._new), len(self._new)
        self._new.clear()
        self._new_s = 0.0
        rows, took_s = rows[:, :PARTS], np.maximum(rows[:, PARTS], 1e-6)
        if self._found:
            took_s = np.minimum(took_s, OUTLIER * np.maximum(rows @ self._found, 1e-6))
        weighted = rows * (FORGET ** np.arange(count)[::-1] / took_s**2)[:, None]
        self._products = FORGET**count * self._products + weighted.T @ rows
        self._times = FORGET**count * self._times + weighted.T @ took_s
        self._found = tuple(non_negative(self._products.tolist(), self._times.tolist()))


def wait_for_first_s(request: TokenRequest, scheduler: TokenScheduler, times: RecentSteps) -> float:
    """Seconds until a request that is offered now has its first token, about. Nothing is known of who comes later and goes first."""
    running = scheduler.running
    before, prompts, pairs = scheduler.before(request)
    known = len(scheduler.pool.known(request.names)) * scheduler.pool.page_tokens
    own = max(request.prompt - known, 1)
    free = max(scheduler.slots - len(running), 0)
    if scheduler.pool.pages_for(own + 1) + len(running) > scheduler.pool.free:
        free = 0
    turns = max(before + 1 - free, 0)
    waits = turns * scheduler.expected_answer / max(len(running), 1)
    spare = max(scheduler.step_tokens - len(running), 1)
    prompts += own + sum(each.length - each.computed - 1 for each in running)
    pairs += own * (known + own / 2)
    steps = max(waits + math.ceil(own / spare), math.ceil(prompts / spare))
    requests = min(len(running) + 1, scheduler.slots)
    context = sum(each.length for each in running)
    step_s = times.seconds(0, requests, context)
    return steps * step_s + times.seconds(prompts, requests, context, pairs) - step_s


def fit_step(scheduler: TokenScheduler, times: RecentSteps, each_s: float) -> None:
    """Let as many requests run, and as many tokens of prompts be in a step, as leave each answer a token every `each_s` seconds."""
    limits, running = scheduler.limits, scheduler.running
    longs: Sequence[int] = [each.length for each in running] or [1]
    one = times.seconds(0, 1, sum(longs) / len(longs))
    fixed = times.seconds(0, 0, 0)
    fits = (each_s - fixed) / max(one - fixed, 1e-12)
    scheduler.slots = int(min(max(fits, 1), limits.slots))
    now = times.seconds(0, len(running), sum(longs))
    of_prompt = max(times.seconds(1, 0, 0) - fixed, 1e-12)
    prompt = max((each_s - now) / of_prompt, limits.page_tokens)
    scheduler.step_tokens = int(min(len(running) + prompt, limits.step_tokens))
