"""`hooke top`: the table of what runs on this machine and in its fleets."""

import contextlib
import json
import signal
import sys

import msgspec
import pexpect
import pytest
from tests.cli.jobs import SLOW

from hooke.base.files import FileLock
from hooke.cli.top import LiveFleetRow, MachineRow, MachineWatch, RunningRow, ServiceRow, TopSnapshot, picture
from hooke.fleets.fleet_folder import find_fleet
from hooke.journal.events import BackendTrouble, RunStarted, StudyStarted
from hooke.journal.fleet_events import (
    FleetWanted,
    LaunchAnswered,
    LaunchIntended,
    MachineGone,
    MachineReleased,
)
from hooke.journal.run_folders import DRIVER, LOCK
from hooke.journal.search_events import SearchStarted, TrialBegan, TrialEnded
from hooke.journal.writer import Journal
from hooke.machines.keeper import Ledger
from hooke.project.folder import Project

RUN = RunningRow(
    project="/home/ann/flights",
    run="flights-20261130-090000-abcd",
    kind="pipeline",
    status="running",
    seconds=90,
    done=12,
    items=40,
    failed=0,
    running=2,
    workers=2,
    busy=2,
    left_s=210,
    usd=None,
    usd_per_hour=0,
    note="",
)
SEARCH = msgspec.structs.replace(
    RUN,
    run="search-fit-20261130-085500-abcd",
    kind="search",
    items=0,
    left_s=None,
    note="9 trials, best 0.9312",
)
SERVICE = ServiceRow(
    project="/home/ann/flights",
    service="Late",
    state="serving",
    replicas=2,
    wanted=3,
    rate=118.2,
    p99_s=0.031,
    url="http://127.0.0.1:8000",
    note="",
)
MACHINES = [
    MachineRow(
        project="/home/ann/flights",
        fleet="gpus",
        machine=f"i-{number}",
        state=state,
        age_s=3600 * number + 5,
        usd_per_hour=1.29,
        usd=1.29 * number,
    )
    for number, state in ((1, "there"), (2, "there"), (0, "promised"))
]
FLEET = LiveFleetRow(
    project="/home/ann/flights",
    fleet="gpus",
    kept_by="hooke fleet up",
    machines=2,
    promised=1,
    ending=0,
    wanted=3,
    usd_per_hour=3.87,
    usd=4.5,
    note="",
)
FOUND = TopSnapshot(
    at=1796038810.0,
    host="box",
    runs=(RUN, SEARCH),
    services=(SERVICE,),
    fleets=(FLEET,),
    machines=tuple(MACHINES),
)


def test_a_table_for_each_kind_of_thing_without_empty_columns():
    title, *lines = picture(FOUND, width=200, height=100)
    assert title.startswith("box ") and title.endswith(
        "  2 runs, 1 service, 2 machines, $3.87/h, $4.50 so far"
    )
    assert lines == [
        "",
        "run                              kind      status     time  done  of  running  busy    left",
        "flights-20261130-090000-abcd     pipeline  running  1m 30s    12  40        2   2/2  3m 30s",
        "search-fit-20261130-085500-abcd  search    running  1m 30s    12            2   2/2          9 trials, best 0.9312",
        "",
        "service  state    replicas  per s      p99  url",
        "Late     serving       2/3    118  31.0 ms  http://127.0.0.1:8000",
        "",
        "fleet  kept by         machines  wanted  promised    $/h  so far",
        "gpus   hooke fleet up         2       3         1  $3.87   $4.50",
        "",
        "machine  fleet  state        age    $/h  so far",
        "i-1      gpus   there     1h 00m  $1.29   $1.29",
        "i-2      gpus   there     2h 00m  $1.29   $2.58",
        "i-0      gpus   promised  5.00 s  $1.29   $0.00",
    ]


def test_a_language_model_has_tokens_instead_of_times_of_whole_answers():
    chat = msgspec.structs.replace(
        SERVICE,
        service="Chat",
        p99_s=9.0,
        tokens_per_s=397.2,
        first_p95_s=0.232,
        next_p95_s=0.035,
        waiting=15,
        within=0.99999,
    )
    lines = picture(TopSnapshot(at=FOUND.at, host="box", services=(chat,)), width=200, height=100)
    assert lines[2:] == [
        "service  state    replicas  per s  tokens/s  first p95  next p95  waiting   in SLO  url",
        "Chat     serving       2/3    118       397     232 ms   35.0 ms       15  99.99 %  http://127.0.0.1:8000",
    ]


def test_projects_are_named_where_there_are_several_and_costs_are_added_once():
    other = msgspec.structs.replace(RUN, project="/srv/sales", usd=2.0, usd_per_hour=0.5)
    on_fleet = msgspec.structs.replace(RUN, usd=4.5, fleet="gpus")
    found = msgspec.structs.replace(FOUND, runs=(on_fleet, other))
    text = "\n".join(picture(found, width=200, height=100))
    assert "  flights\n" in text and "  sales\n" in text and "/srv" not in text
    assert "$4.37/h, $6.50 so far" in text, "what a run on a fleet has cost is among the fleet's"
    twice = msgspec.structs.replace(found, runs=(RUN, msgspec.structs.replace(RUN, project="/srv/flights")))
    assert "  /srv/flights" in "\n".join(picture(twice, width=200, height=100))


def test_it_fits_its_terminal_and_says_what_it_leaves_out():
    lines = picture(FOUND, width=40, height=8)
    assert len(lines) == 8 and max(map(len, lines)) == 40
    assert lines[-1] == "and 9 more lines: hooke top --once"
    empty = TopSnapshot(at=0.0, host="box", trouble=("/x: damaged",))
    assert picture(empty, width=80, height=24)[1:] == [
        "",
        "nothing is running: hooke run FILE.py",
        "",
        "/x: damaged",
    ]


# --- Looking.


@contextlib.contextmanager
def driven(project, run, *events):
    """A run that this process drives, with these events."""
    folder = project.runs.create(run)
    lock = FileLock(folder / LOCK)
    assert lock.try_acquire()
    with Journal.create(folder, DRIVER, durable="none") as journal:
        for event in events:
            journal.append(event)
        journal.flush()
        yield journal
    lock.release()


def began(run, **more):
    return RunStarted(run=run, pipeline="fit", entry="fit.py:fit", **more)


def test_runs_searches_and_studies_are_followed_and_trials_are_their_searchs(tmp_path):
    (tmp_path / "hooke.toml").touch()
    project = Project.at(tmp_path)
    project.create()
    asked = dict.fromkeys(("key", "metric", "direction", "sampler", "pruner"), "")
    looked = SearchStarted(**asked | {"direction": "maximize"}, space={}, seed=0)
    trials = [TrialBegan(trial=0, run="fit-1"), TrialEnded(trial=0, status="finished", value=0.75)]
    study = StudyStarted(
        study="measure-fit-1", pipeline="fit", entry="fit.py:fit", task="part", levels=(1, 2)
    )
    with (
        contextlib.closing(MachineWatch([project])) as watch,
        driven(project, "search-fit-1", began("search-fit-1", kind="search"), looked, *trials) as journal,
        driven(project, "fit-1", began("fit-1", parent="search-fit-1")),
        driven(project, "measure-fit-1", study),
        driven(project, "service-1", began("service-1", kind="service")),
    ):
        (project.runs.folder("broken") / "logs").mkdir(parents=True)
        rows = {each.run: each for each in watch.look().runs if each.project == str(tmp_path)}
        assert rows.keys() == {"search-fit-1", "measure-fit-1"}
        assert (rows["search-fit-1"].kind, rows["search-fit-1"].note) == ("search", "1 trials, best 0.75")
        assert (rows["measure-fit-1"].kind, rows["measure-fit-1"].note) == (
            "study",
            "measures part: N = 1, 2",
        )
        journal.append(TrialBegan(trial=1, run="fit-2"))
        journal.append(TrialEnded(trial=1, status="finished", value=0.8))
        journal.flush()
        project.runs.request_stop("search-fit-1", "a test")
        rows = {each.run: each for each in watch.look().runs}
        assert rows["search-fit-1"].note == "2 trials, best 0.8" and rows["search-fit-1"].status == "stopping"
    with contextlib.closing(MachineWatch([project])) as watch:
        assert not [each for each in watch.look().runs if each.project == str(tmp_path)]


def test_what_cannot_be_read_is_said_and_hides_nothing_else(tmp_path):
    project = Project.at(tmp_path)
    project.create()
    (project.runs.create("a-20261125-000001-x") / LOCK).symlink_to(LOCK)
    folder = project.runs.create("b-20261125-000002-x")
    lock = FileLock(folder / LOCK)
    assert lock.try_acquire()
    with Journal.create(folder, DRIVER, durable="none") as journal:
        journal.append(RunStarted(run=folder.name, pipeline="b", entry="b.py:b"))
        journal.append(BackendTrouble(about="pod", message="no workers\nas the quota is used up"))
    with contextlib.closing(MachineWatch([project])) as watch:
        found = watch.look()
    lock.release()
    assert [each.note for each in found.runs if each.run == folder.name] == ["pod: no workers"]
    assert len([each for each in found.trouble if "a-20261125-000001-x" in each]) == 1


FLEETS = '[fleets.gpus]\nprovider = "processes"\ncommand = ["sleep", "1"]\nusd_per_hour = 1.5\n'


def test_a_fleet_is_what_its_ledger_says_with_what_was_promised_and_who_keeps_it(tmp_path):
    (tmp_path / "hooke.toml").write_text(FLEETS)
    project = Project.at(tmp_path)
    project.create()
    fleet = find_fleet(project, "gpus")
    watch = MachineWatch([project])

    def looked():
        found = watch.look()
        rows = [each for each in found.fleets if each.project == str(tmp_path)]
        return rows, [each for each in found.machines if each.project == str(tmp_path)]

    assert looked() == ([], [])
    fleet.path.mkdir(parents=True)
    with Ledger.open(fleet.path) as ledger:
        ledger.write(FleetWanted(before=0, after=3, by="a test"))
        for token in "abcd":
            ledger.write(LaunchIntended(token=token, reason="wanted", usd_per_hour=1.5))
        for token in "abc":
            ledger.write(LaunchAnswered(token=token, machine=f"i-{token}"))
        ledger.write(MachineReleased(token="b", machine="i-b", reason="surplus"))
        ledger.write(MachineGone(token="c", machine="i-c", how="preempted"))
    [row], machines = looked()
    counted = (row.machines, row.promised, row.ending, row.wanted, row.usd_per_hour, row.kept_by)
    assert counted == (1, 1, 1, 3, 4.5, "")
    assert 0 < row.usd < 0.1
    assert {each.machine: each.state for each in machines} == {
        "i-a": "there",
        "i-b": "ending",
        "d": "promised",
    }
    fleet.mark_up()
    assert looked()[0][0].note == "its hooke fleet up was killed: hooke fleet reap gpus"
    with fleet.locked():
        [row] = looked()[0]
        assert (row.kept_by, row.note) == ("hooke fleet up", "")
    fleet.clear_up()


@pytest.mark.long
@pytest.mark.needs("processes")
def test_runs_of_other_projects_are_found_by_their_processes_and_a_terminal_is_drawn_anew(
    desk, tmp_path, kill
):
    desk.write("slow.py", SLOW)
    desk.write("hooke.toml", "")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "hooke.toml").touch()
    run = desk.start("run", "slow.py", "--on", "local:2")
    kill(run)

    def seen():
        facts = json.loads(desk.hooke("top", "--json", "--project", str(elsewhere)).out)
        return [each for each in facts["runs"] if each["project"] == str(desk.folder) and each["busy"] == 2]

    [row] = desk.until(seen)
    assert (row["kind"], row["status"]) == ("pipeline", "running")
    environment = desk.environment(TERM="xterm-256color")
    child = pexpect.spawn(
        sys.executable,
        ["-m", "hooke", "top"],
        cwd=str(desk.folder),
        env=environment,
        encoding="utf-8",
        timeout=60,
        dimensions=(30, 120),
    )
    child.expect(r"\x1b\[\?1049h")
    child.expect(rf"{row['run']} .*2/2")
    child.expect(rf"{row['run']} .*2/2")
    child.kill(signal.SIGINT)
    child.expect(r"\x1b\[\?1049l")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    desk.write("go", "")
    assert run.wait(120) == 0
    told = desk.hooke("top")
    assert told.code == 0 and row["run"] not in told.out and "\x1b" not in told.out


SERVING = """
from hooke import service

@service
class Double:
    def predict(self, rows: list[float]) -> list[float]:
        return [2 * row for row in rows]
"""


@pytest.mark.needs("processes")
def test_a_service_is_there_with_its_address(desk, kill):
    desk.write("double.py", SERVING)
    desk.write("hooke.toml", "")
    serving = desk.start("serve", "double.py", "--port", "0")
    kill(serving)

    def seen():
        facts = json.loads(desk.hooke("top", "--json").out)
        assert not [each for each in facts["runs"] if each["project"] == str(desk.folder)]
        return [each for each in facts["services"] if each["project"] == str(desk.folder) and each["url"]]

    [row] = desk.until(seen)
    assert (row["service"], row["replicas"], row["wanted"]) == ("Double", 1, 1)
    assert row["url"].startswith("http://127.0.0.1:") and row["note"] == ""
    serving.send_signal(signal.SIGINT)
    serving.communicate(timeout=120)
