"""Whether a column has the same values whenever Spark computes it.

A run computes its input several times: to check the ids, for the fit, for the comparison, and when rows are removed by
their ids; after a failure, parts of it once more. Ids that are drawn anew each time (``uuid()``, or
``monotonically_increasing_id()``, which numbers rows as they happen to be partitioned) would let duplicates stay, or
other rows be removed in their stead. So a column is followed through the analysed plan to where it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql import DataFrame

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.spark.columns import field as column_of

_STABLE = frozenset({"input_file_name", "input_file_block_start", "input_file_block_length"})
"""Functions that Spark calls nondeterministic, but that say of a row of a file always the same."""


@dataclass
class Origin:
    """How a column is made."""

    drawn_by: set[str] = field(default_factory=set)
    """Functions in it that give something else each time, by name."""
    is_opaque: bool = False
    """Whether it is made by a user's function, of which Spark cannot know."""
    is_numbered: bool = False
    """Whether ``row_number()`` has a part in it: of rows that tie, any may come first each time."""


def require_deterministic(df: DataFrame, name: str, param: str) -> Origin:
    """How the column that the Param names is made; a ``SemDedupError`` where it has other values each time."""
    found = origin(df, column_of(df, name, param).name)
    if found.drawn_by:
        raise SemDedupError(
            f"{param}={shown(name)} is made by {', '.join(sorted(found.drawn_by))}(), which Spark computes again, with "
            "other values, whenever it reads the rows: write the rows and read them back (or checkpoint() them) first"
        )
    return found


def origin(df: DataFrame, name: str) -> Origin:
    """Follows a column of ``df`` to where it is made: a source, or rows that are persisted or checkpointed.

    A Spark Connect client has no plan to look at: nothing is found there.
    """
    found = Origin()
    if getattr(df, "_jdf", None) is None:
        return found
    # Of a new DataFrame, since one that has been looked at does not learn that it was persisted since.
    plan = df.select("*")._jdf.queryExecution().withCachedData()
    wanted = {_id(column) for column in _each(plan.output()) if column.name() == name}
    below = [plan]
    while below:  # a node before those below it, so that all that a node needs of them is known
        node = below.pop()
        children = list(_each(node.children()))
        _look_at(node, children, wanted, found)
        below += children
    return found


def reads_only_files(df: DataFrame) -> bool:
    """Whether all that ``df`` is made from are files, which ``inputFiles()`` lists: no database, no rows of the
    session's own, none that are persisted. It lists no files of subqueries that give one value, so there may be none.

    A Delta table has a relation of its own: the same files may hold fewer rows in another version (deletion vectors).
    Of a Spark Connect client's rows nothing is known.
    """
    if getattr(df, "_jdf", None) is None:
        return False
    plan = df.select("*")._jdf.queryExecution().optimizedPlan()
    return plan.subqueriesAll().isEmpty() and all(map(_is_of_files, _each(plan.collectLeaves())))


def _is_of_files(leaf: Any) -> bool:
    if _class(leaf) == "LogicalRelation":
        return _class(leaf.relation()) == "HadoopFsRelation"
    # A single row without columns, and the use of what is defined, and looked at, elsewhere in the plan (WITH).
    return _class(leaf) in ("OneRowRelation", "CTERelationRef")


def _look_at(node: Any, children: list[Any], wanted: set[int], found: Origin) -> None:
    """Adds to ``found`` what a node says of the columns ``wanted``, and to these what it makes them from."""
    made = set()
    for expression in _each(node.expressions()):
        if _class(expression) == "Alias" and _id(expression) in wanted:
            made.add(_id(expression))
            wanted |= {_id(column) for column in _each(expression.references().toSeq())}
            _look_into(expression, found)
    if not children or not wanted:
        return
    given = [[_id(column) for column in _each(child.output())] for child in children]
    own = [_id(column) for column in _each(node.output())]
    if _class(node) == "Union":
        for place, column in enumerate(own):
            if column in wanted:
                wanted |= {ids[place] for ids in given}
    elif wanted & set(own).difference(made, *given):  # a function of whole partitions or groups, say
        found.is_opaque = True


def _look_into(expression: Any, found: Origin) -> None:
    """Adds the functions that an expression is made of, where they matter."""
    children = list(_each(expression.children()))
    if _class(expression) in ("PythonUDF", "ScalaUDF"):
        found.is_opaque = True
    found.is_numbered |= _class(expression) == "RowNumber"
    if not expression.deterministic() and all(child.deterministic() for child in children):
        function = expression.prettyName()
        if function not in _STABLE:
            found.drawn_by.add(expression.name() if _class(expression) == "PythonUDF" else function)
    for child in children:
        _look_into(child, found)


def _each(items: Any) -> Iterator[Any]:
    """A Scala sequence's items."""
    return (items.apply(i) for i in range(items.size()))


def _id(column: Any) -> int:
    return int(column.exprId().id())


def _class(node: Any) -> str:
    return str(node.getClass().getSimpleName())
