"""What the program says of slips in a first call, before Spark starts."""

from __future__ import annotations

import pytest

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
    message = f"input='{missing}' does not exist: give a file, a folder or a pattern"
    assert capsys.readouterr().err == f"spark-semdedup: error: {message}\n"


@pytest.mark.parametrize("path", ["s3a://bucket/nowhere", "/nowhere/*.parquet", "file:/nowhere"])
def test_other_paths_are_left_to_spark(monkeypatch, path):
    def start(**_):
        raise session.SessionError("started")

    monkeypatch.setattr(cli, "given_session", lambda: None)
    monkeypatch.setattr(cli, "local_session", start)
    assert cli.main(["plan", "--input", path]) == 2
