"""``convert``: files of types that Spark does not read, written again as Parquet that it does, by Arrow alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from spark_semdedup.errors import ResultExistsError, SemDedupError, shown
from spark_semdedup.runs.layout import ARROW_FILES
from spark_semdedup.spark.vectors import float16_from_bits, lengths, packed

_INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class Conversion:
    """What ``convert`` wrote."""

    output: str
    files: int
    rows: int
    changes: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Of each column that is of another type now: its types before and after."""
    dropped: tuple[str, ...] = ()

    def as_text(self) -> str:
        changes = [f"{name}: {before} → {after}" for name, (before, after) in self.changes.items()]
        changes += [f"{name}: left out" for name in self.dropped]
        first = f"{self.rows:,} rows in {self.files} files: {self.output}"
        return "\n".join([first, *(changes or ["no column changed"])])


def convert(
    paths: Sequence[str],
    output: str,
    *,
    id_col: str = "id",
    drop: Sequence[str] = (),
    float16_bits: Sequence[str] = (),
    float32_bytes: Sequence[str] = (),
) -> Conversion:
    """Writes the Parquet and Arrow files at ``paths`` again, into the folder ``output``, with types that Spark reads.

    Files keep their names and folders, partitions too, and get one schema: of columns whose types differ the one that
    holds all. float16 becomes float32 (exactly), timestamps in nanoseconds are cut to microseconds, times of day and
    UUIDs become text, uint64 bigint where all values fit, text otherwise. So do ids that are whole numbers of another
    type, such as decimals; other bytes in them become hexadecimal text.

    Parameters
    ----------
    paths
        Files or folders of any file system that Arrow knows.
    id_col
        Column of ids: 16 bytes in it are taken for a UUID.
    drop
        Columns to leave out.
    float16_bits
        Columns of integer lists that hold the bits of float16 numbers.
    float32_bytes
        Columns of number lists to write as bytes, little-endian float32, which ``embeddingFormat="float32"`` reads.
        float64 numbers are rounded. A null in a list becomes NaN.

    Raises ``SemDedupError`` for a path without such files, a column that is not there, and types that no type holds.
    """
    files = [file for path in paths for file in _files(path)]
    schemas = [file.schema() for file in files]
    _refuse_missing([*drop, *float16_bits, *float32_bytes], schemas)
    target_system, target = _located(output)
    if _is_taken(target_system, target):
        raise ResultExistsError(f"output={shown(output, 400)} exists already: give another folder")
    names = [name for name in dict.fromkeys(name for s in schemas for name in s.names) if name not in drop]
    plan = {name: _plan(name, files, schemas, id_col, name in float16_bits) for name in names}
    plan |= {name: _as_bytes(name, plan[name]) for name in float32_bytes if name in plan}
    schema = pa.schema([pa.field(name, column.type) for name, column in plan.items()])
    written: list[str] = []
    rows = 0
    try:
        for file in files:
            path = str(PurePosixPath(target) / PurePosixPath(file.name).with_suffix(".parquet"))
            if path in written:
                raise SemDedupError(f"two files would be written as {shown(path, 400)}: convert them one by one")
            target_system.create_dir(str(PurePosixPath(path).parent), recursive=True)
            written.append(path)
            rows += _write(file, plan, schema, target_system, path)
    except BaseException:
        for path in written:
            if target_system.get_file_info(path).type != pafs.FileType.NotFound:
                target_system.delete_file(path)
        raise
    changes = {name: (column.before, _shown(column.type)) for name, column in plan.items() if column.is_changed}
    return Conversion(output, len(files), rows, changes, tuple(drop))


def _write(file: _File, plan: dict[str, _Column], schema: pa.Schema, system: Any, path: str) -> int:
    rows = 0
    with pq.ParquetWriter(path, schema, filesystem=system, compression="zstd", store_schema=False) as writer:
        for batch in file.batches(list(plan)):
            rows += len(batch)
            writer.write_batch(pa.RecordBatch.from_arrays(list(_converted(batch, plan)), schema=schema))
    return rows


# --- files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    system: Any
    path: str
    name: str
    """Below the path that was given."""

    def schema(self) -> pa.Schema:
        if not self.path.lower().endswith(ARROW_FILES):
            return self._read(lambda source: pq.ParquetFile(source).schema_arrow)
        return self._read(lambda source: _ipc(source).schema)

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with self.system.open_input_file(self.path) as source:
            if self.path.lower().endswith(ARROW_FILES):
                yield from _ipc_batches(_ipc(source))
                return
            parquet = pq.ParquetFile(source)
            there = [name for name in names if name in parquet.schema_arrow.names]
            yield from parquet.iter_batches(columns=there)

    def _read(self, read: Callable[[Any], Any]) -> Any:
        try:
            with self.system.open_input_file(self.path) as source:
                return read(source)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise SemDedupError(
                f"{shown(self.path, 400)} cannot be read by Arrow: {reason}; write it again with other types or in "
                "another format, by the program that made it"
            ) from None


def _ipc(source: Any) -> Any:
    """The reader of an Arrow file or, as Hugging Face datasets keeps them, stream."""
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _ipc_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if hasattr(reader, "num_record_batches"):
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
    else:
        yield from reader


def _located(path: str) -> tuple[Any, str]:
    if "://" not in path:
        return pafs.LocalFileSystem(), path
    try:
        return pafs.FileSystem.from_uri(path.replace("s3a://", "s3://", 1))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise SemDedupError(f"path {shown(path, 400)} cannot be used: {str(error).splitlines()[0]}") from None


def _files(path: str) -> list[_File]:
    system, root = _located(path)
    info = system.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise SemDedupError(f"input={shown(path, 400)} does not exist: give a file or a folder")
    if info.type == pafs.FileType.File:
        return [_File(system, root, PurePosixPath(root).name)]
    below = sorted(each.path for each in system.get_file_info(pafs.FileSelector(root, recursive=True)) if each.is_file)
    names = {each: str(PurePosixPath(each).relative_to(PurePosixPath(root))) for each in below}
    found = [_File(system, each, name) for each, name in names.items() if _is_data(name)]
    if not found:
        raise SemDedupError(f"input={shown(path, 400)} has no files that end in .parquet, .arrow, .feather or .ipc")
    return found


def _is_data(name: str) -> bool:
    hidden = any(part.startswith(("_", ".")) and "=" not in part for part in name.split("/"))
    return not hidden and name.lower().endswith((".parquet", ".parq", ".pq", *ARROW_FILES))


def _is_taken(system: Any, path: str) -> bool:
    info = system.get_file_info(path)
    if info.type == pafs.FileType.Directory:
        return bool(system.get_file_info(pafs.FileSelector(path)))
    return bool(info.type != pafs.FileType.NotFound)


# --- types --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    before: str
    type: pa.DataType
    make: Callable[[pa.Array], pa.Array]

    @property
    def is_changed(self) -> bool:
        return self.before != _shown(self.type)


def _shown(type_: pa.DataType) -> str:
    """A type in words that say what it holds: no names of elements, no kinds of lists."""
    return f"list<{_shown(type_.value_type)}>" if _is_list(type_) else str(type_)


def _refuse_missing(names: Sequence[str], schemas: Sequence[pa.Schema]) -> None:
    for name in names:
        if not any(name in schema.names for schema in schemas):
            raise SemDedupError(f"column {shown(name)} is not among the columns: {', '.join(schemas[0].names[:40])}")


def _plan(name: str, files: Sequence[_File], schemas: Sequence[pa.Schema], id_col: str, is_bits: bool) -> _Column:
    """How a column's values are made: of one type, whichever of its types the files have."""
    types = list(dict.fromkeys(schema.field(name).type for schema in schemas if name in schema.names))
    before = " or ".join(dict.fromkeys(map(_shown, types)))
    if is_bits:
        if not all(_is_list(type_) and pa.types.is_integer(type_.value_type) for type_ in types):
            raise SemDedupError(f"column {shown(name)} is of type {before}: bits of float16 come as lists of integers")
        return _Column(before, pa.list_(pa.float32()), lambda values: _from_bits(values, name))
    if any(map(_is_uuid, types)) or (name == id_col and all(_holds_16_bytes(type_) for type_ in types)):
        return _Column(before, pa.string(), _uuid_text)
    if name == id_col and all(map(_is_binary, types)):
        return _Column(before, pa.string(), _hexadecimal)
    if name == id_col and all(map(pa.types.is_floating, types)):
        _refuse_inexact(files, name)
        return _Column(before, pa.int64(), lambda values: values.cast(pa.float64()).cast(pa.int64()))
    if all(map(pa.types.is_uint64, types)) or (name == id_col and all(map(_is_whole_decimal, types))):
        fits = all(-_INT64_MAX <= least <= most <= _INT64_MAX for least, most in _ranges(files, name))
        type_ = pa.int64() if fits else pa.string()
        return _Column(before, type_, lambda values: values.cast(type_))
    type_ = _common([_readable(type_) for type_ in types], name, before)
    return _Column(before, type_, lambda values: _cast(values, type_))


def _as_bytes(name: str, lists: _Column) -> _Column:
    """A column of lists of numbers, written as bytes."""
    value = lists.type.value_type if _is_list(lists.type) else lists.type
    if not (_is_list(lists.type) and (pa.types.is_floating(value) or pa.types.is_integer(value))):
        raise SemDedupError(f"column {shown(name)} is of type {lists.before}: bytes are made of lists of numbers")

    def make(values: pa.Array) -> pa.Array:
        made = lists.make(values)
        numbers = pc.fill_null(made.flatten().cast(pa.float32(), safe=False), np.nan)
        counts = np.maximum(lengths(made), 0)
        return pc.if_else(made.is_valid(), packed(numbers.to_numpy(zero_copy_only=False), counts), None)

    return _Column(lists.before, pa.binary(), make)


def _common(types: Sequence[pa.DataType], name: str, before: str) -> pa.DataType:
    try:
        found = pa.unify_schemas([pa.schema([(name, t)]) for t in types], promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        raise SemDedupError(
            f"column {shown(name)} is of type {before}, and no type holds both: write one of them again, or leave it "
            "out with --drop-columns"
        ) from None
    return pa.string() if pa.types.is_null(found) else found


def _readable(type_: pa.DataType) -> pa.DataType:
    """The type that Spark reads in place of one."""
    if isinstance(type_, pa.BaseExtensionType):
        return _readable(type_.storage_type)
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return _readable(type_.value_type)
    if pa.types.is_float16(type_):
        return pa.float32()
    if pa.types.is_timestamp(type_) and type_.unit == "ns":
        return pa.timestamp("us", type_.tz)
    if pa.types.is_time(type_) or pa.types.is_decimal256(type_) or pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_struct(type_):
        return pa.struct([pa.field(each.name, _readable(each.type)) for each in type_])
    if pa.types.is_map(type_):
        return pa.map_(_readable(type_.key_type), _readable(type_.item_type))
    if _is_list(type_):
        return pa.list_(pa.float64() if pa.types.is_decimal256(type_.value_type) else _readable(type_.value_type))
    return type_


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def _is_uuid(type_: pa.DataType) -> bool:
    return isinstance(type_, pa.BaseExtensionType) and type_.extension_name == "arrow.uuid"


def _holds_16_bytes(type_: pa.DataType) -> bool:
    return pa.types.is_fixed_size_binary(type_) and type_.byte_width == 16


def _is_binary(type_: pa.DataType) -> bool:
    kinds = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view
    return any(is_kind(type_) for is_kind in kinds)


def _is_whole_decimal(type_: pa.DataType) -> bool:
    return bool(pa.types.is_decimal(type_)) and type_.scale == 0


# --- values -------------------------------------------------------------------------------------------------


def _converted(batch: pa.RecordBatch, plan: dict[str, _Column]) -> Iterator[pa.Array]:
    for name, column in plan.items():
        there = batch.schema.get_field_index(name)
        yield pa.nulls(len(batch), column.type) if there < 0 else column.make(batch.column(there))


def _cast(values: pa.Array, type_: pa.DataType) -> pa.Array:
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    if values.type == type_:
        return values
    if pa.types.is_dictionary(values.type):  # of views, which Arrow cannot take by their numbers
        return _cast(values.dictionary, type_).take(values.indices)
    if _is_list(values.type) and _is_list(type_):
        values = values.cast(pa.list_(values.type.value_type))
        numbers = _cast(values.flatten(), type_.value_type)
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), numbers, type=type_, mask=values.is_null())
    return values.cast(type_, safe=not _has_timestamp(type_))  # whose nanoseconds are cut


def _has_timestamp(type_: pa.DataType) -> bool:
    """In it, or itself."""
    return pa.types.is_timestamp(type_) or any(_has_timestamp(type_.field(i).type) for i in range(type_.num_fields))


def _from_bits(values: pa.Array, name: str) -> pa.Array:
    try:
        return float16_from_bits(values)
    except SemDedupError as error:
        raise SemDedupError(f"column {shown(name)}: {error}") from None


def _uuid_text(values: pa.Array) -> pa.Array:
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    return pa.array([None if each is None else str(uuid.UUID(bytes=each)) for each in values.to_pylist()], pa.string())


def _hexadecimal(values: pa.Array) -> pa.Array:
    return pa.array([None if each is None else each.hex() for each in values.to_pylist()], pa.string())


def _values(files: Sequence[_File], name: str) -> Iterator[pa.Array]:
    for file in files:
        yield from (batch.column(name) for batch in file.batches([name]) if name in batch.schema.names)


def _ranges(files: Sequence[_File], name: str) -> Iterator[tuple[int, int]]:
    """The least and the largest number of each batch that has any."""
    for values in _values(files, name):
        found = pc.min_max(values).as_py()
        if found["max"] is not None:
            yield found["min"], found["max"]


def _refuse_inexact(files: Sequence[_File], name: str) -> None:
    """Raises ``SemDedupError`` where a column of floating-point numbers cannot be ids: DuckDB writes HUGEINT so."""
    for values in _values(files, name):
        wide = values.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(wide), wide), pc.less_equal(pc.abs(wide), float(2**53)))
        if not pc.all(whole).as_py():
            raise SemDedupError(
                f"column {shown(name)} is of type {values.type} and holds numbers that are not whole, or beyond 2^53, "
                "where several ids may have become one: write it as text or bigint"
            )
