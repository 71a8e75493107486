"""A connection of the generator: one answer for one request."""

import asyncio

from hooke.loadtest.generator_process import ClientConnection

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Notes:
    """A keeper that notes what it is told."""

    def __init__(self):
        self.told = []
        self.over = asyncio.Event()

    def settled(self, request, status, said):
        self.told.append((request, status))

    def free(self, connection):
        self.told.append("free")

    def gone(self, connection):
        self.told.append("gone")
        self.over.set()


def test_an_answer_that_nobody_asked_for_ends_it():
    """As free twice it would be given two requests at once, and the answers would be told of the wrong ones."""

    async def answer_twice(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER + ANSWER)
        await reader.read()
        writer.close()

    async def ask():
        keeper = Notes()
        async with await asyncio.start_server(answer_twice, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: ClientConnection(keeper), "127.0.0.1", port
            )
            connection.send(7, b"GET / HTTP/1.1\r\n\r\n")
            await asyncio.wait_for(keeper.over.wait(), 10)
        return keeper.told

    assert asyncio.run(ask()) == [(7, 200), "free", "gone"]
