"""Prompts go to where their beginnings are, and no replica gets more than its share."""

import pytest
from benchmarks.generation import prefixes, prompts
from hypothesis import given
from hypothesis import strategies as st

from hooke.generation.prefix_router import BlockMemory, PrefixRouter


def fleet(replicas: int, blocks: int = 100) -> PrefixRouter:
    router = PrefixRouter()
    for replica in range(replicas):
        router.add(replica, blocks)
    return router


def test_without_a_replica_there_is_nowhere_to_go():
    assert fleet(0).route("ab", 10) is None


def test_a_conversation_stays_where_it_began():
    router = fleet(4)
    for each in "stuv":
        router.route(each, 10_000)
    first = router.route("abc", 100)
    later = router.route("abcd", 120)
    assert later.replica == first.replica
    assert (first.known, later.known) == (0, 3)


def test_a_busy_replica_passes_on_what_it_knows():
    router = fleet(2)
    first = router.route("abc", 1000)
    spilled = router.route("abcd", 1000)
    assert spilled.replica != first.replica
    assert spilled.spilled
    assert router.route("abcde", 10).known == 4, "both have it now"


def test_a_replica_that_was_restarted_has_forgotten_but_still_has_its_load():
    router = fleet(1)
    sent = router.route("abc", 50)
    router.add(0, 100)
    assert router.route("abc", 50).known == 0
    assert router.load(0) == 100
    sent.done()
    assert router.load(0) == 50


def test_an_answer_of_a_replica_that_is_gone_changes_nothing():
    router = fleet(2)
    sent = router.route("abc", 50)
    router.remove(sent.replica)
    router.add(sent.replica, 100)
    sent.done()
    assert [router.load(replica) for replica in range(2)] == [0, 0]
    assert len(router) == 2


@pytest.mark.needs("cpu")
@given(
    st.lists(
        st.tuples(st.text("abc", min_size=1, max_size=5), st.integers(1, 500), st.booleans()), max_size=60
    ),
    st.integers(1, 6),
)
def test_loads_are_what_is_not_answered_and_none_exceeds_its_bound(prompts, replicas):
    router, going = fleet(replicas, 8), []
    for text, tokens, answered in prompts:
        names = [text[: at + 1] for at in range(len(text))]
        before = [router.load(replica) for replica in range(replicas)]
        sent = router.route(names, tokens)
        going.append(sent)
        mean = (sum(before) + tokens) / replicas
        more = before[sent.replica] - min(before)
        assert before[sent.replica] + tokens <= router.bound * mean or more <= tokens * sent.known / len(
            names
        )
        if answered:
            going.pop(0).done()
        for replica in router._replicas.values():
            assert set(replica.memory._kept) == {
                name for name, where in router._where.items() if where >> replica.bit & 1
            }
        assert router.route(names, 0, among=[sent.replica]).known == min(len(names), 8)
        loads = [0] * replicas
        for each in going:
            loads[each.replica] += each.tokens
        assert loads == [router.load(replica) for replica in range(replicas)]


@pytest.mark.needs("cpu")
@given(st.lists(st.text("ab", min_size=1, max_size=6)), st.integers(1, 5))
def test_a_memory_has_whole_beginnings_only(prompts, blocks):
    memory = BlockMemory(blocks)
    for text in prompts:
        names = [text[: at + 1] for at in range(len(text))]
        memory.use(names)
        assert memory.known(names) == min(len(names), blocks)
    kept = {text[: at + 1] for text in prompts for at in range(len(text)) if memory.known([text[: at + 1]])}
    assert len(kept) <= blocks
    assert all(shorter in kept for longer in kept for shorter in [longer[:-1]] if shorter)


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.parametrize("share", [0.01, 0.1, 1.0])
def test_recorded_conversations_find_what_one_memory_of_all_would(share):
    """The bar for all fleets is in benchmarks/records/generation.json; here it is the first part of the trace and the middle one."""
    found = prefixes(prompts()[:3000], share, 16)
    assert found["hits"] >= 0.9 * found["one_memory_hits"]
    assert found["spilled"] < 0.05 * found["prompts"]
