"""``convert``: files that Spark does not read, as Parquet that it does."""

from __future__ import annotations

import argparse

from spark_semdedup.cli.command import Command, Settings, Step
from spark_semdedup.params import DEFAULTS, HasIdCol
from spark_semdedup.runs.convert import convert


def _options(parser: argparse.ArgumentParser) -> None:
    input_help = "Parquet, Arrow or Feather files, or folders of them"
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help=input_help)
    parser.add_argument("--output", required=True, metavar="PATH", help="new folder to write")
    drop_help = "columns to leave out"
    parser.add_argument("--drop-columns", nargs="+", default=[], metavar="NAME", help=drop_help)
    bits_help = "columns of integer lists that hold the bits of float16 numbers"
    parser.add_argument("--float16-bits", nargs="+", default=[], metavar="NAME", help=bits_help)
    bytes_help = "columns of number lists to write as bytes, for --embedding-format float32"
    parser.add_argument("--float32-bytes", nargs="+", default=[], metavar="NAME", help=bytes_help)


def _prepare(args: argparse.Namespace, settings: Settings) -> Step:
    id_col = settings.get("idCol", DEFAULTS["idCol"])
    options = {"id_col": id_col, "drop": args.drop_columns}
    options |= {"float16_bits": args.float16_bits, "float32_bytes": args.float32_bytes}
    return lambda job: convert(args.input, args.output, **options).as_text()


COMMAND = Command(
    "convert",
    "write files again as Parquet that Spark reads: float16, nanoseconds, UUIDs, mixed types",
    "--input PATH … --output PATH",
    {"idCol": HasIdCol.idCol},
    _options,
    _prepare,
)
