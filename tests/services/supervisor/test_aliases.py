"""Names are looked up again whatever a look raised, and each reason is said once."""

import queue

from hooke.base.errors import HookeError
from hooke.models.registry_protocol import VersionQuery
from hooke.services.supervisor.generation import AliasWatcher, Generation, ServiceSource


def meaning(label):
    return Generation(
        key=label,
        label=label,
        target="a.py:A",
        project=".",
        folder=".",
        given=b"",
        host="",
        names=(),
        token_file="",
    )


def test_whatever_a_look_raises_there_is_another_one():
    known, said = meaning("flights:3"), queue.Queue()
    outcomes = [
        HookeError("no registry", why="it is away"), HookeError("no registry"), KeyError("row"), RuntimeError("torn"), known,
        RuntimeError("torn"), meaning("flights:4"),
    ]  # fmt: skip

    def look(_source):
        if not outcomes:
            return meaning("flights:4")
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    source = ServiceSource(
        target="a.py:A",
        project=".",
        folder=".",
        given={"model": VersionQuery(name="flights", alias="champion")},
    )
    aliases = AliasWatcher(source, known, every_s=0.001, moved=said.put, unknown=said.put, look=look)
    aliases.start()
    try:
        found = [said.get(timeout=30) for _ in range(5)]
    finally:
        aliases.close()
    assert found == [
        "no registry",
        "KeyError: 'row'",
        "RuntimeError: torn",
        "RuntimeError: torn",
        meaning("flights:4"),
    ]
