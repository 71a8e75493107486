"""Values by reference: what is packed with promises comes out with what they stand for."""

import pytest

from hooke.base.errors import MissingObject
from hooke.base.ref import Ref
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.references import (
    Awaited,
    Element,
    Packed,
    StoredItems,
    StoredValue,
    pack,
    pack_small,
    parts_of,
    resolve,
    unpack,
)
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace
from hooke.store.store import Store


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "store")


@task
def one(x):
    return x


def test_each_kind_of_reference_resolves(store):
    whole, numbers = store.put({"a": [1, {"b": 2}]}), store.put([10, 11, 12, (13, "x")])
    assert resolve(StoredValue(whole), store) == {"a": [1, {"b": 2}]}
    assert resolve(StoredValue(whole, ("a", 1, "b")), store) == 2
    assert resolve(Element(numbers, 2), store) == 12
    assert resolve(Element(numbers, 3, (1,)), store) == "x"
    assert resolve(StoredItems(((numbers, 2, 1), (numbers, 0, 2))), store) == [12, 10, 11]
    assert resolve(StoredItems(((numbers, 0, 4),), (slice(1, 3),)), store) == [11, 12]
    assert resolve(StoredItems(()), store) == []


def test_what_was_packed_before_is_one_object_within_a_call_and_another_in_the_next(store):
    packed = Packed(pack({"a": [1]}, no_promise), 3)
    for wrapped in ([packed, {"b": packed}], [packed, {"b": packed}, frozenset({1})]):
        data = pack(wrapped, no_promise)
        first, second = unpack(data, store), unpack(data, store)
        assert first[:2] == [{"a": [1]}, {"b": {"a": [1]}}]
        assert first[0] is first[1]["b"]
        assert first[0] is not second[0]


def test_small_arguments_are_packed_as_all_are():
    for args, kwargs in [((), {}), ((1, "a", None, 2.5), {}), ((b"x",), {"by": range(3)})]:
        assert pack_small(args, kwargs, no_promise) == pack((list(args), kwargs), no_promise)
    for args, kwargs in [(([],), {}), ((1,), {"by": {}}), (("x" * 2000,), {}), ((True, object()), {})]:
        assert pack_small(args, kwargs, no_promise) is None


@pytest.mark.parametrize(
    ("reference", "is_small"),
    [
        (StoredValue(Ref("0" * 64, 100, b"x")), True),
        (StoredValue(Ref("0" * 64, 100, b"x"), (0,)), True),
        (Awaited(), True),
        (StoredValue(Ref("0" * 64, 2000, b"x" * 2000)), False),
        (Element(Ref("0" * 64, 100, b"x"), 1), False),
    ],
)
def test_small_results_are_packed_as_all_are(reference, is_small):
    @pipeline
    def one_result():
        return one(1)

    args, kwargs = [trace(one_result).output], {"by": 2}
    packed = pack_small(args, kwargs, lambda _: reference)
    assert packed == (pack((args, kwargs), lambda _: reference) if is_small else None)


def no_promise(promise):
    pytest.fail(f"{promise} is no promise")


def test_a_gone_object_is_said_to_be_missing(store):
    with pytest.raises(MissingObject):
        resolve(StoredValue(Ref("0" * 64, 10**6)), store)


def test_promises_are_replaced_wherever_they_are_nested(store):
    @pipeline
    def nested():
        a = one(1)
        return {"list": [a, a["part"]], "tuple": (a,), 5: "plain"}

    graph = trace(nested)
    ref = store.put({"part": 7})
    asked = []

    def refer(promise):
        asked.append((promise.node, tuple(promise.path)))
        return StoredValue(ref, tuple(promise.path))

    data = pack(graph.output, refer)
    assert unpack(data, store) == {"list": [{"part": 7}, 7], "tuple": ({"part": 7},), 5: "plain"}
    assert set(asked) == {(0, ()), (0, ("part",))}


def test_references_inside_values_are_resolved_too(store):
    ref = store.put("large")
    assert unpack(pack([StoredValue(ref), 1], lambda _: None), store) == ["large", 1]


def test_lambdas_and_classes_of_main_travel(store):
    assert unpack(pack(lambda x: x + 1, lambda _: None), store)(1) == 2


@pytest.mark.parametrize(("path", "error"), [((5,), IndexError), (("no",), TypeError), ((0, "a"), TypeError)])
def test_a_part_that_is_not_there_raises_what_python_raises(path, error):
    with pytest.raises(error):
        parts_of([1, 2], path)
