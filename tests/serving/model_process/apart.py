"""Services whose model has a process of its own: those of the other tests, and some that come to harm."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.serving.services import Endless, Item, Kinds, Rows, Slow
from tests.serving.test_request_context import Told

from hooke import request_contexts, service


@service(max_batch=8, timeout="5s", model="process")
class RowsApart(Rows):
    """What is None is `async def` there."""

    later = cancels = None


@service(timeout="5s", model="process")
class KindsApart(Kinds):
    """The same without drips."""

    drip = None

    def dataclass(self, item: Item) -> Item:
        return item

    def thread(self) -> str:
        return "hooke-model"  # as the other one says, whose test this one takes


@service(timeout="100ms", model="process")
class SlowApart(Slow):
    """Sleeps."""

    wait = drip = None


@service(timeout="5s", model="process")
class EndlessApart(Endless):
    """A stream without end."""

    waitless = None


@service(max_batch=8, timeout="5s", model="process")
class ToldApart(Told):
    """Answers with what it is told of who asks."""

    later = awaited = drip = throws = None


class Harm:
    """Does to its process what it is asked for. Files of the folder say how its setup goes, and when what waits goes on."""

    def setup(self, folder: str = "."):
        self.folder = Path(folder)
        self.kept: list[bytes] = []
        print("set up", flush=True)
        if (self.folder / "unset").exists():
            raise ValueError("no weights")
        if (self.folder / "dies").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        while (self.folder / "slow").exists():
            time.sleep(0.01)

    def pid(self) -> int:
        return os.getpid()

    def session(self) -> list[int]:
        return [os.getsid(0), os.getppid()]

    def rows(self, rows: list[int]) -> list[int]:
        (self.folder / "began").touch()
        while 0 in rows and not (self.folder / "go").exists():
            time.sleep(0.002)
        if 9 in rows:
            print("nine came", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return [row * 2 for row in rows]

    def frozen(self) -> int:
        return gc.get_freeze_count()

    def segfault(self) -> int:
        return len(ctypes.string_at(0))

    def leaves(self) -> None:
        os._exit(3)

    def eats(self, mb: int) -> None:
        self.kept.append(os.urandom(1 << 20) * mb)
        os.kill(os.getpid(), signal.SIGKILL)

    def holds(self, s: float) -> float:
        """Keeps the interpreter's lock."""
        (self.folder / "began").touch()
        ctypes.PyDLL(None).usleep(int(s * 1e6))
        (self.folder / "done").touch()
        return s

    def sleeps(self, s: float) -> float:
        time.sleep(s)
        return s

    def forks(self) -> int:
        """The child of the fork comes back as if it were the method."""
        child = os.fork()
        if not child:
            sys.exit(0)
        os.waitpid(child, 0)
        return child

    def spawns(self) -> int:
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid

    def closes(self) -> None:
        os.closerange(3, 1 << 16)
        time.sleep(600)

    def count(self, n: int):
        for i in range(n):
            if i == 2:
                (self.folder / "waits").touch()
                while not (self.folder / "go").exists():
                    time.sleep(0.002)
            yield [i, os.getpid(), request_contexts()[0].id]

    def echo(self, x: str) -> str:
        return x


@service(max_batch=8, timeout="20s", model="process")
class Once(Harm):
    """What was asked may be done once."""


@service(max_batch=8, timeout="20s", idempotent=True, model="process")
class Again(Harm):
    """What was asked may be done again."""


@service(timeout="300ms", model="process")
class Brief(Harm):
    """Waits for little."""
