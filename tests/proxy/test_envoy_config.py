"""What Envoy is told: whole, as a file to read, and for any settings accepted by the real one."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serving.certificates import make_certificate

from hooke.base.errors import UsageError
from hooke.proxy.envoy import envoy_path
from hooke.proxy.envoy_config import KEY_START, bootstrap, endpoints, low_keys_pattern
from hooke.proxy.proxy_settings import (
    CLUSTER,
    CONNECTION_BUFFER,
    MIRROR_CLUSTER,
    ProxySettings,
    ProxyTls,
    Upstream,
)
from hooke.serving.bind_config import BindConfig
from hooke.serving.server.metrics_endpoint import MetricsEndpoint

GOLDEN = Path(__file__).with_name("envoy.json")
FOLDER = Path("/srv/delay")


def test_the_whole_of_it_is_as_in_the_file():
    told = bootstrap(
        ProxySettings(
            service="Delay",
            folder=FOLDER,
            port=8000,
            timeout_s=2,
            idempotent=True,
            rate_limit=500,
            streams=("/count",),
            metrics_socket=FOLDER.parent / "metrics.sock",
        ),
        FOLDER / "admin.sock",
    )
    # To take a change: write `json.dumps(told, indent=1)` there, and read what git says of it.
    assert json.dumps(told, indent=1) + "\n" == GOLDEN.read_text()


def retry_on(**given):
    told = bootstrap(ProxySettings(service="Delay", folder=FOLDER, **given), FOLDER / "admin.sock")
    manager = told["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return set(manager["route_config"]["virtual_hosts"][0]["retry_policy"]["retry_on"].split(","))


def test_what_was_sent_is_sent_again_only_where_that_was_declared():
    assert retry_on(idempotent=True) - retry_on() == {"reset"}
    assert retry_on() == {"connect-failure", "refused-stream", "reset-before-request", "retriable-headers"}


@pytest.mark.needs("cpu")
@given(memory=st.integers(1 << 20, 1 << 40), connections=st.integers(1, 1 << 20))
def test_there_is_memory_for_what_all_connections_may_keep(memory, connections):
    made = ProxySettings(service="Delay", folder=FOLDER, memory_limit=memory, most_connections=connections)
    assert connections * (made.kept_body + 2 * CONNECTION_BUFFER) <= memory or made.kept_body == 1
    assert ProxySettings(service="Delay", folder=FOLDER).kept_body == 128 << 10


def test_the_front_closes_a_connection_that_nobody_uses_before_the_supervisor_does():
    """Who asks for the metrics every five seconds would meet one that the other end is closing."""
    told = bootstrap(
        ProxySettings(service="Delay", folder=FOLDER, metrics_socket=FOLDER / "metrics.sock"), FOLDER
    )
    scrape = MetricsEndpoint(BindConfig().make_auth(None), lambda: b"")
    for cluster in told["static_resources"]["clusters"]:
        (options,) = cluster["typed_extension_protocol_options"].values()
        idle_s = float(options["common_http_protocol_options"]["idle_timeout"].removesuffix("s"))
        assert idle_s < scrape.idle_s


tokens = st.text("ab-._~+/", min_size=16, max_size=40)


@pytest.mark.needs("cpu")
@given(low=st.lists(tokens, min_size=1, max_size=4), high=st.lists(tokens, max_size=4))
def test_the_pattern_of_low_keys_matches_each_of_them_and_no_other_key(low, high):
    high = [token for token in high if token not in low]
    pattern = re.compile(low_keys_pattern(low, high))
    assert all(pattern.fullmatch(f"Bearer {token}") for token in low)
    assert all(pattern.fullmatch(f"bEARER  {token}") for token in low)
    assert not any(pattern.fullmatch(f"Bearer {token}") for token in high)
    assert not pattern.fullmatch(f"Basic {low[0]}")


def test_the_pattern_of_low_keys_tells_no_whole_token_without_need():
    low, high = "nightly-0123456789-0123456789", "nightly-0123-other-0123"
    assert low[: KEY_START + 1] not in low_keys_pattern([low], []).replace("\\", "")
    assert low not in low_keys_pattern([low], [high]).replace("\\", "")
    assert low_keys_pattern([], [high]) == ""


places = st.builds(
    Upstream,
    port=st.integers(1, 65535),
    leaving=st.booleans(),
    version=st.sampled_from("ab"),
    new=st.just(False),
)


@pytest.mark.needs("cpu")
@given(st.lists(places, unique_by=lambda one: one.port), st.randoms(use_true_random=False))
def test_the_file_of_the_replicas_is_the_same_in_any_order(replicas, chance):
    mixed = list(replicas)
    chance.shuffle(mixed)
    assert endpoints(mixed) == endpoints(replicas)
    listed = [
        one for group in endpoints(replicas)["resources"][0]["endpoints"] for one in group["lb_endpoints"]
    ]
    ports = {
        one["endpoint"]["address"]["socket_address"]["port_value"]: one.get("health_status") for one in listed
    }
    assert ports == {one.port: "DRAINING" if one.leaving else None for one in replicas}


@pytest.mark.needs("cpu")
@given(st.sets(places, max_size=3), st.sets(places, max_size=3))
def test_its_version_tells_two_of_them_apart(some, others):
    assert (endpoints(some)["version_info"] == endpoints(others)["version_info"]) == (some == others)


@pytest.mark.needs("cpu")
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 0.5))
def test_a_version_has_its_share_whatever_the_numbers_of_replicas(old, new, share):
    replicas = [Upstream(port=1 + at, version="ab"[at % 2]) for at in range(old)]
    replicas += [Upstream(port=100 + at, version="c", new=True) for at in range(new)]
    replicas += [Upstream(port=200, version="a", leaving=True)]
    groups = endpoints(replicas, share)["resources"][0]["endpoints"]
    weights = {group["locality"]["region"]: group["load_balancing_weight"] for group in groups}
    assert weights["c"] / sum(weights.values()) == pytest.approx(share, abs=0.001)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"address": "0.0.0.0"}, "TLS is missing"),
        ({"address": "localhost"}, "not a valid address"),
        ({"port": 70_000}, "not a valid port"),
        ({"timeout_s": 0}, "not a valid time"),
        ({"rate_limit": 0}, "admits no request"),
        ({"most_connections": 0}, "admits no request"),
        ({"folder": Path("here")}, "relative"),
    ],
)
def test_what_would_not_be_safe_is_refused(given, said):
    with pytest.raises(UsageError, match=said) as raised:
        ProxySettings(**{"service": "Delay", "folder": FOLDER} | given)
    assert raised.value.fix


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    made, key = make_certificate(tmp_path_factory.mktemp("tls"))
    return ProxyTls(certificate=made, key=key)


counts = st.integers(1, 1 << 20)
drawn = st.fixed_dictionaries(
    {
        "service": st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=40),
        "address": st.sampled_from(["127.0.0.1", "127.0.0.5", "::1"]),
        "port": st.integers(0, 65535),
        "timeout_s": st.floats(0.001, 86_400),
        "idempotent": st.booleans(),
        "streams": st.lists(st.from_regex(r"/[A-Za-z_]\w{0,20}", fullmatch=True), max_size=3).map(tuple),
        "body_limit": st.integers(1, 1 << 31),
        "retry_body_limit": st.none() | st.integers(1, 1 << 31),
        "header_limit_kb": st.integers(1, 8192),
        "most_headers": counts,
        "most_connections": counts,
        "most_requests": counts,
        "rate_limit": st.none() | counts,
        "headers_timeout_s": st.floats(0.001, 86_400),
        "idle_timeout_s": st.floats(0.001, 86_400),
        "memory_limit": st.integers(1 << 20, 1 << 40),
        "threads": st.integers(1, 8),
    }
)


@pytest.mark.long
@pytest.mark.needs("processes")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=drawn, has_tls=st.booleans(), has_log=st.booleans())
def test_any_settings_make_what_envoy_accepts(tmp_path, certificate, given, has_tls, has_log):
    made = ProxySettings(
        folder=tmp_path,
        tls=certificate if has_tls else None,
        access_log=tmp_path / "access.log" if has_log else None,
        metrics_socket=tmp_path.parent / "metrics.sock" if has_log else None,
        **given,
    )
    for file, cluster in ((made.endpoints_file, CLUSTER), (made.mirror_file, MIRROR_CLUSTER)):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(endpoints([Upstream(port=8001)], cluster=cluster)))
    told = tmp_path / "envoy.json"
    told.write_text(json.dumps(bootstrap(made, tmp_path / "admin.sock")))
    checked = subprocess.run(
        [envoy_path(), "--mode", "validate", "--log-level", "warn", "-c", told],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    # Neither a deprecated field nor anything else to be warned of.
    assert checked.stderr.strip() in ("", f"configuration '{told}' OK")
