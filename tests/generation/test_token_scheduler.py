"""Steps of a language model: a place that is free is used at once, users get equal shares, nobody starves."""

import pytest
from benchmarks.generation import batches, lengths
from tests.generation.simulated import play
from tests.support.sizes import choose_size

from hooke import UsageError
from hooke.generation.page_pool import PagePool
from hooke.generation.token_scheduler import TokenLimits, TokenRequest, TokenScheduler

HISTORIES = choose_size(sample=32, full=64, soak=10_000)


def scheduler(
    *, slots: int = 2, step_tokens: int = 20, context: int = 100, pages: int = 1000, **more
) -> TokenScheduler:
    return TokenScheduler(
        TokenLimits(slots=slots, step_tokens=step_tokens, context=context, **more), PagePool(pages, 4)
    )


def request(prompt: int = 8, most: int = 4, arrived: float = 0.0, **more) -> TokenRequest:
    return TokenRequest(prompt=prompt, most=most, arrived=arrived, **more)


def offered(to: TokenScheduler, *requests: TokenRequest) -> list[TokenRequest]:
    refused = [to.offer(each) for each in requests]
    assert not any(refused), refused
    return list(requests)


def pieces(step) -> list[tuple[int, int]]:
    return [(piece.start, piece.tokens) for piece in step.pieces]


PARTS = 4


@pytest.mark.long
@pytest.mark.needs("cpu")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", range(PARTS))
def test_histories(part):
    """No request starves, no page is lost or used twice, limits hold, and the least urgent gives way."""
    seen = [play(seed) for seed in range(part, HISTORIES, PARTS)]
    assert sum(each.answered for each in seen) > 10 * len(seen)
    for what in ("cancelled", "expired", "evictions", "reused", "resumed"):
        assert sum(getattr(each, what) for each in seen), what
    assert any(each.refused for each in seen)


def test_a_free_place_is_taken_in_the_next_step():
    it = scheduler()
    short, long, waits = offered(it, request(most=1), request(most=9), request())
    step = it.step(0.0)
    assert [piece.request for piece in step.pieces] == [short, long]
    assert it.stepped(step) == [short]
    assert [piece.request for piece in it.step(0.0).pieces] == [long, waits]


def test_long_prompts_are_computed_in_parts_and_hold_no_answer_up():
    it = scheduler(step_tokens=10)
    offered(it, request(prompt=2, most=9))
    it.stepped(it.step(0.0))
    (long,) = offered(it, request(prompt=20))
    seen = []
    while long.answered == 0:
        step = it.step(0.0)
        seen.append(pieces(step))
        it.stepped(step)
    assert seen == [[(2, 1), (0, 9)], [(3, 1), (9, 9)], [(4, 1), (18, 2)]]


def test_equal_users_get_equal_shares_of_tokens():
    """One has a hundred requests, another few at a time, the third asks for long answers: who waits gets as much as any."""
    it = scheduler(slots=4, step_tokens=40)
    sizes = {"flood": (8, 4), "few": (8, 4), "long": (4, 40)}
    for user, (prompt, most) in sizes.items():
        for _ in range(100 if user == "flood" else 0):
            offered(it, request(prompt, most, user=user))
    given = dict.fromkeys(sizes, 0)
    for _ in range(600):
        for user in ("few", "long", "flood"):
            if (
                sum(each.user == user for each in it.running)
                + sum(len(line) for (_, whose), line in it._lines.items() if whose == user)
                < 4
            ):
                offered(it, request(*sizes[user], user=user))
        step = it.step(0.0)
        for piece in step.pieces:
            user = piece.request.user
            given[user] += max(min(piece.start + piece.tokens, piece.request.prompt) - piece.start, 0)
            given[user] += 2 * piece.gives_token
        it.stepped(step)
    assert max(given.values()) - min(given.values()) <= 2 * 4 * 84, given
    assert min(given.values()) > 1000


def test_who_comes_back_has_no_claim_to_what_was_not_asked_for():
    it = scheduler(slots=1)
    for _ in range(5):
        offered(it, request(most=1, user="busy"))
        it.stepped(it.step(0.0))
    offered(it, request(user="busy"), request(user="new"), request(user="new"))
    order = []
    while it.running or it.waiting:
        step = it.step(0.0)
        order += [piece.request.user for piece in step.pieces if piece.start == 0]
        it.stepped(step)
    assert order == ["busy", "new", "new"]


def test_what_is_urgent_takes_the_place_of_what_is_not():
    it = scheduler(slots=1)
    (slow,) = offered(it, request(most=9))
    it.stepped(it.step(0.0))
    (urgent,) = offered(it, request(urgency=1, most=1))
    step = it.step(0.0)
    assert step.evicted == (slow,)
    assert it.stepped(step) == [urgent]
    assert pieces(it.step(0.0)) == [(0, 9)], "prompt and answer are computed again"
    assert (slow.answered, slow.evictions) == (1, 1)


def test_who_has_waited_long_is_as_urgent_as_any():
    it = scheduler(slots=1, patience_s=10.0)
    (late,) = offered(it, request(urgency=0, arrived=0.0, most=2))
    offered(it, *[request(urgency=5, arrived=8.0) for _ in range(3)])
    step = it.step(9.0)
    assert step.pieces[0].request.urgency == 5
    it.stepped(step)
    while it.running:
        it.stepped(it.step(10.0))
    step = it.step(11.0)
    assert step.pieces[0].request is late, "nobody is evicted for it, and it is the next one"
    it.stepped(step)
    assert it.step(12.0).pieces[0].request is late, "and stays"


def test_a_prompt_that_is_known_is_not_computed_again():
    it = scheduler(step_tokens=50)
    names = ("a", "b", "c", "d")
    first, second = request(prompt=16, names=names), request(prompt=16, names=names[:3])
    offered(it, first)
    it.stepped(it.step(0.0))
    offered(it, second)
    step = it.step(0.0)
    assert pieces(step) == [(16, 1), (12, 4)]
    assert second.reused == 12
    assert second.pages[:3] == first.pages[:3]
    alike = request(prompt=16, names=names)
    offered(it, alike)
    it.cancel(second)
    assert it.stepped(step) == []
    assert pieces(it.step(0.0))[-1] == (12, 4), "the last token is computed: it gives the first of the answer"


def test_too_little_memory_lets_the_last_give_way():
    it = scheduler(slots=3, pages=8)
    first, second, third = offered(it, *[request(prompt=8, most=20) for _ in range(3)])
    it.stepped(it.step(0.0))
    assert it.running == [first, second], "a third has no page for its answer"
    while not second.evictions:
        step = it.step(0.0)
        it.stepped(step)
    assert (first.evictions, it.running[0]) == (0, first)
    assert third.evictions == 0


def test_an_answer_that_began_elsewhere_goes_on_after_its_tokens():
    it = scheduler(slots=1, step_tokens=10)
    late, begun = offered(it, request(deadline=0.1), request(prompt=8, most=9, answered=7, deadline=0.1))
    seen = []
    while not begun.ended:
        assert it.expired(1.0) == ([] if seen else [late]), (
            "the client of the other has had tokens, and waits on"
        )
        step = it.step(1.0)
        seen += pieces(step)
        it.stepped(step)
    assert seen == [(0, 10), (10, 5), (15, 1)], (
        "what it has is computed in parts, and then one token at a time"
    )
    load = it.load()
    assert (load.given, load.answer_tokens) == (2, 9)
    _, begun = offered(it, request(), request(answered=1))
    assert [piece.request for piece in it.step(2.0).pieces] == [begun], "and goes before who has not begun"


def test_cancelled_and_late_requests_leave():
    it = scheduler(slots=1)
    runs, late, waits = offered(it, request(deadline=1.0), request(deadline=5.0), request())
    step = it.step(0.0)
    it.cancel(waits)
    it.cancel(waits)
    assert it.expired(4.0) == []
    assert it.expired(5.0) == [late]
    it.cancel(runs)
    assert it.running == [runs], "a step computes it now"
    assert it.stepped(step) == []
    assert (it.running, it.waiting, it.pool.free) == ([], 0, 1000)


def test_what_can_never_be_answered_is_refused():
    it = scheduler(context=30, pages=5, max_waiting=1)
    assert it.offer(request(prompt=20, most=11)) == "context"
    assert it.offer(request(prompt=12, most=9)) == "context", "20 tokens have room"
    assert it.offer(request(prompt=0)) == "context"
    assert it.offer(request(prompt=12, most=8)) == ""
    assert it.offer(request()) == "full"
    with pytest.raises(UsageError, match="slots=9"):
        TokenLimits(slots=9, step_tokens=8, context=10)


@pytest.mark.needs("cpu")
@pytest.mark.parametrize(("name", "slots", "bound"), [("conversation", 8, 1.9), ("code", 8, 3.7)])
def test_the_gain_over_static_batches_is_near_what_the_lengths_allow(name, slots, bound):
    """The bar for all of both traces is in benchmarks/records/generation.json; this is a part of them."""
    found = batches(name, slots, lengths(name)[:400])
    assert found["gain"] >= 0.85 * found["bound"]
    assert found["bound"] > 0.7 * bound


def test_the_load_is_what_is_not_computed_and_what_answers_are_expected_to_have():
    it = scheduler(slots=1, step_tokens=10)
    first, second = offered(it, request(prompt=15, most=4), request(prompt=20, most=9))
    load = it.load()
    assert (load.running, load.waiting, load.waiting_tokens) == (0, 2, 15 + 4 + 20 + 9)
    it.stepped(it.step(0.0))
    load = it.load(0.5)
    assert (load.running, load.running_tokens, load.waiting_tokens) == (1, 5 + 4, 20 + 9)
    assert load.held_tokens == 15 + 4 + 20 + 9
    assert (load.taken, load.prompt_tokens, load.work, load.busy_s) == (2, 35, (10, 1, 0, 55), 0.5)
    assert load.steps == 1
    while not first.ended:
        it.stepped(it.step(0.0))
    assert it.expected_answer == 4, "as the only one that has ended"
    load = it.load()
    assert (load.ended, load.answer_tokens, load.outstanding) == (1, 4, 20 + 4)
    while not second.ended:
        it.stepped(it.step(0.0))
    assert it.load().outstanding == 0
    work = it.load().work
    assert work.prompt == 15 + 20
    assert work.requests == 2 + 3 + 2 + 8, (
        "a piece for each step; nobody has seen the last token of an answer"
    )
    assert work.context == sum(range(16, 19)) + sum(range(21, 29))
