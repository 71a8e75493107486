from __future__ import annotations

from hooke.base.user_code import (
    LONGEST_LINE,
    SourceLine,
    cell_number,
    raising_line,
    user_frames,
    with_cells_named,
)

TEXT = """Traceback (most recent call last):
  File "/opt/venv/lib/python3.11/site-packages/hooke/engines/local_worker.py", line 5, in work
    call()
    ^^^^^^
  File "/project/flights.py", line 34, in features
    return join(table)
           ^^^^^^^^^^^
  File "/opt/venv/lib/python3.11/site-packages/polars/frame.py", line 1, in join
    raise KeyError("wind")
KeyError: 'wind'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/project/flights.py", line 36, in features
    raise ValueError("no wind")
ValueError: no wind
"""


def test_only_the_users_frames_stay():
    assert user_frames(TEXT) == [
        "Traceback (most recent call last):",
        '  File "/project/flights.py", line 34, in features',
        "    return join(table)",
        "           ^^^^^^^^^^^",
        "  raised in join, line 1 of /opt/venv/lib/python3.11/site-packages/polars/frame.py",
        "KeyError: 'wind'",
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        "Traceback (most recent call last):",
        '  File "/project/flights.py", line 36, in features',
        '    raise ValueError("no wind")',
        "ValueError: no wind",
    ]


def test_other_text_stays_as_it_is():
    assert user_frames("") == []
    assert user_frames("Segmentation fault\n  at 0x12\n") == ["Segmentation fault", "  at 0x12"]


def test_a_syntax_error_keeps_its_place():
    text = '  File "/project/a.py", line 3\n    def (:\n        ^\nSyntaxError: invalid syntax'
    assert user_frames(text) == text.splitlines()


def test_frames_from_windows_and_frozen_modules_are_libraries():
    text = 'Traceback (most recent call last):\n  File "<frozen runpy>", line 88, in _run_code\n  File "me.py", line 1, in <module>\nKeyError: 1'
    assert user_frames(text) == [
        "Traceback (most recent call last):",
        '  File "me.py", line 1, in <module>',
        "KeyError: 1",
    ]


def test_a_line_of_source_is_cut_to_fit_a_message():
    assert str(SourceLine("job.py", 3, "run(job)")) == "job.py:3: run(job)"
    assert str(SourceLine("job.py", 3, "x" * 500)) == f"job.py:3: {'x' * LONGEST_LINE} ..."


def test_the_line_that_raised_is_the_last_of_the_users():
    assert raising_line(TEXT) == '/project/flights.py:36: raise ValueError("no wind")'
    assert raising_line("  Cell In[3], line 5, in half\n    return 1 / x\nZeroDivisionError: x") == (
        "Cell In[3]:5: return 1 / x"
    )
    assert raising_line("ValueError: no frames") == ""
    assert raising_line('  File "<string>", line 1, in f\nValueError: x') == "<string>:1"


def test_frames_of_cells_stay_and_those_before_them_are_left_out_as_before():
    text = "\n".join(
        [
            '  File "/opt/venv/lib/python3.11/site-packages/hooke/pipeline/task.py", line 5, in work',
            "    call()",
            "  Cell In[12], line 2, in half",
            "    return deeper(x)",
            '  File "/opt/venv/lib/python3.11/site-packages/polars/frame.py", line 1, in join',
            '    raise KeyError("wind")',
            "KeyError: 'wind'",
        ]
    )
    assert user_frames(text) == [
        "  Cell In[12], line 2, in half",
        "    return deeper(x)",
        "  raised in join, line 1 of /opt/venv/lib/python3.11/site-packages/polars/frame.py",
        "KeyError: 'wind'",
    ]


def test_where_there_is_no_notebook_no_cell_has_a_name():
    assert with_cells_named(TEXT) == TEXT
    assert cell_number() is None


def test_a_line_that_was_found_is_not_looked_for_again():
    from hooke.base.user_code import user_place

    known = {}
    first, again = (user_place(known) for _ in range(2))
    assert "user_place(known)" in first.text
    assert again is first
    assert list(known.values()) == [first]
