"""How a local session of the program ends."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from spark_semdedup.spark.session import stop_session


class Server:
    """As pyspark's of accumulators: ``shutdown`` waits until the thread that serves looks up."""

    def __init__(self) -> None:
        self.looked_up, self.ended = threading.Event(), threading.Event()

    def shutdown(self) -> None:
        assert self.looked_up.wait(60)
        self.ended.set()


class Session:
    def __init__(self, server: Server | None, error: Exception | None = None) -> None:
        self.sparkContext = SimpleNamespace(_accumulatorServer=server)
        self.error = error
        self.stopped_without_server = False

    def stop(self) -> None:
        self.stopped_without_server = self.sparkContext._accumulatorServer is None
        if self.error is not None:
            raise self.error


def test_a_session_ends_before_its_accumulators_do():
    server = Server()
    session = Session(server)
    stop_session(session)
    assert session.stopped_without_server
    assert not server.ended.is_set()
    server.looked_up.set()
    assert server.ended.wait(60)


def test_accumulators_end_where_the_session_cannot_be_stopped():
    server = Server()
    server.looked_up.set()
    with pytest.raises(ConnectionRefusedError):
        stop_session(Session(server, ConnectionRefusedError()))
    assert server.ended.wait(60)


def test_a_session_that_was_stopped_is_stopped_again():
    session = Session(None)
    stop_session(session)
    assert session.stopped_without_server
