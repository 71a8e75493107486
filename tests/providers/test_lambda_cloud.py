"""Lambda Cloud: the provider against an account behind its documented API, in virtual time and with instances that are processes."""

import json
import re
import time
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
from tests.support.simulation.lambda_histories import check_lambda, play_lambda
from tests.support.sizes import choose_size

from hooke.base.errors import UsageError
from hooke.machines.provider import (
    Impossible,
    NoCapacity,
    NotAllowed,
    OverQuota,
    ProviderError,
    RateLimited,
    Unreachable,
)
from hooke.providers import lambda_cloud
from hooke.providers.lambda_cloud import LambdaApi, LambdaCloud, over_https
from hooke.testing import check_provider
from hooke.testing.lambda_cloud import LambdaAccount, LambdaFaults, LambdaServer
from hooke.testing.virtual_world import VirtualClock

HISTORIES = choose_size(sample=32, full=64, soak=2_000)
PARTS = 8
USD = 0.2
QUICK = {"launch_every": "1ms", "list_every": "50ms", "listed_within": "10s"}
SLEEPS = "#!/bin/sh\necho begun\nsleep 600\n"


class Virtual:
    """A provider and its account in virtual time."""

    def __init__(self, **account):
        self.clock = VirtualClock()
        self.account = LambdaAccount(clock=self.clock, **account)
        self.requests = []

    def provider(self, tag="fleet", **options):
        given = {"instance": "cpu_4x_general", "ssh_key": "mine", "owner": "test", "usd_per_hour": USD}
        given["api"] = LambdaApi(self.account.key, self.send, clock=self.clock, sleep=self.sleep)
        return LambdaCloud(
            tag,
            user_data=lambda token: SLEEPS,
            logs=Path("/nowhere"),
            **(given | options),
        )

    def sleep(self, seconds):
        self.clock.time += seconds

    def send(self, method, path, headers, body):
        self.requests.append((self.clock.time, path, json.loads(body) if body else {}))
        return self.account.answer(method, path, headers, body)


def of_server(cloud, tag="fleet", **options):
    given = QUICK | {"instance": "cpu_4x_general", "ssh_key": "mine", "owner": "test", "usd_per_hour": USD}
    return LambdaCloud(
        tag,
        user_data=lambda token: SLEEPS,
        logs=cloud.folder,
        api=LambdaApi(cloud.key, over_https(cloud.endpoint), request_s=0.001, launch_s=0.001),
        **(given | options),
    )


def wait(condition, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- the suite, and histories --------------------------------------------------------------------------


def test_it_keeps_the_suite_in_virtual_time():
    virtual = Virtual()
    check_provider(virtual.provider, sleep=virtual.sleep, now=virtual.clock.now, patience_s=900.0)
    virtual.sleep(60.0)
    assert not virtual.account.billing()


@pytest.mark.needs("processes")
def test_it_keeps_the_suite_with_real_processes(tmp_path):
    with LambdaServer(tmp_path) as cloud:
        check_provider(lambda tag: of_server(cloud, tag))
        wait(lambda: not cloud.account.billing())
        assert not any(cloud.runs(each) for each in cloud.account.instances)


@pytest.mark.needs("cpu")
def test_some_histories_keep_every_invariant():
    for seed in range(3):
        check_lambda(play_lambda(seed))


@pytest.mark.long
@pytest.mark.needs("processes")
@pytest.mark.parametrize("part", range(PARTS))
def test_histories_keep_every_invariant(part):
    """Never beyond the caps, no launch twice for one intent, and nothing is billed after a reap that has no ledger."""
    for seed in range(part, HISTORIES, PARTS):
        check_lambda(play_lambda(seed))


@pytest.mark.needs("cpu")
def test_a_launch_that_waited_long_for_its_turn_is_given_up():
    """Else its machine is listed after the time in which it counts against the caps: one more is rented, as seed 1479 has shown."""
    virtual = Virtual()
    provider = virtual.provider()
    virtual.account.faults = LambdaFaults(busy=1.0)
    with pytest.raises(RateLimited):
        provider.list()
    virtual.account.faults = LambdaFaults()
    with pytest.raises(RateLimited, match="its turn came too late"):
        provider.launch("t-1")
    assert not virtual.account.launches
    provider.launch("t-2")
    check_lambda(play_lambda(1479))


@pytest.mark.needs("cpu")
def test_a_seed_replays_to_the_same_trace():
    assert play_lambda(7).trace == play_lambda(7).trace


@pytest.mark.long
@pytest.mark.needs("processes")
def test_every_kind_of_fault_happens():
    seen, crashes = set(), 0
    for seed in range(40):
        history = play_lambda(seed)
        seen |= set(history.refused)
        crashes += history.crashes
    assert seen >= {each.name for each in fields(LambdaFaults)} - {"crashes"}
    assert crashes


class LaunchesAgain(LambdaCloud):
    """Takes a lost answer for a launch that was not done."""

    def launch(self, token):
        try:
            return super().launch(token)
        except Unreachable:
            return super().launch(token)


class ForgetsTags(LambdaCloud):
    """Does not find what got no answer."""

    def list(self):
        return [each for each in super().list() if each.phase != "starting"]


class TrustsPreemption(LambdaCloud):
    """Takes a preempted instance for one that costs nothing any more."""

    def list(self):
        return [each for each in super().list() if "preempted" not in each.why]


class Hurries(LambdaCloud):
    """Waits for no limit."""

    def __init__(self, *words, api, **options):
        api._every = dict.fromkeys(api._every, 0.0)
        super().__init__(*words, api=api, **(options | {"launch_every": "0s"}))


@pytest.mark.needs("processes")
@pytest.mark.parametrize(
    "bug", [LaunchesAgain, ForgetsTags, TrustsPreemption, Hurries], ids=lambda bug: bug.__name__
)
def test_a_planted_bug_is_found(bug):
    def play():
        for seed in range(60):
            check_lambda(play_lambda(seed, provider=bug))

    with pytest.raises(AssertionError, match=r"repro: tests\.support\.simulation\.lambda_histories seed=\d+"):
        play()


# -- one call ------------------------------------------------------------------------------------------


def test_a_launch_carries_its_token_in_tags_and_name():
    virtual = Virtual()
    provider = virtual.provider()
    machine = provider.launch("pool-18f0-1")
    (_, _, body) = virtual.requests[-1]
    assert {"key": "hooke-token", "value": "pool-18f0-1"} in body["tags"]
    assert body["name"].endswith("-pool-18f0-1") and len(body["name"]) <= 64
    assert body["ssh_key_names"] == ["mine"] and "quantity" not in body
    for each in virtual.account.instances.values():
        each.wanted["tags"] = []  # an account without tags
    assert [(each.id, each.token) for each in provider.list()] == [(machine, "pool-18f0-1")]


def test_a_long_token_is_cut_at_its_beginning():
    virtual = Virtual()
    virtual.provider().launch("x" * 80 + "-18f0-1")
    (_, _, body) = virtual.requests[-1]
    assert len(body["name"]) == 64 and body["name"].endswith("x-18f0-1")


def test_capacity_is_looked_up_before_a_launch_and_regions_are_preferred_in_order():
    virtual = Virtual(full={"us-west-1"})
    provider = virtual.provider(regions=["us-west-1", "europe-central-1"])
    provider.launch("t-1")
    assert [path for _, path, _ in virtual.requests] == ["/instance-types", "/instance-operations/launch"]
    assert virtual.requests[-1][2]["region_name"] == "europe-central-1"
    virtual.account.full |= {"europe-central-1"}
    with pytest.raises(NoCapacity, match="no cpu_4x_general in us-west-1, europe-central-1 now"):
        provider.launch("t-2")
    assert len(virtual.account.launches) == 1


def test_two_projects_of_one_account_do_not_see_one_another():
    virtual = Virtual()
    virtual.provider(owner="a").launch("t-1")
    assert virtual.provider(owner="b").list() == []
    assert len(virtual.provider(owner="a").list()) == 1


def test_requests_keep_their_distance_and_too_many_are_tried_again():
    virtual = Virtual()
    provider = virtual.provider()
    for number in range(4):
        provider.launch(f"t-{number}")
    at = [when for when, path, _ in virtual.requests if path.endswith("launch")]
    assert all(later - sooner >= 12.0 for sooner, later in pairwise(at))
    assert "early" not in virtual.account.refused
    virtual.account.faults = LambdaFaults(busy=1.0)
    begun = virtual.clock.time
    with pytest.raises(RateLimited, match="too many"):
        provider.list()
    assert 10.0 < virtual.clock.time - begun < 300.0
    assert virtual.account.refused["busy"] == lambda_cloud.TRIES


@pytest.mark.parametrize(
    ("faults", "error", "says"),
    [
        ({"quota": 1.0}, OverQuota, "Quota exceeded"),
        ({"invalid_key": 1.0}, NotAllowed, "invalid, expired, or deleted"),
        ({"shortage": 1.0}, NoCapacity, "nor is there anywhere"),
    ],
)
def test_errors_are_typed_and_never_show_the_key(faults, error, says):
    virtual = Virtual(faults=LambdaFaults(**faults))
    provider = virtual.provider()
    with pytest.raises(error) as caught:
        provider.launch("t-1")
    shown = f"{caught.value} {caught.value.__cause__!r} {provider._api!r}"
    assert re.search(says, shown)
    assert virtual.account.key not in shown


@pytest.mark.parametrize("fault", ["lost", "broken"])
def test_only_a_launch_without_an_answer_may_have_been_done(fault):
    virtual = Virtual()
    provider = virtual.provider()
    virtual.account.faults = LambdaFaults(**{fault: 1.0})
    with pytest.raises(ProviderError, match="did not answer|refused|cannot be read") as caught:
        provider.launch("t-1")
    assert caught.value.kind == "error", "the look for capacity failed, and nothing was requested"
    with pytest.raises(Unreachable):
        provider.list()
    with pytest.raises(Unreachable):
        provider._api.launch({})


def test_what_cannot_be_launched_says_why():
    virtual = Virtual()
    with pytest.raises(Impossible, match="no instance type 'gpu_1x_a11'"):
        virtual.provider(instance="gpu_1x_a11").launch("t")
    with pytest.raises(Impossible, match=r"costs \$1.29/h now, more than the \$1.00/h"):
        virtual.provider(instance="gpu_1x_a10", usd_per_hour=1.0).launch("t")
    assert not virtual.account.launches


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"usd_per_hour": 0.0}, "price of an instance is not known"),
        ({"endpoint": "http://example.com/api"}, "in clear text"),
        ({"request_every": "soon"}, "request_every"),
        ({"colour": "red"}, "colour"),
        ({"api": None, "key_env": "NOT_SET_HERE"}, "NOT_SET_HERE has no API key"),
        ({"api": None, "key_file": "/no/such/key"}, "cannot be read from /no/such/key"),
    ],
)
def test_options_that_are_not_valid_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        Virtual().provider(**options)


def test_a_key_that_others_can_read_is_refused(tmp_path):
    file = tmp_path / "key"
    file.write_text("secret_key\n")
    file.chmod(0o644)
    with pytest.raises(UsageError, match="others can read the API key") as caught:
        Virtual().provider(api=None, key_file=str(file))
    assert "secret_key" not in str(caught.value)
    file.chmod(0o600)
    Virtual().provider(api=None, key_file=str(file))


def test_what_is_preempted_counts_until_it_is_terminated():
    virtual = Virtual()
    provider = virtual.provider()
    machine = provider.launch("t-1")
    virtual.account.preempt(machine)
    (listed,) = provider.list()
    assert (listed.phase, listed.taken, listed.why) == ("retired", True, "Lambda Cloud has preempted it")
    provider.release(machine)
    virtual.sleep(10.0)
    assert [each.phase for each in provider.list()] == ["ended"]
    assert not virtual.account.billing()
    virtual.sleep(60.0)
    assert provider.list() == []
    provider.release(machine)
