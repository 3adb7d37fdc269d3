"""The labeler for OpenAI-compatible servers, against a server of this test."""

from __future__ import annotations

import json
import pickle
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from spark_semdedup.errors import SemDedupError
from spark_semdedup.explore import OpenAILabeler, topic_labels
from spark_semdedup.explore.labelers import DOCUMENT_CHARACTERS

pytest.importorskip("openai", reason="openai is not installed")

KEY = "sk-test-of-the-suite"


class Server(ThreadingHTTPServer):
    """Answers chat requests with ``answers`` one after the other, the last again and again: a text, a status, or
    seconds to wait."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Any] = ["Apple Fruit Juice"]
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def next_answer(self) -> Any:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body | {"path": self.path})
        self.server.keys.append(self.headers["Authorization"])
        answer = self.server.next_answer()
        if isinstance(answer, float):
            time.sleep(answer)
            answer = "Too Late"
        status = answer if isinstance(answer, int) else 200
        if isinstance(answer, str):
            message = {"role": "assistant", "content": answer}
            answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m",
                      "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}  # fmt: skip
        elif isinstance(answer, int):
            answer = {"error": {"message": f"key {self.headers['Authorization']} is refused"}}
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def test_documents_go_to_the_server_and_its_label_comes_back(server):
    label = OpenAILabeler("small", base_url=server.url)(["first text", "second text"])
    assert label == "Apple Fruit Juice"
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["model"] == "small"
    assert request["max_tokens"] == 20
    assert "2 to 4 words" in request["messages"][0]["content"]
    assert request["messages"][1]["content"] == "1. first text\n\n2. second text"
    assert server.keys == [f"Bearer {KEY}"]


def test_the_address_may_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert OpenAILabeler("small")(["text"]) == "Apple Fruit Juice"


def test_noise_is_not_sent_and_clusters_are_named(server):
    server.answers = ["Red Fruit", "Fast Cars"]
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [-1, -1]])
    texts = ["apple", "cherry", "racing car", "SECRET noise"]
    found = topic_labels(vectors, [0, 0, 1, -1], texts=texts, labeler=OpenAILabeler("m", base_url=server.url))
    assert found == {0: "Red Fruit", 1: "Fast Cars"}
    assert "SECRET" not in json.dumps(server.requests)


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ('"Python Web Frameworks."', "Python Web Frameworks"),
        ("Topic: games for small children and adults", "games for small children"),
        ("\n\n**Audio Tools**\nThese are …", "Audio Tools"),
    ],
)
def test_answers_become_labels_of_two_to_four_words(server, answer, label):
    server.answers = [answer]
    assert OpenAILabeler("m", base_url=server.url)(["text"]) == label


def test_a_single_word_is_asked_for_again_once(server):
    server.answers = ["Python", "Python Libraries"]
    assert OpenAILabeler("m", base_url=server.url)(["text"]) == "Python Libraries"
    assert "must have 2 to 4 words" in server.requests[1]["messages"][-1]["content"]
    server.answers = ["Python"]
    assert OpenAILabeler("m", base_url=server.url)(["text"]) == "Python"
    assert len(server.requests) == 4


def test_busy_servers_are_asked_again(server):
    server.answers = [503, 429, "Apple Fruit Juice"]
    assert OpenAILabeler("m", base_url=server.url, retries=2)(["text"]) == "Apple Fruit Juice"
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "check OPENAI_API_KEY"), (404, "check model and base_url"), (500, "500")]
)
def test_a_refusal_is_one_line_without_the_key(server, status, hint):
    server.answers = [status]
    with pytest.raises(SemDedupError, match=hint) as error:
        OpenAILabeler("m", base_url=server.url, retries=0)(["text"])
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_slow_server_times_out(server):
    server.answers = [5.0]
    started = time.perf_counter()
    with pytest.raises(SemDedupError, match=r"no answer in 0\.2 s, 1 times: raise timeout"):
        OpenAILabeler("m", base_url=server.url, timeout=0.2, retries=0)(["text"])
    assert time.perf_counter() - started < 4


def test_an_answer_that_is_none_is_refused(server):
    server.answers = [{"something": "else"}]
    with pytest.raises(SemDedupError, match="not a chat completion"):
        OpenAILabeler("m", base_url=server.url, retries=0)(["text"])


def test_no_server_is_one_line(server):
    with pytest.raises(SemDedupError, match="no connection to the server"):
        OpenAILabeler("m", base_url="http://127.0.0.1:9/v1", retries=0)(["text"])


def test_the_key_comes_from_the_environment_alone(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(SemDedupError, match="OPENAI_API_KEY is not set"):
        OpenAILabeler("m", base_url=server.url)(["text"])
    assert server.requests == []
    with pytest.raises(TypeError):
        OpenAILabeler("m", api_key=KEY)


@pytest.mark.parametrize("end", ["…", "\n"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(server, monkeypatch, end, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + end)
    labeler = OpenAILabeler("m", base_url=server.url, retries=0)
    with pytest.raises(SemDedupError, match="OPENAI_API_KEY cannot be used: a key has printable ASCII") as error:
        topic_labels(np.eye(2), [0, 1], texts=["cat dog", "fish bird"], labeler=labeler)
    assert KEY not in str(error.value) + caplog.text
    assert server.requests == []


def test_neither_repr_nor_pickle_holds_the_key(server):
    labeler = OpenAILabeler("m", base_url=server.url)
    labeler(["text"])
    assert KEY not in repr(labeler)
    assert KEY.encode() not in pickle.dumps(labeler)
    assert pickle.loads(pickle.dumps(labeler))(["text"]) == "Apple Fruit Juice"


def test_long_documents_are_cut(server):
    OpenAILabeler("m", base_url=server.url)(["x" * 100_000])
    assert len(server.requests[0]["messages"][1]["content"]) < DOCUMENT_CHARACTERS + 20


@pytest.mark.parametrize(
    ("options", "message"),
    [({"model": ""}, "model=''"), ({"timeout": 0}, "timeout=0"), ({"retries": -1}, "retries=-1")],
)
def test_settings_are_checked(options, message):
    with pytest.raises(SemDedupError, match=message):
        OpenAILabeler(**options)


def test_a_missing_package_is_named(server, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(SemDedupError, match="OpenAILabeler needs openai"):
        OpenAILabeler("m", base_url=server.url)(["text"])
