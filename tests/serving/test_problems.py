"""Phrases of statuses, which metrics, logs and clients see."""

from http import HTTPStatus

import pytest

from hooke.serving.problems import Problem, phrase_of


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        (404, "Not Found"),
        (413, "Request Entity Too Large"),
        (414, "Request-URI Too Long"),
        (416, "Requested Range Not Satisfiable"),
        (422, "Unprocessable Entity"),
        (429, "Too Many Requests"),
    ],
)
def test_a_phrase_is_the_same_on_each_python(status, phrase):
    assert phrase_of(status) == phrase
    assert Problem(status, "what is wrong").title == phrase


def test_each_status_has_a_phrase_and_other_numbers_none():
    assert all(phrase_of(status) for status in HTTPStatus)
    with pytest.raises(ValueError, match="999"):
        phrase_of(999)
