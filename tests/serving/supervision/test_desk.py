"""Where a supervisor is asked: whatever is said there, it goes on."""

import selectors

from hooke.engines.channel import Channel
from hooke.project.supervising.asked import Desk
from hooke.project.supervising.messages import Answered, Asked, Refused, decode_reply, pack
from hooke.project.supervising.sockets import connect_to


def test_what_cannot_be_read_is_refused_and_what_can_is_answered(tmp_path):
    desk = Desk(tmp_path / "desk", lambda asked: {"verb": asked.verb})
    desk.open()
    channel = Channel(connect_to(tmp_path / "desk").detach())
    for message in (b"abc", b"", pack(Asked(verb="status"))):
        channel.send(message)

    def turn():
        with selectors.DefaultSelector() as selector:
            desk.register(selector)
            desk.serve([key.fileobj for key, _ in selector.select(10)])

    turn()  # it is connected to
    turn()
    replies = [decode_reply(channel.receive()) for _ in range(3)]
    channel.close()
    turn()
    desk.close()
    assert [type(reply) for reply in replies] == [Refused, Refused, Answered]
    assert replies[2].facts == {"verb": "status"}
    assert not list(tmp_path.iterdir())
