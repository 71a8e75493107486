"""What a driver and the hosts of a gang tell one another. Each word and note names the muster that it is about: one try to begin a gang."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = [
    "Begin",
    "Disband",
    "Disbanded",
    "Gather",
    "Meet",
    "Met",
    "Mustered",
    "Part",
    "RankAnswered",
    "RankNote",
    "Word",
    "pack_word",
    "unpack_word",
]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The ranks `lo..hi` of a gang of `ranks`, which are for one host."""

    muster: int
    lo: int
    hi: int
    ranks: int


class Meet(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Start the ranks: this is where they are to meet."""

    muster: int
    address: str
    port: int


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All ranks are there, on all hosts: each is given the call."""

    muster: int


class Gather(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Have rank 0 join what all have returned."""

    muster: int
    payload: bytes


class Disband(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """End the ranks; Disbanded follows when they have ended."""

    muster: int
    cause: str


Word: TypeAlias = Meet | Begin | Gather | Disband


class Met(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="met"):
    """The host of rank 0 keeps a port for them."""

    muster: int
    address: str
    port: int


class Mustered(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="mustered"):
    """The processes of all ranks of this host are ready."""

    muster: int
    workers: list[str]
    """Their names, by rank."""


class RankAnswered(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="rank_answered"):
    """A rank has answered, has gathered, or died."""

    muster: int
    rank: int
    answer: bytes
    """A packed AttemptFinished or AttemptFailed."""


class Disbanded(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="disbanded"):
    """No rank of it is left on this host."""

    muster: int


RankNote: TypeAlias = Met | Mustered | RankAnswered | Disbanded

_words = msgspec.msgpack.Decoder(Word)


def pack_word(word: Word) -> bytes:
    """A word, for a host."""
    return msgspec.msgpack.encode(word)


def unpack_word(data: bytes) -> Word:
    """What `pack_word` packed."""
    return _words.decode(data)
