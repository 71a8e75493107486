"""Runs a load test: single requests first, then one level after another, until the result is clear."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import select
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import msgspec
import numpy as np

from hooke.base.distributions import install_command
from hooke.base.errors import HookeError, MissingExtra, UsageError
from hooke.loadtest import generator_protocol as protocol
from hooke.loadtest.load_result import ENOUGH, BenchOrder, BenchResult, Handled, LevelResult, ServerUse
from hooke.loadtest.rate_search import (
    LevelSummary,
    LevelVerdict,
    Seen,
    encoded,
    needed,
    next_rate,
    safe_rate,
    summary_of,
)
from hooke.loadtest.requests import OF_LENGTHS, Sent, described, given, made_for_file, made_for_url
from hooke.loadtest.sweep import Sweep, SweptService, Varied, sweep
from hooke.loadtest.target import parse_target, request_bytes
from hooke.processes.devices import cpus_here
from hooke.processes.start import python_module, start_with_channel, with_parent
from hooke.processes.usage import ProcessTreeUsage
from hooke.project.folder import Project
from hooke.project.pipeline_file import code_of
from hooke.scaling.affine import Affine
from hooke.scaling.families import Floats
from hooke.services.serve_file import load_service
from hooke.services.service_report import law_lines, read_service
from hooke.services.shares import thread_variables
from hooke.serving.service import Service
from hooke.serving.stats_windows import merge_windows

__all__ = [
    "Generator",
    "ServedFile",
    "bench_file",
    "bench_swept",
    "bench_url",
    "is_file",
    "outcomes_of",
    "require_generator",
]


# --- The parent's side of the generator's process.

TICK_S = 0.25
STDERR = 2
"""Where the process prints: stdout is for reports."""


class Generator:
    """A process that sends requests. Use it in `with`, which ends the process."""

    def __init__(self, goal: protocol.Goal) -> None:
        self._goal = goal

    def __enter__(self) -> Self:
        self._process, self._channel = start_with_channel(
            lambda theirs: python_module("hooke.loadtest.generator_process", str(theirs)), output=STDERR
        )
        self._tell(self._goal)
        return self

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def run(
        self, due: Floats, *, timeout_s: float, tick: Callable[[], None] = lambda: None
    ) -> protocol.LevelReport:
        """Send requests at `due` (n,) seconds from now, and wait until each has its answer or has timed out.

        Meanwhile `tick` is called some times a second. Ctrl-C ends the level, whose report is then `stopped`.
        Raises HookeError if the process died.
        """
        self._tell(
            protocol.Level(due=np.ascontiguousarray(due, dtype=np.float64).tobytes(), timeout_s=timeout_s)
        )
        try:
            return self._report(tick)
        except KeyboardInterrupt:
            self.stop()
            return self._report(tick)

    def stop(self) -> None:
        """End the level now, from another thread: its report then says `stopped`."""
        self._tell(protocol.Stop())

    def _report(self, tick: Callable[[], None]) -> protocol.LevelReport:
        while not select.select([self._channel], [], [], TICK_S)[0]:
            tick()
        try:
            return msgspec.msgpack.decode(self._channel.receive(), type=protocol.LevelReport)
        except (EOFError, OSError):
            raise self._died() from None

    def _tell(self, question: protocol.Question) -> None:
        try:
            self._channel.send(protocol.encode(question))
        except OSError:
            raise self._died() from None

    def _died(self) -> HookeError:
        code = self._process.wait()
        return HookeError(f"the load generator ended with exit code {code}", why="its output is above")


def outcomes_of(due: Floats, report: protocol.LevelReport) -> protocol.Outcomes:
    """The outcomes of the requests that were due."""
    return protocol.Outcomes(
        due=due,
        begun=np.frombuffer(report.begun),
        ended=np.frombuffer(report.ended),
        status=np.frombuffer(report.status, dtype=np.int16),
    )


# --- Starts a service with `hooke serve` for a load test, in its own process group, and ends it afterwards.

SPARE_S = 30.0
"""How long the end may take beyond the service's timeout before the process is killed."""
LINES = 20
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Ignores the environment's proxy, which must not see the token."""


class ServedFile:
    """A service in `with ServedFile(...) as served`, at `served.url` with the bearer token `served.token`.

    Entering it raises HookeError with the last lines of output if the service does not start.
    """

    def __init__(
        self,
        entry: str,
        *,
        words: Sequence[str],
        timeout_s: float,
        replicas: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.token = secrets.token_urlsafe(24)
        self.url = ""
        self.pid = 0
        self._entry = entry
        self._words = [*words, *(["--replicas", str(replicas)] if replicas is not None else [])]
        if threads is not None:
            self._words += ["--threads", str(threads)]
        self._environment = os.environ | (thread_variables(threads) if threads is not None else {})
        self._replicas = replicas
        self._timeout_s = timeout_s
        self._lines: deque[str] = deque(maxlen=LINES)
        self._up = threading.Event()
        self.run = ""
        """Its run, once it has ended."""

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="hooke-bench-")
        file = Path(self._folder.name) / "token"
        file.touch(mode=0o600)
        file.write_text(self.token)
        words = [self._entry, "--port", "0", "--token-file", str(file), *self._words]
        command = [*with_parent(signal.SIGTERM), *python_module("hooke", "serve", *words)]
        self._process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, process_group=0, env=self._environment
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name="hooke-served", daemon=True)
        self._reader.start()
        try:
            self._await_up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=self._timeout_s + SPARE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._reader.join()
        self._folder.cleanup()

    def batches(self) -> tuple[float, float] | None:
        """The numbers of batches and of their rows so far, from its metrics; None with several replicas, whose metrics are separate."""
        if self._replicas is not None:
            return None
        asked = urllib.request.Request(  # noqa: S310 - our own service
            f"{self.url}/-/metrics", headers={"authorization": f"Bearer {self.token}"}
        )
        try:
            with _DIRECT.open(asked, timeout=self._timeout_s) as answer:
                text = answer.read().decode()
        except OSError:
            return None  # too busy: the table omits it
        found = dict(re.findall(r"^hooke_batch_rows_(count|sum)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE))
        return (float(found["count"]), float(found["sum"])) if len(found) == 2 else None

    def handled(self, project: Project, method: str) -> Handled | None:
        """The journalled counts and batch durations of the method, after the service's end; None if it has no journal."""
        if not self.run:
            return None
        record = read_service(project.runs.folder(self.run))
        whole = merge_windows(record.windows)
        law = record.laws().get(method)
        return Handled(
            run=self.run,
            requests=whole.requests,
            batches=whole.batches,
            rows=whole.rows,
            law=tuple(law_lines(record, lacking=False)),
            batch_s=(law.a.ends, law.b.ends) if isinstance(law, Affine) else None,
        )

    def _await_up(self) -> None:
        while not self._up.wait(0.1):
            if self._process.poll() is not None:
                self._reader.join()
                break
        if not self.url or not self._up.is_set():
            raise HookeError(
                f"{self._entry} did not start", why="\n".join(self._lines), next=f"hooke serve {self._entry}"
            )

    def _ready_pattern(self) -> str:
        """The pattern of the line that it prints when it is ready."""
        if self._replicas is None:
            return r" answers: POST /"
        return rf" {self._replicas} of {self._replicas} replicas answer$"

    def _read(self) -> None:
        """Read its output: its address, that it is ready, and its run."""
        assert self._process.stderr is not None
        with self._process.stderr as said:
            for line in said:
                self._lines.append(line.rstrip())
                if found := re.search(r" (?:is being set up, on|listens on) (https?://\S+)$", line):
                    self.url = found[1]
                elif re.search(self._ready_pattern(), line):
                    self._up.set()
                elif found := re.search(r"^next: hooke show (\S+)", line):
                    self.run = found[1]


LONE, LONE_GAP_S = 10, 0.05
WARM_SHARE, WARM_MOST_S = 0.2, 1.0
MOST_REQUESTS = 20_000_000
"""Requests of a level; each takes about 30 bytes in both processes."""


def run_load_test(
    order: BenchOrder, *, usage: ProcessTreeUsage | None, tell: Callable[[LevelResult], None]
) -> BenchResult:
    """Run a load test. `tell` receives each level when it is over. `usage` watches the server's processes.

    Ctrl-C ends it, and the result has what was measured. Raises UsageError if the first request has no 2xx answer because
    of the request, HookeError if because of the server.
    """
    goal = protocol.Goal(
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
            # A second look at a rate that stayed unclear is twice as long.
            longer = 2.0 if (rate, LevelVerdict.UNCLEAR) in self.seen else 1.0
            enough = min(ENOUGH * needed(order.slo) / rate, order.longest_s(self.lone_s))
            seconds = longer * max(seconds, enough)
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
        outcomes: protocol.Outcomes,
        counted: protocol.Outcomes,
        report: protocol.LevelReport,
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

    def _run(self, due: np.ndarray) -> tuple[protocol.Outcomes, protocol.LevelReport]:
        tick = self.usage.sample if self.usage else lambda: None
        report = self.generator.run(due, timeout_s=self.order.timeout_s, tick=tick)
        outcomes = outcomes_of(due, report)
        self.answered += int(outcomes.answered.sum())
        self.unheard += int(
            np.isin(outcomes.status, [protocol.Fate.TIMED_OUT, protocol.Fate.LOST, protocol.Fate.CUT]).sum()
        )
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


def _cpu(report: protocol.LevelReport) -> float:
    return report.cpu_s / max(report.wall_s, 1e-9)


def _no_answer(order: BenchOrder, outcomes: protocol.Outcomes, report: protocol.LevelReport) -> HookeError:
    """The error for a first request without a 2xx answer."""
    status = int(outcomes.status[~outcomes.answered][0])
    url = order.url
    said = _readable(report.said.get(status, ""))
    if status == protocol.Fate.REFUSED:
        return UsageError(
            f"nothing answers at {order.target.authority}",
            why=said,
            fix="start the service with hooke serve FILE.py, or give the address that it prints",
        )
    if status < 0:
        return HookeError(
            f"{url} gave no answer within {order.timeout_s:g} s"
            if status == protocol.Fate.TIMED_OUT
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
    if order.sent.made_from and status not in protocol.REFUSALS and status not in (401, 403):
        said = f"{said}\nthe request was {order.sent}"
        fix = "its schema does not say enough: give a body with --data '{...}' or --data @FILE"
    kind = HookeError if status in protocol.REFUSALS or status >= 500 else UsageError
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
    # A promise about tokens says nothing of whole answers.
    slo = order.slo or (declared.slo if declared.protocol is None else None)
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
    if declared.protocol is not None:
        raise UsageError(
            f"{declared.name} is a language model, whose answers are as long as their tokens",
            fix=f"give lengths of prompts and answers: {OF_LENGTHS}; or a route, such as --path /v1/embeddings, with --data",
        )
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


def require_generator() -> None:
    """Raises MissingExtra if what the load generator needs is not installed."""
    missing = [name for name in ("httptools", "uvloop", "hdrh") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"a load test needs {missing[0]}, which is not installed", fix=install_command("serve")
        )


def _measured(order: BenchOrder, usage: ProcessTreeUsage | None, tell: Tell) -> BenchResult:
    require_generator()
    return run_load_test(order, usage=usage, tell=lambda level: tell(order, level))
