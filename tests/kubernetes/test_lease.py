"""Whose lease lapsed: told without a cluster, and without any clock but the one that waits."""

from hooke.kubernetes.lease import LEASE_S, lapsed


def leases(**versions):
    return [{"metadata": {"name": name, "resourceVersion": str(each)}} for name, each in versions.items()]


def test_only_a_lease_that_stays_as_it_is_for_a_minute_is_lapsed():
    passed = []

    def look():
        return leases(dead=1, lives=2 + (sum(passed) >= 10), **({} if sum(passed) >= 5 else {"ends": 1}))

    assert lapsed(look, wait=passed.append) == {"dead"}
    assert sum(passed) == LEASE_S


def test_nobody_waits_longer_than_until_all_have_renewed():
    passed = []
    assert lapsed(lambda: leases(a=sum(passed) >= 3, b=sum(passed) >= 7), wait=passed.append) == set()
    assert sum(passed) == 7
    assert lapsed(list, wait=passed.append) == set()
    assert sum(passed) == 7
