"""What of a dead worker's log an error shows."""

from hooke.processes.exit_report import MOST_LINES, with_short_stack


def stack(frames: int) -> list[str]:
    mine = [f'  File "/home/ada/job.py", line {n} in again' for n in range(frames)]
    return [
        "Fatal Python error: Segmentation fault",
        "",
        "Current thread 0x00007fbee418f340 (most recent call first):",
        *mine,
        f'  File "{with_short_stack.__code__.co_filename}", line 3 in run',
        "",
        "Extension modules: numpy._core._multiarray_umath (total: 1)",
    ]


def test_a_short_stack_is_whole_and_the_users():
    assert with_short_stack(["read 42 rows", *stack(2)]) == (
        "read 42 rows",
        "Fatal Python error: Segmentation fault",
        '  File "/home/ada/job.py", line 0 in again',
        '  File "/home/ada/job.py", line 1 in again',
    )


def test_a_long_stack_leaves_what_was_printed_before():
    shown = with_short_stack([*map(str, range(50)), *stack(100)])
    assert len(shown) == MOST_LINES
    assert shown[:8] == ("42", "43", "44", "45", "46", "47", "48", "49")
    assert shown[-1] == "  ... 90 lines below"


def test_without_a_crash_the_last_lines():
    assert with_short_stack([*map(str, range(50))]) == tuple(map(str, range(30, 50)))
