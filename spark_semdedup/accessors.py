"""A Param with the type of its values, and the getter and setter of each, with that type, for editors and mypy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pyspark.ml.param import Param, Params

if TYPE_CHECKING:
    from spark_semdedup.params import SemDedupParams

ValueT = TypeVar("ValueT")
ReadT = TypeVar("ReadT", covariant=True)
WrittenT = TypeVar("WrittenT", contravariant=True)
StageT = TypeVar("StageT")


class Getter(Protocol[ReadT]):
    """A method ``getX()`` that returns a value of that type, as a type checker sees it."""

    def __get__(self, stage: Any, owner: Any = None, /) -> Callable[[], ReadT]: ...


class Setter(Protocol[WrittenT]):
    """A method ``setX(value)`` that takes a value of that type and returns its stage."""

    def __get__(self, stage: StageT, owner: Any = None, /) -> Callable[[WrittenT], StageT]: ...


def param_of(name: str, doc: str, convert: Callable[[Any], ValueT]) -> Param[ValueT]:
    """A Param of any stage; ``convert`` makes a value of what a user gives, or raises ``SemDedupError``."""
    return Param(Params._dummy(), name, doc, typeConverter=convert)  # type: ignore[attr-defined]


def accessors(param: Param[ValueT]) -> tuple[Getter[ValueT], Setter[ValueT]]:
    """The methods ``getX`` and ``setX`` of a Param ``x``, for its class."""

    def get(self: SemDedupParams) -> Any:
        return self.getOrDefault(param.name)

    def set_(self: SemDedupParams, value: Any) -> SemDedupParams:
        return self.setParams(**{param.name: value})

    for function, verb in ((get, "get"), (set_, "set")):
        function.__name__ = function.__qualname__ = f"{verb}{param.name[0].upper()}{param.name[1:]}"
        function.__doc__ = f"{verb.capitalize()}s ``{param.name}``: {param.doc}"
    return cast("Getter[ValueT]", get), cast("Setter[ValueT]", set_)
