"""The generator's process: `python -m hooke.load.generator`. It is told what to send on stdin, and tells what became of it on stdout.

It ends when stdin does, so none is left behind by a parent that was killed.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from typing import BinaryIO

import msgspec
import uvloop

from hooke.load.sender import Sender
from hooke.load.wire import LENGTH, Goal, Level, Question, pack

__all__ = ["main"]

SPARE_FILES = 32
"""Beside connections."""
_decoder = msgspec.msgpack.Decoder(Question)


def main() -> None:
    """Serve the parent until it closes our stdin."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the parent's, which stops a level and reads what there is
    # Whatever is printed must not stand among the frames.
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with os.fdopen(out, "wb") as answers:
        uvloop.run(_serve(answers))


async def _serve(answers: BinaryIO) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    sender: Sender | None = None
    asked = loop.create_task(_question(reader))
    while (question := await asked) is not None:
        asked = loop.create_task(_question(reader))
        match question:
            case Goal():
                most = min(question.connections, _files() - SPARE_FILES)
                sender = Sender(msgspec.structs.replace(question, connections=most))
            case Level() if sender is not None:
                running = loop.create_task(sender.run(question))
                await asyncio.wait({asked, running}, return_when=asyncio.FIRST_COMPLETED)
                if not running.done():  # a Stop, or our parent has gone
                    sender.stop()
                answers.write(pack(await running))
                answers.flush()
            case _:
                pass  # a Stop that came when its level was over


def _files() -> int:
    """How many files this process may have open, after asking for all that it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 1 << 16)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


async def _question(reader: asyncio.StreamReader) -> Question | None:
    """The next one; None at the end."""
    try:
        size = LENGTH.unpack(await reader.readexactly(LENGTH.size))[0]
        return _decoder.decode(await reader.readexactly(size))
    except asyncio.IncompleteReadError:
        return None


if __name__ == "__main__":
    main()
