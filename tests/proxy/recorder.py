"""A replica's side as it comes over the wire: what a parser of HTTP takes for requests, on connections that are kept."""

import asyncio
import threading
from dataclasses import dataclass, field

import httptools


@dataclass
class Seen:
    """One request."""

    verb: str = ""
    path: str = ""
    headers: list = field(default_factory=list)
    body: bytes = b""


class _Connection(asyncio.Protocol):
    def __init__(self, recorder):
        self.recorder = recorder
        self.parser = httptools.HttpRequestParser(self)
        self.seen = None

    def connection_made(self, transport):
        self.transport = transport
        self.recorder.connections.add(transport)

    def connection_lost(self, error):
        self.recorder.connections.discard(self.transport)

    def data_received(self, data):
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.recorder.errors.append(repr(error))
            self.transport.close()

    def on_message_begin(self):
        self.seen = Seen()

    def on_url(self, url):
        self.seen.path += url.decode()

    def on_header(self, name, value):
        self.seen.headers.append((name.decode().lower(), value.decode()))

    def on_body(self, body):
        self.seen.body += body

    def on_message_complete(self):
        self.seen.verb = self.parser.get_method().decode()
        self.recorder.requests.append(self.seen)
        said = self.seen.path.encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(said), said))


class Recorder:
    """Answers each request with its path, in a thread of its own."""

    def __init__(self):
        self.requests, self.errors, self.connections = [], [], set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(
            self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def forget(self):
        self.requests, self.errors = [], []

    def close(self):
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join()
        self._loop.run_until_complete(asyncio.sleep(0))  # what was closed is now told of it
        self._loop.close()

    def _end(self):
        self._server.close()
        for one in list(self.connections):
            one.abort()
        self._loop.stop()
