from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooke.base.errors import UsageError
from hooke.base.formats import format_bytes, format_seconds, without_password
from hooke.base.units import parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("2GiB", 2 * 1024**3),
        ("2 gib", 2 * 1024**3),
        ("1.5 KiB", 1536),
        ("10MB", 10**7),
        ("1e3 KB", 10**6),
        (7, 7),
        (1.6, 2),
        ("9007199254740993 B", 9007199254740993),
    ],
)
def test_sizes_that_people_write(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "bad",
    ["2G", "", "GiB", "-1", "1 2", "nan", "1e999", float("nan"), float("inf"), -1, True, None, b"1"],
    ids=repr,
)
def test_a_bad_size_is_named_with_the_valid_units(bad):
    with pytest.raises(UsageError) as caught:
        parse_bytes(bad)
    assert repr(bad) in str(caught.value)
    assert "GiB" in caught.value.fix
    assert "GB" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("2d", 172800),
        (3, 3),
        ("1.5 h", 5400),
        ("5us", 5e-6),
    ],
)
def test_spans_that_people_write(text, seconds):
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "bad",
    ["", " ", "m", "1h30", "1y", "-5s", float("inf"), float("nan"), -1, True, None, b"1s", "1e999s"],
    ids=repr,
)
def test_a_bad_span_is_named_with_the_valid_units(bad):
    with pytest.raises(UsageError) as caught:
        parse_seconds(bad)
    assert repr(bad) in str(caught.value)
    assert "ms, s, m, h" in caught.value.fix


@pytest.mark.needs("cpu")
@given(st.integers(min_value=0, max_value=2**62))
def test_a_formatted_size_reads_back_to_three_digits(size):
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=0.0051)


@given(st.floats(min_value=1e-5, max_value=1e7))
def test_a_formatted_span_reads_back(seconds):
    # Coarsest just past a day, which is told in whole hours: half of one in 24.
    assert parse_seconds(format_seconds(seconds)) == pytest.approx(seconds, rel=0.021)


@given(st.integers(min_value=0, max_value=2**80))
def test_whole_bytes_are_exact(size):
    assert parse_bytes(str(size)) == size
    assert parse_bytes(size) == size


@given(st.integers(min_value=0, max_value=2**62))
def test_a_size_is_short(size):
    number, unit = format_bytes(size).split()
    assert len(number) <= 4
    assert unit in {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 us"),
        (0.00123, "1.23 ms"),
        (4.2, "4.20 s"),
        (59.96, "1m 00s"),
        (185, "3m 05s"),
        (3599.7, "1h 00m"),
        (7620, "2h 07m"),
        (86399, "1d 00h"),
        (277200, "3d 05h"),
        (-4.2, "-4.20 s"),
    ],
)
def test_spans_as_text(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("http://ann:secret@host:5000/x?token=secret", "http://host:5000/x"),
        ("https://secret@host", "https://host"),
        ("postgresql://ann:sec/ret@host/db", "postgresql://host/db"),
        ("postgresql://ann:sec@ret@host/db", "postgresql://host/db"),
        ("postgresql://ann:sec?ret@host/db", "postgresql://host/db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////home/ann@work/mlflow.db", "sqlite:////home/ann@work/mlflow.db"),
        ("mlruns", "mlruns"),
    ],
)
def test_addresses_without_what_is_secret(uri, text):
    assert without_password(uri) == text
