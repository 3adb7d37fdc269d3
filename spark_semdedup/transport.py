"""The connection between a task's Python worker and its JVM, over which all vectors go.

Linux lets a connection's receive buffer grow by itself, to 32 MiB and more by default (``net.ipv4.tcp_rmem``). One that
has grown far and is full while the worker writes drops segments, and since Linux 6.17 the acknowledgements in them, too
(its commit 9ca48d616ed7, "tcp: do not accept packets beyond window"): then neither side learns that the other has room,
and the task stands still for ever. Measured on Linux 6.18 with Spark 4.0.3 and 4.1.1, an identity ``mapInArrow`` of
3,000,000 to 5,000,000 rows of 1.5 KiB: segments dropped (``TcpExtRcvPruned``) in every third pass, and two of about
twenty stood still. With buffers of fixed size none of 27 passes dropped any. Functions of others in the job, those of
spark-rapids-ml say, are not ours to hold.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import stat
import sys

from pyspark import TaskContext

RECEIVE_BYTES = 4 << 20
"""What the receive buffer is held at, or ``net.core.rmem_max`` if that is less; a larger one is no faster."""

LOSES_ACKNOWLEDGEMENTS = (6, 17)
"""The first Linux that does."""


def hold_receive_buffers() -> None:
    """Fixes the size of the receive buffers of this worker's connections to its JVM, where Linux would lose
    acknowledgements. Nothing happens outside of a task: connections of the driver are others'. Nor where a user's code
    has set a timeout for all sockets of the process: a socket that is looked at would be given it."""
    if TaskContext.get() is None or linux_release() < LOSES_ACKNOWLEDGEMENTS:
        return
    if socket.getdefaulttimeout() is None:
        for fd in _sockets():
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fd)) as connection:
                if _is_local_tcp(connection):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)


@functools.cache
def linux_release() -> tuple[int, int]:
    """Major and minor version of Linux; (0, 0) elsewhere."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release) if sys.platform == "linux" else None
    return (int(found[1]), int(found[2])) if found else (0, 0)


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
