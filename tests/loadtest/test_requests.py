"""What the user gives: bodies, and the arrivals of a recorded trace."""

from pathlib import Path

import numpy as np
import pytest

from hooke import UsageError
from hooke.loadtest.requests import arrivals_of, bodies_of
from hooke.loadtest.target import constant

TRACE = Path(__file__).parent / "data" / "azure_llm_2023_code.csv"


def test_a_recorded_trace_keeps_its_bursts():
    """Requests for code come in bursts: counts of a tenth of a second vary more than those of a Poisson process do."""

    def dispersion(due):
        counts = np.bincount((due * 10).astype(int))
        return counts.var() / counts.mean()

    made = arrivals_of(str(TRACE))(100, 6, 0)
    assert len(made) == 600
    assert dispersion(made) > 3
    assert dispersion(arrivals_of("poisson")(100, 6, 0)) < 2
    assert arrivals_of("constant") is constant
    assert len(arrivals_of(str(TRACE))(1000, 6, 0)) == 6000, "it begins anew where it is too short"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("t\n", "fewer than two different times"),
        ("", "fewer than two different times"),
        ("t\n1\nx\n", "line 3: 'x' is not a time"),
    ],
)
def test_a_trace_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        arrivals_of(str(tmp_path / "trace.csv"))


def test_bodies_are_json_or_files_of_it(tmp_path):
    (tmp_path / "one.json").write_text('{\n "rows": [1]\n}\n')
    (tmp_path / "lines.jsonl").write_text('{"rows": [1]}\n\n{"rows": [2]}\n')
    assert bodies_of('{"rows": [1]}') == [b'{"rows": [1]}']
    assert bodies_of(f"@{tmp_path}/one.json") == [b'{\n "rows": [1]\n}']
    assert bodies_of(f"@{tmp_path}/lines.jsonl") == [b'{"rows": [1]}', b'{"rows": [2]}']


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}\n{', "\x00", "{\n}\n{"])
def test_bodies_that_are_no_json_name_their_line(tmp_path, text):
    (tmp_path / "f").write_text(text)
    with pytest.raises(UsageError, match=r"f(, line \d)? is not valid JSON"):
        bodies_of(f"@{tmp_path}/f")
