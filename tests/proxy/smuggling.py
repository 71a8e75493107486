"""Requests whose end two readers may see at different places, and how each is to be taken."""

SECOND = b"GET /second HTTP/1.1\r\nhost: localhost\r\n\r\n"
"""What would be smuggled: a request of its own to one reader, and bytes of a body to the other."""
HEAD = b"POST /first HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
NO_CHUNK = b"0\r\n\r\n"
LENGTH = len(SECOND)


def _length(value):
    return HEAD + b"content-length: %b\r\n\r\n" % value + SECOND


def _both(line):
    """A length that takes in the second request, and an encoding, if `line` is one, that does not."""
    body = NO_CHUNK + SECOND
    return HEAD + b"content-length: %d\r\n%b\r\n\r\n" % (len(body), line) + body


def _encoding(value):
    return HEAD + b"transfer-encoding:%b\r\n\r\n" % value + NO_CHUNK + SECOND


def _chunk(size):
    return HEAD + CHUNKED + b"\r\n" + size + b"\r\n\r\n" + SECOND


REFUSED = {
    "CL.TE": _both(b"transfer-encoding: chunked"),
    "TE.CL": HEAD + CHUNKED + b"content-length: 4\r\n\r\n" + b"%x\r\n%b\r\n" % (LENGTH, SECOND) + NO_CHUNK,
    "two encodings": HEAD + CHUNKED + b"transfer-encoding: identity\r\n\r\n" + NO_CHUNK + SECOND,
    "two encodings, the other way": HEAD
    + b"transfer-encoding: identity\r\n"
    + CHUNKED
    + b"\r\n"
    + NO_CHUNK
    + SECOND,
    "two hidden encodings": _both(b"transfer-encoding: chunked\r\ntransfer-encoding: cow"),
    "folded encoding": _both(b"transfer-encoding:\r\n chunked"),
    "length with a space in its name": HEAD + b"content-length : 0\r\n\r\n" + SECOND,
    "length with an underscore": HEAD + b"content_length: %d\r\n\r\n" % LENGTH + SECOND,
    "folded length": _length(b"0\r\n %d" % LENGTH),
    "two lengths": _length(b"0\r\ncontent-length: %d" % LENGTH),
    "two equal lengths": _length(b"%d\r\ncontent-length: %d" % (LENGTH, LENGTH)),
    "chunk ended by LF": HEAD + CHUNKED + b"\r\n0\n\n" + SECOND,
    "chunk ended by CR": HEAD + CHUNKED + b"\r\n0\r\r" + SECOND,
    "chunk without its end": HEAD + CHUNKED + b"\r\n3\r\nabc0\r\n\r\n" + SECOND,
    "CR CR LF": HEAD + b"\r\r\n" + SECOND,
    "NUL in a header": HEAD + b"a: b\x00c\r\n\r\n" + SECOND,
    "no host": b"POST /first HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
    "HTTP/1.0": b"POST /first HTTP/1.0\r\nhost: localhost\r\n" + CHUNKED + b"\r\n" + NO_CHUNK + SECOND,
    "HTTP/1.2": b"POST /first HTTP/1.2\r\nhost: localhost\r\n\r\n",
    "HTTP/0.9": b"GET /first\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space in the path": b"POST /first /second HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "CR in the path": b"POST /first\rGET /second HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "fragment": b"POST /first#/../second HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "escaped slash": b"POST /first%2F..%2Fsecond HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "tunnel": b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nhost: localhost\r\n\r\n" + SECOND,
    "websocket": HEAD + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\n\r\n" + SECOND,
}
for value in (
    b"xchunked", b" chunked", b"chunked ", b"\tchunked", b"Chunked", b"chunked, identity", b"identity, chunked", b"chunked, chunked",
    b"gzip, chunked", b"\x0bchunked", b'"chunked"', b"chunked;q=1", b"identity", b"cow", b"", b"chun\x00ked", b"\xffchunked",
):  # fmt: skip
    REFUSED[f"length and encoding {value!r}"] = _both(b"transfer-encoding:" + value)
    if value.strip().lower() != b"chunked":
        REFUSED[f"encoding {value!r}"] = _encoding(value)
for name in (
    b"transfer-encoding ", b" transfer-encoding", b"transfer_encoding", b"transfer-encoding\t", b"Transfer-Encoding\r",
    b"x: y\ntransfer-encoding", b"transfer\x00-encoding", b"\xef\xbb\xbftransfer-encoding", b"transfer-encoding\x0b",
):  # fmt: skip
    REFUSED[f"encoding called {name!r}"] = _both(name + b": chunked")
for value in (
    b"0, %d", b"%d, %d", b"+%d", b"-%d", b"0x%x", b"%d.0", b"%d abc", b"\x0b%d", b"18446744073709551616", b"", b"1e2", b"4_6",
):  # fmt: skip
    REFUSED[f"length {value!r}"] = _length(value % ((LENGTH,) * value.count(b"%")))
for size in (
    b"0x0", b"-0", b"+0", b" 0", b"0;\n", b"0\x00", b"g", b"", b"FFFFFFFFFFFFFFFFF", b"10000000000000000", b"0_0", b'0;a="\r\n"',
):  # fmt: skip
    REFUSED[f"chunk of {size!r}"] = _chunk(size)

FIRST = ("POST", "/first")
TWO = [(*FIRST, b""), ("GET", "/second", b"")]
TAKEN = {
    # What stands after an empty body is a second request to everybody.
    "chunked": (_encoding(b" chunked"), TWO),
    "Chunked": (_encoding(b" Chunked\t"), TWO),
    "chunk with a space": (_chunk(b"0 "), TWO),
    "chunk with an extension": (_chunk(b"0;a=b"), TWO),
    "lines ended by LF": (b"POST /first HTTP/1.1\nhost: localhost\ncontent-length: 0\n\n" + SECOND, TWO),
    # A CR by itself is no end of a line, and leaves the header before anybody else could take it for one.
    "CR in a header": (HEAD + b"a: b\rcontent-length: %d\r\n\r\n" % LENGTH + SECOND, TWO),
    "encoding behind a CR": (_both(b"a: b\rtransfer-encoding: chunked"), [(*FIRST, NO_CHUNK + SECOND)]),
    # Too long for its size: what is over is dropped, and the next reader is told one byte.
    "chunk too long": (HEAD + CHUNKED + b"\r\n1\r\nabc\r\n0\r\n\r\n" + SECOND, [(*FIRST, b"a"), TWO[1]]),
    "length with a zero": (_length(b"0%d" % LENGTH), [(*FIRST, SECOND)]),
    "length with a space": (_length(b"%d " % LENGTH), [(*FIRST, SECOND)]),
    "GET with a body": (
        HEAD.replace(b"POST", b"GET") + b"content-length: %d\r\n\r\n" % LENGTH + SECOND,
        [("GET", "/first", SECOND)],
    ),
    "length as a hop's own": (
        HEAD + b"connection: close, content-length\r\ncontent-length: %d\r\n\r\n" % LENGTH + SECOND,
        [(*FIRST, SECOND)],
    ),
    "trailers": (HEAD + CHUNKED + b"\r\n0\r\ncontent-length: 50\r\nhost: evil\r\n\r\n", [(*FIRST, b"")]),
    "h2c": (
        HEAD
        + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\ncontent-length: 0\r\n\r\n",
        [(*FIRST, b"")],
    ),
}
