"""A network with a loopback and nothing else, for peers that listen on all addresses (Ray)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

__all__ = ["enter_private_network"]

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS = 0x8914
UP_AND_RUNNING = 0x41


def enter_private_network() -> None:
    """For a child, before it becomes another program (Linux). Raises OSError where that is not allowed."""
    flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWNET | CLONE_NEWUSER
    if ctypes.CDLL(None, use_errno=True).unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "no private network: be root, or allow user namespaces")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", UP_AND_RUNNING))
