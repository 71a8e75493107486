"""A load test of a URL, or of a service of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from hooke.base.cpus import cpus_here
from hooke.base.errors import MissingExtra, UsageError
from hooke.load.target import parse_target, request_bytes
from hooke.project.benching.order import BenchOrder
from hooke.project.benching.result import BenchResult, LevelResult
from hooke.project.benching.sent import Sent, described, given, made_for_file, made_for_url
from hooke.project.benching.served import ServedFile
from hooke.project.benching.sweep import About, Sweep, Varied, sweep
from hooke.project.benching.usage import Usage
from hooke.project.folder import Project
from hooke.project.service_code import code_of
from hooke.project.serving import load_service
from hooke.serving.service import Service

__all__ = ["bench_file", "bench_swept", "bench_url", "is_file"]

Tell = Callable[[BenchOrder, LevelResult], None]
"""Is called with what is asked for and each level when it is over."""


def is_file(text: str) -> bool:
    """Whether it names a file of Python rather than an address."""
    return "://" not in text and text.partition(":")[0].endswith(".py")


def bench_url(order: BenchOrder, bodies: Sequence[bytes], *, token: str, tell: Tell) -> BenchResult:
    """Measure the service at a URL; without bodies these are made from its OpenAPI document. Raises UsageError, HookeError, MissingExtra."""
    _check_asked(order, order.target.authority)
    if bodies:
        sent = given(bodies)
    else:
        document = described(order.target, token=token, ca=order.ca, timeout_s=order.timeout_s)
        sent = made_for_url(document, order.target, order.path, seed=order.seed)
    return _conducted(_with_requests(order, sent, token), None, tell)


def bench_file(  # noqa: PLR0913 - each is another choice of the user
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
    """Start the service of a file, measure it, and end it. `words` are further ones for `hooke serve`.

    Without bodies these are made from the annotations of the method. Without a promise in the order the service's own is tested, where no rates are asked for; `path` is "" for its only method.
    With `replicas` so many serve behind Envoy; without, as few as the class declares, and a single one without Envoy.
    With `threads` the libraries of each have so many; without, as many as the class declares, or its part of the cores.
    Raises UsageError, MissingExtra, and HookeError where it does not come up.
    """
    declared, file = load_service(entry)
    chosen = path or _only_path(declared)
    slo = order.slo or declared.slo
    _check_asked(dataclasses.replace(order, slo=slo), f"{declared.name}{chosen}")
    sent = given(bodies) if bodies else made_for_file(declared, chosen, seed=order.seed)
    if replicas is None and declared.replicas != (1, 1):
        replicas = max(
            declared.replicas[0], 1
        )  # a number that changes while it is measured would be no answer
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
        result = _conducted(_with_requests(made, sent, served.token), Usage(served.pid, served.batches), tell)
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
    """Measure the service of a file with each number of replicas and threads, and keep the safe rates as studies. Raises what `measure` raises."""
    declared, file = load_service(entry)
    about = About(
        project=Project.find(file),
        entry=f"{file}:{declared.name}",
        key=code_of(declared.made_by),
        given=" ".join(words[1::2]),
    )
    return sweep(varied, measure, about=about)


def _check_asked(order: BenchOrder, name: str) -> None:
    if order.slo is None and not order.rates:
        raise UsageError(
            f"{name} promises nothing that is known here, so there is no rate to look for",
            mend='give --slo "p99 < 50ms", or a rate: --rate 100',
        )


def _only_path(declared: Service) -> str:
    names = list(declared.methods())
    if len(names) > 1 and "predict" not in names:
        raise UsageError(
            f"{declared.name} has several methods",
            mend=f"name one: {', '.join(f'--path /{name}' for name in names)}",
        )
    return "/predict" if "predict" in names else f"/{names[0]}"


def _with_requests(order: BenchOrder, sent: Sent, token: str) -> BenchOrder:
    requests = tuple(request_bytes(order.target, order.path, body, token=token) for body in sent.bodies)
    return dataclasses.replace(order, requests=requests, sent=sent)


def _conducted(order: BenchOrder, usage: Usage | None, tell: Tell) -> BenchResult:
    missing = [name for name in ("httptools", "uvloop", "hdrh") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"a load test needs {missing[0]}, which is not installed", mend='pip install "hooke[serve]"'
        )
    from hooke.project.benching.conduct import conduct

    return conduct(order, usage=usage, tell=lambda level: tell(order, level))
