"""Secrets taken out of texts that leave the program: messages, logs, progress, summaries and manifests.

A path may carry a password (``https://user:password@host``), a signature (``?sig=…``) or a key; so may what Spark or
Java says of it. What is written or printed goes through ``redacted``; what the program reads or writes to never does.

A secret is known by where it stands: after a name such as ``password`` or ``fs.s3a.secret.key``, in a URI before the
host, or by a form of its own (AWS key ids, JSON web tokens, …). In doubt more is hidden than need be. A bare secret
in running text cannot be known.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

HIDDEN = "***"

_WORDS = (
    # batchTokens and maxTokens count a model's tokens.
    r"(?:password|passwd|passphrase|passcode|secret|(?<!batch)(?<!max)token|credential|authorization|signature|"
    r"(?:api|access|account|private|shared|storage|encryption)[_.-]?key|awsaccesskeyid|"
    r"(?<![a-z])(?:pwd|pass|sig|sas|auth)(?![a-z]))"
)

_SENSITIVE = re.compile(_WORDS, re.IGNORECASE)
"""Looked for in names: ``fs.s3a.secret.key``, ``X-Amz-Security-Token``."""

# Whole words only, taken at once: each character of a text is looked at a few times, however long the text is.
_NAME = r"(?<![\w.-])(?=(?P<name>[\w.-]+))(?P=name)"

_NAMED = re.compile(
    rf"{_NAME}(?:\\{{0,8}}['\"])?\s*(?:=|%3D|->|=>|:)\s*\\{{0,8}}"
    rf"|(?<=\(['\"]){_NAME.replace('name', 'first')}['\"],\s*",
    re.IGNORECASE,
)
"""What stands before a value: ``name=``, ``"name": ``, ``name -> ``, ``('name', ``."""

_VALUE = re.compile(
    r"""(?P<quote>["'])(?:\\.|(?!(?P=quote))[^\\])*(?:(?P=quote)|\\?$)|\{[^{}]*\}|(?:(?![&;][\w.%-]+=)[^\s'"])+""",
    re.DOTALL,
)
"""In quotes or braces (of SQL Server's connection strings) all between them, else up to white space, a quote, or what
begins the next part of a query or of a connection string: ``&name=``, ``;name=``."""


def _rule(pattern: str, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    return re.compile(pattern, flags | re.DOTALL)


_UP_TO_AT = r"(?:(?!://)[^\s'\"]){0,1000}(?P<after>@)"

_RULES: tuple[re.Pattern[str], ...] = (
    _rule(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)"),
    _rule(r"(?P<before>\bBearer\s+)[\w.~+/=-]{8,}"),
    _rule(r"(?P<before>authorization\s*[:=]\s*\w+\s+)[^\s'\"]+"),
    # s3a://KEY:SECRET@bucket: such a secret may have slashes, and a bucket has no port.
    _rule(rf"(?P<before>\bs3[an]?:/{{1,3}})[^\s'\"/:@]{{0,1000}}:{_UP_TO_AT}"),
    # user:password@host, but neither host:port/name@place nor the container@account of Azure.
    _rule(rf"(?P<before>:/{{2,3}})[^\s'\"/:@]{{0,1000}}:(?!\d{{1,5}}/){_UP_TO_AT}"),
    _rule(rf"(?P<before>\bjdbc:oracle:\w{{1,20}}:)[^\s'\"/@]{{1,1000}}/{_UP_TO_AT}"),
    # Forms of their own: JSON web tokens, key ids of AWS, tokens of GitHub, GitLab, Hugging Face, Databricks, Slack.
    _rule(r"\beyJ[\w-]{8,5000}\.[\w-]+\.[\w-]*", 0),
    _rule(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", 0),
    _rule(r"\b(?:gh[opsur]_|github_pat_|glpat-|hf_|sk-|dapi|xox[abps]-)[\w-]{20,}", 0),
)

_TELLTALE = re.compile(
    rf"://|s3[an]?:/|jdbc:|{_WORDS}|Bearer|PRIVATE KEY|eyJ|AKIA|ASIA|gh[opsur]_|github_pat_|glpat-|hf_|sk-|dapi|xox",
    re.IGNORECASE,
)
"""What each text that any rule changes has: most texts need no more than one look."""

COLUMN_PARAMS = frozenset({"idCol", "embeddingCol", "metadataCols", "rankBy"})
"""Params that a manifest gives back as they were: they name columns."""


def redacted(text: str) -> str:
    """``text`` with ``***`` in place of each secret. What has been redacted may be redacted again.

    >>> redacted("s3a://AKIA1:se/cret@bucket/in and abfss://data@account.dfs.core.windows.net/in?sv=1&sig=a%2Fb&se=2")
    's3a://***@bucket/in and abfss://data@account.dfs.core.windows.net/in?sv=1&sig=***&se=2'
    >>> redacted("jdbc:postgresql://db:5432/corpus?user=me&password=p&ss")
    'jdbc:postgresql://db:5432/corpus?user=me&password=***'
    >>> redacted("fs.azure.account.key.a.dfs.core.windows.net=abc== in {'secretKey': 'x', 'k': 3}")
    "fs.azure.account.key.a.dfs.core.windows.net=*** in {'secretKey': '***', 'k': 3}"
    >>> redacted("hdfs://name-node:8020/user/me@home and idCol='doc id'")
    "hdfs://name-node:8020/user/me@home and idCol='doc id'"
    """
    if not _TELLTALE.search(text):
        return text
    for rule in _RULES:
        text = rule.sub(_hide, text)
    return _without_named(text)


def _hide(found: re.Match[str]) -> str:
    parts = found.groupdict("")
    return f"{parts.get('before', '')}{HIDDEN}{parts.get('after', '')}"


def _without_named(text: str) -> str:
    """The values of names that stand for secrets are hidden; quotes around them stay."""
    pieces, end = [], 0
    for found in _NAMED.finditer(text):
        if found.start() < end or not _SENSITIVE.search(found["name"] or found["first"]):
            continue
        value = _VALUE.match(text, found.end())
        if value:
            quote = value["quote"] or ""
            pieces.append(f"{text[end : found.end()]}{quote}{HIDDEN}{quote}")
            end = value.end()
    return "".join(pieces) + text[end:]


def redacted_values(value: Any, verbatim: Collection[str] = ()) -> Any:
    """A JSON-like value whose texts are redacted; in mappings what stands under a secret's name is hidden, and what
    stands under the names in ``verbatim`` is left as it is.

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
    named = isinstance(name, str) and _SENSITIVE.search(name)
    return HIDDEN if named and isinstance(value, str) else redacted_values(value, verbatim)


class Redacting(logging.Filter):
    """Redacts the records of the logger it is added to, whatever handler they go to."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), None
        return True
