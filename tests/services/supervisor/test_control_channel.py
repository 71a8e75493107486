"""Where a supervisor is asked: whatever is said there, it goes on."""

import selectors

from hooke.processes.channel import Channel, connect_to
from hooke.services.control_socket import (
    CommandAccepted,
    CommandRefused,
    ControlServer,
    ServiceCommand,
    decode_reply,
    encode,
)


def test_what_cannot_be_read_is_refused_and_what_can_is_answered(tmp_path):
    control = ControlServer(tmp_path / "control", lambda command: {"verb": command.verb})
    control.open()
    channel = Channel(connect_to(tmp_path / "control").detach())
    for message in (b"abc", b"", encode(ServiceCommand(verb="status"))):
        channel.send(message)

    def turn():
        with selectors.DefaultSelector() as selector:
            control.register(selector)
            control.serve([key.fileobj for key, _ in selector.select(10)])

    turn()  # it is connected to
    turn()
    replies = [decode_reply(channel.receive()) for _ in range(3)]
    channel.close()
    turn()
    control.close()
    assert [type(reply) for reply in replies] == [CommandRefused, CommandRefused, CommandAccepted]
    assert replies[2].facts == {"verb": "status"}
    assert not list(tmp_path.iterdir())
