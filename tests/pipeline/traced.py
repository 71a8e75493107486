"""Tasks to trace, and the trace of a body."""

from hooke import pipeline, task
from hooke.pipeline.trace import trace


@task
def source(value=0):
    return value


@task
def add(one, other=1, *rest, scale=1):
    return (one + other + sum(rest)) * scale


@task
def rows(n):
    return list(range(n))


@task
def pair(value=0) -> tuple[int, int]:
    return value, value + 1


def traced(body, *args, **kwargs):
    return trace(pipeline(name="flow")(body), args, kwargs)
