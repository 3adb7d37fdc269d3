"""Secrets are hidden in what leaves the program, in every form they come in, and nothing else is touched."""

from __future__ import annotations

import io
import json
import logging
import pickle
import time

import pytest
from fuzzing import tries
from hypothesis import given
from hypothesis import strategies as st

import spark_semdedup
from spark_semdedup.analysis.evaluation import Evaluation
from spark_semdedup.errors import InvalidRowsError, SemDedupError, shown
from spark_semdedup.params import SemDedupStageParams
from spark_semdedup.redaction import COLUMN_PARAMS, HIDDEN, redacted, redacted_values
from spark_semdedup.runs.progress import Progress
from spark_semdedup.runs.summary import Summary

FORMS = [
    "s3a://AKIDEXAMPLE:{}@bucket/documents",
    "s3://me:{}@bucket",
    "s3n:/me:{}@bucket/x",
    "https://user:{}@host:8080/x?y=1",
    "ftp://user:{}@host",
    "jdbc:mysql://root:{}@db/corpus",
    "jdbc:oracle:thin:scott/{}@//db:1521/corpus",
    "jdbc:postgresql://db:5432/corpus?user=me&password={}",
    "jdbc:postgresql://db/corpus?password={}&user=me",
    "jdbc:sqlserver://db:1433;user=sa;password={};encrypt=true",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};EndpointSuffix=core.windows.net",
    "abfss://data@account.dfs.core.windows.net/in?sv=2024-01-01&sig={}&se=2027",
    "https://a.blob.core.windows.net/c/x.parquet?sp=r&sig={}",
    "https://bucket.s3.amazonaws.com/x?X-Amz-Credential=a&X-Amz-Signature={}",
    "https://bucket.s3.amazonaws.com/x?X-Amz-Security-Token={}&X-Amz-Expires=60",
    "https://storage.googleapis.com/b/x?GoogleAccessId=a&Signature={}",
    "--input-option password={}",
    "password = {}",
    "PASSWORD={} USER=me",
    "sfPassword={}",
    "fs.s3a.secret.key={}",
    "fs.s3a.access.key: {}",
    "fs.s3a.session.token={}",
    "fs.s3a.bucket.name.secret.key={}",
    "spark.hadoop.fs.azure.account.key.account.dfs.core.windows.net={}",
    "fs.azure.sas.container.account.blob.core.windows.net={}",
    "fs.azure.account.oauth2.client.secret={}",
    "--conf 'spark.hadoop.fs.s3a.secret.key={}'",
    '{{"fs.s3a.secret.key": "{}", "a": 1}}',
    "{{'clientSecret': '{}', 'a': 1}}",
    "Authorization: Bearer {}",
    "authorization: Basic {}",
    '{{"Authorization": "Bearer {}"}}',
    "curl failed: invalid api_key={}",
    "X-Api-Key: {}",
    "pwd={}",
    "pem_private_key={}",
    "Bearer 1{}",
    "UnicodeEncodeError('ascii', 'Bearer 1{}…', 17, 18, 'ordinal not in range(128)')",
]

SAFE = [
    "s3a://bucket/in put/part-0.parquet",
    "abfss://container@account.dfs.core.windows.net/documents",
    "wasbs://container@account.blob.core.windows.net/documents",
    "hdfs://name-node:8020/user/me@home/documents",
    "hdfs://user@name-node:8020/documents",
    "dbfs:/Volumes/main/corpus/documents",
    "file:///tmp/a@b:c/d",
    "C:/documents/a@b",
    "gs://bucket/year=2024/month=1",
    "k=0 cannot be used: it must be a whole number of at least 1",
    "idCol='token' is not among the columns: 'id', 'token', 'password', 'secret'",
    "embeddingCol='secret' is of type string: it must be array<float>",
    "--eps 1.5: eps=1.5 cannot be used: it must be a number between 0 and 1, both excluded",
    "assigned=3, design=4, passes=2, bypass 3, authors=7, passenger=8",
    "[2/4] assign and compare ... 63,905 rows, 250 clusters, 8.3 s",
    'No FileSystem for scheme "nosuch"',
    "a bearer certificate of 2024, and bearer authentication.",
]

secrets = st.text("abcXYZ0189/+=_-.~%!$*", min_size=8, max_size=60).map(lambda text: f"q{text}Zq")
"""What keys, signatures and passwords are made of; the first and last letters so that each is one word."""


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_hidden_in_each_form_it_comes_in(form):
    @tries(25)
    @given(secrets)
    def check(secret: str) -> None:
        text = f"input='a' cannot be read: {form.format(secret)}"
        said = redacted(text)
        assert secret not in said
        assert secret[:9] not in said
        assert secret[-9:] not in said
        assert HIDDEN in said
        assert redacted(said) == said
        assert said.startswith("input='a' cannot be read: ")

    check()


@pytest.mark.parametrize("text", SAFE)
def test_what_holds_no_secret_stays_as_it_is(text):
    assert redacted(text) == text


def test_braces_of_connection_strings_hide_all_between_them():
    said = redacted("jdbc:sqlserver://host;password={ab;cd=ef gh'i};encrypt=true")
    assert said == f"jdbc:sqlserver://host;password={HIDDEN};encrypt=true"


def test_what_stands_around_a_secret_can_still_be_read():
    assert redacted("s3a://KEY:a/b+c@bucket/x and s3a://other/y") == "s3a://***@bucket/x and s3a://other/y"
    assert redacted("jdbc:x://h/db?password=a&b&user=me") == "jdbc:x://h/db?password=***&user=me"
    assert redacted("s3a://k:s@b/x,s3a://l:t@c/y") == "s3a://***@b/x,s3a://***@c/y"
    assert redacted("password='a \\'b\\' c' is wrong") == "password='***' is wrong"


pieces = ["://", "password", "=", ":", "@", "'", '"', "\\", "&", ";", "a", " ", "s3:/", "%3D", "(", "***", "\n"]


@tries(100)
@given(st.lists(st.sampled_from(pieces)).map("".join) | st.text())
def test_any_text_is_taken_and_nothing_but_secrets_goes(text):
    at = 0
    for rest in redacted(text).removesuffix("'").removesuffix('"').split(HIDDEN):  # an open quote is closed
        assert rest in text[at:]
        at = text.index(rest, at) + len(rest)


slow = [
    "password",
    "a",
    "'password",
    "\\",
    "://",
    "s3a://a:",
    "s3:/a:",
    "jdbc:oracle:x:a/",
    "password ",
    "eyJa-",
    "token=",
    "Bearer ",
    "Bearer\n",
]


@pytest.mark.parametrize("piece", slow)
def test_a_hostile_text_takes_no_longer_than_its_length_asks_for(piece):
    text = piece * (50_000 // len(piece)) + " password=x"
    began = time.process_time()
    redacted(text)
    assert time.process_time() - began < 2, "quadratic time would be minutes"


def test_values_are_redacted_at_any_depth_but_not_names_of_columns():
    value = {
        "results": {"similarities": "s3a://k:s@b/x"},
        "parameters": {"idCol": "a://b:c@d", "rankBy": ["token=x desc"], "k": 3, "initMode": "s3a://k:s@b/m"},
        "options": {"password": "x", "fs.s3a.secret.key": "y", "header": "true"},
        "inputs": ("s3a://k:s@b/x", None, 1.5),
    }
    assert redacted_values(value, verbatim=COLUMN_PARAMS) == {
        "results": {"similarities": "s3a://***@b/x"},
        "parameters": {"idCol": "a://b:c@d", "rankBy": ["token=x desc"], "k": 3, "initMode": "s3a://***@b/m"},
        "options": {"password": "***", "fs.s3a.secret.key": "***", "header": "true"},
        "inputs": ["s3a://***@b/x", None, 1.5],
    }


def test_the_params_left_alone_are_params():
    assert {param.name for param in SemDedupStageParams().params} >= COLUMN_PARAMS


# --- the edges ----------------------------------------------------------------------------------------------

PATH, HIDDEN_PATH = "s3a://KEY:hunter/2@bucket/out", "s3a://***@bucket/out"


def test_messages_of_our_errors_show_no_secret():
    error = SemDedupError(f"path '{PATH}' cannot be used: No such bucket {PATH}")
    assert str(error) == f"path '{HIDDEN_PATH}' cannot be used: No such bucket {HIDDEN_PATH}"
    again = pickle.loads(pickle.dumps(InvalidRowsError(str(error))))
    assert (type(again), str(again)) == (InvalidRowsError, str(error))


def test_a_value_that_is_cut_off_in_a_message_shows_no_part_of_its_secret():
    long = "s3a://KEY:" + "secret" * 100 + "@bucket"
    assert shown(long) == "'s3a://***@bucket'"
    assert "hunter" not in shown([PATH] * 50)


def test_summary_and_progress_show_no_secret():
    summary = Summary("run", results={"similarities": PATH}, parameters={"centroids": PATH, "idCol": "a=b"})
    assert "hunter" not in summary.as_json()
    assert json.loads(summary.as_json())["results"] == {"similarities": HIDDEN_PATH}
    assert HIDDEN_PATH in summary.as_text()
    assert "hunter" not in summary.as_text()
    assert summary.results == {"similarities": PATH}, "what the program itself uses stays"
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin(1)
    with progress.phase(f"read {PATH}"):
        progress.note(f"of {PATH}")
    assert stream.getvalue().count(HIDDEN_PATH) == 4
    assert "hunter" not in stream.getvalue()


def test_an_evaluation_shows_no_secret_and_ids_as_they_are():
    found = Evaluation(
        rows=2, sample_rows=2, to_remove=0, found=0, removed=1, missed_within=0, threshold=0.9, seed=1,
        unexpected=("https://x/?sig=1",), result=PATH,
    )  # fmt: skip
    assert found.as_dict()["result"] == HIDDEN_PATH
    assert found.as_dict()["unexpected"] == ("https://x/?sig=1",)
    assert "hunter" not in found.as_json()


def test_our_log_shows_no_secret_whoever_handles_it():
    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    kept: list[str] = []
    log, handler = logging.getLogger(spark_semdedup.__name__), Keeping()
    log.addHandler(handler)
    try:
        log.warning("%s has no %s", PATH, "x")
    finally:
        log.removeHandler(handler)
    assert kept == [f"{HIDDEN_PATH} has no x"]
