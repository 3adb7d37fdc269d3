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
    named = next((column for column in _each(plan.output()) if column.name() == name), None)
    below = [] if named is None else [(plan, named.references())]
    while below:
        node, wanted = below.pop()
        children = list(_each(node.children()))
        # Nearly always columns are passed on, and no more than five calls tell so: a plan may have thousands of nodes,
        # of thousands of columns, where these were added one by one.
        if len(children) == 1 and wanted.subsetOf(children[0].outputSet()):
            below.append((children[0], wanted))
            continue
        wanted = _made_from(node, children, wanted, found)
        of_children = ((child, wanted.intersect(child.outputSet())) for child in children)
        below += [(child, columns) for child, columns in of_children if not columns.isEmpty()]
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


def _made_from(node: Any, children: list[Any], wanted: Any, found: Origin) -> Any:
    """The columns that a node makes those ``wanted`` from, or passes on as they are: sets of attributes. Adds to
    ``found`` what the node says of them."""
    ids = {_id(column) for column in _each(wanted.toSeq())}
    made = set()
    for expression in _each(node.expressions()):
        if _class(expression) == "Alias" and _id(expression) in ids:
            made.add(_id(expression))
            wanted = getattr(wanted, "$plus$plus")(expression.references())
            _look_into(expression, found)
    if not children:
        return wanted
    if _class(node) == "Union":
        for place, column in enumerate(_each(node.output())):
            if _id(column) in ids:
                for child in children:
                    wanted = getattr(wanted, "$plus$plus")(child.output().apply(place).references())
    else:
        own = {_id(column) for column in _each(node.output())}
        given = {_id(column) for child in children for column in _each(child.output())}
        if ids & own - made - given:  # a function of whole partitions or groups, say
            found.is_opaque = True
    return wanted


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
