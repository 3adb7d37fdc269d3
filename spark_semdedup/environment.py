"""An archive of the Python packages that executors need, made from those installed here.

    python -m spark_semdedup.environment build/environment.tar.gz

It is a virtual environment as ``spark.archives`` unpacks it beside each executor. Left out is what executors have:
Spark with its Python part, and Python itself, to which a virtual environment holds but a link. That Python must be at
the same path on every executor (``--python`` names another path than here), and of this minor version.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tarfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import spark_semdedup
from spark_semdedup.errors import SemDedupError

ROOT = "spark-semdedup"

LEFT_OUT = frozenset({"pyspark", "py4j", "pip", "setuptools", "wheel"})
"""Executors have the first two from Spark itself, and install nothing."""


def pack(archive: Path, extras: Iterable[str] = (), python: Path | None = None) -> int:
    """Writes the archive and returns its size in bytes; ``python``: that of the executors.

    Raises ``SemDedupError`` where a package is not installed here.
    """
    base = python or Path(sys._base_executable)  # type: ignore[attr-defined]
    version = "{}.{}".format(*sys.version_info)
    packages = f"lib/python{version}/site-packages"
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f"{archive.name}.part")
    # Most of it is machine code, which more effort makes hardly smaller.
    with tarfile.open(part, "w:gz", compresslevel=1) as tar:
        for name in ("python", "python3", f"python{version}"):
            tar.addfile(_link(f"bin/{name}", base))
        _add_text(tar, "pyvenv.cfg", f"home = {base.parent}\ninclude-system-site-packages = false\n")
        for distribution in needed(extras):
            for path, place in _files(distribution):
                tar.add(path, f"{packages}/{place}", recursive=False)
        package = Path(spark_semdedup.__file__).parent
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                tar.add(path, f"{packages}/{path.relative_to(package.parent)}")
    part.rename(archive)
    return archive.stat().st_size


def needed(extras: Iterable[str] = ()) -> list[metadata.Distribution]:
    """The distributions that this package needs, and those that they need; by name, without ``LEFT_OUT``."""
    root, chosen = _installed(ROOT), frozenset(extras)
    offered = root.metadata.get_all("Provides-Extra") or []
    for extra in chosen - set(offered):
        raise SemDedupError(f"extra={extra!r} is none of this package's: it must be one of {', '.join(offered)}")
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(*each, True) for each in _requirements(root, chosen)]
    while waiting:
        name, theirs, must = waiting.pop()
        if (name, theirs) in seen or name in LEFT_OUT:
            continue
        seen.add((name, theirs))
        try:
            found[name] = _installed(name)
        except SemDedupError:
            if must:
                raise
            continue  # for another platform or Python
        waiting += [(*each, False) for each in _requirements(found[name], theirs)]
    return [found[name] for name in sorted(found)]


def _requirements(distribution: metadata.Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """What a distribution with some extras requires: names, each with the extras that are asked for."""
    for requirement in distribution.requires or ():
        named = re.search(r"extra == ['\"]([\w.-]+)['\"]", requirement)
        if named is not None and named[1] not in extras:
            continue
        read = re.match(r"([\w.-]+)\s*(?:\[([^\]]*)\])?", requirement)
        assert read is not None, requirement
        yield _normal(read[1]), frozenset(filter(None, map(str.strip, (read[2] or "").split(","))))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise SemDedupError(
            f"{name} is not installed in {sys.prefix}: install there what executors need, "
            f"pip install '{ROOT}' or '{ROOT}[gpu-cu12]' (or gpu-cu13)"
        ) from None


def _files(distribution: metadata.Distribution) -> Iterator[tuple[Path, str]]:
    """Files of a distribution, and their places among the packages; no programs, whose first line names a path here."""
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
            yield path, str(file)


def _link(name: str, target: Path) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, str(target)
    return entry


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(text.encode())
    tar.addfile(entry, io.BytesIO(text.encode()))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m spark_semdedup.environment", description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="file to write, NAME.tar.gz")
    parser.add_argument(
        "--extra", action="append", default=[], help="gpu-cu12 or gpu-cu13, which must be installed here"
    )
    parser.add_argument("--python", type=Path, help="the executors' Python, if it is at another path than here")
    options = parser.parse_args(arguments)
    try:
        size = pack(options.archive, options.extra, options.python)
    except SemDedupError as error:
        print(f"spark-semdedup: error: {error}", file=sys.stderr)
        return 2
    python = options.python or Path(sys._base_executable)  # type: ignore[attr-defined]
    print(f"{options.archive}: {size / 2**20:,.0f} MiB, for executors that have {python}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
