"""Pages of laws, plans and services: of a project with a real study, a plan that a run followed, and a service under load; and of played journals."""

import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest
from starlette.testclient import TestClient
from tests.pages.conftest import SCRIPT, Pages, hooke, served_pages
from tests.pages.test_in_a_browser import assert_accessible, save_picture
from tests.services.supervisor.supervised import LIMIT_S, Load, Supervised, end_all
from tests.services.supervisor.supervised import hooke as serve
from tests.support.browser import Browser

from hooke.base.clock import SystemClock
from hooke.base.files import FileLock
from hooke.cli.ui.subjects import subjects_of
from hooke.journal.events import (
    Measured,
    NodePlanned,
    PlainMeasured,
    PlanChecked,
    PlanMade,
    PlannedRow,
    PlannedTask,
    RunFinished,
    RunStarted,
    StudyStarted,
    TaskChecked,
)
from hooke.journal.run_folders import LOCK
from hooke.journal.service_events import (
    BatchSize,
    BatchWindow,
    MethodBatches,
    ReplicaEnded,
    ReplicaReady,
    ReplicaStarted,
    RollOutChanged,
    ServiceBegan,
    ServiceScaled,
)
from hooke.journal.writer import Journal
from hooke.pages.run_index import PartReader, RunIndex
from hooke.pages.server import PageServer
from hooke.project.folder import Project

JOB = f"""
import time
from hooke import pipeline, task

@task
def nap(x: int, *, seconds: float, note: str) -> int:
    time.sleep(seconds)
    return x

@pipeline
def naps(n: int = 12, seconds: float = 0.02, note: str = {SCRIPT!r}) -> list[int]:
    return nap.map(range(n), seconds=seconds, note=note)

def at_once(xs, *, seconds, note):
    time.sleep(2 * seconds)
"""
SERVICE = f"""
import time
from hooke import service

@service(max_batch=8, timeout="10s", idempotent=True, slo="p95 < 500ms")
class Delay:
    def setup(self, factor: int = 2, note: str = {SCRIPT!r}):
        self.factor = factor

    def predict(self, rows: list[int]) -> list[int]:
        if 0 in rows:
            raise KeyError({SCRIPT!r})
        time.sleep(0.002)
        return [row * self.factor for row in rows]
"""
PRICES = """# source: our own list
# date: 2026-11-25
# startup: 100ms-200ms
instance_type,gpu,gpus,vcpus,memory_gib,usd_per_hour,spot_usd_per_hour,speed
single,,0,1,8,36,10,0.8-1.2
pair,,0,2,8,72,20,0.8-1.2
fast,,0,2,8,180,50,1.8-2.2
"""


# --- A real project.


def do(folder: Path, *words: str) -> None:
    """Noise may leave a study or a plan without its answer, which is exit code 1; its page is there all the same."""
    done = hooke(folder, *words)
    allowed = (0, 1) if words[0] in ("measure", "plan") else (0,)
    assert done.returncode in allowed, (words, done.stdout, done.stderr)


def fail(service: Supervised) -> None:
    """A request that raises in the service's code."""
    headers = {"authorization": f"Bearer {service.token}", "content-type": "application/json"}
    request = urllib.request.Request(f"{service.url}/predict", b'{"rows": [0]}', headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=LIMIT_S)
    assert refused.value.code == 500
    refused.value.close()


def until_windows(folder: Path, run: str) -> None:
    """Wait until the service has written what it did."""
    ends = time.monotonic() + LIMIT_S
    while not any(isinstance(event, BatchWindow) for event in Project.find(folder).runs.events(run)):
        assert time.monotonic() < ends, "no window was written"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Iterator[Pages]:
    """Its runs: `study`, `task` (of a task that ran with three numbers of workers), `followed`, `plan`, `first` and `service`, which rolls out."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "hooke.toml").touch()
    (folder / "job.py").write_text(JOB, "utf-8")
    (folder / "ours.csv").write_text(PRICES, "utf-8")
    (folder / "delays.py").write_text(SERVICE, "utf-8")
    study = (
        "--task",
        "nap",
        "--workers",
        "1,2,4,8",
        "--repeats",
        "2",
        "--plain",
        "at_once",
        "--note",
        SCRIPT,
    )
    do(folder, "measure", "job.py:naps", *study)
    for workers, n in (("1", "30"), ("2", "90"), ("4", "210")):
        do(folder, "run", "job.py:naps", "--workers", workers, "--n", n)
    do(folder, "plan", "job.py:naps", "--workers", "1,2,4", "--n", "310", "--catalog", "ours.csv")
    do(folder, "run", "job.py:naps", "--workers", "2", "--n", "310")
    names = Project.find(folder).runs.names()
    runs = {"study": next(name for name in names if name.startswith("measure-")), "followed": names[0]}
    runs |= {"task": names[1], "plan": Project.find(folder).plans.names()[0]}
    services: list[Supervised] = []
    load = None
    try:
        services.append(Supervised(folder, "--healthy", "1", "--replicas", "1"))
        services[0].until_ready(1)
        load = Load(services[0].url, services[0].token)
        assert serve(folder, "scale", "Delay", "2").returncode == 0
        services[0].until_ready(2)
        runs["first"] = Project.find(folder).runs.names()[0]
        until_windows(folder, runs["first"])
        services[0].process.kill()
        services[0].process.wait()
        (folder / "delays.py").write_text(SERVICE + "# another version\n", "utf-8")
        services.append(Supervised(folder, "--healthy", "1", "--replicas", "2", "--canary", "50%"))
        services[1].until("rolled (out|back): ")
        fail(services[1])
        runs["service"] = Project.find(folder).runs.names()[0]

        with served_pages(folder, runs) as made:
            yield made
    finally:
        if load is not None:
            load.process.kill()
            load.process.wait()
            load.process.stdin.close()
            load.process.stdout.close()
        for each in services:
            each.process.kill()
            each.process.wait()
        end_all(folder)


@pytest.fixture
def seen(browser: Browser, measured: Pages) -> Browser:
    browser.look(width=1280)
    browser.open(measured.opening)
    browser.troubles.clear()
    browser.asked.clear()
    return browser


def pages_of(pages: Pages) -> dict[str, str]:
    runs = pages.runs
    rest = {
        "laws": "/laws",
        "study": f"/laws/{runs['study']}",
        "task": f"/laws/{runs['task']}?task=nap",
        "plans": "/plans",
        "plan": f"/plans/{runs['plan']}",
        "services": "/services",
        "service": f"/services/{runs['service']}",
        "past": f"/services/{runs['first']}?last=600",
    }
    return {name: pages.address + each for name, each in rest.items()}


TOLD = "[...document.querySelectorAll('svg.chart [data-t]')].map(each => each.dataset.t)"


@pytest.mark.needs("processes")
class TestInABrowser:
    @pytest.mark.parametrize(
        ("width", "theme", "audited"),
        [(390, "light", True), (390, "dark", False), (1280, "light", False), (1280, "dark", True)],
    )
    def test_each_page_fits_can_be_read_and_runs_no_text(
        self, seen, measured, tmp_path, width, theme, audited
    ):
        seen.look(width=width, theme=theme)
        for name, address in pages_of(measured).items():
            seen.open(address)
            assert seen.js("document.scrollingElement.scrollWidth") <= width, address
            assert seen.js("window.hacked === undefined"), address
            assert seen.js("document.querySelectorAll('script').length") == 1
            assert seen.js("document.querySelectorAll('main img').length") == 0
            save_picture(seen, tmp_path, f"{name}-{width}-{theme}")
            if audited:
                assert_accessible(seen)
        assert {"/".join(each.split("/")[:3]) for each in seen.asked} == {measured.address}
        assert seen.troubles == []

    def test_a_study_has_its_law_and_its_measurements(self, seen, measured):
        seen.open(f"{measured.address}/laws")
        assert SCRIPT[:20] in seen.js("document.querySelector('#studies tbody').textContent")
        seen.js("document.querySelector('#studies tbody a').click()")
        seen.wait("document.querySelectorAll('#curve svg.chart').length === 2")
        text = seen.js("document.getElementById('main').textContent")
        for said in ("speed-up", "efficiency", "ideal", "COST", "95% band", "ruled out"):
            assert said in text, said
        assert seen.js("document.querySelectorAll('#measured tbody tr').length") == 10
        told = seen.js(TOLD)
        assert any(re.match(r"2 workers: speed-up .* by the law; measured ", each) for each in told), told

    def test_a_task_of_runs_has_its_law_linked_to_its_runs(self, seen, measured):
        seen.open(f"{measured.address}/laws")
        seen.wait("document.querySelector('#tasks tbody tr') !== null && !document.body.dataset.follow")
        assert "1, 2, 4 workers" in seen.js("document.querySelector('#tasks tbody tr').textContent")
        seen.open(pages_of(measured)["task"])
        seen.wait("document.querySelectorAll('#curve svg.chart').length === 2")
        links = seen.js("[...document.querySelectorAll('#measured a')].map(each => each.textContent)")
        assert measured.runs["followed"] in links and len(set(links)) >= 3

    def test_a_plan_has_its_front_and_what_became_of_it(self, seen, measured):
        seen.open(f"{measured.address}/plans")
        seen.wait("document.querySelector('#plans a[href^=\"/runs/\"]') !== null")
        seen.open(pages_of(measured)["plan"])
        told = seen.js(TOLD)
        assert any(each.startswith("this machine, 2 workers: ") for each in told), told
        assert any("ours:" in each and "$" in each for each in told), told
        assert any(
            each.startswith(f"{measured.runs['followed']} on this machine, 2 workers: took") for each in told
        )
        assert "the whole run" in seen.js("document.querySelector('#followed tbody').textContent")
        assert seen.js("document.querySelectorAll('#followed svg.bar').length") == 2

    def test_a_service_is_followed_live_and_nothing_moves(self, seen, measured):
        seen.open(pages_of(measured)["service"])
        seen.js("window.same = true")
        places = "[...document.querySelectorAll('h2, figure')].map(each => Math.round(each.getBoundingClientRect().top))"
        charts = "document.querySelector('#load').innerHTML.length"
        seen.wait("document.querySelectorAll('#load svg.chart').length === 5")
        before, size = seen.js(places), seen.js(charts)
        seen.js("document.querySelectorAll('#load svg.chart')[2].focus()")
        seen.wait(f"{charts} !== {size}")
        assert seen.js("window.same") is True
        assert seen.js("document.activeElement === document.querySelectorAll('#load svg.chart')[2]")
        assert seen.js(places)[:8] == before[:8]  # tables below may get rows
        assert seen.js("document.getElementById('live').textContent") == "live"
        text = seen.js("document.getElementById('main').textContent")
        assert "on trial" in text and re.search(
            "rolled (out|back)", text
        )  # noise may look like a slower version
        seen.wait("document.querySelector('#errors td').textContent === '1'")
        assert seen.troubles == []

    def test_a_decision_is_said_under_the_cursor_and_by_keyboard(self, seen, measured):
        seen.open(pages_of(measured)["past"])
        chart = "document.querySelectorAll('#load svg.chart')[2]"
        decided = seen.js(
            f"[...{chart}.querySelectorAll('[data-t]')].filter(each => each.dataset.t.includes('1 -> 2 replicas')).length"
        )
        assert decided > 0
        seen.js(f"{chart}.scrollIntoView(); {chart}.focus()")
        for key in ("End", "ArrowLeft", "ArrowRight"):
            seen.call("Input.dispatchKeyEvent", type="keyDown", key=key)
            assert seen.js("document.getElementById('tip').hidden") is False
        assert "1 -> 2 replicas" in seen.js("document.getElementById('tip').textContent")
        seen.call("Input.dispatchKeyEvent", type="keyDown", key="Escape")
        assert seen.js("document.getElementById('tip').hidden") is True
        x, y = seen.js(
            f"(() => {{ const box = {chart}.getBoundingClientRect(); return [box.left + box.width / 2, box.top + box.height / 2]; }})()"
        )
        seen.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        seen.wait("document.getElementById('tip').textContent.includes('ready')")
        assert "SLO: p95 < 500 ms" in seen.js("document.getElementById('load').textContent")

    def test_the_name_of_a_service_leads_to_its_run(self, seen, measured):
        seen.open(f"{measured.address}/services/Delay")
        assert seen.js("location.pathname") == f"/services/{measured.runs['service']}"

    def test_links_lead_somewhere(self, seen, measured):
        links = set()
        for address in pages_of(measured).values():
            seen.open(address)
            links |= set(
                seen.js("[...document.querySelectorAll('a[href]')].map(each => each.href.split('#')[0])")
            )
        for address in links:
            assert seen.js(f"fetch({address!r}).then(answer => answer.status)") == 200, address


# --- Played journals, in no time.

AT = 1_795_000_000.0
TOKEN = "t" * 43
HOST = "127.0.0.1:5180"


@pytest.fixture
def project(tmp_path) -> Project:
    (tmp_path / "hooke.toml").touch()
    return Project.find(tmp_path)


@pytest.fixture
def asking(project) -> Iterator[TestClient]:
    server = PageServer(
        RunIndex(project.runs), name="lab", beside=lambda run, ended: ("", {}), subjects=subjects_of(project)
    )
    with TestClient(server.app(hosts=frozenset({HOST}), token=TOKEN), base_url=f"http://{HOST}") as client:
        client.cookies.set("hooke-5180", TOKEN)
        yield client


def played(project: Project, run: str, *events: object) -> None:
    with Journal.create(project.runs.create(run), "driver", durable="none", clock=SystemClock()) as journal:
        for event in events:
            journal.append(event)


def a_study(
    project: Project, name: str, *, levels: tuple[int, ...] = (1, 2, 4), measured: bool = True
) -> None:
    rows = [
        Measured(at=AT + n, task="fit", n=n, work=48, seconds=48 / n / (1 - 0.03 * n) + 0.01 * each, repeat=each)
        for n in levels if measured for each in (0, 1)
    ]  # fmt: skip
    played(
        project, name,
        StudyStarted(at=AT, study=name, pipeline="train", entry="job.py:train", task="fit", levels=levels, repeats=2, shown={"note": SCRIPT}, cpus=8),
        *rows, *(PlainMeasured(at=AT, work=48, seconds=40.0, repeat=each) for each in (0, 1)),
        RunFinished(at=AT + 9, status="finished", seconds=9.0),
    )  # fmt: skip


class Tags(HTMLParser):
    """Whatever a browser would take for a handler, an inline style or a script of the page's text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if any(name == "style" or name.startswith("on") for name in names) or tag in ("style", "img"):
            self.wrong.append(self.get_starttag_text())
        if tag == "script" and names != {"src": "/static/page.js"}:
            self.wrong.append(self.get_starttag_text())


def shown(asking: TestClient, path: str, *, status: int = 200) -> str:
    answer = asking.get(path)
    assert answer.status_code == status, answer.text[:2000]
    assert Tags(answer.text).wrong == []
    return answer.text


class TestLaws:
    @pytest.mark.needs("cpu")
    def test_hundreds_of_studies_are_a_page_of_a_hundred(self, project, asking):
        for number in range(130):
            a_study(project, f"measure-train-20261125-{number:06d}-aaaa")
        text = ""
        while not text or "data-follow" in text:
            text = shown(asking, "/laws")
        assert text.count('href="/laws/measure-') == 100
        assert "page 1 of 2" in text
        assert shown(asking, "/laws?page=2").count('href="/laws/measure-') == 30
        shown(asking, "/laws?page=x", status=400)

    def test_what_shows_no_law_says_what_to_measure(self, project, asking):
        a_study(project, "measure-train-20261125-000001-aaaa", levels=(1, 2))
        a_study(project, "measure-train-20261125-000002-aaaa", measured=False)
        text = shown(asking, "/laws/measure-train-20261125-000001-aaaa")
        assert "two points cannot identify a curve" in text and "measure at N = 4" in text
        assert "ended before the first" in shown(asking, "/laws/measure-train-20261125-000002-aaaa")

    def test_a_run_without_tasks_or_with_another_task_is_named(self, project, asking):
        run = "train-20261125-000003-aaaa"
        planned = NodePlanned(at=AT, node=0, task="fit", key="k", kind="call", items=1)
        played(project, run, RunStarted(at=AT, run=run, pipeline="train", entry="job.py:train"), planned)
        assert "has no usable measurement of fit" in shown(asking, f"/laws/{run}")
        assert "has no task" in shown(asking, f"/laws/{run}?task={quote(SCRIPT)}", status=404)
        shown(asking, "/laws/nothing", status=404)


class TestPlans:
    def test_runs_are_found_without_reading_those_before_it(self, project, asking, monkeypatch):
        plan = "train-20261125-000010-aaaa"
        rows = tuple(
            PlannedRow(configuration=name, machine="x", workers=2, seconds=(1.0, 2.0, 3.0), usd=usd)
            for name, usd in (("this machine, 2 workers", (0.0, 0.0, 0.0)), (SCRIPT, (1.0, 2.0, 3.0)), ("unpriced", None))
        )  # fmt: skip
        project.plans.add(
            PlanMade(
                at=AT, plan=plan, pipeline="train", entry="job.py:train", shown={"note": SCRIPT}, rows=rows,
                tasks=(PlannedTask(task="fit", items=3),), recommended="this machine, 2 workers", reason=SCRIPT,
            )
        )  # fmt: skip
        check = PlanChecked(
            at=AT, plan=plan, configuration="this machine, 2 workers", level=0.95, predicted_s=(1.0, 2.0, 3.0), seconds=4.0,
            tasks=(TaskChecked(task=SCRIPT, planned=3, ran=2, predicted_s=None, seconds=4.0),),
        )  # fmt: skip
        after, before = "train-20261125-000011-aaaa", "train-20261125-000009-aaaa"
        for run in (after, before):
            played(project, run, RunStarted(at=AT, run=run, pipeline="train", entry="job.py:train"), check)
        text = shown(asking, f"/plans/{plan}")
        assert after in text and before not in text
        assert "slower" in text and "2, planned 3" in text and "not counted" in text
        assert after in shown(asking, "/plans")
        shown(asking, "/plans/nothing", status=404)
        ends = "train-20261125-000012-aaaa"
        played(project, ends, RunStarted(at=AT, run=ends, pipeline="train", entry="job.py:train"), check)
        lock = FileLock(project.runs.folder(ends) / LOCK)
        assert lock.try_acquire()
        assert ends not in shown(asking, "/plans")
        lock.release()
        assert ends in shown(asking, "/plans")
        monkeypatch.setattr("hooke.cli.ui.plan.READ_S", -1.0)
        project.plans.add(
            msgspec.structs.replace(project.plans.read(plan), plan="train-20261125-000020-aaaa")
        )
        assert "1 more plans are being read" in shown(asking, "/plans")
        assert "unpriced" in shown(asking, "/plans/train-20261125-000020-aaaa")


class TestServices:
    def test_a_roll_out_that_went_back_a_death_and_decisions(self, project, asking):
        run = "Delay-20261125-000020-aaaa"
        window = BatchWindow(
            at=AT + 10, seconds=5.0, replica="1", arrived=30, requests=20, failed=4, refused=3, late=2, gone=1, over_slo=5, busy_s=2.0, request_s=3.0, latencies=((40, 20),),
            methods=(MethodBatches(method=SCRIPT, sizes=(BatchSize(10, 20, 2.0, 0.4),)),),
        )  # fmt: skip
        played(
            project, run,
            RunStarted(at=AT, run=run, pipeline="Delay", entry="delays.py:Delay", kind="service", shown={"note": SCRIPT}),
            ServiceBegan(at=AT, max_batch=8, slo_percent=95.0, slo_limit_s=0.05),
            ReplicaStarted(at=AT, replica="1", pid=1, port=2, reason="1 wanted"),
            ReplicaReady(at=AT + 1, replica="1", seconds=1.0),
            window,
            ServiceScaled(at=AT + 11, before=1, after=2, reason=SCRIPT),
            *(RollOutChanged(at=AT + 12, generation=SCRIPT, before="old", status=status, reason=SCRIPT) for status in ("began", "back")),
            ReplicaEnded(at=AT + 14, replica="1", cause=SCRIPT, expected=False, log_tail=(SCRIPT,)),
            RunFinished(at=AT + 20, status="finished", seconds=20.0),
        )  # fmt: skip
        text = shown(asking, f"/services/{run}")
        for said in ("rolled back", "1 -&gt; 2 replicas", "died after", "NOT kept", "desired"):
            assert said in text, said
        counts = dict(re.findall(r'<th scope="row">(failed|refused|late|gone)</th><td class="n">(\d+)', text))
        assert counts == {"failed": "4", "refused": "3", "late": "2", "gone": "1"}
        assert "data-follow" not in text
        assert run in shown(asking, "/services")
        shown(asking, f"/services/{run}?last=600")
        shown(asking, f"/services/{run}?last=1", status=400)
        shown(asking, "/services/nothing", status=404)

    def test_a_single_process_has_no_replicas(self, project, asking):
        run = "Delay-20261125-000023-aaaa"
        begun = RunStarted(at=AT, run=run, pipeline="Delay", entry="delays.py:Delay", kind="service")
        played(
            project,
            run,
            begun,
            BatchWindow(at=AT + 5, seconds=5.0, arrived=30, requests=30, latencies=((40, 30),)),
        )
        text = shown(asking, f"/services/{run}")
        assert "served by a single process" in text and "<dd>6/s</dd>" in text
        assert text.count('class="chart"') == 5

    def test_one_without_a_request_and_one_that_is_none(self, project, asking):
        run, other = "Delay-20261125-000021-aaaa", "train-20261125-000022-aaaa"
        played(
            project,
            run,
            RunStarted(at=AT, run=run, pipeline="Delay", entry="delays.py:Delay", kind="service"),
        )
        played(project, other, RunStarted(at=AT, run=other, pipeline="train", entry="job.py:train"))
        assert "No request yet." in shown(asking, f"/services/{run}")
        assert "is not the run of a service" in shown(asking, f"/services/{other}", status=404)
        listed = shown(asking, "/services")
        assert run in listed and other not in listed


class TestPartReader:
    def test_it_reads_in_parts_once_and_again_after_a_change(self):
        steps: list[str] = []

        def read(name: str) -> Iterator[str | None]:
            for part in range(3):
                steps.append(f"{name}{part}")
                time.sleep(0.002)
                yield None
            yield name.upper()

        reader = PartReader(read)
        wanted = [("a", 1), ("b", 1)]
        found, left, requests = {}, 2, 0
        while left:
            found, left = reader.known(wanted, 0.001)
            requests += 1
        assert found == {"a": "A", "b": "B"} and requests > 2
        assert steps == [f"{name}{part}" for name in "ab" for part in range(3)]
        assert reader.known(wanted, 0.0) == (found, 0)
        assert reader.known([("a", 2)], 60.0) == ({"a": "A"}, 0)
        assert steps[6:] == ["a0", "a1", "a2"]
