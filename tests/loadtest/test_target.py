"""Addresses that may be put under load, and requests that nothing can be smuggled into."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke import UsageError
from hooke.loadtest.target import Target, parse_target, request_bytes


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://localhost/", "http://localhost"),
        ("https://[::1]:8443/predict?a=1", "https://[::1]:8443/predict?a=1"),
        ("http://127.0.0.1:80/a%20b", "http://127.0.0.1/a%20b"),
    ],
)
def test_addresses_of_this_machine(text, url):
    assert parse_target(text).url() == url


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no host"),
        ("ftp://127.0.0.1/", "unsupported scheme"),
        ("http://user:secret@127.0.0.1/", "password"),
        ("http://127.0.0.1:99999/", "not a URL"),
        ("http://127.0.0.1:0/", "port 0"),
        ("http://[::1/", "not a URL"),
        ("http://127.0.0.1/a\r\nx: y", "not a URL"),
        ("http://127.0.0.1/a b", "not a URL"),
        ("http://127.0.0.1\u202e/", "not a URL"),
        ("file:///etc/passwd", "unsupported scheme"),
        ("http://example.org/", "not this machine"),
        ("http://10.0.0.1:8000/", "not this machine"),
        ("http://0.0.0.0:8000/", "not this machine"),
        ("http://localhost.example.org/", "not this machine"),
        ("http://127.0.0.1.example.org/", "not this machine"),
    ],
)
def test_what_is_no_address_or_is_anothers_is_refused(text, said):
    with pytest.raises(UsageError, match=said):
        parse_target(text)


def test_another_machine_is_allowed_by_its_name_alone():
    assert parse_target("http://example.org/x", allowed=["example.org"]).host == "example.org"
    with pytest.raises(UsageError, match="--allow example.org"):
        parse_target("http://example.org/x", allowed=["example.com"])


@pytest.mark.needs("cpu")
@settings(max_examples=40)
@given(st.text(max_size=30))
def test_any_text_is_an_address_of_this_machine_or_refused(text):
    try:
        made = parse_target(text)
    except UsageError:
        return
    assert made.is_here
    head = request_bytes(made, made.path or "/", b"{}").partition(b"\r\n\r\n")[0]
    assert head.count(b"\r\n") == 4 and b"\n" not in head.replace(b"\r\n", b"")


@pytest.mark.needs("cpu")
@given(token=st.text(min_size=1, max_size=30), path=st.text(min_size=1, max_size=30))
def test_no_token_and_no_path_breaks_the_request(token, path):
    here = Target(host="127.0.0.1", port=1, path="", tls=False)
    try:
        made = request_bytes(here, path, b"{}", token=token)
    except UsageError:
        return
    head, _, body = made.partition(b"\r\n\r\n")
    assert body == b"{}"
    assert head.count(b"\r\n") == head.count(b"\n") == 5
