"""Several runs of one pipeline at once, in processes of their own, compute each key once between them."""

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter

import pytest
from tests.support.sizes import bound, choose_size

TRIALS = choose_size(sample=4, full=8, soak=50)
ITEMS = 6
STEPS = 15
JOB = f"""
    import os, time
    from hooke import pipeline, task

    def ran(what, salt):
        fd = os.open({{folder!r}} + "/ran", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(fd, f"{{what}} {{salt}}\\n".encode())
        os.close(fd)
        time.sleep((hash((what, salt)) % 5) / 200)

    @task
    def first(salt):
        ran("first", salt)
        return list(range(salt, salt + {ITEMS}))

    @task
    def large(salt):
        ran("large", salt)
        return bytes([salt % 251]) * 100_000

    @task
    def step(value, salt, number):
        ran(f"step{{number}}", salt)
        return value + number

    @task
    def each(item, salt):
        ran(f"each{{item - salt}}", salt)
        return item * 2

    @task
    def total(items, large, value, salt):
        ran("total", salt)
        return sum(items) + len(large) + value

    @task
    def joined(values, salt):
        ran("joined", salt)
        return sum(values)

    @pipeline
    def job(salt):
        value = salt
        for number in range(3):
            value = step(value, salt, number)
        value = joined([value, *(step(0, salt, number) for number in range(3, {STEPS}))], salt)
        return total(each.map(first(salt), salt=salt), large(salt), value, salt)
"""
DRIVE = """
import json, sys
from hooke.project.folder import Project
from hooke.project.pipeline_file import load_entry
from hooke.running.driver import RunOrder, prepare
from hooke.running.run import Run

project = Project.find(__import__("pathlib").Path.cwd())
pipeline, _ = load_entry("job.py")
print("ready", flush=True)
for line in sys.stdin:
    driver = prepare(RunOrder(pipeline=pipeline, args=(int(line),), on="local", workers=2), project)
    status = driver.drive()
    print(json.dumps([status, Run(project, driver.run).result()]), flush=True)
"""
TASKS = [
    "first",
    "joined",
    "large",
    "total",
    *(f"step{n}" for n in range(STEPS)),
    *(f"each{n}" for n in range(ITEMS)),
]


@pytest.mark.long
@pytest.mark.needs("processes")
def test_three_runs_at_once_compute_each_key_once(tmp_path):
    source = textwrap.dedent(JOB).replace("{folder!r}", repr(str(tmp_path)))
    (tmp_path / "job.py").write_text(source)
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", DRIVE],
            cwd=tmp_path,
            env=os.environ | {"HOOKE_SINKS": "none", "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    trials = TRIALS
    try:
        for driver in drivers:
            assert driver.stdout.readline() == "ready\n"
        for salt in range(1000, 1000 + trials):
            for driver in drivers:
                driver.stdin.write(f"{salt}\n")
                driver.stdin.flush()
            right = sum(2 * (salt + n) for n in range(ITEMS)) + 100_000 + salt + sum(range(STEPS))
            for driver in drivers:
                assert json.loads(driver.stdout.readline()) == ["finished", right]
    finally:
        for driver in drivers:
            driver.stdin.close()
            driver.wait(60)
            driver.stdout.close()
    ran = Counter((tmp_path / "ran").read_text().splitlines())
    wanted = Counter(f"{task} {salt}" for salt in range(1000, 1000 + trials) for task in TASKS)
    assert ran - wanted == Counter(), "computed more than once"
    assert wanted - ran == Counter()
    print(f"trials with a key computed twice: {bound(trials)}")
