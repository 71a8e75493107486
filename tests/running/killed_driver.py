"""A driver of the job in this folder, which kills itself at a call of the system that changes a file or sends bytes.

`python killed_driver.py FINISHED CALLS PART`: when that many calls are finished, at the so-manieth of the driver's writes,
sends, renames, removals and syncs after that. PART is "before" it, "half" of its bytes, or "after" it.
"""

import itertools
import os
import signal
import socket
import sys
from functools import wraps
from pathlib import Path

gate, calls, part = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
driver = os.getpid()
finished = 0
counted = itertools.count(1)


def die():
    os.kill(driver, signal.SIGKILL)
    signal.pause()  # in a thread, it may come a moment later


def deadly(real, given):
    """The function, which `given` tells where it takes bytes."""

    @wraps(real)
    def wrapped(*args, **kwargs):
        if finished < gate or os.getpid() != driver or next(counted) != calls:
            return real(*args, **kwargs)
        if part == "half" and given is not None:
            data = args[given]
            half = memoryview(data).cast("B")[: (len(data) + 1) // 2]
            real(*args[:given], half, *args[given + 1 :], **kwargs)
        elif part == "after":
            real(*args, **kwargs)
        return die()

    return wrapped


for name in ("rename", "replace", "link", "unlink", "ftruncate", "fsync", "fdatasync"):
    setattr(os, name, deadly(getattr(os, name), None))
for name in ("write", "pwrite"):
    setattr(os, name, deadly(getattr(os, name), 1))
for name in ("send", "sendall"):
    setattr(socket.socket, name, deadly(getattr(socket.socket, name), 1))
socket.socket.sendmsg = deadly(socket.socket.sendmsg, None)

from hooke.base.errors import UsageError  # noqa: E402 - what it imports by name shall be deadly
from hooke.journal.events import AttemptFinished  # noqa: E402
from hooke.project.folder import Project  # noqa: E402
from hooke.project.pipeline_file import load_entry  # noqa: E402
from hooke.running.driver import RunOrder, prepare  # noqa: E402
from hooke.running.resume import last_resumable, resume  # noqa: E402


def say(event):
    global finished  # noqa: PLW0603 - a program
    if isinstance(event, AttemptFinished):
        print(event.node, event.lo, flush=True)
        finished += event.hi - event.lo


def main():
    project = Project.find(Path.cwd())
    try:
        ours = resume(project, last_resumable(project), observers=(say,))
    except UsageError:  # there is none that has begun
        pipeline, _ = load_entry("job.py")
        ours = prepare(RunOrder(pipeline=pipeline, on="local", workers=2, observers=(say,)), project)
    print(ours.drive(), flush=True)


if __name__ == "__main__":
    main()
