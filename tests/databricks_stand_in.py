"""What a Databricks notebook is given, for one that runs here: ``spark``, with Delta Lake, and ``dbutils.widgets``.

Importing it starts the session.
"""

from __future__ import annotations

from types import SimpleNamespace

from delta_scenarios import delta_session

PARAMETERS = {
    "input_table": "spark_catalog.corpus.documents",
    "output_table": "spark_catalog.corpus.documents_deduplicated",
    "duplicates_table": "spark_catalog.corpus.documents_duplicates",
    "make_sample": "yes",
    "delete_in_place": "yes",
}
"""What the job that runs the notebook sets; other widgets keep their defaults."""


class Widgets:
    """Widgets as strict as the real ones: a name has one definition, and values are text."""

    def __init__(self, parameters: dict[str, str]) -> None:
        self._parameters = parameters
        self._values: dict[str, str] = {}

    def text(self, name: str, default: str, label: str | None = None) -> None:
        assert isinstance(default, str)
        assert name not in self._values
        self._values[name] = self._parameters.get(name, default)

    def dropdown(self, name: str, default: str, choices: list[str], label: str | None = None) -> None:
        assert default in choices
        self.text(name, default, label)
        assert self._values[name] in choices

    def get(self, name: str) -> str:
        return self._values[name]


spark = delta_session("databricks notebook")
spark.sql("CREATE SCHEMA corpus")
dbutils = SimpleNamespace(widgets=Widgets(PARAMETERS))
