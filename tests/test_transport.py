"""Connections between workers and their JVM: which receive buffers are held at one size, and that a task's are."""

from __future__ import annotations

import contextlib
import json
import socket
import stat

import pyarrow as pa
import pytest

from spark_semdedup import transport
from spark_semdedup.devices import Placement
from spark_semdedup.transport import LOSES_ACKNOWLEDGEMENTS, RECEIVE_BYTES, hold_receive_buffers, linux_release


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
        (True, LOSES_ACKNOWLEDGEMENTS, {"tcp"}),
        (True, (7, 0), {"tcp"}),
        (True, (6, 8), set()),
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
    before = sizes(sockets)
    hold_receive_buffers()
    after = sizes(sockets)
    assert {name for name in sockets if after[name] != before[name]} == changed
    assert not changed or after["tcp"] == held()


def test_a_machine_without_proc_has_no_sockets_to_hold(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(transport.os, "listdir", missing)
    assert transport._sockets() == []


@LINUX
def test_all_sockets_of_the_process_are_found(sockets):
    assert {each.fileno() for each in sockets.values()} <= set(transport._sockets())


@pytest.mark.skipif(linux_release() < LOSES_ACKNOWLEDGEMENTS, reason="this Linux loses no acknowledgements")
def test_a_task_holds_its_connection_before_its_first_row(spark):
    placement = Placement("cpu", 0.4)

    def look(batches):
        import os

        found = []
        for fd in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    with socket.socket(fileno=os.dup(fd)) as each:
                        found.append((each.family.name, each.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)))
        for batch in batches:
            assert placement.backend == "cpu"
            yield pa.RecordBatch.from_pydict({"found": [json.dumps(found)] * len(batch)})

    answer = spark.range(1).mapInArrow(look, "found string").first()
    found = [tuple(each) for each in json.loads(answer.found)]
    tcp = [size for family, size in found if family != "AF_UNIX"]
    if spark.conf.get("spark.python.unix.domain.socket.enabled", "false") == "true":  # which needs none of this
        assert found
        assert not tcp
    else:
        assert set(tcp) == {held()}
