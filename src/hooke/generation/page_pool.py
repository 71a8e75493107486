"""Memory of attention by pages, as vLLM has it: prompts with the same beginning share pages, and what nobody uses stays until it is needed. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

__all__ = ["PagePool"]


class PagePool:
    """`pages` pages of `page_tokens` tokens each. A page has users, or is free; a free one may still hold a prefix that a later prompt has.

    A page is named by the whole prefix up to its end, so equal names are equal contents. Free pages are taken again from the one
    that was used least recently; of one request's, the end of its prompt goes before the beginning.
    """

    def __init__(self, pages: int, page_tokens: int) -> None:
        self.pages = pages
        self.page_tokens = page_tokens
        self._free: OrderedDict[int, None] = OrderedDict((page, None) for page in range(pages))
        self._users = [0] * pages
        self._names: list[Hashable | None] = [None] * pages
        self._named: dict[Hashable, int] = {}

    @property
    def free(self) -> int:
        """Pages without users."""
        return len(self._free)

    def pages_for(self, tokens: int) -> int:
        """The pages that so many tokens fill."""
        return -(-tokens // self.page_tokens)

    def known(self, names: Sequence[Hashable]) -> list[int]:
        """The pages of the longest beginning of these names that is here."""
        found: list[int] = []
        for name in names:
            page = self._named.get(name)
            if page is None:
                break
            found.append(page)
        return found

    def share(self, pages: Sequence[int]) -> None:
        """Use pages that are here."""
        for page in pages:
            self._users[page] += 1
            self._free.pop(page, None)

    def take(self, count: int) -> list[int] | None:
        """Use `count` pages for something new; None if fewer are free, and then nothing is taken."""
        if count > len(self._free):
            return None
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for page in taken:
            self._users[page] = 1
            self._forget(page)
        return taken

    def name(self, page: int, name: Hashable) -> None:
        """Say what a used page holds, once it is full. If another page holds the same, that one keeps the name."""
        if name not in self._named:
            self._forget(page)
            self._named[name] = page
            self._names[page] = name

    def release(self, pages: Sequence[int]) -> None:
        """Use these pages of one request, in the order of its tokens, no longer."""
        for page in reversed(pages):
            self._users[page] -= 1
            if not self._users[page]:
                self._free[page] = None
                if self._names[page] is None:  # nobody can ask for it
                    self._free.move_to_end(page, last=False)

    def _forget(self, page: int) -> None:
        name = self._names[page]
        if name is not None:
            del self._named[name]
            self._names[page] = None
