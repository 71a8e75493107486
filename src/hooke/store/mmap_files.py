"""Files as read-only memory, without a descriptor kept open for each."""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

__all__ = ["anonymous", "map_file"]

_FAILED = ctypes.c_void_p(-1).value


def map_file(fd: int, size: int) -> memoryview:
    """The first `size` (> 0) bytes of the file as read-only memory, unmapped when the last view of it is gone.

    `mmap.mmap` would keep a descriptor per mapping (until Python 3.13), so a list of a thousand mapped chunks would
    run into the usual limit of 1,024. Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_longlong,
    )
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    memory = (ctypes.c_ubyte * size).from_address(address)
    finalizer = weakref.finalize(memory, _unmap, address, size)
    # Arrays may be read by others' exit handlers still.
    setattr(finalizer, "atexit", False)  # noqa: B010 the type stubs know it as read-only
    return memoryview(memory).cast("B").toreadonly()


def anonymous(data: bytes | memoryview) -> memoryview:
    """A copy of `data` that begins at a page: bytes elsewhere lie anywhere, and arrays want multiples of 64."""
    memory = mmap.mmap(-1, len(data))
    memory.write(data)
    return memoryview(memory).toreadonly()


def _unmap(address: int, size: int) -> None:
    libc = ctypes.CDLL(None)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.munmap(address, size)
