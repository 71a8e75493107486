"""Passes connections from a listening socket that it is given to an address of the network namespace that it runs in.

    nsenter --net --target PID -- python relay.py DESCRIPTOR HOST PORT

So the tests' process reaches a server in a namespace without an interface, route or rule of its own.
"""

import asyncio
import contextlib
import socket
import sys


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


async def serve(listener: socket.socket, host: str, port: int) -> None:
    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = await asyncio.open_connection(host, port)
        except OSError:  # what the other side sees of a server that is down
            writer.transport.abort()
            return
        await asyncio.gather(copy(reader, far[1]), copy(far[0], writer))
        far[1].close()
        writer.close()

    server = await asyncio.start_server(join, sock=listener)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], int(sys.argv[3])))
