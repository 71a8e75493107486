"""What a task is advised to declare, from what its attempts used."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooke.scaling.resource_advice import MARGIN, Used, needed

MIB = 2**20


def attempts(count=10, **each):
    return [Used(**{"seconds": 1.0, "cpu_s": 1.0, "peak_bytes": 300 * MIB} | each)] * count


class TestMemory:
    @pytest.mark.needs("cpu")
    @given(peaks=st.lists(st.integers(1, 2**45), min_size=3, max_size=300))
    @settings(max_examples=100, deadline=None)
    def test_all_but_a_hundredth_of_what_was_seen_fits_with_the_margin(self, peaks):
        need = needed([Used(seconds=1, cpu_s=1, peak_bytes=peak) for peak in peaks])
        assert sum(MARGIN * peak > need.memory + 1 for peak in peaks) <= len(peaks) / 100
        assert need.memory % MIB == 0
        assert need.memory <= max(1.12 * MARGIN * max(peaks), 65 * MIB)

    def test_two_digits(self):
        assert needed(attempts(peak_bytes=1111 * MIB)).memory == 1400 * MIB

    def test_an_attempt_that_died_of_it_doubles(self):
        starved = Used(seconds=1, cpu_s=1, memory=512 * MIB, starved=True)
        assert needed([*attempts(), starved]).memory == 1024 * MIB

    def test_one_that_died_of_less_than_what_others_held_changes_nothing(self):
        starved = Used(seconds=1, cpu_s=1, memory=128 * MIB, starved=True)
        assert needed([*attempts(), starved]).memory == 360 * MIB

    def test_too_few_say_nothing(self):
        need = needed(attempts(2))
        assert need.memory is None and "needs 3" in need.why[-1]
        assert needed(attempts(peak_bytes=None)).memory is None

    @pytest.mark.parametrize(
        ("declared", "said"),
        [(200, "runs again"), (4096, "11 fit in the space of one"), (400, "20%: 360 MiB")],
    )
    def test_it_is_compared_with_what_is_declared(self, declared, said):
        assert said in needed(attempts(memory=declared * MIB)).why[-1]


class TestCpus:
    @pytest.mark.parametrize(
        ("declared", "busy", "advised"),
        [
            (1, 1.0, 1),
            (1, 0.95, 1),
            (4, 1.05, 1),
            (4, 2.4, 3),
            (1, 3.9, 4),
            (1, 0.01, 0.1),
            (1, 0.2, 0.25),
            (2, 0.5, 1),
        ],
    )
    def test_what_the_calls_keep_busy(self, declared, busy, advised):
        assert needed(attempts(cpus=declared, cpu_s=busy)).cpus == advised

    @pytest.mark.parametrize("declared", [1, 2, 0.5])
    def test_what_a_study_found_is_said_and_not_contradicted(self, declared):
        known = "the cores are all in use: 4 workers compute on 2 cores"
        (why, *_) = needed(attempts(cpus=declared), known=known).why
        assert why.endswith(f"A study says what more workers meet: {known}")
        assert "as many workers" not in why

    def test_short_attempts_are_not_divided_by(self):
        need = needed(attempts(seconds=0.001, cpu_s=0.01))
        assert need.cpus is None and "needs 3 attempts of 20.0 ms or longer; has 0" in need.why[0]

    def test_where_several_were_tried_what_brought_most_per_core(self):
        tried = (
            attempts(cpus=4, seconds=0.5, cpu_s=1.0)
            + attempts(cpus=1, seconds=1.0)
            + attempts(cpus=2, seconds=0.8)
        )
        need = needed(tried)
        assert need.cpus == 1
        assert [each.cpus for each in need.threads] == [1, 2, 4]
        assert "a core did 1.60 times as much" in need.why[0]

    def test_what_chance_may_have_done_is_no_reason(self):
        noisy = [Used(cpus=cpus, seconds=s * 2 / cpus, cpu_s=1) for cpus in (1, 2) for s in (0.6, 1.0, 1.5)]
        need = needed([*noisy, Used(cpus=2, seconds=0.9, cpu_s=1)])
        assert need.cpus == 2 and "not a significant difference" in need.why[0]


def test_nothing_is_advised_from_nothing():
    with pytest.raises(ValueError, match="no attempts"):
        needed([])
