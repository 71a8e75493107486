"""Where a supervisor is asked: whatever is said there, it goes on."""

import selectors

from hooke.processes.channel import Channel, connect_to
from hooke.services.supervisor.control_channel import (
    CommandAccepted,
    CommandRefused,
    ControlServer,
    SupervisorCommand,
    decode_reply,
    pack,
)


def test_what_cannot_be_read_is_refused_and_what_can_is_answered(tmp_path):
    desk = ControlServer(tmp_path / "desk", lambda asked: {"verb": asked.verb})
    desk.open()
    channel = Channel(connect_to(tmp_path / "desk").detach())
    for message in (b"abc", b"", pack(SupervisorCommand(verb="status"))):
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
    assert [type(reply) for reply in replies] == [CommandRefused, CommandRefused, CommandAccepted]
    assert replies[2].facts == {"verb": "status"}
    assert not list(tmp_path.iterdir())
