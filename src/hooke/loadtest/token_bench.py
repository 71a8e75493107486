"""Load tests of language models behind OpenAI's protocol: streams with recorded lengths, sent when they are due, and what their readers saw.

Times count from when a request was due, also if it was sent later. One without a whole answer has an infinite time to its first token and to its
end: no percentile is of the fast ones alone. Intervals come from a bootstrap over stretches of time, as requests of one moment wait together.
"""

from __future__ import annotations

import math
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hooke.base.errors import HookeError, UsageError
from hooke.base.formats import aligned, format_rate, format_seconds
from hooke.loadtest.bodies import WORDS
from hooke.loadtest.generator_protocol import Fate, Goal, LevelReport, Outcomes, TokenColumns, name_of
from hooke.loadtest.load_test import Generator, ServedFile, outcomes_of, require_generator
from hooke.loadtest.rate_search import limited_by
from hooke.loadtest.requests import opener
from hooke.loadtest.target import Arrivals, Target, parse_target, recorded, request_bytes
from hooke.project.token_lengths import TokenLengths
from hooke.scaling.families import Floats
from hooke.scaling.measurements import Estimate, finite
from hooke.services.serve_file import load_service
from hooke.serving.slo import Slo

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "TRACE",
    "TokenLevel",
    "TokenOrder",
    "TokenTest",
    "run_token_test",
    "token_facts",
    "token_test_of_file",
    "token_text",
]

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TRACE = "trace"
"""The name of arrivals that are those of the lengths."""
TOKEN_EVENTS = {COMPLETIONS: r'"choices":\s*\[\s*\{', CHAT: r'"(?:content|reasoning_content)":\s*"[^"]'}
"""What is in an event with a token. The first event of a chat only says who speaks."""
MOST_IDS = 256
"""Prompts are of token ids below this one, which every model's vocabulary has."""
PERCENTILES = (50, 95, 99)
STRETCHES, RESAMPLES = 20, 400
LEAST = 20
"""Requests for an interval."""
LEVEL = 0.95
WARM_SHARE, WARM_MOST_S = 0.2, 30.0
MOST_SAID = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOrder:
    """The load to send: to `target`, prompts and answers with these lengths, at each of `rates` requests a second for `seconds` each."""

    target: Target
    token: str = ""
    path: str = COMPLETIONS
    lengths: TokenLengths
    rates: tuple[float, ...]
    seconds: float
    arrivals: Arrivals
    arrivals_name: str
    """`trace`: as the requests of these lengths came, as far as they fit."""
    slo: Slo | None = None
    """A request within its limits is good; None: one that is answered."""
    connections: int = 256
    timeout_s: float = 60.0
    ca: str = ""
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLevel:
    """What was seen at one rate, without the warm-up. Times are percentiles by name, as `p95`."""

    rate: float
    seconds: float
    count: int
    answered: int
    failed: Mapping[str, int]
    """Why requests have no whole answer: a status or what happened -> how many."""
    said: Mapping[str, str]
    """Of these, the beginning of the first such answer."""
    first_s: tuple[Estimate, ...]
    each_s: tuple[Estimate, ...]
    whole_s: tuple[Estimate, ...]
    good: Estimate
    """Requests a second within the limits of the SLO."""
    good_share: float
    """Of the requests that were due."""
    output_rate: Estimate
    """Tokens of answers a second."""
    prompt_rate: float
    asked_output: float
    asked_prompt: float
    output: float
    prompt: float
    """Mean tokens that were asked for, and that answered requests had."""
    cached: float
    """The part of the prompts' tokens that was in memory."""
    in_flight: float
    """Mean number of requests at once."""
    waited: int
    """Requests that waited because all allowed connections were busy."""
    limited: str = ""
    """Why the load generator was the limit; empty if it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTest:
    """The results of all rates, and how prompts were made. `run` is the run of a service that was started for it."""

    order: TokenOrder
    model: str
    prompts: str
    levels: tuple[TokenLevel, ...]
    stopped: bool = False
    run: str = ""

    @property
    def kept(self) -> bool:
        """Whether each rate has a result, and no request was without an answer."""
        return bool(self.levels) and not any(each.limited or each.failed for each in self.levels)


# --- Prompts.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prompts:
    """Makes prompts of a number of tokens: of token ids, or of words, of which each has `per_word` tokens beside `fixed` ones."""

    ids: int = 0
    per_word: float = 1.0
    fixed: float = 0.0

    def made(self, tokens: int, chance: np.random.Generator) -> str | list[int]:
        """A random prompt, so that nothing of it is in memory."""
        if self.ids:
            return chance.integers(self.ids, size=tokens).tolist()
        return _words(max(round((tokens - self.fixed) / self.per_word), 1), chance)

    def __str__(self) -> str:
        if self.ids:
            return f"random token ids below {self.ids}"
        return f"random words of {self.per_word:.2f} tokens each"


def _words(count: int, chance: np.random.Generator) -> str:
    """All words in random order, again and again: so many words have about as many tokens each time."""
    orders = [chance.permutation(len(WORDS)) for _ in range(-(-count // len(WORDS)))]
    return " ".join(WORDS[at] for at in np.concatenate(orders)[:count])


class _Client:
    """Requests one by one, before the load."""

    def __init__(self, order: TokenOrder) -> None:
        self._order = order
        self._opener = opener(order.target, ca=order.ca)

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """(status, decoded answer). Raises HookeError if there is none."""
        target = self._order.target
        url = f"{'https' if target.tls else 'http'}://{target.authority}{path}"
        headers = {"content-type": "application/json"}
        if self._order.token:
            headers["authorization"] = f"Bearer {self._order.token}"
        data = None if body is None else msgspec.json.encode(body)
        asked = urllib.request.Request(url, data=data, headers=headers)  # noqa: S310 - http or https
        try:
            with self._opener.open(asked, timeout=self._order.timeout_s) as answer:
                return answer.status, _decoded(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, _decoded(error.read())
        except OSError as error:
            raise HookeError(
                f"{url} gave no answer: {error}", fix="start the service, or give the address that it prints"
            ) from error

    def prompt_tokens(self, prompt: str | list[int], model: str) -> tuple[int, Any]:
        """Tokens of a prompt as the service counts them; 0 and what it said if it refuses the prompt."""
        body = _body(self._order.path, model, prompt, 1) | {"stream": False}
        del body["stream_options"]
        status, said = self.ask(self._order.path, body)
        if status != 200:
            return 0, f"{status}: {_shown(said)}"
        try:
            return int(said["usage"]["prompt_tokens"]), ""
        except (KeyError, TypeError):
            return 0, f"the answer has no usage: {_shown(said)}"


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data.decode(errors="replace")


def _shown(said: Any) -> str:
    text = said.get("error", said) if isinstance(said, Mapping) else said
    text = text.get("message", text) if isinstance(text, Mapping) else text
    return str(text)[:MOST_SAID]


def _model(client: _Client) -> tuple[str, int | None]:
    """The first model, and the tokens of its context, if it tells. Raises UsageError."""
    status, said = client.ask("/v1/models")
    if status != 200:
        fix = (
            "give its token: --token-file FILE"
            if status == 401
            else '--lengths is for services with protocol="openai"'
        )
        raise UsageError(f"GET /v1/models answers {status}: {_shown(said)}", fix=fix)
    try:
        card = said["data"][0]
        return str(card["id"]), card.get("max_model_len")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise UsageError(f"GET /v1/models names no model: {_shown(said)}") from None


def _maker(client: _Client, order: TokenOrder, model: str) -> _Prompts:
    """How to make prompts for this service. Raises UsageError if it answers none."""
    chance = np.random.default_rng(order.seed)
    said: Any = ""
    if order.path == COMPLETIONS:
        for ids in (MOST_IDS, MOST_IDS // 8):
            count, _ = client.prompt_tokens([*chance.integers(ids, size=7).tolist(), ids - 1], model)
            if count == 8:
                return _Prompts(ids=ids)
    few, many = len(WORDS), 3 * len(WORDS)
    counts = []
    for words in (few, many):
        count, said = client.prompt_tokens(_words(words, chance), model)
        if not count:
            raise UsageError(f"{order.path} does not answer a prompt of {words} words", why=str(said))
        counts.append(count)
    per_word = (counts[1] - counts[0]) / (many - few)
    return _Prompts(per_word=per_word, fixed=counts[0] - few * per_word)


def _body(path: str, model: str, prompt: str | list[int], output: int) -> dict[str, Any]:
    asked = {"messages": [{"role": "user", "content": prompt}]} if path == CHAT else {"prompt": prompt}
    # ignore_eos and min_tokens are of vLLM, SGLang and Hooke: an answer has the recorded length.
    ends = {"max_tokens": output, "min_tokens": output, "ignore_eos": True, "temperature": 0}
    return {"model": model, **asked, **ends, "stream": True, "stream_options": {"include_usage": True}}


# --- The test.


def run_token_test(order: TokenOrder, *, tell: Callable[[TokenLevel], None]) -> TokenTest:
    """Send the load, one rate after the other. Ctrl-C ends it, and the result has what was measured.

    Raises UsageError where nothing fits or the service refuses such prompts, HookeError where it does not answer.
    """
    require_generator()
    client = _Client(order)
    model, context = _model(client)
    lengths = order.lengths.fitting(context) if context is not None else order.lengths
    if order.arrivals_name == TRACE and lengths.due is not None:
        order = replace(order, arrivals=recorded(lengths.due))
    order = replace(order, lengths=lengths)
    maker = _maker(client, order, model)
    levels: list[TokenLevel] = []
    stopped = True
    try:
        for number, rate in enumerate(order.rates):
            level, cut = _level(order, rate, number, _Made(model, maker))
            if level is not None:
                levels.append(level)
                tell(level)
            if cut:
                break
        else:
            stopped = False
    except KeyboardInterrupt:
        pass
    return TokenTest(order=order, model=model, prompts=str(maker), levels=tuple(levels), stopped=stopped)


@dataclass(frozen=True, slots=True)
class _Made:
    model: str
    prompts: _Prompts


def _level(order: TokenOrder, rate: float, number: int, made: _Made) -> tuple[TokenLevel | None, bool]:
    """One rate, and whether it was stopped."""
    seed = order.seed + number
    chance = np.random.default_rng()  # not by the seed: what an earlier test asked may be in memory
    warm_s = min(WARM_SHARE * order.seconds, WARM_MOST_S)
    due = order.arrivals(rate, warm_s + order.seconds, seed)
    prompts, outputs = _lengths(order, len(due), seed)
    bodies = [
        _body(order.path, made.model, made.prompts.made(int(prompt), chance), int(output))
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    goal = Goal(
        host=order.target.host,
        port=order.target.port,
        requests=tuple(
            request_bytes(order.target, order.path, msgspec.json.encode(body), token=order.token)
            for body in bodies
        ),
        tls=order.target.tls,
        ca=order.ca,
        connections=order.connections,
        token=TOKEN_EVENTS[order.path],
    )
    with Generator(goal) as generator:
        report = generator.run(due, timeout_s=order.timeout_s)
    outcomes = outcomes_of(due, report)
    if not ((due >= warm_s) & (outcomes.status != Fate.CUT)).any():
        return None, report.stopped
    return _Seen(order, outcomes, report, warm_s).level(rate, prompts, outputs), report.stopped


def _lengths(order: TokenOrder, count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """In the order of the trace, from where the seed says: as `target.recorded` does, so a trace's arrivals and lengths go together."""
    begin = int(np.random.default_rng(seed).integers(len(order.lengths)))
    at = (begin + np.arange(count)) % len(order.lengths)
    return order.lengths.prompts[at], order.lengths.outputs[at]


class _Seen:
    """What a level's readers saw, of the requests due after `warm_s`."""

    def __init__(self, order: TokenOrder, outcomes: Outcomes, report: LevelReport, warm_s: float) -> None:
        tokens = TokenColumns.of(report)
        self._kept = kept = (outcomes.due >= warm_s) & (outcomes.status != Fate.CUT)
        self._order, self._outcomes, self._tokens = order, outcomes, tokens
        self._warm_s, self._report = warm_s, report
        ended = float(outcomes.due[kept][-1]) if report.stopped else warm_s + order.seconds
        self._seconds = max(ended - warm_s, 1e-3)
        answered = outcomes.answered & np.isfinite(tokens.first)
        self._answered = answered[kept]
        with np.errstate(invalid="ignore"):
            several = answered & (tokens.output > 1)
            each = np.where(
                several, (tokens.last - tokens.first) / np.maximum(tokens.output - 1, 1), math.nan
            )
        self._first = np.where(answered, tokens.first - outcomes.due, math.inf)[kept]
        self._whole = np.where(answered, outcomes.latency, math.inf)[kept]
        self._each = each[kept]
        self._chance = np.random.default_rng(order.seed)
        self._stretch = np.minimum(
            ((outcomes.due[kept] - warm_s) / self._seconds * STRETCHES).astype(int), STRETCHES - 1
        )

    def level(self, rate: float, prompts: Any, outputs: Any) -> TokenLevel:
        outcomes, tokens, kept = self._outcomes, self._tokens, self._kept
        counted = Counter(name_of(int(each)) for each in outcomes.status[kept][~self._answered])
        slo = self._order.slo
        good = self._answered if slo is None else self._answered & slo.kept(self._first, self._each)
        output_by, prompt_s, in_flight = self._rates()
        whole = float(np.nansum(tokens.prompt[kept]))
        return TokenLevel(
            rate=rate,
            seconds=self._seconds,
            count=int(kept.sum()),
            answered=int(self._answered.sum()),
            failed=dict(counted),
            said={name_of(status): said[:MOST_SAID] for status, said in self._report.said.items()},
            first_s=self._percentiles(self._first),
            each_s=self._percentiles(self._each),
            whole_s=self._percentiles(self._whole),
            good=self._rate(
                "good requests a second", np.bincount(self._stretch, good.astype(float), STRETCHES)
            ),
            good_share=float(good.mean()),
            output_rate=self._rate("tokens a second", output_by),
            prompt_rate=prompt_s,
            asked_output=float(np.mean(outputs[kept])),
            asked_prompt=float(np.mean(prompts[kept])),
            output=_mean(tokens.output[kept]),
            prompt=_mean(tokens.prompt[kept]),
            cached=float(np.nansum(tokens.cached[kept])) / whole if whole else 0.0,
            in_flight=in_flight,
            waited=self._report.waited,
            limited=limited_by(
                outcomes.since(self._warm_s), self._report.cpu_s / max(self._report.wall_s, 1e-9)
            ),
        )

    def _rates(self) -> tuple[Floats, float, float]:
        """Tokens of answers in each stretch of the level, whoever asked for them when, as if they came evenly; tokens of prompts a second; requests at once."""
        tokens, outcomes = self._tokens, self._outcomes
        edges = np.linspace(self._warm_s, self._warm_s + self._seconds, STRETCHES + 1)
        known = np.isfinite(tokens.first)
        first, last = tokens.first[known], tokens.last[known]
        span = np.maximum(last - first, 1e-9)
        share = np.clip((edges[:, None] - first) / span, 0.0, 1.0)
        come = ((edges[:, None] >= first) * 1.0 + share * (tokens.output[known] - 1)).sum(axis=1)
        begun = float(
            np.nansum(np.where((tokens.first >= edges[0]) & (tokens.first < edges[-1]), tokens.prompt, 0))
        )
        overlap = np.clip(outcomes.ended, edges[0], edges[-1]) - np.clip(outcomes.due, edges[0], edges[-1])
        return np.diff(come), begun / self._seconds, float(overlap.sum() / self._seconds)

    def _percentiles(self, values: Floats) -> tuple[Estimate, ...]:
        known = ~np.isnan(values)
        values, stretch = values[known], self._stretch[known]
        if not len(values):
            return ()
        parts = [values[stretch == at] for at in range(STRETCHES)]
        draws = self._chance.integers(STRETCHES, size=(RESAMPLES, STRETCHES))
        again = [np.concatenate([parts[at] for at in draw]) for draw in draws]
        made = []
        for percent in PERCENTILES:
            value = _quantile(values, percent)
            drawn = sorted(_quantile(each, percent) for each in again if len(each))
            few = len(values) * (1 - percent / 100) < 1 or len(values) < LEAST
            ends = (0.0, math.inf) if few else _ends(drawn)
            made.append(Estimate(name=f"p{percent}", value=value, interval=ends, level=LEVEL))
        return tuple(made)

    def _rate(self, name: str, counts: NDArray[Any]) -> Estimate:
        """Per second, of counts in stretches of equal length."""
        each = counts * STRETCHES / self._seconds
        drawn = each[self._chance.integers(STRETCHES, size=(RESAMPLES, STRETCHES))].mean(axis=1)
        return Estimate(
            name=name, value=float(each.mean()), interval=_ends(sorted(drawn.tolist())), level=LEVEL
        )


def _quantile(values: Floats, percent: float) -> float:
    """The smallest value that so many are not above; it may be infinite."""
    return float(np.quantile(values, percent / 100, method="inverted_cdf"))


def _ends(drawn: Sequence[float]) -> tuple[float, float]:
    low = drawn[int((1 - LEVEL) / 2 * len(drawn))]
    return low, drawn[min(math.ceil((1 + LEVEL) / 2 * len(drawn)), len(drawn) - 1)]


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def token_test_of_file(
    order: TokenOrder,
    entry: str,
    *,
    words: Sequence[str],
    tell: Callable[[TokenLevel], None],
    replicas: int | None = None,
    threads: int | None = None,
) -> TokenTest:
    """Start the service of a file, send it the load, and end it. Without an SLO in the order, the service's own decides what is good.

    `words` are further arguments of `hooke serve`. Raises as `run_token_test`.
    """
    declared, file = load_service(entry)
    if declared.protocol != "openai":
        raise UsageError(
            f"{declared.name} is not a language model behind OpenAI's protocol, so --lengths has no meaning",
            fix=f"omit --lengths: hooke bench {entry}",
        )
    if replicas is None and declared.replicas != (1, 1):
        replicas = max(declared.replicas[0], 1)
    served = ServedFile(
        f"{file}:{declared.name}",
        words=words,
        timeout_s=declared.timeout_s,
        replicas=replicas,
        threads=threads,
    )
    with served:
        result = run_token_test(
            replace(
                order, target=parse_target(served.url), token=served.token, slo=order.slo or declared.slo
            ),
            tell=tell,
        )
    return replace(result, run=served.run)


# --- As text, and as plain values for JSON.

COLUMNS = (
    "rate/s",
    "at once",
    "first token p50",
    "p95",
    "each token p50",
    "p95",
    "whole p95",
    "tokens/s",
    "good/s",
    "failed",
)


def token_text(test: TokenTest) -> str:
    """The levels as a table, and what is to be known about them."""
    rows = [_cells(level) for level in test.levels]
    lines = [*aligned(COLUMNS, rows, right=range(len(COLUMNS)))] if rows else []
    return "\n".join([*lines, "", *_sentences(test)])


def _cells(level: TokenLevel) -> list[str]:
    if level.limited:
        return [f"{level.rate:g}", *[""] * (len(COLUMNS) - 2), "unknown"]
    times = [
        _at(level.first_s, "p50", short=True),
        _at(level.first_s, "p95"),
        _at(level.each_s, "p50", short=True),
        _at(level.each_s, "p95"),
        _at(level.whole_s, "p95", short=True),
    ]
    rates = [level.output_rate.shown("{:,.0f}".format), level.good.shown(format_rate)]
    return [f"{level.rate:g}", f"{level.in_flight:.1f}", *times, *rates, f"{level.count - level.answered:,}"]


def _at(several: Sequence[Estimate], name: str, *, short: bool = False) -> str:
    found = next((each for each in several if each.name == name), None)
    if found is None:
        return ""
    if not math.isfinite(found.value):
        return "never"
    return found.shown(_time) if found.bounded and not short else _time(found.value)


def _time(seconds: float) -> str:
    return format_seconds(seconds) if math.isfinite(seconds) else "never"


def _sentences(test: TokenTest) -> list[str]:
    order = test.order
    said = ["stopped early; the results so far are above"] if test.stopped else []
    said.append(
        f"good: {order.slo}"
        if order.slo is not None
        else "good: answered, as no SLO is known; --slo sets one"
    )
    for level in test.levels:
        if level.limited:
            said.append(f"at {level.rate:g}/s there is no result: {level.limited}")
        elif order.slo is not None:
            said.append(f"at {level.rate:g}/s {level.good_share:.1%} of the requests were good")
        for name, count in level.failed.items():
            why = f": {level.said[name]}" if level.said.get(name) else ""
            said.append(
                f"at {level.rate:g}/s without a whole answer: {name} {count:,} of {level.count:,}{why}"
            )
        if level.answered and abs(level.output / level.asked_output - 1) > LENGTHS_APART:
            said.append(
                f"at {level.rate:g}/s answers had {level.output:.0f} tokens, and {level.asked_output:.0f} were asked for: the service ends them earlier"
            )
        if level.answered and abs(level.prompt / level.asked_prompt - 1) > LENGTHS_APART:
            said.append(
                f"at {level.rate:g}/s prompts had {level.prompt:.0f} tokens instead of {level.asked_prompt:.0f}"
            )
        if level.cached > LEAST_CACHED:
            said.append(
                f"at {level.rate:g}/s {level.cached:.0%} of the prompts' tokens were in memory, though no prompt was asked before"
            )
        if level.waited:
            said.append(
                f"at {level.rate:g}/s {level.waited:,} requests waited for a connection; use --connections for more"
            )
    left = f"; left out, as too long: {order.lengths.left_out:,}" if order.lengths.left_out else ""
    said.append(
        f"lengths: {order.lengths.name}{left}; {order.arrivals_name} arrivals; prompts of {test.prompts}, each new"
    )
    said.append(
        "times count from when a request was due; one without a whole answer counts as never; intervals 95 %"
    )
    return said


LENGTHS_APART = 0.05
LEAST_CACHED = 0.02


def token_facts(test: TokenTest) -> dict[str, Any]:
    """Everything as plain values for JSON; infinite and unknown numbers are None."""
    order = test.order
    return {
        "model": test.model,
        "target": order.target.authority,
        "path": order.path,
        "lengths": order.lengths.name,
        "left_out": order.lengths.left_out,
        "arrivals": order.arrivals_name,
        "prompts": test.prompts,
        "slo": None if order.slo is None else order.slo.facts(),
        "seed": order.seed,
        "run": test.run,
        "stopped": test.stopped,
        "levels": [_level_facts(each) for each in test.levels],
    }


def _level_facts(level: TokenLevel) -> dict[str, Any]:
    plain = {
        name: getattr(level, name)
        for name in (
            "rate",
            "seconds",
            "count",
            "answered",
            "limited",
            "prompt_rate",
            "cached",
            "in_flight",
            "waited",
        )
    }
    means = {
        name: finite(getattr(level, name)) for name in ("asked_output", "asked_prompt", "output", "prompt")
    }
    counts = {"failed": dict(level.failed), "said": dict(level.said)}
    if level.limited:
        return plain | means | counts
    times = {
        name: {each.name: each.facts() for each in getattr(level, name)}
        for name in ("first_s", "each_s", "whole_s")
    }
    rates = {
        "good_per_s": level.good.facts(),
        "good_share": level.good_share,
        "output_tokens_per_s": level.output_rate.facts(),
    }
    return plain | means | counts | times | rates
