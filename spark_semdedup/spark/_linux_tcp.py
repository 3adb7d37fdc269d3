"""The connection between a task's Python worker and its JVM, over which all vectors go.

It can stand still for ever. Where a receive buffer is over-full, Linux takes back the window that it had offered; and
since 6.17 (its commit 9ca48d616ed7, "tcp: do not accept packets beyond window") it then drops what is under way beyond
that window together with the acknowledgements in it. If the worker waits to write, and so does not read, it never
learns that the JVM has room for more, and the JVM waits for the worker's answer. Seen on Linux 6.18 with Spark 4.0.3
and 4.1.1 in about one of ten identity ``mapInArrow`` passes over 5 GB or more; and in a model of both sides in plain
Python, with buffers of every size from 256 KiB to 1 MiB.

Room in the buffer ends it: Linux offers a new window, and takes what arrives. So the buffers, which otherwise grow by
themselves to 32 MiB (``net.ipv4.tcp_rmem``), are held at a size below what a process may ask for
(``net.core.rmem_max``), and a connection that stands still is given more. Functions of others in the job, those of
spark-rapids-ml say, are not ours to watch.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from pyspark import TaskContext

RECEIVE_BYTES = 1 << 20
"""What the receive buffer is held at. A process may ask for ``net.core.rmem_max``, 4 MiB on the Linux 6.18 of these
measurements, so there is room to give for some seven times; where that was set to less, there is less. A larger buffer
is no faster."""

LOSES_ACKNOWLEDGEMENTS = (6, 17)
"""The first Linux that does."""

LOOK_SECONDS = 0.5
"""Between two looks at the connections. What stands still at both is helped."""

_SO_MEMINFO = 55  # asm-generic/socket.h; Python has no name for it


class Stand(NamedTuple):
    """How full a connection's buffers are, in bytes of memory (``SO_MEMINFO``, linux/sock_diag.h)."""

    received: int
    may_receive: int
    to_send: int

    @property
    def is_over_full(self) -> bool:
        """It takes nothing more, while there is something to send."""
        return self.received >= self.may_receive and self.to_send > 0


def prevent_standstill() -> None:
    """Holds the receive buffers of this worker's connections to its JVM, and watches them for the rest of its life,
    where Linux would lose acknowledgements. Nothing happens outside of a task: connections of the driver are others'.
    Nor where a user's code has set a timeout for all sockets of the process: a socket that is looked at would be given
    it."""
    if TaskContext.get() is None or linux_release() < LOSES_ACKNOWLEDGEMENTS:
        return
    for _, connection in _connections():
        _hold(connection, RECEIVE_BYTES)
    _watch()


@functools.cache  # a process needs one
def _watch() -> None:
    threading.Thread(target=_relieve_for_ever, name="semdedup-transport", daemon=True).start()


def _relieve_for_ever() -> None:
    before: dict[int, Stand] = {}
    while True:
        time.sleep(LOOK_SECONDS)
        before = relieve(before)


def relieve(before: dict[int, Stand]) -> dict[int, Stand]:
    """Gives connections that stand still more room. Returns how all of them stand, by file descriptor, for the next
    look; ``before`` is what the last one returned."""
    found = {}
    for fd, connection in _connections():
        found[fd] = stand = _stand(connection)
        if stand.is_over_full and stand == before.get(fd):
            # Room for some segments of 64 KiB, and for more than the 16th below which Linux offers no window.
            room = stand.received + stand.received // 8 + (256 << 10)
            _hold(connection, room // 2)  # Linux doubles it
    return found


@functools.cache
def linux_release() -> tuple[int, int]:
    """Major and minor version of Linux; (0, 0) elsewhere."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release) if sys.platform == "linux" else None
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _connections() -> Iterator[tuple[int, socket.socket]]:
    """File descriptors of this process that are connections to this very machine, each with a copy to ask and set."""
    if socket.getdefaulttimeout() is None:
        for fd in _sockets():
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
                if _is_local_tcp(connection):
                    yield fd, connection


def _hold(connection: socket.socket, size: int) -> None:
    with contextlib.suppress(OSError):  # a task does not fail for it
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _stand(connection: socket.socket) -> Stand:
    received, may_receive, _, _, _, to_send = struct.unpack(
        "6I", connection.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 24)
    )
    return Stand(received, may_receive, to_send)


def _sockets() -> list[int]:
    """File descriptors of this process that are sockets."""
    with contextlib.suppress(OSError):
        return [fd for fd in map(int, os.listdir("/proc/self/fd")) if _is_socket(fd)]
    return []


def _is_socket(fd: int) -> bool:
    with contextlib.suppress(OSError):  # that of the listing itself is closed by now
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    return False


def _is_local_tcp(connection: socket.socket) -> bool:
    """Whether a socket is connected, by TCP, to this very machine."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
        return False
    return connection.getpeername()[0] == connection.getsockname()[0]  # raises where it only listens
