"""Servers that are known: they answer after a fixed time, and can stall, refuse and close."""

import asyncio
import ssl
import threading
import time
from contextlib import contextmanager


class Known:
    """Answers each request after `latency_s`, with what `answer(count)` gives: a status and whether the connection stays."""

    def __init__(self, latency_s=0.0, answer=lambda count: (200, True)):
        self.latency_s = latency_s
        self.answer = answer
        self.count = 0
        self.heads = []
        self.stall_at = None
        """Stop answering anybody for 200 ms when this many requests have come."""

    async def serve(self, reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
                await reader.readexactly(length)
                self.count += 1
                self.heads.append(head)
                if self.count == self.stall_at:
                    time.sleep(0.2)  # noqa: ASYNC251 - that is what a stall is
                if self.latency_s:
                    await asyncio.sleep(self.latency_s)
                status, stays = self.answer(self.count)
                if not status:
                    return
                body = b'{"detail": "so it is"}'
                close = b"" if stays else b"connection: close\r\n"
                writer.write(
                    b"HTTP/1.1 %d X\r\n%scontent-length: %d\r\n\r\n%s" % (status, close, len(body), body)
                )
                if not stays:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@contextmanager
def serving(known, tls=None):
    """Its port, while it serves from a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(10)

    server = run(asyncio.start_server(known.serve, "127.0.0.1", 0, ssl=_context(tls)))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:

        async def end():
            server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        run(end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _context(tls):
    if tls is None:
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(*tls)
    return made
