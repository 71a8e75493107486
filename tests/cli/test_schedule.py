"""`hooke schedule`: what it prints is run as cron runs it, twice at once; and what it refuses before it prints anything."""

import subprocess

import psutil
import pytest
import yaml

JOB = """
    import os, time
    from hooke import pipeline, task

    @task
    def held(name: str) -> float:
        open(f"{name}.began", "w").close()
        while not os.path.exists("over"):
            time.sleep(0.02)
        return time.time()

    @pipeline
    def nightly_report(name: str):
        return held(name)
"""
PLACE = """
    [places.pods]
    engine = "kubernetes"
    image = "registry.example.com/report:1"
    namespace = "reports"
    home = "reports-home"
    cpus = 3
    memory = "2 GiB"
"""


@pytest.fixture
def job(desk):
    desk.write("job.py", JOB)
    desk.write("hooke.toml", PLACE)
    return desk


def started(desk, kill, *options, name):
    """The command of a crontab's line, given to sh as cron does: without the shell's path."""
    done = desk.hooke(
        "schedule",
        "job.py",
        "--render",
        "cron",
        "--at",
        "@daily",
        *options,
        "--",
        "--name",
        name,
        "--",
        "--name",
        name,
    )
    assert done.code == 0, done.err
    command = done.out.splitlines()[-1].split(" ", 5)[5]
    process = subprocess.Popen(
        ["/bin/sh", "-c", command.replace(r"\%", "%")],
        env=desk.environment(PATH="/usr/bin:/bin"),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    kill(process)
    return process


@pytest.mark.needs("cpu")
def test_a_run_that_is_due_while_one_goes_on_is_skipped(job, kill):
    first = started(job, kill, name="first")
    job.until(lambda: (job.folder / "first.began").exists())
    second = started(job, kill, name="second")
    said = second.communicate(timeout=120)
    assert (second.returncode, said) == (0, ("", ""))
    (job.folder / "over").touch()
    assert first.wait(120) == 0
    assert [each.partition("-")[0] for each in job.project.runs.names()] == ["first"]
    # The lock went with the run.
    third = started(job, kill, name="third")
    assert third.wait(120) == 0
    assert (job.folder / "third.began").exists()


@pytest.mark.needs("cpu")
def test_a_run_that_is_due_while_one_goes_on_waits(job, kill):
    first = started(job, kill, "--overlap", "wait", name="first")
    job.until(lambda: (job.folder / "first.began").exists())
    second = started(job, kill, "--overlap", "wait", name="second")
    # sh, which waits for flock, which has started no run.
    job.until(
        lambda: [each.name() for each in psutil.Process(second.pid).children(recursive=True)] == ["flock"]
    )
    (job.folder / "over").touch()
    assert [each.wait(120) for each in (first, second)] == [0, 0]
    events = {
        run.partition("-")[0]: [each.at for each in job.project.runs.events(run)]
        for run in job.project.runs.names()
    }
    assert max(events["first"]) <= min(events["second"])


@pytest.mark.needs("cpu")
def test_what_hooke_run_would_refuse_is_refused_now(job):
    for words, said in (
        (("--nam", "x"), "has no parameter --nam"),
        (("--detach", "--", "--name", "x"), "cannot be detached"),
        (("--on", "nowhere", "--", "--name", "x"), "nowhere"),
        ((), "needs --name"),
    ):
        done = job.hooke("schedule", "job.py", "--render", "cron", "--at", "@daily", "--", *words)
        assert (done.code, done.out) == (2, "")
        assert said in done.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--render", "k8s"), "a CronJob needs --place"),
        (("--render", "k8s", "--place", "pod"), "did you mean pods?"),
        (("--render", "cron", "--place", "pods"), "--place is for --render k8s"),
        (("--render", "cron", "--overlap", "replace"), "cannot express --overlap replace"),
        (("--render", "systemd", "--name", "Nightly!"), "cannot name a schedule"),
        (("--render", "at"), "'at' is not one of"),
        (("--render", "systemd", "--time-zone", "CET+1"), "not a known time zone"),
    ],
)
def test_what_a_target_cannot_express_is_refused_before_anything_is_written(job, options, said):
    done = job.hooke("schedule", "job.py", *options, "--at", "@daily", "-o", "out", "--", "--", "--name", "x")
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert not (job.folder / "out").exists()


@pytest.mark.needs("cpu")
def test_files_are_written_and_how_to_install_them_is_said(job):
    words = ("--at", "@daily", "-o", "out", "--", "--", "--name", "x")
    done = job.hooke("schedule", "job.py", "--render", "systemd", "--catch-up", "always", *words)
    assert done.code == 0, done.err
    assert done.out.splitlines() == ["out/nightly-report.service", "out/nightly-report.timer"]
    assert "systemctl --user enable --now nightly-report.timer" in done.err
    assert f"WorkingDirectory={job.folder}" in (job.folder / "out" / "nightly-report.service").read_text()
    done = job.hooke(
        "schedule", "job.py", "--render", "k8s", "--place", "pods", "--overlap", "replace", *words
    )
    assert done.code == 0, done.err
    made = yaml.safe_load((job.folder / "out" / "nightly-report.yaml").read_text())
    assert made["metadata"]["namespace"] == "reports"
    assert made["spec"]["concurrencyPolicy"] == "Replace"
    [container] = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    run = ["python", "-P", "-m", "hooke", "run", "job.py", "--on", "pods", "--", "--name", "x"]
    assert container["command"] == run
    assert container["resources"]["requests"]["cpu"] == "0.5"  # it drives, and others work
    assert container["workingDir"] == "/app"
    assert {"name": "hooke-home", "mountPath": "/app/.hooke"} in container["volumeMounts"]


@pytest.mark.needs("cpu")
def test_a_pod_that_works_on_the_tasks_itself_is_as_large_as_the_place_says(job):
    words = ("--at", "@daily", "--", "--on", "local", "--", "--name", "x")
    done = job.hooke("schedule", "job.py", "--render", "k8s", "--place", "pods", *words)
    assert done.code == 0, done.err
    [container] = yaml.safe_load(done.out)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][4:] == ["run", "job.py", "--on", "local", "--", "--name", "x"]
    assert container["resources"]["requests"]["cpu"] == "3"
    assert container["resources"]["limits"]["memory"] == str(2 << 30)
