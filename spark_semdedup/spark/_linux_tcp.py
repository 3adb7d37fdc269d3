"""Ends standstills of the TCP connection between a Python worker and its JVM, from Linux 6.17 on.

A worker that waits to write reads nothing. Where its receive buffer is over-full, Linux takes back the window and,
since commit 9ca48d616ed7, drops what lies beyond it with the acknowledgements therein: both sides wait for ever (1 of
10 passes over 5 GB on 6.18). So buffers are held below ``net.core.rmem_max`` and enlarged where nothing moves. Linux
0e24d17bd9 (2026) may end it: set ``FIXED_IN`` once its release has passed the test. ``SEMDEDUP_TCP_WATCH=0`` in the
executors' environment turns this off; Unix sockets (Spark 4.1) do without.
"""

import contextlib
import functools
import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pyspark import TaskContext

RECEIVE_BYTES = 1 << 20
BROKEN_FROM, FIXED_IN = (6, 17), (sys.maxsize, 0)
LOOK_SECONDS = 0.5
Fills = dict[int, tuple[int, ...]]  # by file descriptor: bytes received, most to receive, bytes to send


@functools.cache
def linux_release() -> tuple[int, ...]:
    """Major and minor version of Linux; (0, 0) elsewhere."""
    return tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) if sys.platform == "linux" else (0, 0)


def prevent_standstill() -> None:
    """Holds and watches a task's connections, on a Linux that needs it."""
    if TaskContext.get() and BROKEN_FROM <= linux_release() < FIXED_IN and os.getenv("SEMDEDUP_TCP_WATCH") != "0":
        for _, connection in _connections():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        _watch()


@functools.cache  # one thread a process
def _watch() -> None:
    threading.Thread(target=_relieve_for_ever, daemon=True).start()


def _relieve_for_ever(fills: Fills | None = None) -> None:
    while True:
        time.sleep(LOOK_SECONDS)
        fills = relieve(fills or {})


def relieve(before: Fills) -> Fills:
    """Enlarges over-full buffers that have not moved since ``before``, the last call's answer."""
    fills: Fills = {}
    for fd, connection in _connections():
        fills[fd] = received, limit, to_send = _fill(connection)
        if received >= limit and to_send and fills[fd] == before.get(fd):
            room = received + received // 8 + (256 << 10)  # more than the 16th below which Linux offers no window
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room // 2)  # Linux doubles it
    return fills


def _fill(connection: socket.socket) -> tuple[int, int, int]:
    fields = struct.unpack("6I", connection.getsockopt(socket.SOL_SOCKET, 55, 24))  # SO_MEMINFO, no name in Python
    return fields[0], fields[1], fields[5]


def _connections() -> Iterator[tuple[int, socket.socket]]:
    """Copies of this process's TCP connections to this machine, which a default timeout of the user's would alter."""
    for fd in _sockets() if socket.getdefaulttimeout() is None else ():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as copy:
            tcp = copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM
            if tcp and copy.getpeername()[0] == copy.getsockname()[0]:  # raises where it only listens
                yield fd, copy


def _sockets() -> list[int]:
    return [int(fd.name) for fd in Path("/proc/self/fd").glob("*") if fd.is_socket()]
