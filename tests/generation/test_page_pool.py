"""Pages: what is used is never taken, equal prefixes share, and what was used least recently goes first."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hooke.generation.page_pool import PagePool

PAGES = 12


class Pool(RuleBasedStateMachine):
    """Beside a model: requests with their pages, and what each page holds."""

    def __init__(self):
        super().__init__()
        self.pool = PagePool(PAGES, 4)
        self.requests: list[list[int]] = []
        self.holds: dict[int, str] = {}

    @rule(prompt=st.text("ab", min_size=1, max_size=6))
    def begin(self, prompt):
        """A prompt of a page for each letter, of which the known beginning is shared."""
        names = [prompt[: at + 1] for at in range(len(prompt))]
        known = self.pool.known(names)
        assert [self.holds[page] for page in known] == names[: len(known)]
        self.pool.share(known)
        free = self.pool.free
        taken = self.pool.take(len(names) - len(known))
        if taken is None:
            assert len(names) - len(known) > free
            assert self.pool.free == free
            self.pool.release(known)
            return
        used = {page for pages in self.requests for page in pages} | set(known)
        assert not used & set(taken)
        for page in taken:
            self.holds.pop(page, None)
        for page, name in zip(taken, names[len(known) :], strict=True):
            self.pool.name(page, name)
            self.holds[page] = name
        self.requests.append([*known, *taken])

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def end(self, data):
        self.pool.release(self.requests.pop(data.draw(st.integers(0, len(self.requests) - 1))))

    @invariant()
    def free_pages_are_those_without_users(self):
        assert self.pool.free == PAGES - len({page for pages in self.requests for page in pages})


TestPool = pytest.mark.needs("cpu")(Pool.TestCase)
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_of_a_request_the_beginning_stays_longest():
    pool = PagePool(4, 16)
    pages = pool.take(3)
    for page, name in zip(pages, "abc", strict=True):
        pool.name(page, name)
    pool.release(pages)
    pool.take(1)
    assert pool.known("abc") == pages, "an empty page goes first"
    pool.take(1)
    assert pool.known("abc") == pages[:2]


def test_pages_that_two_computed_at_once_have_one_name():
    pool = PagePool(4, 16)
    one, other = pool.take(1), pool.take(1)
    pool.name(one[0], "a")
    pool.name(other[0], "a")
    pool.release(other)
    assert pool.known("a") == one
    assert pool.pages_for(17) == 2
