"""The trial of a new version beside the old one: its share of the requests, and a sequential test of errors and latencies. Pure.

**Against the new version.** Answers of both versions are taken in batches. Given how many of a batch's `a` new and `b` old answers
failed together, the number of the new ones among them is hypergeometric if both versions are equally good, whatever goes wrong for
both, and Fisher's noncentral hypergeometric with odds ratio `w` if the new one has `w` times the odds of a failure. The product over
batches of the ratio of the two, averaged over a few `w`, is an e-process: while the odds ratio is at most `tolerated`, it reaches
`1/alpha` with probability at most alpha, however often one looks (Ville 1939; Shafer 2021, "Testing by betting"; for 2x2 tables
Turner, Ly and Gruenwald 2024). The likelihood ratio is monotone in the count, so a smaller odds ratio than `tolerated` only helps.
Latencies are tested in the same way, by the answers of the old version beyond its own median, 90 % and 99 % quantile so far, and
those of the new one that are beyond one and a half times as much.

**For the new version.** Confidence sequences of both failure shares, by Robbins' beta mixture (1970), hold at all times together. The
version is accepted when the new one's upper bound is within a margin of the old one's lower bound.

Both assume that requests are given to the versions without regard to their content. Answers of one burst depend on one another, so
for latencies the stated probability holds only about; `tolerated` odds leave room for that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hooke.base.formats import format_seconds
from hooke.serving.stats_windows import latency_bin, merge_counts, quantile_s

__all__ = ["CanaryRules", "CanaryTrial", "CanaryVerdict", "EProcess", "ReplicaOutcomes", "share_bounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryRules:
    """How a new version is tried. Shares are parts of 1, times are in seconds."""

    share: float = 0.05
    """The part of the requests that it gets first: few clients see what is wrong with it."""
    mirror: bool = False
    """Whether it gets copies of that part of the requests, and clients none of its answers."""
    most_share: float = 0.5
    step_s: float = 60.0
    """After so long the share doubles, until it is `most_share`: a quiet service is judged in time, too."""
    limit_s: float = 600.0
    """If nothing is certain by then, what was seen decides."""
    alpha: float = 0.05
    """The probability that a version that is as good as the old one is rolled back; half of it for errors, half for latencies."""
    beta: float = 0.05
    """The probability that a version beyond a margin is accepted."""
    error_margin: float = 0.03
    """An accepted version fails at most so many more of its requests."""
    slow_margin: float = 0.1
    """And so many more are slower than 90 % of the old version's."""
    tolerated_errors: float = 1.25
    """Times the odds of a failure that count as equal: in millions of requests some difference is always certain."""
    tolerated_slow: float = 2.0
    """And of a slow answer."""
    slower_times: float = 1.5
    slower_s: float = 0.002
    """A slow answer takes longer than so many times the old version's quantile, and so many seconds: less is the machine's doing."""
    warm_up: int = 10
    """The first answers of a new replica say nothing of its latencies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOutcomes:
    """Answers of one replica since its last report, or of a version."""

    answered: int = 0
    failed: int = 0
    latencies: tuple[tuple[int, int], ...] = ()
    """Results by their times, as in `BatchWindow`; none while a replica warms up."""
    raised: Mapping[str, int] = field(default_factory=dict)
    """What the service's code raised, as text, and how often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryVerdict:
    """Whether the new version takes over, and why in one sentence."""

    accepted: bool
    reason: str


# --- The test against the new version.

ODDS = (2.0, 5.0, 20.0, 1000.0)
"""Odds ratios that the test bets on, beside the tolerated one as their unit: from a doubling to failing always."""


class EProcess:
    """Evidence that the odds of a failure are more than `tolerated` times those of the old version. `value` starts at 1."""

    def __init__(self, tolerated: float) -> None:
        self._tolerated = math.log(tolerated)
        self._bets = [0.0] * len(ODDS)
        """Logarithms."""

    @property
    def value(self) -> float:
        """The evidence: at least `1/p` with probability at most p if there is no such difference."""
        most = max(self._bets)
        if most > 600:
            return math.inf
        return sum(math.exp(bet) for bet in self._bets) / len(self._bets)

    def add(self, new: int, old: int, *, new_failed: int, old_failed: int) -> None:
        """A batch of answers. It says nothing unless both versions answered, and some failed and some did not."""
        failed = new_failed + old_failed
        if not (new and old and 0 < failed < new + old):
            return
        counts = range(max(0, failed - old), min(new, failed) + 1)
        ways = [_log_choose(new, count) + _log_choose(old, failed - count) for count in counts]

        def log_probability(log_odds: float) -> float:
            terms = [way + count * log_odds for way, count in zip(ways, counts, strict=True)]
            most = max(terms)
            whole = most + math.log(sum(math.exp(term - most) for term in terms))
            return ways[new_failed - counts[0]] + new_failed * log_odds - whole

        fair = log_probability(self._tolerated)
        for at, odds in enumerate(ODDS):
            self._bets[at] += log_probability(self._tolerated + math.log(odds)) - fair


def _log_choose(whole: int, part: int) -> float:
    return math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)


# --- Confidence sequences of a share.


def share_bounds(failed: int, answered: int, alpha: float) -> tuple[float, float]:
    """Bounds of the share of failures that hold at all times together with probability 1 - alpha: Robbins' mixture over Beta(1/2, 1/2)."""
    if not answered:
        return 0.0, 1.0
    well = answered - failed
    mixed = (
        math.lgamma(failed + 0.5) + math.lgamma(well + 0.5) - math.lgamma(answered + 1) - math.log(math.pi)
    )
    least = mixed + math.log(alpha)
    seen = failed / answered

    def likely(share: float) -> bool:
        parts = [(count, part) for count, part in ((failed, share), (well, 1 - share)) if count]
        return all(part > 0 for _, part in parts) and (
            sum(count * math.log(part) for count, part in parts) >= least
        )

    return _edge(likely, seen, 0.0), _edge(likely, seen, 1.0)


def _edge(likely: Callable[[float], bool], inside: float, outside: float) -> float:
    if likely(outside):
        return outside
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if likely(middle) else (inside, middle)
    return inside


# --- The trial.

QUANTILES = (0.5, 0.9, 0.99)
SLOW = 1
"""The position of the quantile that the acceptance looks at."""
LEAST_KNOWN = 20
"""Answers of the old version before its quantiles are used."""


@dataclass(slots=True)
class _Answers:
    """Answers of one version."""

    answered: int = 0
    failed: int = 0
    timed: int = 0
    slow: list[int] = field(default_factory=lambda: [0] * len(QUANTILES))
    """Of the `timed` ones, those beyond each quantile of the old version."""

    def add(self, other: _Answers) -> None:
        self.answered += other.answered
        self.failed += other.failed
        self.timed += other.timed
        self.slow = [one + more for one, more in zip(self.slow, other.slow, strict=True)]


class CanaryTrial:
    """The trial of one version, from `observe` and `advance` to a verdict."""

    def __init__(self, rules: CanaryRules) -> None:
        self.rules = rules
        self.exposed_s = 0.0
        """How long both versions could answer."""
        self.new, self.old = _Answers(), _Answers()
        """All answers."""
        self.raised: Counter[str] = Counter()
        self.ordered: CanaryVerdict | None = None
        """What a person decided."""
        self._batch = (_Answers(), _Answers())
        self._known: tuple[tuple[int, int], ...] = ()
        """Answer times of the old version in earlier batches, and in this one."""
        self._coming: tuple[tuple[int, int], ...] = ()
        self._bounds: list[tuple[int, int]] = []
        """The last bin that is not slow, for the new and the old version, of each quantile."""
        self._errors = EProcess(rules.tolerated_errors)
        self._slow = [EProcess(rules.tolerated_slow) for _ in QUANTILES]
        self._good = False
        """Whether it is certain that the new version is within the margins; looked at after each batch."""
        self._last: float | None = None

    @property
    def share(self) -> float:
        """The part of the requests for the new version now."""
        if self.rules.mirror:
            return self.rules.share
        doubled = self.rules.share * 2.0 ** min(self.exposed_s // self.rules.step_s, 10)
        return max(min(doubled, self.rules.most_share), self.rules.share)

    @property
    def evidence(self) -> tuple[float, float]:
        """Against the new version: by its errors, and by its latencies."""
        return self._errors.value, sum(one.value for one in self._slow) / len(self._slow)

    def observe(self, outcomes: ReplicaOutcomes, *, new: bool) -> None:
        """Answers of a replica of one of the versions."""
        made = self._batch[0 if new else 1]
        made.answered += outcomes.answered
        made.failed += outcomes.failed
        if new:
            self.raised.update(outcomes.raised)
        else:
            self._coming = merge_counts([self._coming, outcomes.latencies])
        if self._bounds:
            made.timed += sum(count for _, count in outcomes.latencies)
            for at, bounds in enumerate(self._bounds):
                bound = bounds[0 if new else 1]
                made.slow[at] += sum(count for each, count in outcomes.latencies if each > bound)

    def advance(self, now: float, *, exposed: bool) -> None:
        """Time has passed; `exposed`: both versions can answer."""
        if self._last is not None and exposed:
            self.exposed_s += now - self._last
        self._last = now
        new, old = self._batch
        # The end of a batch depends on how many answers came, not on what they were.
        if new.answered and old.answered and new.answered + old.answered >= 1 / self.share:
            self._close()

    def _close(self) -> None:
        new, old = self._batch
        self._batch = (_Answers(), _Answers())
        self._errors.add(new.answered, old.answered, new_failed=new.failed, old_failed=old.failed)
        for at, one in enumerate(self._slow):
            one.add(new.timed, old.timed, new_failed=new.slow[at], old_failed=old.slow[at])
        self.new.add(new)
        self.old.add(old)
        self._good = self._is_good()
        self._known, self._coming = merge_counts([self._known, self._coming]), ()
        known = dict(self._known)
        if sum(known.values()) >= LEAST_KNOWN:
            rules = self.rules
            limits = [quantile_s(known, 100 * quantile) or 0.0 for quantile in QUANTILES]
            self._bounds = [
                (latency_bin(rules.slower_times * limit + rules.slower_s), latency_bin(limit))
                for limit in limits
            ]

    def verdict(self) -> CanaryVerdict | None:
        """The verdict; None while there is none."""
        if self.ordered is not None:
            return self.ordered
        errors, slow = self.evidence
        least = 2 / self.rules.alpha
        if errors >= least:
            return CanaryVerdict(accepted=False, reason=f"{self._said_errors()}{self._said_raised()}")
        if slow >= least:
            return CanaryVerdict(accepted=False, reason=self._said_slow())
        if self._good:
            return CanaryVerdict(accepted=True, reason=f"{self._said_errors()}, and it is not slower")
        if self.exposed_s >= self.rules.limit_s:
            return self._at_the_limit()
        return None

    def _is_good(self) -> bool:
        rules = self.rules
        errors = (self.new.failed, self.new.answered), (self.old.failed, self.old.answered)
        slow = (self.new.slow[SLOW], self.new.timed), (self.old.slow[SLOW], self.old.timed)
        return self._within(errors, rules.error_margin) and self._within(slow, rules.slow_margin)

    def _within(self, pairs: tuple[tuple[int, int], tuple[int, int]], margin: float) -> bool:
        (most, least) = (share_bounds(*pair, self.rules.beta / 2) for pair in pairs)
        return most[1] <= least[0] + margin

    def _at_the_limit(self) -> CanaryVerdict:
        new, old = self._all(0), self._all(1)
        bad = 2 * new.failed > new.answered and 2 * old.failed <= old.answered
        few = f"not certain after {format_seconds(self.rules.limit_s)}: {self._said_errors()}"
        return CanaryVerdict(accepted=not bad, reason=few + (self._said_raised() if bad else ""))

    def _all(self, which: int) -> _Answers:
        """Also the answers of the batch that is not complete."""
        made = _Answers()
        made.add((self.new, self.old)[which])
        made.add(self._batch[which])
        return made

    def _said_errors(self) -> str:
        new, old = self._all(0), self._all(1)
        return f"{new.failed} of {new.answered} requests to it failed, and {old.failed} of {old.answered} to the old version"

    def _said_slow(self) -> str:
        at = max(range(len(QUANTILES)), key=lambda which: self._slow[which].value)
        new, old = self.new, self.old
        known = f"the old version's p{100 * QUANTILES[at]:g}"
        return (
            f"it is slower: {new.slow[at]} of its {new.timed} answers took longer than {self.rules.slower_times:g} times"
            f" {known}, and {old.slow[at]} of {old.timed} of the old version longer than that p{100 * QUANTILES[at]:g}"
        )

    def _said_raised(self) -> str:
        if not self.raised:
            return ""
        text, count = self.raised.most_common(1)[0]
        return f"; most often {text}, {count} times" if count > 1 else f"; {text}"

    def facts(self) -> dict[str, object]:
        """Its state for `hooke serve status --json`."""
        new, old = self._all(0), self._all(1)
        return {
            "share": self.share,
            "mirror": self.rules.mirror,
            "seconds": self.exposed_s,
            "new": {"answered": new.answered, "failed": new.failed},
            "old": {"answered": old.answered, "failed": old.failed},
            "evidence": [min(value, 1e9) for value in self.evidence],
            "evidence_needed": 2 / self.rules.alpha,
        }
