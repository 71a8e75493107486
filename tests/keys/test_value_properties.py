"""Equal inputs have equal keys in every process; different inputs never do. Over a wide generator."""

import datetime as dt
import decimal
import fractions
import importlib.util
import os
import pathlib
import pickle
import random
import subprocess
import sys
import uuid
from collections import Counter, OrderedDict, deque

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hooke.keys import combine, fingerprint_items, fingerprint_value
from hooke.keys.fingerprint import BATCH, index_items, item_keys, own_keys

FOLDER = pathlib.Path(__file__).parent
if "shapes" not in sys.modules:
    _spec = importlib.util.spec_from_file_location("shapes", FOLDER / "shapes.py")
    sys.modules["shapes"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["shapes"])
shapes = sys.modules["shapes"]

small = st.integers(-2, 2)
hashable = st.one_of(
    st.none(),
    st.booleans(),
    small,
    st.integers(),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(max_size=3),
    st.binary(max_size=3),
    st.sampled_from([shapes.Way.UP, shapes.Way.DOWN]),
    st.decimals(allow_nan=False),
    st.fractions(),
    st.uuids(),
    st.dates(),
    st.times(),
    st.datetimes(timezones=st.one_of(st.none(), st.just(dt.UTC), st.timezones())),
    st.timedeltas(),
    st.builds(range, small, small, st.sampled_from([-2, -1, 1, 2])),
    st.text("ab/", max_size=3).map(pathlib.PurePosixPath),
    st.builds(shapes.Miles, st.floats(allow_nan=False)),
)
arrays = st.one_of(
    st.builds(
        lambda items, kind: np.array(items, dtype=kind),
        st.lists(st.integers(0, 3), max_size=4),
        st.sampled_from(["i1", "u1", "<i4", ">i4", "f4", "f8", "?", "U2", "S2", "datetime64[s]", "O", "c8"]),
    ),
    st.builds(lambda n, m: np.arange(n * m).reshape(n, m), st.integers(0, 3), st.integers(0, 3)),
    small.map(np.int8),
    st.floats(allow_nan=False).map(np.float64),
)


def containers(inner):
    """Containers and objects of what is given."""
    keyed = st.dictionaries(hashable, inner, max_size=3)
    listed = st.lists(inner, max_size=3)
    return st.one_of(
        listed,
        listed.map(tuple),
        keyed,
        keyed.map(OrderedDict),
        listed.map(deque),
        listed.map(shapes.Route),
        st.sets(hashable, max_size=4),
        st.frozensets(hashable, max_size=4),
        st.lists(st.text("ab", max_size=2), max_size=4).map(Counter),
        st.builds(slice, inner, inner),
        st.builds(shapes.Leg, st.text(max_size=1), inner),
        st.builds(shapes.Flight, inner, inner, st.sets(small)),
        st.builds(shapes.Wind, inner, inner),
        st.builds(shapes.Plane, inner, inner),
        st.builds(shapes.Airport, inner, inner),
        st.builds(shapes.Slotted, inner),
    )


values = st.recursive(
    st.one_of(hashable, arrays, st.binary(max_size=2).map(bytearray)), containers, max_leaves=12
)


def form(value):
    """What a value is, by an independent road: nested tuples of type names and exact text, unordered things sorted."""
    kind = type(value).__qualname__
    if isinstance(value, (set, frozenset)):
        return kind, tuple(sorted(map(repr, map(form, value))))
    if isinstance(value, dict) and not isinstance(value, OrderedDict):
        return kind, tuple(sorted(repr((form(key), form(item))) for key, item in value.items()))
    if isinstance(value, OrderedDict):
        return kind, tuple((form(key), form(item)) for key, item in value.items())
    if isinstance(value, np.ndarray):
        return kind, value.dtype.str, value.shape, form(value.ravel().tolist())
    if isinstance(value, range):
        return kind, tuple(value)
    if isinstance(value, complex):
        return kind, value.real.hex(), value.imag.hex()
    if isinstance(value, shapes.Way):
        return kind, value.name
    if isinstance(value, slice):
        return kind, form(value.start), form(value.stop), form(value.step)
    if isinstance(value, (list, tuple, deque)):
        return kind, tuple(map(form, value))
    if isinstance(value, dt.datetime):
        return kind, repr(value), str(value.tzinfo), value.fold
    if type(value).__module__ != "shapes":
        return kind, str(getattr(value, "dtype", "")), repr(value)
    names = getattr(value, "__slots__", None) or getattr(value, "__struct_fields__", None) or ()
    fields = {name: getattr(value, name) for name in names if hasattr(value, name)} | getattr(
        value, "__dict__", {}
    )
    exact = value.hex() if isinstance(value, float) else "" if fields else repr(value)
    return kind, exact, tuple((name, form(item)) for name, item in sorted(fields.items()))


class Child:
    """Another Python, with another hash seed, that fingerprints what it is sent."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, str(FOLDER / "echo_child.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONHASHSEED": "4242"},
        )

    def keys(self, given_values):
        data = pickle.dumps(given_values, protocol=5)  # 4 gives big-endian arrays back as little-endian
        self.process.stdin.write(len(data).to_bytes(8, "little") + data)
        self.process.stdin.flush()
        return self.process.stdout.readline().decode().split()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@pytest.fixture(scope="module")
def child():
    process = Child()
    yield process
    process.close()


relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=100)


@pytest.mark.needs("processes")
@relaxed
@given(st.lists(values, max_size=10))
def test_equal_inputs_have_equal_keys_across_processes_and_hash_seeds(child, given_values):
    assert child.keys(given_values) == [fingerprint_value(value) for value in given_values]


@pytest.mark.needs("cpu")
@relaxed
@given(values, values)
def test_keys_are_equal_exactly_when_the_values_are_the_same(a, b):
    assert (fingerprint_value(a) == fingerprint_value(b)) == (form(a) == form(b))


@pytest.mark.long
@pytest.mark.needs("cpu")
@settings(deadline=None, max_examples=15)
@given(st.lists(values, min_size=20, max_size=40))
def test_no_two_of_many_different_values_collide(given_values):
    forms = {repr(form(value)): fingerprint_value(value) for value in given_values}
    assert len(set(forms.values())) == len(forms)


@pytest.mark.needs("cpu")
@relaxed
@given(st.dictionaries(hashable, values, max_size=6), st.sets(hashable, max_size=6), st.randoms())
def test_the_order_of_dicts_and_sets_does_not_count(mapping, members, chance):
    pairs, items = list(mapping.items()), list(members)
    chance.shuffle(pairs)
    chance.shuffle(items)
    assert fingerprint_value(mapping) == fingerprint_value(dict(pairs))
    assert fingerprint_value(members) == fingerprint_value(set(items))


@pytest.mark.needs("cpu")
@relaxed
@given(values)
def test_shared_references_key_as_equal_copies(value):
    copy = pickle.loads(pickle.dumps(value, protocol=5))
    assert fingerprint_value([value, {"a": value}, value]) == fingerprint_value([value, {"a": copy}, copy])


@pytest.mark.long
@pytest.mark.needs("processes")
@relaxed
@given(st.lists(st.tuples(values, hashable), max_size=8), st.text(max_size=3))
def test_a_batch_agrees_with_single_keys(items, label):
    single = [combine(label, *map(fingerprint_value, item)) for item in items]
    assert fingerprint_items(items, label=label) == bytes.fromhex("".join(single))


def test_a_long_column_agrees_with_single_keys():
    """Batches of one type, a batch of several, and one that is not full."""
    column = [*range(BATCH), *map(float, range(BATCH - 4)), True, "x", 1 << 70, [1], *map(str, range(10))]
    single = [combine("label", fingerprint_value(value)) for value in column]
    assert fingerprint_items(((value,) for value in column), label="label") == bytes.fromhex("".join(single))


mixed = st.one_of(
    st.integers(), st.integers(-(1 << 63), (1 << 63) - 1), st.booleans(), st.floats(), st.text()
)


@pytest.mark.needs("cpu")
@given(st.lists(st.tuples(mixed)) | st.lists(st.tuples(mixed, mixed)), st.text(max_size=3))
def test_the_key_in_an_index_is_that_of_the_item_alone_and_gives_its_key_everywhere(items, label):
    keys = index_items(items, label=label)
    assert keys == b"".join(index_items([item], label=label) for item in items)
    assert item_keys(keys, label=label) == fingerprint_items(items, label=label)


def test_only_an_int_of_64_bits_alone_is_its_own_key():
    edge = 1 << 63
    own, longer = [-edge, -1, 0, 1, edge - 1], [-edge - 1, edge]
    assert own_keys(own) == index_items([(x,) for x in own], label="any")
    assert own_keys(range(-2, 9, 3)) == own_keys([-2, 1, 4, 7])
    for column in ([True], [1.0], ["1"], [1, None], longer, range(edge, edge + 2)):
        assert own_keys(column) is None
    for item in ((True,), (1.0,), (1, 1), (edge,), (-edge - 1,)):
        assert index_items([item], label="any") == fingerprint_items([item], label="any")


parts = st.lists(st.one_of(st.text(max_size=3), st.integers(), st.binary(max_size=3)), max_size=4)


@pytest.mark.needs("cpu")
@given(st.text(max_size=3), parts, st.text(max_size=3), parts)
def test_combine_tells_everything_apart(label, some, other_label, others):
    tagged = [[label, *((type(part), part) for part in some)], [other_label, *((type(p), p) for p in others)]]
    assert (combine(label, *some) == combine(other_label, *others)) == (tagged[0] == tagged[1])


def test_values_that_compare_equal_but_are_not_the_same_differ():
    alike = [
        1,
        1.0,
        True,
        1 + 0j,
        decimal.Decimal(1),
        fractions.Fraction(1),
        np.int64(1),
        np.float32(1),
        "1",
        b"1",
    ]
    alike += [
        0.0,
        -0.0,
        0,
        False,
        None,
        "",
        b"",
        bytearray(),
        (),
        [],
        {},
        set(),
        frozenset(),
        deque(),
        OrderedDict(),
    ]
    alike += [
        shapes.Miles(1.0),
        shapes.Route(),
        shapes.Leg("a", 1),
        ("a", 1),
        np.array(1),
        np.array([1]),
        2**64,
        -(2**64),
    ]
    alike += [
        float("inf"),
        float("nan"),
        uuid.UUID(int=1),
        dt.date(2026, 1, 1),
        dt.datetime(2026, 1, 1),
        "\ud800",
        "A",
    ]
    alike += [
        int,
        float,
        len,
        shapes.Miles,
        shapes.Route,
        np.int64,
        np.float32,
        np.dtype("i4"),
        np.dtype("i8"),
    ]
    assert len({fingerprint_value(value) for value in alike}) == len(alike)


def test_a_nan_equals_itself():
    assert (
        fingerprint_value(float("nan"))
        == fingerprint_value(-float("nan"))
        == fingerprint_value(float("inf") * 0)
    )


def test_cycles_end_and_their_shape_counts():
    def ring(length):
        cells = [[] for _ in range(length)]
        for place, cell in enumerate(cells):
            cell.append(cells[place - 1])
        return cells[0]

    keys = {fingerprint_value(ring(length)) for length in range(1, 6)}
    assert len(keys) == 5
    assert fingerprint_value(ring(3)) == fingerprint_value(ring(3))
    table = {}
    table["self"] = table
    airport = shapes.Airport("EWR", [table])
    airport.runways.append(airport)
    assert fingerprint_value(airport) == fingerprint_value(pickle.loads(pickle.dumps(airport)))


def test_a_shared_part_of_a_cycle_is_keyed_at_each_of_its_places():
    """It refers to what is around it by distance, so its encoding at one place does not hold at another."""
    long = "a" * 100  # what is longer than a hash is remembered by the walk

    def part(above):
        return [[above, long], long]

    def whole(first, second):
        root = []
        root += [first(root), [second(root), long]]
        return root

    shared, wound = [], []
    same = part(shared)
    shared += [same, [same, long]]
    wound += [part(wound), inner := []]
    inner += [part(inner), long]
    assert fingerprint_value(shared) == fingerprint_value(whole(part, part))
    assert fingerprint_value(shared) != fingerprint_value(wound)


def test_much_sharing_is_read_once():
    value = [1]
    for _ in range(200):
        value = [value, value]
    assert fingerprint_value(value) == fingerprint_value(value)


def test_random_generators_key_by_their_state():
    def drawn(generator):
        generator.random()
        return generator

    made = [random.Random(1), np.random.default_rng(1), np.random.RandomState(1)]
    moved = [drawn(random.Random(1)), drawn(np.random.default_rng(1)), np.random.RandomState(2)]
    again = [random.Random(1), np.random.default_rng(1), np.random.RandomState(1)]
    assert [fingerprint_value(value) for value in made] == [fingerprint_value(value) for value in again]
    assert len({fingerprint_value(value) for value in made + moved}) == 6
