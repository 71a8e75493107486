"""What a prediction costs behind Envoy with one and with two replicas, and what ways to spread requests change of it.

    python -m benchmarks.serving.fronted [--rounds 3] [--seconds 2] [--only least,slices]

Prints a table. All candidates are up at once and measured in turns, for the figures of one are only worth something beside the others'.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from benchmarks.serving.__main__ import fit, say
from benchmarks.serving.measure import PROGRAMS, TOKEN, Server, Window, answers, free_port, under_load
from benchmarks.serving.peers import HOOKE, ROOT, served

from hooke.proxy.envoy import envoy_path
from hooke.proxy.envoy_config import bootstrap, endpoints
from hooke.proxy.proxy_settings import ProxySettings, Upstream, typed

KIND = "predict"
LOAD = HOOKE.asked[KIND].load(KIND)
Change = Callable[[dict[str, Any]], None]


class Proxy:
    """Envoy in front of these ports, with a change to Hooke's configuration of it."""

    def __init__(self, folder: Path, ports: Sequence[int], change: Change) -> None:
        self.port = free_port()
        settings = ProxySettings(service="Predict", folder=folder, port=self.port)
        told = bootstrap(settings, folder / "admin.sock")
        change(told)
        (folder / "envoy.json").write_text(json.dumps(told))
        replicas = [Upstream(port=port) for port in ports]
        settings.endpoints_file.parent.mkdir(parents=True, exist_ok=True)
        settings.endpoints_file.write_text(json.dumps(endpoints(replicas)))
        options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
        self.process = subprocess.Popen([envoy_path(), "-c", str(folder / "envoy.json"), *options])

    def handled(self) -> tuple[int, int]:
        """It calls no model."""
        return 0, 0

    def cpu_s(self) -> float:
        """User and system time."""
        return sum(psutil.Process(self.process.pid).cpu_times()[:2])

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


def _as_it_is(told: dict[str, Any]) -> None:
    pass


def _policy(told: dict[str, Any], name: str, message: str, **fields: Any) -> None:
    policy = {"name": name, "typed_config": typed(f"extensions.load_balancing_policies.{message}", **fields)}
    told["static_resources"]["clusters"][0]["load_balancing_policy"] = {
        "policies": [{"typed_extension_config": policy}]
    }


def _in_turn(told: dict[str, Any]) -> None:
    _policy(told, "round_robin", "round_robin.v3.RoundRobin")


def _slices(told: dict[str, Any], clock: str = "%START_TIME(%s%3f)%") -> None:
    """All requests of a slice of time to one replica, which its hash chooses."""
    _policy(told, "maglev", "maglev.v3.Maglev")
    chain = told["static_resources"]["listeners"][0]["filter_chains"][0]
    manager = chain["filters"][0]["typed_config"]
    header = {"header": {"key": "x-slice", "value": clock}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    filtered = typed(
        "extensions.filters.http.header_mutation.v3.HeaderMutation",
        mutations={"request_mutations": [{"append": header}]},
    )
    manager["http_filters"].insert(0, {"name": "slice", "typed_config": filtered})
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        route["route"]["hash_policy"] = [{"header": {"header_name": "x-slice"}}]


def _long_slices(told: dict[str, Any]) -> None:
    _slices(told, "%START_TIME(%s%2f)%")


WAYS: dict[str, tuple[str, int, Change | None, str]] = {
    "alone": ("one replica, no proxy", 1, None, "Predict"),
    "alone-filled": ("one replica, no proxy, which waits while it pays", 1, None, "Filled"),
    "one": ("one replica behind Envoy", 1, _as_it_is, "Predict"),
    "one-filled": ("one, which waits while it pays", 1, _as_it_is, "Filled"),
    "least": ("two, to the one with the fewest requests", 2, _as_it_is, "Predict"),
    "filled": ("two, each of which waits while it pays", 2, _as_it_is, "Filled"),
    "shared": ("two without a proxy, half of the connections to each", 2, None, "Predict"),
    "shared-filled": ("the same, and they wait while it pays", 2, None, "Filled"),
    "turns": ("two, in turn", 2, _in_turn, "Predict"),
    "slices": ("two, all requests of a millisecond to one", 2, _slices, "Predict"),
    "long": ("two, all requests of ten milliseconds to one", 2, _long_slices, "Predict"),
}


@contextlib.contextmanager
def up(way: str, folder: Path, model: Path) -> Iterator[tuple[list[Any], list[int]]]:
    """A way's processes, and the ports that are asked."""
    _, replicas, change, service = WAYS[way]
    place = folder / way
    place.mkdir()
    shutil.copy(PROGRAMS / "hooke_service.py", place)
    (place / "token").touch(mode=0o600)
    (place / "token").write_text(TOKEN)
    with contextlib.ExitStack() as stack:
        servers: list[Any] = []
        for _ in range(replicas):
            command = [part.replace("{python}", sys.executable) for part in served(service)]
            server = Server(command, folder=place, model=model, python_path=(ROOT / "src",))
            stack.enter_context(server.start(LOAD))
            servers.append(server)
        ports = [server.port for server in servers]
        if change is not None:
            proxy = Proxy(place, ports, change)
            stack.callback(proxy.stop)
            servers.append(proxy)
            ports = [proxy.port]
            while not answers(proxy.port, LOAD):
                time.sleep(0.02)
        under_load(servers, ports, LOAD, 1.0)
        yield servers, ports


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.fronted", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--only", default=",".join(WAYS))
    given = parser.parse_args()
    ways = given.only.split(",")
    seen: dict[str, list[Window]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="fronted", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        fit(folder / "model.pickle")
        with contextlib.ExitStack() as stack:
            started = {way: stack.enter_context(up(way, folder, folder / "model.pickle")) for way in ways}
            for _ in range(given.rounds):
                for way, (servers, ports) in started.items():
                    window = under_load(servers, ports, LOAD, given.seconds)
                    seen[way].append(window)
                    say(
                        f"{way:8} {window.cpu_us:6.1f} us {window.rate:7.0f}/s p99 {window.p99_ms:6.1f} ms, batch {window.mean_batch:5.1f}"
                    )
    print("| way | CPU us | requests/s | p99 ms | mean batch |\n|---|---|---|---|---|")
    for way, windows in seen.items():
        best = min(windows, key=lambda window: window.cpu_us)
        print(
            f"| {WAYS[way][0]} | {best.cpu_us:.1f} | {best.rate:,.0f} | {best.p99_ms:.1f} | {best.mean_batch:.1f} |"
        )


if __name__ == "__main__":
    main()
