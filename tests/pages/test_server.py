"""The gate of `hooke ui`, asked for every route by every method; pages of damaged, foreign and far runs."""

import os
from itertools import product
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from tests.fixtures.played_runs import Played

from hooke.base.clock import SystemClock
from hooke.cli.ui.subjects import subjects_of
from hooke.journal.events import ArtifactLogged, RunStarted
from hooke.journal.fleet_events import LaunchIntended
from hooke.journal.run_folders import RunElsewhere, RunsFolder
from hooke.journal.run_view import view_of
from hooke.journal.writer import Journal
from hooke.machines.keeper import Ledger
from hooke.pages.run_index import PAGE, RunIndex
from hooke.pages.server import PageServer
from hooke.project.folder import Project
from hooke.running.run_page import RunCosts, cost_text

TOKEN = "t" * 43
HOST = "127.0.0.1:5180"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "CONNECT")
RUN = "sweep-20261125-004622-x7k2"
PLAN = "sweep-20261125-004500-aaaa"


@pytest.fixture
def runs(tmp_path) -> RunsFolder:
    played = Played(tmp_path, RUN, depth="3")
    played.attempt("fit")
    played.keep("notes/page.html", "<script>window.hacked=1</script>")
    played.keep("picture.png", "")
    (played.folder / "artifacts" / "run" / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n1234")
    played.end()
    return RunsFolder(tmp_path / ".hooke" / "runs")


@pytest.fixture
def server(runs) -> PageServer:
    """With all subjects, as `hooke ui` has them."""
    project = Project.at(runs.path.parents[1])
    return PageServer(
        RunIndex(runs), name="shop", beside=lambda run, ended: ("", {}), subjects=subjects_of(project)
    )


def client(server: PageServer, *, token: str = TOKEN, host: str = HOST) -> TestClient:
    app = server.app(hosts=frozenset({HOST}), token=TOKEN)
    made = TestClient(app, base_url=f"http://{host}", follow_redirects=False)
    if token:
        made.cookies.set("hooke-5180", token)
    return made


def addresses(server: PageServer) -> list[str]:
    """One for each route."""
    paths = [route.path for route in server.routes()]
    values = {"{run}": RUN, "{plan}": PLAN, "{number:int}": "0", "{name}": "style.css"}
    values |= {"{search}": "search-none-x", "{model}": "none", "{fleet}": "none"}
    filled = []
    for path in paths:
        for name, value in values.items():
            path = path.replace(name, value)
        filled.append(path)
    assert not [path for path in filled if "{" in path]
    return filled


class TestGate:
    @pytest.mark.long
    @pytest.mark.needs("cpu")
    @pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "t"])
    def test_without_the_token_no_route_answers_by_any_method(self, server, token):
        with client(server, token=token) as asking:
            for path, method in product([*addresses(server), "/nothing"], METHODS):
                answer = asking.request(method, path)
                assert answer.status_code == 401, (method, path)
                assert "shop" not in answer.text

    def test_the_routes_of_all_subjects_are_among_them(self, server):
        assert {"/laws", "/plans", f"/plans/{PLAN}", f"/laws/{RUN}/events", f"/services/{RUN}"} <= set(
            addresses(server)
        )

    @pytest.mark.long
    @pytest.mark.needs("cpu")
    def test_no_foreign_host_is_answered(self, server):
        for host in ("evil.example", "evil.example:5180", "127.0.0.1:80", "127.0.0.1", "localhost.evil:5180"):
            with client(server, host=host) as asking:
                for path, method in product(addresses(server), METHODS):
                    assert asking.request(method, path).status_code == 403, (host, method, path)

    @pytest.mark.long
    @pytest.mark.needs("cpu")
    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": "https://127.0.0.1:5180"},
            {"origin": "http://127.0.0.1:80"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ],
    )
    def test_no_foreign_page_is_answered(self, server, headers):
        with client(server) as asking:
            for path, method in product(addresses(server), METHODS):
                if path != "/" or "origin" in headers:
                    assert asking.request(method, path, headers=headers).status_code == 403, (method, path)

    def test_two_hosts_or_origins_are_refused(self, server):
        with client(server) as asking:
            for name, value in (("host", HOST), ("origin", f"http://{HOST}")):
                assert asking.get("/runs", headers=[(name, value), (name, value)]).status_code == 403

    @pytest.mark.needs("cpu")
    def test_nothing_can_be_changed(self, server):
        with client(server) as asking:
            for path, method in product(addresses(server), METHODS[2:]):
                assert asking.request(method, path).status_code == 405, (method, path)

    def test_the_printed_address_gives_the_cookie_once(self, server):
        with client(server, token="") as asking:
            assert asking.get("/?token=wrong").status_code == 401
            assert asking.get(f"/runs?token={TOKEN}").status_code == 401
            answer = asking.get(f"/?token={TOKEN}")
            assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
            assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(answer.headers["set-cookie"].split("; "))
            assert asking.get("/runs").status_code == 200

    @pytest.mark.needs("cpu")
    def test_every_answer_has_the_policy(self, server):
        assert {"/runs", "/compare", "/searches", "/models", "/store", "/fleets"} <= set(addresses(server))
        with client(server) as asking:
            for path in [each for each in addresses(server) if "events" not in each] + ["/nothing"]:
                headers = asking.get(path).headers
                assert headers["x-content-type-options"] == "nosniff"
                assert "unsafe" not in headers["content-security-policy"]
                assert headers["content-security-policy"].startswith(
                    ("default-src 'self'; ", "default-src 'none'; ")
                )


class TestArtifacts:
    def test_only_pictures_are_shown_and_all_else_is_saved(self, server):
        with client(server) as asking:
            page, picture = (asking.get(f"/runs/{RUN}/artifacts/{number}") for number in (0, 1))
            assert page.headers["content-type"] == "application/octet-stream"
            assert page.headers["content-disposition"] == "attachment; filename*=UTF-8''page.html"
            assert picture.headers["content-type"] == "image/png"
            assert page.headers["content-security-policy"] == "default-src 'none'; sandbox"
            assert asking.get(f"/runs/{RUN}/artifacts/2").status_code == 404

    @pytest.mark.needs("cpu")
    def test_no_file_outside_the_run_is_served(self, server, runs, tmp_path):
        (tmp_path / "secret.txt").write_text("secret")
        folder = runs.folder(RUN)
        (folder / "artifacts" / "link").symlink_to(tmp_path / "secret.txt")
        with Journal.create(folder, "track-w2-1", durable="none", clock=SystemClock()) as journal:
            for file in ("../../../secret.txt", "artifacts/link", str(tmp_path / "secret.txt")):
                journal.append(ArtifactLogged(at=1.0, path=file, file=file, size=6))
        paths = [f"/runs/{RUN}/artifacts/{number}" for number in range(8)]
        climbing = (
            "../../secret.txt",
            "..%2f..%2fsecret.txt",
            "%2e%2e/%2e%2e/secret.txt",
            "....//secret.txt",
            "-1",
            "0%00",
        )
        paths += [f"/runs/{RUN}/artifacts/{each}" for each in climbing]
        paths += [f"/{where}/{each}" for where, each in product(("static", "runs"), climbing)]
        with client(server) as asking:
            assert not [path for path in paths if "secret" in asking.get(path).text.replace("secret.txt", "")]
            assert [asking.get(path).status_code for path in paths].count(200) == 2

    @pytest.mark.parametrize("run", ["..", ".", "%2e%2e", "a%5cb", "a%00b", "nothing"])
    def test_a_run_is_a_folder_of_the_runs(self, server, run):
        with client(server) as asking:
            assert asking.get(f"/runs/{run}/logs").status_code in (303, 404)
            assert asking.get(f"/runs/{run}").status_code in (200, 303, 404)
            assert "Traceback" not in asking.get(f"/runs/{run}").text


class TestRuns:
    def test_it_filters_sorts_and_turns_pages(self, tmp_path):
        for number in range(PAGE + 5):
            played = Played(
                tmp_path, f"r{number}-20261125-{number:06d}-x", depth=str(number % 2), at=1e9 + number
            )
            played.end("failed" if number % 10 == 0 else "finished", seconds=float(number))
        index = RunIndex(RunsFolder(tmp_path / ".hooke" / "runs"))
        first, second = index.page(), index.page(page=2)
        assert (len(first.rows), len(second.rows), first.pages) == (PAGE, 5, 2)
        assert first.rows[0][0].startswith(f"r{PAGE + 4}-")
        assert index.page(page=99).rows == second.rows
        failed = index.page(status="failed", query="depth=0")
        assert [row.status for _, row, _ in failed.rows] == ["failed"] * 11
        assert not failed.partial
        took = [row.seconds for _, row, _ in index.page(sort="took").rows]
        assert took == sorted(took, reverse=True)
        assert index.page(query="depth=1 r3-").found == 1

    def test_what_cannot_be_read_is_named(self, server, runs):
        folder = runs.create("torn-20261125-000001-x")
        (folder / "driver.journal").write_bytes(b"not a journal at all, but long enough to be one")
        runs.note_elsewhere("far-20261125-000002-x", RunElsewhere(place="k8s", pipeline="far", typed=("x",)))
        runs.create("new-20261125-000003-x")
        (runs.create("search-folder-20261125-000004-x") / "driver.journal").mkdir()
        with client(server) as asking:
            listed = asking.get("/runs").text
            assert listed.count("unreadable") == 2
            assert "Is a directory" in listed
            assert "in the cluster" in listed
            assert listed.count('<td class="n">0</td>') == 2  # of the one run that can be read
            assert "Is a directory" in asking.get("/searches").text
            one = asking.get("/runs/search-folder-20261125-000004-x")
            assert (one.status_code, "Is a directory" in one.text) == (500, True)
            assert asking.get(f"/runs/{'x' * 300}").status_code == 404
            new = asking.get("/runs/new-20261125-000003-x").text
            assert "It has not begun" in new
            assert 'data-follow="/runs/new-20261125-000003-x/events"' in new
            assert asking.get("/runs/torn-20261125-000001-x").status_code == 500
            assert asking.get("/runs/new-20261125-000003-x").status_code == 200
            far = asking.get("/runs/far-20261125-000002-x")
            assert (far.status_code, "hooke show far-" in far.text) == (404, True)

    def test_the_list_says_what_runs_on_rented_machines_cost(self, tmp_path):
        priced = Played(tmp_path, "priced-20261125-000001-x", at=1e9)
        priced.end(seconds=3600.0)
        Played(tmp_path, "free-20261125-000002-x").end()
        with Ledger.open(priced.folder, durable="none") as ledger:
            ledger.write(LaunchIntended(at=1e9, token="m-1", reason="work", usd_per_hour=2.5))
        project = Project.at(tmp_path)
        costs = RunCosts(project)
        made = PageServer(
            RunIndex(project.runs), name="shop", beside=lambda run, ended: ("", {}), costs=costs
        )
        with client(made) as asking:
            for _ in range(2):
                listed = asking.get("/runs").text
                assert listed.count('<td class="n">$2.5') == 1
                assert ">cost</th>" in listed
        assert [run for run, _ in costs.ended] == [priced.run]
        assert cost_text(project, priced.run, most_bytes=1) == f"cost: hooke show {priced.run}"
        with client(
            PageServer(RunIndex(project.runs), name="shop", beside=lambda run, ended: ("", {}))
        ) as asking:
            assert ">cost</th>" not in asking.get("/runs").text

    def test_a_run_on_a_rented_fleet_costs_what_the_fleet_did_meanwhile(self, tmp_path):
        (tmp_path / "hooke.toml").write_text(
            '[places.pool]\nengine = "dask"\naddress = "tcp://127.0.0.1:1"\nfleet = "pool"\n'
        )
        run = "there-20261125-000001-x"
        played = Played(tmp_path, run, at=1e9)
        played.driver.append(
            RunStarted(at=1e9, run=run, pipeline="sweep", entry="job.py:sweep", place="pool")
        )
        played.end(seconds=3600.0)
        (tmp_path / ".hooke" / "fleets" / "pool").mkdir(parents=True)
        with Ledger.open(tmp_path / ".hooke" / "fleets" / "pool", durable="none") as ledger:
            ledger.write(LaunchIntended(at=0.9e9, token="m-1", reason="work", usd_per_hour=1.25))
        project = Project.at(tmp_path)
        assert RunCosts(project)([view_of(project.runs, run).row(2e9)]) == {run: "$1.25"}
        assert cost_text(project, run) == "$1.25"

    def test_a_fleet_whose_ledger_is_damaged_says_nothing_else(self, tmp_path):
        (tmp_path / "hooke.toml").write_text('[fleets.pool]\ncommand = ["sleep", "1"]\n')
        folder = tmp_path / ".hooke" / "fleets" / "pool"
        folder.mkdir(parents=True)
        (folder / "ledger.journal").write_bytes(b"not a journal at all, but long enough to be one")
        project = Project.at(tmp_path)
        made = PageServer(
            RunIndex(project.runs),
            name="shop",
            beside=lambda run, ended: ("", {}),
            subjects=subjects_of(project),
        )
        with client(made) as asking:
            page = asking.get("/fleets/pool").text
            assert "this file is not a journal" in page
            assert "unreadable" in page
            assert "no machines" not in page
            assert "$0" not in page

    @pytest.mark.needs("cpu")
    def test_no_more_is_compared_than_a_page_can_read(self, server, runs, tmp_path):
        for number in range(12):
            Played(tmp_path, f"r{number}-20261125-{number:06d}-x").end()
        names = runs.names()
        with client(server) as asking:
            many = asking.get("/compare", params={"run": names})
            assert (many.status_code, "12 at most" in many.text) == (400, True)
            with (runs.folder(names[0]) / "driver.journal").open("ab") as file:
                file.truncate(20 << 20)
            large = asking.get("/compare", params={"run": names[:2]})
            assert large.status_code == 400
            assert f"hooke compare {names[0]} {names[1]}" in large.text
            assert asking.get("/compare", params={"run": [names[1]] * 2}).text.count("<h2>") == 0

    def test_unknown_filters_are_refused(self, server):
        with client(server) as asking:
            for query in ("status=x", "sort=x", "page=x", "page=-1"):
                assert asking.get(f"/runs?{query}").status_code == 400

    def test_it_keeps_few_runs_open(self, tmp_path):
        for number in range(20):
            Played(tmp_path, f"r{number}-20261125-{number:06d}-x").end()
        before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
        index = RunIndex(RunsFolder(tmp_path / ".hooke" / "runs"))
        for name in index.runs.names():
            index.follower(name)[1].read()
        after = len(os.listdir("/proc/self/fd")) if before else 0
        assert after - before <= 4


def test_of_two_that_ask_for_the_store_at_once_one_counts_it(tmp_path):
    import threading

    from hooke.cli.ui.store import StorePages

    class Interrupted(dict):
        def pop(self, key, default=None):
            if other.ident is None:
                other.start()
                other.join(0.1)  # it waits for the first, or begins a count meanwhile
            return super().pop(key, default)

    project = Project.at(tmp_path)
    project.create()
    pages, counts = StorePages(project), []
    pages._counts = Interrupted()
    other = threading.Thread(target=lambda: counts.append(pages._count(None)))
    counts.append(pages._count(None))
    other.join()
    assert counts[0] is counts[1]
    assert counts[0].done.wait(60)


def test_events_of_a_fleet_that_there_is_not_are_not_found(runs):
    from hooke.cli.ui.fleets import FleetPages

    subjects = [FleetPages(Project.at(runs.path.parents[1]))]
    with client(
        PageServer(RunIndex(runs), name="shop", beside=lambda run, ended: ("", {}), subjects=subjects)
    ) as asking:
        assert asking.get("/fleets/none/events").status_code == 404
