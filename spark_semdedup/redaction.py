"""Secrets hidden in what leaves the program: messages, logs, progress, summaries and manifests.

The program prints the paths and options it was given. Secrets in them are the user-info of a URI, values of names
such as ``password`` in a query, a connection string or an option, and bearer tokens. Other running text is not
searched; Spark redacts its own settings (``spark.redaction.regex``). What the program reads or writes to is never
altered.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

HIDDEN = "***"

COLUMN_PARAMS = frozenset({"idCol", "embeddingCol", "metadataCols", "rankBy"})
"""Params that a manifest gives back as they were: they name columns."""

_WORDS = (
    # batchTokens and maxTokens count a model's tokens.
    r"(?:password|passwd|passphrase|secret|(?<!batch)(?<!max)token|credential|authorization|signature|awsaccesskeyid|"
    r"(?:api|access|account|private|shared|storage|encryption)[_.-]?key|"
    r"(?<![a-z])(?:pwd|pass|sig|sas|auth)(?![a-z]))"
)
_SENSITIVE = re.compile(_WORDS, re.IGNORECASE)
"""Looked for in names: ``fs.s3a.secret.key``, ``X-Amz-Security-Token``."""

_UP_TO_AT = r"(?:(?!://)[^\s'\"]){0,1000}(?=@)"  # bounded: a text is searched in linear time
_USER = r"[^\s'\"/:@]{0,1000}"
_USER_INFO = re.compile(
    rf"(?P<s3>\bs3[an]?:/{{1,3}}){_USER}:{_UP_TO_AT}"  # such a secret may have slashes, and a bucket has no port
    rf"|(?P<host>:/{{2,3}}){_USER}:(?!\d{{1,5}}/){_UP_TO_AT}"  # but neither host:port/name@place nor container@account
    rf"|(?P<oracle>\bjdbc:oracle:\w{{1,20}}:)[^\s'\"/@]{{1,1000}}/{_UP_TO_AT}",
    re.IGNORECASE,
)

_NAMED = re.compile(
    rf"(?P<name>(?<![\w.-])(?=[\w.-]*?{_WORDS})[\w.-]+['\"]?\s*[=:]\s*)(?:(?:Bearer|Basic)\s+)?"
    r"(?:(?P<quote>['\"])(?:\\.|(?!(?P=quote))[^\\])*(?P<close>(?P=quote)|\\?\Z)"
    r"|\{[^{}]*\}|(?:(?![&;][\w.%-]+=)[^\s'\"])+)",  # braces: SQL Server's connection strings
    re.IGNORECASE | re.DOTALL,
)

_BEARER = re.compile(r"(?P<scheme>\bBearer\s{1,8})(?=[^\s'\"]{0,1000}\d)[^\s'\"]{8,}", re.IGNORECASE)
"""The header of a request; a token has a digit, which tells it from prose."""


def redacted(text: str) -> str:
    """``text`` with ``***`` in place of each secret; a second call changes nothing.

    >>> redacted("s3a://AKIA1:se/cret@bucket/in and abfss://data@account.dfs.core.windows.net/in?sv=1&sig=a%2Fb&se=2")
    's3a://***@bucket/in and abfss://data@account.dfs.core.windows.net/in?sv=1&sig=***&se=2'
    >>> redacted("hdfs://name-node:8020/user/me@home and idCol='doc id' and --input-option fs.s3a.secret.key=abc")
    "hdfs://name-node:8020/user/me@home and idCol='doc id' and --input-option fs.s3a.secret.key=***"
    """
    text = _USER_INFO.sub(lambda uri: f"{uri['s3'] or uri['host'] or uri['oracle']}{HIDDEN}", text)
    text = _BEARER.sub(lambda header: f"{header['scheme']}{HIDDEN}", text)
    return _NAMED.sub(lambda pair: f"{pair['name']}{pair['quote'] or ''}{HIDDEN}{pair['close'] or ''}", text)


def redacted_values(value: Any, verbatim: Collection[str] = ()) -> Any:
    """A JSON-like value with its texts redacted. In mappings the texts under a secret's name are hidden, and the values
    under the names in ``verbatim`` stay.

    >>> redacted_values({"input": ["s3a://a:b@c/d"], "password": "x", "idCol": "token=1"}, verbatim={"idCol"})
    {'input': ['s3a://***@c/d'], 'password': '***', 'idCol': 'token=1'}
    """
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: each if name in verbatim else _under(name, each, verbatim) for name, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return [redacted_values(each, verbatim) for each in value]
    return value


def _under(name: Any, value: Any, verbatim: Collection[str]) -> Any:
    hides = isinstance(value, str) and isinstance(name, str) and _SENSITIVE.search(name)
    return HIDDEN if hides else redacted_values(value, verbatim)


class Redacting(logging.Filter):
    """Redacts the records of the logger it is added to, whatever handler they go to."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), None
        return True
