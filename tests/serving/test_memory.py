"""A replica's memory over many requests."""

import pytest
from benchmarks.serving.memory import Sample, growth, sampled, table

MB = 2**20


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.timeout(1200)
def test_a_replica_does_not_grow_with_the_requests_that_it_has_answered(tmp_path):
    samples = sampled(60_000, tmp_path)
    found = growth(samples, warm=1 / 3)
    assert samples[-1].requests >= 60_000
    assert found.grown < 100 * (found.last.requests - found.first.requests), (samples, "bytes a request")


def test_growth_is_what_comes_after_the_warm_up():
    samples = [Sample(n * 1000, (50 * MB if n < 4 else 60 * MB) + 3000 * n) for n in range(1, 21)]
    found = growth(samples)
    assert found.first.requests == 4000
    assert found.grown == 3000 * 16
    assert found.slope == pytest.approx(3.0)
    assert found.low <= found.slope <= found.high
    with pytest.raises(ValueError, match="use more requests"):
        growth(samples[:2])


def test_a_table_has_a_row_for_each_so_many_requests():
    samples = [Sample(n, MB) for n in (10, 60, 110, 120, 290)]
    assert [row.split("|")[1].strip() for row in table(samples, every=100)[2:]] == ["10", "110", "290"]
