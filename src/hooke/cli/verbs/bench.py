"""`hooke bench`: load tests of a service, and the highest rate within its SLO."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hooke.base.errors import NotEnoughData, UsageError
from hooke.base.files import write_atomic
from hooke.base.units import parse_seconds
from hooke.charts.latency_chart import latency_plot
from hooke.cli.options import debug_option, is_unicode, json_option, number_list
from hooke.cli.screens import EXIT_STOPPED, CommandSession, say_next
from hooke.loadtest import load_report
from hooke.loadtest.load_result import BenchOrder, BenchResult, LevelResult
from hooke.loadtest.load_test import bench_file, bench_swept, bench_url, is_file
from hooke.loadtest.requests import arrivals_of, bodies_of
from hooke.loadtest.sweep import Sweep, SweepRow, Varied
from hooke.loadtest.target import Target, parse_target, poisson
from hooke.loadtest.token_bench import (
    CHAT,
    COMPLETIONS,
    TRACE,
    TokenLevel,
    TokenOrder,
    TokenTest,
    run_token_test,
    token_facts,
    token_test_of_file,
    token_text,
)
from hooke.planning.curves import curve_of
from hooke.processes.devices import cpus_here
from hooke.project.folder import Project
from hooke.project.token_lengths import read_lengths
from hooke.serving.auth import read_token
from hooke.serving.slo import parse_slo

__all__ = ["bench"]

TOKEN = "HOOKE_TOKEN"  # noqa: S105 - the name of a variable
MOST_RATE = 1e6
MOST_WIDE = 110
MOST_COUNT = 1000
_NOWHERE = Target(host="127.0.0.1", port=0, path="", tls=False)
"""The target until the service of a file listens."""
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("target", metavar="URL|FILE.py[:CLASS]")
@click.option(
    "--data",
    metavar="JSON|@FILE",
    help="The request body, or a file of JSON lines used in turn.  [default: generated from the service's schema]",
)
@click.option(
    "--path", default="", metavar="/METHOD", help="The path to request.  [default: the URL's, or /predict]"
)
@click.option(
    "--slo",
    metavar="SLO",
    help='Such as "p99 < 50ms"; with --lengths "p95 first < 2s, each < 100ms".  [default: that of the class in FILE.py; a URL tells none]',
)
@click.option(
    "--rate",
    "rates",
    metavar="R,R,...",
    help="Requests per second to test, instead of searching for the safe rate.",
)
@click.option(
    "--for",
    "seconds",
    default="5s",
    show_default="5s; 30s with --lengths",
    metavar="TIME",
    help="The duration of each level.",
)
@click.option(
    "--arrivals",
    default="poisson",
    show_default=True,
    metavar="KIND|FILE.csv",
    help="poisson, constant, or a file with a trace; with --lengths also trace: as those came, with the rate given.",
)
@click.option(
    "--lengths",
    metavar="NAME|FILE.csv",
    help="For a language model: stream answers to prompts with these lengths. azure-conversation, azure-code, mooncake, or a file with "
    "the columns prompt, output and optionally t.",
)
@click.option(
    "--length-scale",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="F",
    help="With --lengths: multiply all lengths, for a short context.",
)
@click.option(
    "--connections",
    default=256,
    show_default=True,
    type=click.IntRange(1, 20_000),
    help="The maximum number of connections.",
)
@click.option(
    "--timeout",
    default="5s",
    show_default="5s; 60s with --lengths",
    metavar="TIME",
    help="A later response counts as a failure.",
)
@click.option(
    "--token-file",
    type=_FILE,
    metavar="FILE",
    help=f"File with the service's bearer token.  [default: the variable {TOKEN}]",
)
@click.option("--ca", type=_FILE, metavar="FILE", help="CA certificates to trust, as PEM.")
@click.option(
    "--allow",
    "allowed",
    multiple=True,
    metavar="HOST",
    help="A remote host that may be load-tested. Can be repeated.",
)
@click.option(
    "--with",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="For the service of a file: as for `hooke serve`.",
)
@click.option(
    "--replicas",
    metavar="N,N,...",
    help="For the service of a file: replicas behind Envoy. Several N determine a law.",
)
@click.option(
    "--threads",
    metavar="N,N,...",
    help="For the service of a file: library threads per replica. Several N determine a law.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the arrivals and of generated bodies.")
@click.option(
    "--report", type=_FILE, metavar="FILE.html", help="Write an HTML page with the chart and the table."
)
@json_option
@debug_option
@click.pass_obj
def bench(session: CommandSession, *, target: str, as_json: bool, report: Path | None, **asked: Any) -> int:
    """Load-test a service, and find the highest rate at which it keeps its SLO.

    Requests are sent when they are due, even if earlier ones are unanswered, and latency counts from the due time. So a stall
    of the server shows as its users feel it. The rate rises until the SLO breaks; then the search narrows. The service of a
    FILE.py is started for the test and stopped afterwards. The result holds with 95 % confidence. Levels at which the load
    generator was too slow have no result. Ctrl-C and SIGTERM show the results so far.
    With --lengths, the target is a language model behind OpenAI's protocol: answers are streamed, and the result has the times to the first token and
    for each other one, tokens per second, and the requests within the limits.
    Exit codes: 0 a safe rate, or requested levels that kept the SLO; 1 no safe rate, no result, or counts that disagree;
    2 wrong usage; 130 stopped.
    """
    if report is not None and not report.absolute().parent.is_dir():
        raise UsageError(
            f"--report {report}: its folder does not exist", fix="create the folder, or choose another path"
        )
    if asked["lengths"] is not None:
        if report is not None:
            raise UsageError("--report does not go with --lengths", fix="use --json, or hooke curve --save")
        return _bench_tokens(session, target, as_json=as_json, **_with_token_defaults(asked))
    _refuse_token_options(asked)
    with _ended_by_sigterm():
        done = _measured(target, **asked)
    if is_file(target):
        session.project = Project.find(Path(target.partition(":")[0]))
    if report is not None:
        write_atomic(report, load_report.page_of(done.results).encode())
    if as_json:
        click.echo(json.dumps(load_report.sweep_facts(done), indent=2, allow_nan=False))
    else:
        _show_all(done, session)
    if done.stopped:
        return EXIT_STOPPED
    return 0 if all(result.kept and result.consistent for result in done.results) else 1


def _refuse_token_options(asked: dict[str, Any]) -> None:
    """Take the options of language models out; raises UsageError if one is used."""
    del asked["lengths"]
    if asked.pop("length_scale") != 1:
        raise UsageError("--length-scale is for language models", fix="add --lengths azure-conversation")


def _with_token_defaults(asked: dict[str, Any]) -> dict[str, Any]:
    """Streams take longer than other answers."""
    context = click.get_current_context()
    longer = {"seconds": "30s", "timeout": "60s"}
    given = {name for name in longer if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    return {**asked, **{name: value for name, value in longer.items() if name not in given}}


def _bench_tokens(session: CommandSession, target: str, *, as_json: bool, **asked: Any) -> int:
    """`hooke bench --lengths`."""
    with _ended_by_sigterm():
        test = _token_test(target, **asked)
    if is_file(target):
        session.project = Project.find(Path(target.partition(":")[0]))
    click.echo(json.dumps(token_facts(test), indent=2, allow_nan=False) if as_json else token_text(test))
    if test.run:
        say_next(f"hooke curve {test.run}", session.project)
    return EXIT_STOPPED if test.stopped else 0 if test.kept else 1


def _token_test(target: str, **asked: Any) -> TokenTest:
    if asked["data"]:
        raise UsageError("--data does not go with --lengths", fix="omit one of them")
    rates = _rates(asked["rates"])
    if not rates:
        raise UsageError("--lengths needs the rates to test", fix="give requests per second: --rate 0.5,1,2")
    of_file = is_file(target)
    counts = {
        name: number_list(f"--{name}", asked[name], most=MOST_COUNT) or () for name in ("replicas", "threads")
    }
    several = [name for name, given in counts.items() if len(given) > 1]
    if several:
        raise UsageError(f"--lengths takes one number of --{several[0]}", fix="run it once for each")
    _check_together(
        target,
        own=bool(asked["token_file"] or asked["allowed"]),
        varied=bool(asked["given"] or any(counts.values())),
    )
    order = _token_order(
        _NOWHERE if of_file else parse_target(target, allowed=asked["allowed"]), rates, asked
    )
    if not of_file:
        token = read_token(asked["token_file"]) if asked["token_file"] else os.environ.get(TOKEN, "")
        return run_token_test(replace(order, token=token), tell=_tell_tokens)
    words = [word for each in asked["given"] for word in ("--with", each)]
    with contextlib.redirect_stdout(sys.stderr):
        return token_test_of_file(
            order,
            target,
            words=words,
            tell=_tell_tokens,
            **{name: given[0] for name, given in counts.items() if given},
        )


def _token_order(address: Target, rates: tuple[float, ...], asked: dict[str, Any]) -> TokenOrder:
    lengths = read_lengths(asked["lengths"]).scaled(asked["length_scale"])
    path = asked["path"] or address.path or COMPLETIONS
    if path not in (COMPLETIONS, CHAT):
        raise UsageError(f"--path {path} streams no tokens", fix=f"valid: {COMPLETIONS}, {CHAT}")
    if asked["arrivals"] == TRACE and lengths.due is None:
        raise UsageError(
            f"{asked['lengths']} does not say when requests came",
            fix="add a column t with seconds, or omit --arrivals",
        )
    return TokenOrder(
        target=address,
        path=path,
        lengths=lengths,
        rates=rates,
        seconds=_positive("--for", asked["seconds"]),
        arrivals=poisson if asked["arrivals"] == TRACE else arrivals_of(asked["arrivals"]),
        arrivals_name=asked["arrivals"],
        connections=asked["connections"],
        timeout_s=_positive("--timeout", asked["timeout"]),
        ca=str(asked["ca"] or ""),
        seed=asked["seed"],
        slo=parse_slo(asked["slo"], of_tokens=True) if asked["slo"] else None,
    )


def _tell_tokens(level: TokenLevel) -> None:
    click.echo(
        f"{level.rate:g}/s: {level.answered:,} of {level.count:,} answered{', ' + level.limited if level.limited else ''}",
        err=True,
    )


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: the results so far are shown, and what was started is ended."""
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _measured(
    target: str,
    *,
    data: str | None,
    token_file: Path | None,
    allowed: tuple[str, ...],
    path: str,
    **asked: Any,
) -> Sweep:
    given, threads = asked.pop("given"), number_list("--threads", asked.pop("threads"), most=MOST_COUNT) or ()
    replicas = number_list("--replicas", asked.pop("replicas"), most=MOST_COUNT) or ()
    of_file = is_file(target)
    _check_together(target, own=bool(token_file or allowed), varied=bool(given or replicas or threads))
    address = _NOWHERE if of_file else parse_target(target, allowed=allowed)
    order = _order(address, path=path, **asked)
    bodies = bodies_of(data) if data is not None else []
    if not of_file:
        token = read_token(token_file) if token_file else os.environ.get(TOKEN, "")
        result = bench_url(order, bodies, token=token, tell=_tell)
        return Sweep(lines=(SweepRow(results=(result,), counts="replicas", study=""),))
    words = [word for each in given for word in ("--with", each)]
    varied = Varied(replicas=replicas, threads=threads)

    def measure(count: int | None, number: int | None) -> BenchResult:
        if count is not None or number is not None:
            behind = f"{count} replica{'s' * (count != 1)} behind Envoy" if count else "one replica"
            click.echo(f"{behind}{f', {number} thread' + 's' * (number != 1) if number else ''}", err=True)
        return bench_file(
            order, bodies, entry=target, words=words, path=path, tell=_tell, replicas=count, threads=number
        )

    with contextlib.redirect_stdout(sys.stderr):
        return bench_swept(varied, measure, entry=target, words=words)


def _check_together(target: str, *, own: bool, varied: bool) -> None:
    """Raises UsageError for options of the other kind of target: `own` belong to an address, `varied` to a file."""
    of_file = is_file(target)
    if not of_file and Path(f"{target.partition(':')[0]}.py").is_file():
        raise UsageError(
            f"{target} is neither an address nor a file", fix=f"did you mean {target.partition(':')[0]}.py?"
        )
    if of_file and own:
        raise UsageError(
            "--token-file and --allow are for a running service, and the service of a file is started here",
            fix="omit them",
        )
    if varied and not of_file:
        raise UsageError(
            "--with, --replicas and --threads are for the service of a file",
            fix="omit them, or pass a FILE.py",
        )


def _order(  # noqa: PLR0913 - the options
    address: Target,
    *,
    path: str,
    slo: str | None,
    rates: str | None,
    seconds: str,
    arrivals: str,
    connections: int,
    timeout: str,
    ca: Path | None,
    seed: int,
) -> BenchOrder:
    return BenchOrder(
        target=address,
        path=path or address.path or "/predict",
        requests=(),
        slo=parse_slo(slo, of_tokens=False) if slo else None,
        rates=_rates(rates),
        seconds=_positive("--for", seconds),
        arrivals=arrivals_of(arrivals),
        arrivals_name=arrivals,
        connections=connections,
        timeout_s=_positive("--timeout", timeout),
        ca=str(ca or ""),
        seed=seed,
    )


def _tell(order: BenchOrder, level: LevelResult) -> None:
    click.echo(load_report.level_line(level, order.slo), err=True)


def _show_all(done: Sweep, session: CommandSession) -> None:
    for line in done.lines:
        for result in line.results:
            if len(done.results) > 1:
                click.echo("\n" + load_report.heading(result))
            _show(result)
        if len(line.results) > 1:
            _show_line(line, session)
    kept = [line.study for line in done.lines if line.study]
    if kept:
        click.echo(f"saved for plans: {', '.join(kept)}", err=True)


def _show_line(line: SweepRow, session: CommandSession) -> None:
    click.echo()
    for sentence in load_report.compared(line, cores=cpus_here()):
        click.echo(sentence)
    if line.study and session.project is not None:
        try:
            curve = curve_of(session.project.runs, line.study)
            click.echo(curve.text(colour=not os.environ.get("NO_COLOR"), plain=not is_unicode()))
        except NotEnoughData as refusal:
            click.echo(f"no law over {line.counts} yet: {refusal}")
        say_next(f"hooke curve {line.study}", session.project)


def _show(result: BenchResult) -> None:
    if result.levels:
        click.echo(load_report.table(result))
        click.echo()
    picture = load_report.picture_of(result)
    if picture is not None and len(picture.series[0].rate) > 1:
        colour = not os.environ.get("NO_COLOR")
        width = min(shutil.get_terminal_size().columns, MOST_WIDE)
        click.echo(latency_plot(picture, width=width, colour=colour, ascii_only=not is_unicode()))
        click.echo()
    for sentence in load_report.sentences(result):
        click.echo(sentence)


def _rates(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        found = tuple(float(each) for each in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < each <= MOST_RATE for each in found):
        raise UsageError(
            f"--rate {text} is not a rate",
            fix=f"use requests per second, up to {MOST_RATE:,.0f}: --rate 100, or --rate 100,200,400",
        )
    return found


def _positive(option: str, text: str) -> float:
    seconds = parse_seconds(text, name=option)
    if not seconds:
        raise UsageError(f"{option} must be longer than 0", fix=f"write {option} 5s")
    return seconds
