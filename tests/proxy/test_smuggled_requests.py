"""Requests that two readers could take for different ones: none gets in within another, with and without Envoy in front."""

import re

import pytest
from tests.serving.test_hostile_requests import (
    ANSWERED,
    CHUNKED,
    CLOSE,
    REFUSED,
    ask,
    post,
    serving,
    statuses,
)

pytestmark = pytest.mark.needs("processes")

INNER = post(b'{"rows": [666]}', path=b"/rows")
"""What somebody would like to get in: nobody else asks for these rows."""
LENGTH = b"content-length: %d\r\n"
ENCODINGS = [
    b"transfer-encoding: chunked", b"transfer-encoding : chunked", b"transfer-encoding:\tchunked", b"transfer-encoding: xchunked",
    b"transfer-encoding: chunked, identity", b"transfer-encoding: identity, chunked", b"transfer-encoding:\x0bchunked",
    b"transfer-encoding: chunked\r\ntransfer-encoding: x", b"transfer-encoding: x\r\ntransfer-encoding: chunked",
    b"transfer-encoding:\r\n chunked", b"x: y\ntransfer-encoding: chunked", b'transfer-encoding: "chunked"',
    b"\x00transfer-encoding: chunked", b"transfer-encoding: chunked\x00", b"transfer-encoding: CHUNKED;",
]  # fmt: skip


def smuggled():
    """With a length that covers the inner request and an encoding that ends before it, and the other way round."""
    for encoding in ENCODINGS:
        ended = b"0\r\n\r\n" + INNER
        yield post(ended, LENGTH % len(ended), encoding + b"\r\n", length=False)
        yield post(ended, encoding + b"\r\n", LENGTH % 4, length=False)
        whole = b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)
        yield post(whole, LENGTH % 3, encoding + b"\r\n", length=False)
    for lengths in ((b"0", b"%d"), (b"%d", b"0"), (b"0, %d", b"%d")):
        heads = [
            b"content-length: " + (one % len(INNER) if b"%" in one else one) + b"\r\n" for one in lengths
        ]
        yield post(INNER, *heads, length=False)
    for chunk in (
        b"0;\n\r\n\r\n",
        b"0\r\n\n",
        b"00000000000000000000\r\n\r\n",
        b"-0\r\n\r\n",
        b"0x0\r\n\r\n",
        b"0 \r\n\r\n",
        b"1\r\n{\r\n0\r\n\n",
    ):
        yield post(chunk + INNER, LENGTH % (len(chunk) + len(INNER)), CHUNKED, length=False)


@pytest.fixture(params=["alone", "behind Envoy"])
def ports(request, tmp_path):
    """The port that is asked, and the replica's own."""
    with serving() as (_, own):
        if request.param == "alone":
            yield own, own
            return
        from hooke.proxy.envoy import Proxy
        from hooke.proxy.proxy_settings import ProxySettings, Upstream

        front = Proxy(ProxySettings(service="Patient", folder=tmp_path / "front", timeout_s=2.0))
        front.start()
        try:
            front.publish([Upstream(port=own)])
            yield front.settings.port, own
        finally:
            front.stop()


def test_nothing_gets_in(ports):
    port, own = ports
    corpus = [*smuggled(), *[data for data in REFUSED.values() if len(data) < 100_000]]
    for data in corpus:
        said = ask(port, data, end=True)  # raises where nothing comes for ten seconds
        assert all(status < 500 for status in statuses(said)), (data, said)
        assert b"666" not in said, (data, said)
    for name, data in ANSWERED.items():
        said = ask(port, data)
        assert all(status < 500 for status in statuses(said)), (name, said)
        assert 200 in statuses(said) or port != own, (name, said)
    metrics = ask(own, b"GET /-/metrics HTTP/1.1\r\nhost: localhost\r\n" + CLOSE + b"\r\n")
    assert not re.findall(rb'hooke_requests_total{route="/rows"[^\n]*', metrics), (
        "the inner request was answered"
    )
    assert re.search(rb'hooke_requests_total{route="/echo",status="200"} [1-9]', metrics)
    said = ask(port, post(b'{"rows": [7]}', CLOSE, path=b"/rows"))
    assert said.endswith(b"[7]"), "it answers as before"
