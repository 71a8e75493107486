"""A driver whose tasks sleep: prints the processes that it started, and waits to be killed."""

import sys
from pathlib import Path

from hooke.engines.local import LocalEngine
from hooke.journal.events import WorkerStarted
from hooke.testing import engine_tasks as tasks
from hooke.testing.engine_bench import EngineBench

if __name__ == "__main__":
    bench = EngineBench(LocalEngine, Path(sys.argv[1]))
    child = bench.value(bench.finished(bench.submit(tasks.leave_a_child)).ref)
    busy = [bench.submit(tasks.sleep, 600.0) for _ in range(2)]
    bench.until(lambda: all(map(bench.is_running, busy)), "both workers to be busy")
    print(*(event.pid for event in bench.of(WorkerStarted)), child, flush=True)
    bench.until(lambda: False, "the end")
