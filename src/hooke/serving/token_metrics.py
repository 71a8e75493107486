"""What is measured of language models, under vLLM's names: dashboards and the Gateway API's inference extension read these."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from hooke.serving.stats_windows import quantile_s

__all__ = [
    "TokenFamily",
    "TokenMeter",
    "TokenRates",
    "TokenSample",
    "add_families",
    "read_families",
    "token_families",
    "token_rates",
]

FIRST_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
NEXT_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
WHOLE_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
"""Upper bounds of vLLM's buckets, so that its histograms and these can be added."""
GAUGES = {
    "vllm:num_requests_running": "Requests whose tokens are computed now.",
    "vllm:num_requests_waiting": "Requests that wait for their first step.",
    "vllm:kv_cache_usage_perc": "The used share of the memory for keys and values; 1 is all of it.",
}
COUNTERS = {
    "vllm:prompt_tokens": "Tokens of prompts.",
    "vllm:generation_tokens": "Tokens of answers.",
    "vllm:prefix_cache_queries": "Tokens of prompts that were looked for in memory.",
    "vllm:prefix_cache_hits": "Tokens of prompts that were there.",
    "vllm:num_preemptions": "Requests that gave way to others, and were computed again.",
}
GIVEN = "vllm:generation_tokens"
OUTSIDE = ("vllm:prompt_tokens", GIVEN)
"""Those that are known in front of an engine."""
SUCCESS = "vllm:request_success"
HISTOGRAMS = {
    "vllm:time_to_first_token_seconds": ("From a request to the first token of its answer.", FIRST_S),
    "vllm:inter_token_latency_seconds": ("From one token of an answer to the next.", NEXT_S),
    "vllm:e2e_request_latency_seconds": ("From a request to the end of its answer.", WHOLE_S),
}
FIRST, NEXT, WHOLE = HISTOGRAMS
FORMER = {NEXT: "vllm:time_per_output_token_seconds"}
"""Names of earlier versions, which dashboards still ask for."""
PASSED = frozenset(
    {
        *GAUGES,
        *COUNTERS,
        SUCCESS,
        *HISTOGRAMS,
        *FORMER.values(),
        *("vllm:lora_requests_info", "vllm:cache_config_info", "vllm:request_queue_time_seconds"),
        *(
            "vllm:request_prefill_time_seconds",
            "vllm:request_decode_time_seconds",
            "vllm:prompt_tokens_cached",
        ),
        *("vllm:request_time_per_output_token_seconds", "vllm:request_prompt_tokens"),
        *("vllm:request_generation_tokens", "vllm:iteration_tokens_total"),
    }
)
"""Families of a vLLM that are passed on. It has some fifty, and all replicas together send theirs again and again."""


class TokenSample(NamedTuple):
    """One line of the text format."""

    name: str
    labels: dict[str, str]
    value: float


class TokenFamily(msgspec.Struct, frozen=True, array_like=True):
    """A metric family: `gauge`, `counter` or `histogram`."""

    name: str
    """Without `_total`."""
    kind: str
    said: str
    samples: list[TokenSample]


class TokenMeter:
    """Counts the requests and tokens of one model. One thread adds; any thread may read."""

    def __init__(self, model: str, *, inside: bool = True) -> None:
        """`inside` the engine more is known than in front of it: what is in memory, and who gives way."""
        self._labels = {"model_name": model, "engine": "0"}
        self._shown = tuple(COUNTERS) if inside else OUTSIDE
        self.preemptions = 0
        """May be added to."""
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._success: dict[str, int] = {}
        self._buckets = {name: [0] * (len(bounds) + 1) for name, (_, bounds) in HISTOGRAMS.items()}
        self._sums = dict.fromkeys(HISTOGRAMS, 0.0)

    def first(self, seconds: float) -> None:
        """The first token of an answer came so long after its request."""
        self._observe(FIRST, FIRST_S, seconds)

    def next(self, seconds: float) -> None:
        """Another token came so long after the one before."""
        self._observe(NEXT, NEXT_S, seconds)

    def ended(self, reason: str, seconds: float) -> None:
        """An answer has ended, so long after its request. `reason` is the client's, `stop` or `length`; empty if it is not known."""
        if reason:
            self._success[reason] = self._success.get(reason, 0) + 1
        self._observe(WHOLE, WHOLE_S, seconds)

    def tokens(self, prompt: int, answer: int, *, cached: int = 0) -> None:
        """Count these. `cached` ones of the prompt were in memory."""
        counters = self._counters
        counters["vllm:prompt_tokens"] += prompt
        counters["vllm:prefix_cache_queries"] += prompt
        counters["vllm:prefix_cache_hits"] += cached
        counters["vllm:generation_tokens"] += answer

    def families(self, gauges: Mapping[str, float]) -> list[TokenFamily]:
        """All of them, with gauges as they are now, by their names."""
        labels = self._labels
        made = [
            TokenFamily(name, "gauge", said, [TokenSample(name, labels, value)])
            for name, said in GAUGES.items()
            if (value := gauges.get(name)) is not None
        ]
        counters = {**self._counters, "vllm:num_preemptions": self.preemptions}
        made += [
            TokenFamily(
                name, "counter", COUNTERS[name], [TokenSample(f"{name}_total", labels, counters[name])]
            )
            for name in self._shown
        ]
        ends = [
            TokenSample(f"{SUCCESS}_total", {**labels, "finished_reason": reason}, count)
            for reason, count in dict(self._success).items()
        ]
        if ends:
            made.append(TokenFamily(SUCCESS, "counter", "Answers, by why they ended.", ends))
        for name, (said, bounds) in HISTOGRAMS.items():
            for shown in (name, *([FORMER[name]] if name in FORMER else [])):
                made.append(TokenFamily(shown, "histogram", said, self._samples(name, shown, bounds)))
        return made

    def _observe(self, name: str, bounds: Sequence[float], seconds: float) -> None:
        self._buckets[name][bisect_left(bounds, seconds)] += 1
        self._sums[name] += seconds

    def _samples(self, name: str, shown: str, bounds: Sequence[float]) -> list[TokenSample]:
        counts = list(accumulate(self._buckets[name]))
        edges = [*map(str, bounds), "+Inf"]
        samples = [
            TokenSample(f"{shown}_bucket", {**self._labels, "le": edge}, count)
            for edge, count in zip(edges, counts, strict=True)
        ]
        samples.append(TokenSample(f"{shown}_count", self._labels, counts[-1]))
        samples.append(TokenSample(f"{shown}_sum", self._labels, self._sums[name]))
        return samples


class TokenRates(msgspec.Struct, frozen=True, kw_only=True):
    """What a language model did in a span of time, and what it has now; None: not known, or nothing came."""

    tokens_per_s: float | None
    """Of answers."""
    first_p95_s: float | None
    """From a request to its first token."""
    next_p95_s: float | None
    """From one token to the next."""
    running: float | None
    """Requests whose tokens are computed."""
    waiting: float | None
    """Requests that wait for their first step."""
    memory: float | None
    """The used share of the memory for keys and values."""


def token_rates(
    families: Sequence[TokenFamily], seconds: float, before: Sequence[TokenFamily] = ()
) -> TokenRates:
    """Between two reports that are so many seconds apart, as near as the buckets tell; without `before`, since the start."""
    now, then = ({each.name: each for each in part} for part in (families, before))

    def total(name: str) -> float | None:
        return sum(each.value for each in now[name].samples) if name in now else None

    def p95_s(*names: str) -> float | None:
        name = next((each for each in names if each in now), None)
        if name is None:
            return None
        buckets = _cumulative(now[name])
        earlier = _cumulative(then[name]) if name in then else {}
        bounds = sorted(buckets)
        ends = [buckets[bound] - earlier.get(bound, 0.0) for bound in bounds]
        counts = {at: end - (ends[at - 1] if at else 0.0) for at, end in enumerate(ends)}
        return quantile_s(counts, 95.0, bounds[:-1])

    given, given_before = (
        total(GIVEN),
        sum(each.value for each in then[GIVEN].samples) if GIVEN in then else 0,
    )
    return TokenRates(
        tokens_per_s=None if given is None else (given - given_before) / max(seconds, 1e-9),
        first_p95_s=p95_s(FIRST),
        next_p95_s=p95_s(NEXT, FORMER[NEXT]),
        running=total("vllm:num_requests_running"),
        waiting=total("vllm:num_requests_waiting"),
        memory=total("vllm:kv_cache_usage_perc"),
    )


def _cumulative(family: TokenFamily) -> dict[float, float]:
    """The count up to each bound of a histogram, the last one infinite; of all engines together."""
    found: dict[float, float] = {}
    for each in family.samples:
        if each.name.endswith("_bucket"):
            bound = float(each.labels["le"])
            found[bound] = found.get(bound, 0.0) + each.value
    return found


def read_families(text: str) -> list[TokenFamily]:
    """Those of `PASSED` in an engine's own text. Raises ValueError for text that is not Prometheus'."""
    from prometheus_client.parser import text_string_to_metric_families

    lines = [line for line in text.splitlines() if _family_of(line) in PASSED]
    return [
        TokenFamily(
            family.name,
            family.type,
            family.documentation,
            [
                TokenSample(each.name, dict(each.labels), each.value)
                for each in family.samples
                if not each.name.endswith("_created")
            ],
        )
        for family in text_string_to_metric_families("\n".join(lines) + "\n")
    ]


_ENDS = ("_total", "_bucket", "_count", "_sum")


def _family_of(line: str) -> str:
    """The family of a line of the text format. Parsing all lines of an engine would cost ten times as much."""
    if not line.startswith(("vllm:", "# HELP vllm:", "# TYPE vllm:")):
        return ""
    name = line.split(" ")[2] if line[0] == "#" else line.partition(" ")[0].partition("{")[0]
    if name in PASSED:
        return name
    return next((name.removesuffix(end) for end in _ENDS if name.endswith(end)), name)


def add_families(one: Iterable[TokenFamily], other: Iterable[TokenFamily]) -> list[TokenFamily]:
    """The totals of both; gauges are left out."""
    found: dict[str, tuple[TokenFamily, dict[Any, TokenSample]]] = {}
    for family in (*one, *other):
        if family.kind == "gauge":
            continue
        _, samples = found.setdefault(family.name, (family, {}))
        for each in family.samples:
            key = (each.name, *sorted(each.labels.items()))
            before = samples[key].value if key in samples else 0.0
            samples[key] = each._replace(value=before + each.value)
    return [
        TokenFamily(family.name, family.kind, family.said, list(samples.values()))
        for family, samples in found.values()
    ]


def token_families(
    core: Any,
    running: Iterable[tuple[Mapping[str, str], Sequence[TokenFamily]]],
    ended: Iterable[tuple[Mapping[str, str], Sequence[TokenFamily]]],
) -> Iterator[Any]:
    """Families for prometheus_client, of replicas with their labels. Those that have ended have no gauges."""
    made: dict[str, Any] = {}
    for whose, is_running in ((ended, False), (running, True)):
        for labels, families in whose:
            for family in families:
                if family.kind == "gauge" and not is_running:
                    continue
                metric = made.get(family.name)
                if metric is None:
                    metric = made[family.name] = core.Metric(family.name, family.said, family.kind)
                for each in family.samples:
                    metric.add_sample(each.name, {**labels, **each.labels}, each.value)
    yield from made.values()
