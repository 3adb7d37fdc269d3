"""What the program says of slips in a first call, before Spark starts, and after it has ended."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from program import call
from py4j.protocol import Py4JNetworkError

from spark_semdedup.cli import main as cli
from spark_semdedup.spark import session


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--esp 0.1", "unrecognized arguments: --esp 0.1; did you mean --eps?"),
        ("--embeding-col x", "did you mean --embedding-col?"),
        ("--id_col x", "did you mean --id-col?"),
        ("--overwirte", "did you mean --overwrite?"),
        ("--qqqqqq 1", "unrecognized arguments: --qqqqqq 1 ("),
    ],
)
def test_a_misspelt_option_names_the_one_that_was_meant(capsys, option, said):
    assert cli.main(["run", "--input", "in", "--output", "out", *option.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run --output out", "pairwise --output out", "plan", "evaluate --result r"])
def test_a_missing_local_input_is_told_before_a_session_starts(capsys, monkeypatch, tmp_path, command):
    monkeypatch.setattr(cli, "given_session", lambda: None)
    monkeypatch.setattr(cli, "local_session", lambda **_: pytest.fail("a session starts"))
    monkeypatch.delenv("HADOOP_CONF_DIR", raising=False)
    name, *options = command.split()
    missing = tmp_path / "nowhere"
    assert cli.main([name, "--input", str(missing), *options]) == 2
    message = f"--input='{missing}' does not exist: give a file, a folder or a pattern"
    assert capsys.readouterr().err == f"spark-semdedup: error: {message}\n"


@pytest.mark.parametrize("path", ["s3a://bucket/nowhere", "/nowhere/*.parquet", "file:/nowhere"])
def test_other_paths_are_left_to_spark(monkeypatch, path):
    def start(**_):
        raise session.SessionError("started")

    monkeypatch.setattr(cli, "given_session", lambda: None)
    monkeypatch.setattr(cli, "local_session", start)
    assert cli.main(["plan", "--input", path]) == 2


@pytest.mark.parametrize("fails", [True, False])
def test_a_jvm_that_is_gone_leaves_one_line_and_pythons_own_handler(capsys, monkeypatch, fails):
    class Dead:
        def stop(self) -> None:
            warnings.warn("Unable to cleanly shutdown Spark JVM process.", RuntimeWarning, stacklevel=1)
            raise ConnectionRefusedError(111, "Connection refused")

    def steps_of(*_: object) -> Callable[[object], str]:
        def step(job: object) -> str:
            assert signal.getsignal(signal.SIGINT) is cli._interrupted
            if fails:
                raise Py4JNetworkError("Answer from Java side is empty")
            return "done"

        return step

    monkeypatch.setattr(cli, "given_session", lambda: None)
    monkeypatch.setattr(cli, "local_session", lambda **_: Dead())
    monkeypatch.setattr(cli, "Job", SimpleNamespace(of=lambda *_, **__: None))
    monkeypatch.setitem(cli.COMMANDS, "doctor", replace(cli.COMMANDS["doctor"], prepare=steps_of))
    before = signal.getsignal(signal.SIGINT)
    status, out, err = call(capsys, "doctor")
    assert signal.getsignal(signal.SIGINT) is before
    if fails:
        assert (status, out) == (1, "")
        assert err == ["spark-semdedup: error: Py4JNetworkError: Answer from Java side is empty (--verbose shows more)"]
    else:
        assert (status, out, err) == (0, "\nspark-semdedup doctor\n\ndone\n", [])
