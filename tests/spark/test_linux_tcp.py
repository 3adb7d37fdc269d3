"""Connections between workers and their JVM: which receive buffers are held at one size, and that a task's are."""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import stat
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from spark_semdedup.spark import _linux_tcp as transport
from spark_semdedup.spark._linux_tcp import (
    BROKEN_FROM,
    FIXED_IN,
    RECEIVE_BYTES,
    linux_release,
    prevent_standstill,
)


@pytest.fixture
def sockets():
    """One end each of connections over TCP and within the machine, and sockets that are not connected."""
    with contextlib.ExitStack() as opened:
        listening = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        tcp = opened.enter_context(socket.create_connection(listening.getsockname()))
        opened.enter_context(listening.accept()[0])
        unix, other = socket.socketpair()
        opened.enter_context(unix)
        opened.enter_context(other)
        udp = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        yield {"tcp": tcp, "listening": listening, "unix": unix, "udp": udp}


def sizes(sockets) -> dict[str, int]:
    return {name: each.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for name, each in sockets.items()}


def held() -> int:
    """The size of a buffer that is held: Linux says twice what was asked for, and keeps to its limit."""
    with open("/proc/sys/net/core/rmem_max") as file:
        return 2 * min(RECEIVE_BYTES, int(file.read()))


LINUX = pytest.mark.skipif(linux_release() == (0, 0), reason="only Linux has these settings")


@LINUX
@pytest.mark.parametrize(
    ("in_task", "release", "changed"),
    [
        (True, BROKEN_FROM, {"tcp"}),
        (True, (7, 0), {"tcp"}),
        (True, (6, 8), set()),
        (True, FIXED_IN, set()),
        (True, (0, 0), set()),
        (False, (7, 0), set()),
    ],
)
def test_connections_of_tasks_are_held_where_linux_loses_acknowledgements(
    monkeypatch, sockets, in_task, release, changed
):
    monkeypatch.setattr(transport.TaskContext, "get", lambda: object() if in_task else None)
    monkeypatch.setattr(transport, "linux_release", lambda: release)
    monkeypatch.setattr(transport, "_sockets", lambda: [each.fileno() for each in sockets.values()])  # no one else's
    watched = []
    monkeypatch.setattr(transport, "_watch", lambda: watched.append(True))
    before = sizes(sockets)
    prevent_standstill()
    after = sizes(sockets)
    assert {name for name in sockets if after[name] != before[name]} == changed
    assert not changed or after["tcp"] == held()
    assert bool(watched) == bool(changed)


@LINUX
def test_the_watch_can_be_switched_off(monkeypatch, sockets):
    monkeypatch.setattr(transport.TaskContext, "get", lambda: object())
    monkeypatch.setattr(transport, "linux_release", lambda: BROKEN_FROM)
    monkeypatch.setattr(transport, "_watch", lambda: pytest.fail("it watches"))
    monkeypatch.setenv("SEMDEDUP_TCP_WATCH", "0")
    before = sizes(sockets)
    prevent_standstill()
    assert sizes(sockets) == before


@LINUX
def test_only_what_stands_still_is_given_room(monkeypatch, sockets):
    tcp = sockets["tcp"]
    monkeypatch.setattr(transport, "_sockets", lambda: [tcp.fileno()])
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
    full, room = (140_000, 131_072, 10), 140_000 + 17_500 + (256 << 10)
    found = [
        (100, 131_072, 10),
        (100, 131_072, 10),  # as before, with room
        (140_000, 131_072, 0),
        (140_000, 131_072, 0),  # full, with nothing to send: it waits for its worker
        full,
        (140_001, 131_072, 10),  # it moves
        full,
        full,  # it stands
    ]
    sizes_after = []
    before = {}
    for fill in found:
        monkeypatch.setattr(transport, "_fill", lambda connection, fill=fill: fill)
        before = transport.relieve(before)
        sizes_after.append(tcp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
    assert sizes_after == [128 << 10] * 7 + [room]


class Echo:
    """Worker and JVM, as they use their connection: the one reads a batch and writes a batch, and waits for each; the
    other writes and reads whatever the connection takes and gives at the moment."""

    BATCH = 12 << 20

    def __init__(self, receive_bytes: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.jvm = socket.create_connection(listening.getsockname())
            self.worker, _ = listening.accept()
        self.worker.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.jvm.setblocking(False)
        self.echoed = 0
        self._ended = False
        self._threads = [threading.Thread(target=self._work), threading.Thread(target=self._drive)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._ended = True
        for end in (self.jvm, self.worker):
            with contextlib.suppress(OSError):  # the first has ended both
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self.jvm.close()
        self.worker.close()

    def stands_still(self, seconds: float) -> bool:
        echoed = self.echoed
        time.sleep(seconds)
        return self.echoed == echoed

    def _work(self) -> None:
        batch = memoryview(bytearray(self.BATCH))
        with contextlib.suppress(OSError):
            while not self._ended:
                got = 0
                while got < len(batch) and not self._ended:
                    got += self.worker.recv_into(batch[got:])
                self.worker.sendall(batch)

    def _drive(self) -> None:
        sizes, chosen = (131_072, 50, 9_000, 40_000), random.Random(1)
        given, taken = memoryview(bytes(max(sizes))), bytearray(65_536)
        poll = select.poll()
        poll.register(self.jvm, select.POLLIN | select.POLLOUT)
        with contextlib.suppress(OSError):
            while not self._ended:
                for _, events in poll.poll(100):
                    with contextlib.suppress(BlockingIOError):
                        if events & select.POLLIN:
                            self.echoed += self.jvm.recv_into(taken)
                        elif events & select.POLLOUT:
                            self.jvm.send(given[: chosen.choice(sizes)])


@pytest.mark.slow
@pytest.mark.skipif(linux_release() < BROKEN_FROM, reason="this Linux loses no acknowledgements")
def test_a_connection_that_stands_still_moves_on(monkeypatch):
    """One that really does: batches are echoed through small buffers until Linux lets them stand still."""
    with contextlib.ExitStack() as closing:
        echo = Echo(128 << 10)
        closing.callback(echo.close)
        deadline = time.monotonic() + 60
        while not echo.stands_still(5.0):  # no pause of a busy machine
            if time.monotonic() > deadline:
                pytest.skip(f"no standstill in 60 s, {echo.echoed / 1e9:.1f} GB")
        monkeypatch.setattr(transport, "_sockets", lambda: [echo.worker.fileno()])
        transport.relieve(transport.relieve({}))
        for _ in range(60):  # Linux asks anew after twice the time each time
            if not echo.stands_still(0.5):
                return
        pytest.fail("it still stands")


def test_a_machine_without_proc_has_no_sockets_to_hold(monkeypatch):
    monkeypatch.setattr(transport, "Path", lambda path: Path(f"/nowhere{path}"))
    assert transport._sockets() == []


@LINUX
def test_all_sockets_of_the_process_are_found(sockets):
    assert {each.fileno() for each in sockets.values()} <= set(transport._sockets())


@pytest.mark.skipif(linux_release() < BROKEN_FROM, reason="this Linux loses no acknowledgements")
def test_a_task_holds_its_connection_before_its_first_row(spark):
    def look(batches):
        import os

        from spark_semdedup.spark.worker import prepare_worker

        prepare_worker()
        found = []
        for fd in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    with socket.socket(fileno=os.dup(fd)) as each:
                        found.append((each.family.name, each.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)))
        for batch in batches:
            yield pa.RecordBatch.from_pydict({"found": [json.dumps(found)] * len(batch)})

    answer = spark.range(1).mapInArrow(look, "found string").first()
    found = [tuple(each) for each in json.loads(answer.found)]
    tcp = [size for family, size in found if family != "AF_UNIX"]
    if spark.conf.get("spark.python.unix.domain.socket.enabled", "false") == "true":  # which needs none of this
        assert found
        assert not tcp
    else:
        assert set(tcp) == {held()}
