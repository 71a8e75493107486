"""Keys of graph nodes: equal recipes have equal keys, different ones never, and a map has one per item."""

import pytest

from hooke.base.errors import NotFingerprintable
from hooke.keys.fingerprint import fingerprint_code, fingerprint_value
from hooke.keys.fingerprint_parts import combine
from hooke.pipeline.node_keys import GraphKeys
from hooke.pipeline.pipeline import pipeline
from hooke.pipeline.task import task
from hooke.pipeline.trace import trace


@task
def one(x, by=1):
    return x + by


@task
def two(x, by=1):
    return x - by


@task(cache=False)
def fresh(x):
    return x


def keys_of(wanted, *args, run="run"):
    graph = trace(pipeline(wanted), args)
    return GraphKeys(graph, run=run)


def items_of(keys, node):
    data = keys.items(node)
    return [data[at : at + 16] for at in range(0, len(data), 16)]


def test_equal_calls_have_equal_keys_and_others_not():
    def calls():
        return [one(1), one(1), one(x=1, by=1), one(1, 2), one(2), two(1), one(one(1))]

    keys = keys_of(calls)
    names = [key.key for key in keys.nodes]
    assert names[0] == names[1] == names[2]
    assert len(set(names)) == len(names) - 3  # the inner one(1) is the first again
    assert names[6] == names[0]


def test_a_key_is_that_of_kind_code_and_arguments_combined():
    def calls():
        long = "text" * 5000
        return [one(1), one(long), one(long, 2), one([1, long]), one.map([3], by=long)]

    keys = keys_of(calls)
    code = fingerprint_code(one).key
    for node, (x, by) in enumerate([(1, 1), ("text" * 5000, 1), ("text" * 5000, 2), ([1, "text" * 5000], 1)]):
        parts = ("by", fingerprint_value(by), "x", fingerprint_value(x))
        assert keys[node].key == combine("call", code, *parts)
    assert keys[4].recipe == combine("map", code, "by", fingerprint_value("text" * 5000))


def test_keys_do_not_depend_on_the_place_in_the_graph():
    def short():
        return one(two(3))

    def long():
        one(0)
        return [one(two(3)), 5]

    assert keys_of(short)[1].key == keys_of(long)[2].key


def test_what_follows_from_a_changed_input_changes():
    def chain(x):
        return one(two(one(x)))

    first, second = keys_of(chain, 1), keys_of(chain, 2)
    assert all(first[node].key != second[node].key for node in range(3))


def test_one_more_item_leaves_the_others_their_keys():
    def mapped(items):
        return one.map(range(items), by=3)

    ten, eleven = items_of(keys_of(mapped, 10), 0), items_of(keys_of(mapped, 11), 0)
    assert eleven[:10] == ten
    assert len(set(eleven)) == 11


def test_an_item_has_the_same_key_wherever_it_stands_and_however_the_list_is_given():
    def mapped(items):
        return one.map(items)

    assert items_of(keys_of(mapped, [7, 8]), 0) == items_of(keys_of(mapped, [8, 7]), 0)[::-1]
    assert items_of(keys_of(mapped, range(3)), 0) == items_of(keys_of(mapped, [0, 1, 2]), 0)


def test_numbers_are_found_by_their_own_keys_wherever_the_list_is_from():
    def mapped(items):
        return one.map(items)

    short, long = keys_of(mapped, range(3)), keys_of(mapped, [2, 1, 0, "x"])
    assert short[0].recipe == long[0].recipe
    assert short.indexed(0) == long.indexed(0)[32:48] + long.indexed(0)[16:32] + long.indexed(0)[:16]
    assert short.items(0) != short.indexed(0)
    assert keys_of(mapped, [0, 1, 2])[0].key == short[0].key
    assert keys_of(mapped, [0, 1, 3])[0].key != short[0].key


def test_one_item_of_a_map_of_numbers_has_the_key_of_its_task_too():
    def picked(by):
        return two(one.map([3, 4], by=by)[0])

    assert keys_of(picked, 1)[1].key != keys_of(picked, 2)[1].key


def test_constants_of_a_map_are_in_every_item():
    def mapped(by):
        return one.map(range(3), by=by)

    assert not set(items_of(keys_of(mapped, 1), 0)) & set(items_of(keys_of(mapped, 2), 0))


def test_a_map_in_step_has_keys_made_of_its_inputs_keys():
    def stepped(items):
        return two.map(one.map(range(items)))

    ten, eleven = items_of(keys_of(stepped, 10), 1), items_of(keys_of(stepped, 11), 1)
    assert eleven[:10] == ten


def test_a_map_over_two_columns_one_of_them_of_results():
    def both(items):
        return two.map(one.map(range(items)), range(items))

    keys = items_of(keys_of(both, 4), 1)
    assert len(set(keys)) == 4
    assert keys == items_of(keys_of(both, 5), 1)[:4]


def test_a_dynamic_map_has_a_key_before_its_items_have():
    def dynamic(x):
        return two.map(one.map(fresh(x)))

    keys = keys_of(dynamic, 1)
    assert keys[1].key
    assert keys.items(1) is None
    assert keys.items(2) is None
    keys.expanded(1, bytes(48))
    assert len(keys.items(2)) == 48


def test_uncached_results_are_of_their_run_and_so_is_all_that_follows():
    def chain():
        return [one(fresh(1)), one(5)]

    mine, theirs = keys_of(chain, run="mine"), keys_of(chain, run="theirs")
    assert mine[0].key != theirs[0].key
    assert mine[1].key != theirs[1].key
    assert mine[2].key == theirs[2].key


def test_two_uncached_calls_are_two():
    def twice():
        return [fresh(1), fresh(1)]

    keys = keys_of(twice)
    assert keys[0].key != keys[1].key


def test_parts_of_a_result_have_keys_of_their_own():
    def parts():
        whole = one(1)
        return [two(whole), two(whole["a"]), two(whole["b"]), two(whole["a"]["b"])]

    keys = keys_of(parts)
    assert len({keys[node].key for node in range(1, 5)}) == 4


def test_an_item_of_a_map_used_alone_is_keyed_as_that_item():
    def third(items):
        return two(one.map(range(items))[2])

    assert keys_of(third, 3)[1].key == keys_of(third, 30)[1].key


def test_an_argument_without_an_honest_key_is_named():
    def guarded():
        return one(number for number in range(3))

    with pytest.raises(NotFingerprintable) as caught:
        keys_of(guarded)
    assert "one" in str(caught.value)
    assert "x" in str(caught.value)
