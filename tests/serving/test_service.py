"""What `@service` takes, what it refuses, and that the class stays what it was."""

import numpy as np
import pytest
from tests.serving.services import Kinds, Rows

from hooke import UsageError, service
from hooke.serving.service import service_of
from hooke.serving.slo import Slo, parse_slo


def test_an_object_of_it_is_a_plain_one():
    rows = Rows()
    rows.setup(scale=3.0)
    assert rows.predict(np.array([[1.0, 2.0]])).tolist() == [9.0]
    assert Rows.__name__ == "Rows"
    assert list(Kinds().count(2)) == [{"i": 0}, {"i": 1}]


def test_what_was_declared():
    @service(replicas=(0, 8), slo="p99 < 50ms", max_batch=64, timeout="2s", wait="1ms", idempotent=True)
    class Delay:
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return rows

    declared = service_of(Delay)
    assert (declared.replicas, declared.max_batch, declared.timeout_s, declared.wait_s) == (
        (0, 8),
        64,
        2.0,
        0.001,
    )
    assert declared.slo == Slo(99.0, 0.05)
    assert str(declared.slo) == "p99 < 50.0 ms"
    assert declared.idempotent
    with pytest.raises(UsageError, match="is not a service"):
        service_of(type("Heir", (Delay,), {}))


def test_public_methods_answer_and_nothing_else():
    names = list(service_of(Kinds).methods())
    assert "count" in names
    assert not {"setup", "not_served", "_nor_this"} & set(names)


def test_a_method_that_is_hidden_below_is_not_served():
    class Parent:
        def predict(self, x: int) -> int:
            return x

        def gone(self) -> int:
            return 1

    @service
    class Child(Parent):
        gone = None

    assert list(service_of(Child).methods()) == ["predict"]


@pytest.mark.parametrize(
    ("options", "wait_s", "fill"),
    [
        ({}, 0.0, False),
        ({"wait": "auto"}, 0.0, True),
        ({"replicas": 2}, 0.0, True),
        ({"replicas": (1, 8), "wait": 0}, 0.0, False),
        ({"replicas": 2, "wait": "2ms"}, 0.002, False),
    ],
)
def test_several_replicas_wait_while_it_pays_unless_something_else_is_said(options, wait_s, fill):
    declared = service_of(service(max_batch=8, **options)(class_with(f=lambda self, rows: rows)))
    assert (declared.wait_s, declared.fill) == (wait_s, fill)


def class_with(**members):
    return type("Made", (), members)


@pytest.mark.parametrize(
    ("made", "options", "said"),
    [
        (lambda x: x, {}, "not a class"),
        (class_with(), {}, "has no public method"),
        (class_with(setup=lambda self: 1), {}, "has no public method"),
        (class_with(f=lambda self, *rows: rows), {}, r"\*rows"),
        (class_with(f=lambda: 1), {}, "no self"),
        (class_with(__init__=lambda self, model: None, f=lambda self: 1), {}, "needs model"),
        (class_with(f=lambda self: 1), {"slo": "fast"}, "not a valid promise"),
        (class_with(f=lambda self: 1), {"slo": "p99 < 0s"}, "not a valid promise"),
        (class_with(f=lambda self: 1), {"replicas": (3, 1)}, "allows no replica"),
        (class_with(f=lambda self: 1), {"replicas": -1}, "not a valid number of replicas"),
        (class_with(f=lambda self: 1), {"replicas": True}, "not a valid number of replicas"),
        (class_with(f=lambda self: 1), {"max_batch": 0}, "not a valid number of rows"),
        (class_with(f=lambda self: 1), {"timeout": 0}, "leaves no time"),
        (class_with(f=lambda self: 1), {"standby": True, "gpus": 1}, "would hold a GPU"),
        (class_with(f=lambda self: 1), {"wait": "soon"}, "not a duration"),
    ],
)
def test_what_cannot_serve_is_refused_with_a_mend(made, options, said):
    with pytest.raises(UsageError, match=said) as refused:
        (service(**options) if options else service)(made)
    assert refused.value.fix
    assert "test_service.py:" in refused.value.where


def test_promises_read_as_they_are_written():
    assert parse_slo("p99.9<1s") == Slo(99.9, 1.0)
    with pytest.raises(UsageError):
        parse_slo("p99 < soon")


def test_where_the_model_runs():
    plain = class_with(f=lambda self, x: x)
    assert service_of(service(model="process")(plain)).model == "process"
    assert service_of(service()(plain)).model == "thread"
    with pytest.raises(UsageError, match="is not valid"):
        service(model="thred")

    async def later(self, x):
        return x

    with pytest.raises(UsageError, match="later is async def") as refused:
        service(model="process")(class_with(later=later))
    assert "write def" in refused.value.fix
