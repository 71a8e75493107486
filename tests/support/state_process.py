"""`main(FD)` answers one message with what is this process's own, as JSON, and ends when nothing more comes."""

import gc
import json
import os
import signal
import socket
import sys


def main(fd: int) -> None:
    """Serve the socket `fd`."""
    with socket.socket(fileno=fd) as mine:
        mine.recv(100)
        own = sys.modules["__main__"]
        state = {
            "arguments": len(sys.argv) - 1,
            "collects": gc.isenabled(),
            "descriptors": len([fd for fd in range(100) if _is_open(fd)]),
            "file": os.path.basename(own.__file__ or ""),
            "handler": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            "leads": os.getsid(0) == os.getpid(),
            "names": sorted(vars(own)),
            "stdin": os.readlink("/proc/self/fd/0"),
        }
        mine.sendall(json.dumps(state).encode() + b"\n")
        while mine.recv(100):
            pass


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
