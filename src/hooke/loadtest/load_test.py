"""Runs a load test: single requests first, then one level after another, until the result is clear."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

import msgspec
import numpy as np

from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.loadtest.generator_process import Generator, outcomes_of
from hooke.loadtest.generator_protocol import REFUSALS, Fate, Goal, LevelReport, Outcomes
from hooke.loadtest.ladder import LevelSummary, Seen, encoded, needed, next_rate, safe_rate, summary_of
from hooke.loadtest.load_result import BenchOrder, BenchResult, LevelResult, ServerUse
from hooke.loadtest.requests import Sent, described, given, made_for_file, made_for_url
from hooke.loadtest.served import ServedFile
from hooke.loadtest.sweep import Sweep, SweptService, Varied, sweep
from hooke.loadtest.target import parse_target, request_bytes
from hooke.processes.devices import cpus_here
from hooke.processes.usage import ProcessTreeUsage
from hooke.project.folder import Project
from hooke.project.loading import code_of
from hooke.services.serve_file import load_service
from hooke.serving.service import Service

__all__ = ["bench_file", "bench_swept", "bench_url", "is_file", "run_load_test"]


LONE, LONE_GAP_S = 10, 0.05
WARM_SHARE, WARM_MOST_S = 0.2, 1.0
LONGEST_S = 30.0
"""The longest level, when a level is extended to have enough requests."""
MOST_REQUESTS = 20_000_000
"""Requests of a level; each takes about 30 bytes in both processes."""


def run_load_test(
    order: BenchOrder, *, usage: ProcessTreeUsage | None, tell: Callable[[LevelResult], None]
) -> BenchResult:
    """Run a load test. `tell` receives each level when it is over. `usage` watches the server's processes.

    Ctrl-C ends it, and the result has what was measured. Raises UsageError if the first request has no 2xx answer because
    of the request, HookeError if because of the server.
    """
    goal = Goal(
        host=order.target.host,
        port=order.target.port,
        requests=order.requests,
        tls=order.target.tls,
        ca=order.ca,
        connections=order.connections,
    )
    with Generator(goal) as generator:
        test = _LoadTest(order, generator, usage, tell)
        with contextlib.suppress(KeyboardInterrupt):
            test.run()
        return test.result()


@dataclass(slots=True)
class _LoadTest:
    order: BenchOrder
    generator: Generator
    usage: ProcessTreeUsage | None
    tell: Callable[[LevelResult], None]
    lone_s: float = float("nan")
    levels: list[LevelResult] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    answered: int = 0
    unheard: int = 0
    stopped: bool = True
    """True until everything is measured."""

    def run(self) -> None:
        self.lone_s = self._alone()
        if self.order.rates:
            for rate in self.order.rates:
                self._level(rate)
        elif self.order.slo is not None and self.lone_s < self.order.slo.limit_s:
            ladder = self.order.ladder(self.lone_s)
            while (rate := next_rate(ladder, self.seen)) is not None:
                self._level(rate)
        self.stopped = False

    def result(self) -> BenchResult:
        return BenchResult(
            order=self.order,
            lone_s=self.lone_s,
            levels=tuple(self.levels),
            safe=None if self.order.slo is None else safe_rate(self.seen),
            stopped=self.stopped,
            asked_for=self.answered,
            unheard=self.unheard,
        )

    def _alone(self) -> float:
        outcomes, report = self._run(np.arange(LONE) * LONE_GAP_S)
        if report.stopped:
            raise KeyboardInterrupt
        if not outcomes.answered.all():
            raise _no_answer(self.order, outcomes, report)
        return float(np.median(outcomes.ended - outcomes.begun))

    def _level(self, rate: float) -> None:
        order = self.order
        seconds = order.seconds
        if not order.rates:
            seconds = max(seconds, min(1.1 * needed(order.slo) / rate, LONGEST_S))
        warm_s = min(WARM_SHARE * seconds, WARM_MOST_S)
        if rate * (warm_s + seconds) > MOST_REQUESTS:
            raise UsageError(
                f"{rate:,.0f} requests per second for {seconds:g} s are too many to keep in memory",
                fix="use a lower --rate, or a shorter --for",
            )
        due = order.arrivals(rate, warm_s + seconds, order.seed + len(self.levels))
        before = (self.usage.cpu_s(), self.usage.batches()) if self.usage else (0.0, None)
        began = time.monotonic()
        outcomes, report = self._run(due)
        took = time.monotonic() - began
        server = None if self.usage is None else _used(self.usage, *before, took)
        counted = outcomes.sent().since(warm_s)
        if len(counted):
            stretch = seconds if not report.stopped else max(float(counted.due[-1]), 1e-3)
            summary = summary_of(counted, seconds=stretch, cpu=_cpu(report), slo=order.slo)
            self._keep(rate, summary, outcomes, counted, report, server)
        if report.stopped:
            raise KeyboardInterrupt

    def _keep(
        self,
        rate: float,
        summary: LevelSummary,
        outcomes: Outcomes,
        counted: Outcomes,
        report: LevelReport,
        server: ServerUse | None,
    ) -> None:
        level = LevelResult(
            asked=rate,
            summary=summary,
            histogram=encoded(counted.latency[counted.answered]),
            answered=int(outcomes.answered.sum()),
            opened=report.opened,
            most_open=report.most,
            waited=report.waited,
            said=dict(report.said),
            server=server,
        )
        self.levels.append(level)
        if summary.verdict is not None and not report.stopped:
            self.seen.append((rate, summary.verdict))
        self.tell(level)

    def _run(self, due: np.ndarray) -> tuple[Outcomes, LevelReport]:
        tick = self.usage.sample if self.usage else lambda: None
        report = self.generator.run(due, timeout_s=self.order.timeout_s, tick=tick)
        outcomes = outcomes_of(due, report)
        self.answered += int(outcomes.answered.sum())
        self.unheard += int(np.isin(outcomes.status, [Fate.TIMED_OUT, Fate.LOST, Fate.CUT]).sum())
        return outcomes, report


def _used(
    usage: ProcessTreeUsage, cpu_s: float, batches: tuple[float, float] | None, took: float
) -> ServerUse:
    """The server's use since these counts, `took` seconds ago."""
    used, now = usage.cpu_s() - cpu_s, usage.batches()
    mean = None
    if batches is not None and now is not None and now[0] > batches[0]:
        mean = (now[1] - batches[1]) / (now[0] - batches[0])
    return ServerUse(cpu_s=used, cores=used / took, rss=usage.peak(), mean_batch=mean)


def _cpu(report: LevelReport) -> float:
    return report.cpu_s / max(report.wall_s, 1e-9)


def _no_answer(order: BenchOrder, outcomes: Outcomes, report: LevelReport) -> HookeError:
    """The error for a first request without a 2xx answer."""
    status = int(outcomes.status[~outcomes.answered][0])
    url = order.url
    said = _readable(report.said.get(status, ""))
    if status == Fate.REFUSED:
        return UsageError(
            f"nothing answers at {order.target.authority}",
            why=said,
            fix="start the service with hooke serve FILE.py, or give the address that it prints",
        )
    if status < 0:
        return HookeError(
            f"{url} gave no answer within {order.timeout_s:g} s"
            if status == Fate.TIMED_OUT
            else f"{url} closed the connection without an answer",
            fix="check the service's log; --timeout 30s waits longer",
        )
    fixes = {
        401: "give its token: --token-file FILE, with the file that `hooke serve` prints",
        403: "use the host name for which it was started",
        404: "give one of its methods: --path /predict",
        405: "give one of its methods: --path /predict",
        422: "give a valid body: --data '{\"rows\": [[1, 2]]}'",
    }
    fix = fixes.get(status, "")
    if order.sent.made_from and status not in REFUSALS and status not in (401, 403):
        said = f"{said}\nthe request was {order.sent}"
        fix = "its schema does not say enough: give a body with --data '{...}' or --data @FILE"
    kind = HookeError if status in REFUSALS or status >= 500 else UsageError
    return kind(f"{url} answers {status}, not 2xx, so it cannot be load-tested", why=said, fix=fix)


def _readable(text: str) -> str:
    """An answer's message in one line of printable characters."""
    try:
        problem = msgspec.json.decode(text)
        fields = problem.get("errors") or []
        text = "; ".join(
            [
                str(problem.get("detail") or problem.get("title") or text),
                *(f"{each['field']}: {each['detail']}" for each in fields),
            ]
        )
    except (msgspec.DecodeError, AttributeError, TypeError, KeyError):
        pass  # not a problem document: shown unchanged
    return "".join(letter if letter.isprintable() else " " for letter in text)[:300].strip()


# --- Load tests of a URL, or of a service in a file.

Tell = Callable[[BenchOrder, LevelResult], None]
"""Called with the request and each level when it is over."""


def is_file(text: str) -> bool:
    """Whether it names a Python file rather than an address."""
    return "://" not in text and text.partition(":")[0].endswith(".py")


def bench_url(order: BenchOrder, bodies: Sequence[bytes], *, token: str, tell: Tell) -> BenchResult:
    """Load-test the service at a URL. Without bodies, they are generated from its OpenAPI document. Raises UsageError, HookeError, MissingExtra."""
    _check_asked(order, order.target.authority)
    if bodies:
        sent = given(bodies)
    else:
        document = described(order.target, token=token, ca=order.ca, timeout_s=order.timeout_s)
        sent = made_for_url(document, order.target, order.path, seed=order.seed)
    return _measured(_with_requests(order, sent, token), None, tell)


def bench_file(  # noqa: PLR0913 - options by name
    order: BenchOrder,
    bodies: Sequence[bytes],
    *,
    entry: str,
    words: Sequence[str],
    path: str,
    tell: Tell,
    replicas: int | None = None,
    threads: int | None = None,
) -> BenchResult:
    """Start the service of a file, load-test it, and end it. `words` are further arguments of `hooke serve`.

    Without bodies, they are generated from the method's annotations. Without an SLO in the order, the service's own is used, if no rates are given; `path` is "" for its only method.
    `replicas` is the number behind Envoy; by default the class's minimum, and a single one without Envoy.
    `threads` is the number of library threads in each; by default that of the class, or its share of the cores.
    Raises UsageError, MissingExtra, and HookeError if the service does not start.
    """
    declared, file = load_service(entry)
    chosen = path or _only_path(declared)
    slo = order.slo or declared.slo
    _check_asked(dataclasses.replace(order, slo=slo), f"{declared.name}{chosen}")
    sent = given(bodies) if bodies else made_for_file(declared, chosen, seed=order.seed)
    if replicas is None and declared.replicas != (1, 1):
        replicas = max(
            declared.replicas[0], 1
        )  # a changing number of replicas would make the result meaningless
    project = Project.find(file)
    with ServedFile(
        f"{file}:{declared.name}",
        words=words,
        timeout_s=declared.timeout_s,
        replicas=replicas,
        threads=threads,
    ) as served:
        target = parse_target(served.url)
        made = dataclasses.replace(
            order, target=target, path=chosen, slo=slo, name=f"{declared.name}{chosen}"
        )
        result = _measured(
            _with_requests(made, sent, served.token), ProcessTreeUsage(served.pid, served.batches), tell
        )
    return dataclasses.replace(
        result,
        handled=served.handled(project, chosen.lstrip("/")),
        replicas=replicas,
        threads=threads or declared.cpus or max(cpus_here() // (replicas or 1), 1),
    )


def bench_swept(
    varied: Varied,
    measure: Callable[[int | None, int | None], BenchResult],
    *,
    entry: str,
    words: Sequence[str],
) -> Sweep:
    """Load-test the service of a file with each number of replicas and threads, and keep the safe rates as studies. Raises what `measure` raises."""
    declared, file = load_service(entry)
    about = SweptService(
        project=Project.find(file),
        entry=f"{file}:{declared.name}",
        key=code_of(declared.made_by),
        given=" ".join(words[1::2]),
    )
    return sweep(varied, measure, about=about)


def _check_asked(order: BenchOrder, name: str) -> None:
    if order.slo is None and not order.rates:
        raise UsageError(
            f"{name} has no known SLO, so there is no rate to search for",
            fix='give --slo "p99 < 50ms", or a rate: --rate 100',
        )


def _only_path(declared: Service) -> str:
    names = list(declared.methods())
    if len(names) > 1 and "predict" not in names:
        raise UsageError(
            f"{declared.name} has several methods",
            fix=f"choose one: {', '.join(f'--path /{name}' for name in names)}",
        )
    return "/predict" if "predict" in names else f"/{names[0]}"


def _with_requests(order: BenchOrder, sent: Sent, token: str) -> BenchOrder:
    requests = tuple(request_bytes(order.target, order.path, body, token=token) for body in sent.bodies)
    return dataclasses.replace(order, requests=requests, sent=sent)


def _measured(order: BenchOrder, usage: ProcessTreeUsage | None, tell: Tell) -> BenchResult:
    missing = [name for name in ("httptools", "uvloop", "hdrh") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"a load test needs {missing[0]}, which is not installed", fix='pip install "hooke[serve]"'
        )

    return run_load_test(order, usage=usage, tell=lambda level: tell(order, level))
