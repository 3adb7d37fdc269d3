"""Benchmarks of text embedding on CPUs; each prints a Markdown table.

    text.py throughput DOCS --model FOLDER           the stage in turn with a bare loop over the same model
    text.py corpus DOCS --model FOLDER               documents to kept documents, in turn with semhash

``DOCS``: Parquet files with the columns ``id`` and ``text``. ``FOLDER``: a Model2Vec or an ONNX model.

Throughput: one task on one core against one thread, from a loaded model on. The stage's time has all that Spark adds:
reading the texts, taking them to Python and the embeddings back.
Corpus: processes of their own as a user starts them, wall and CPU seconds, peak memory (sum of PSS of all processes of
each), and the recall of ``bench.py``: removed rows that have a duplicate, over those plus the rows still to be removed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import bench
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BARE_BATCH = 32
"""Texts of a forward pass of the bare loop: sentence-transformers' default."""


def texts_of(path: Path, rows: int | None = None) -> list[str]:
    table = pa.concat_tables(pq.read_table(part, columns=["text"]) for part in bench.parts(path))
    return table["text"].slice(0, rows).to_pylist()


# --- throughput ---------------------------------------------------------------------------------------------


def bare_loop(model: Path) -> Callable[[list[str]], object]:
    """The model's own package, called as its documentation shows, with one thread."""
    if any(model.glob("**/*.onnx")):
        return bare_onnx(model)
    from model2vec import StaticModel

    static = StaticModel.from_pretrained(model)
    return lambda texts: static.encode(texts, use_multiprocessing=False)


def bare_onnx(model: Path) -> Callable[[list[str]], object]:
    """Batches of 32 texts sorted by length, padded by the tokenizer, and averaged."""
    import json

    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(next(model.glob("**/*.onnx"))), options)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(json.loads((model / "sentence_bert_config.json").read_text())["max_seq_length"])
    tokenizer.enable_padding()

    def embed(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        vectors: list = [None] * len(texts)
        for start in range(0, len(order), BARE_BATCH):
            rows = order[start : start + BARE_BATCH]
            encodings = tokenizer.encode_batch([texts[row] for row in rows])
            ids = np.array([encoding.ids for encoding in encodings])
            mask = np.array([encoding.attention_mask for encoding in encodings])
            given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            (output,) = session.run(None, given)
            for row, tokens, real in zip(rows, output, mask, strict=True):
                vectors[row] = tokens[real == 1].mean(axis=0)
        return np.stack(vectors)

    return embed


def throughput(args: argparse.Namespace) -> None:
    """Seconds of both, in turn; the ratio of each pair, and their median."""
    from spark_semdedup.ml.embedder import TextEmbedder
    from spark_semdedup.spark.session import local_session

    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
    texts = texts_of(args.data, args.rows)
    embed = bare_loop(args.model)
    embed(texts[:64])
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table({"text": texts}), f"{folder}/texts.parquet")
        spark = local_session("text", cores=1)
        documents = spark.read.parquet(f"{folder}/texts.parquet").coalesce(1)
        stage = TextEmbedder(model=str(args.model), cache=False, backend="cpu").transform(documents)
        stage.limit(64).write.save(format="noop", mode="overwrite")
        print(f"{len(texts):,} texts, {args.model.name}; {bench.machine()}\n")
        print("| bare loop s | stage s | stage / bare |\n|---|---|---|")
        ratios = []
        for _ in range(args.repeat):
            bare = bench.timed(lambda: embed(texts))
            ours = bench.timed(lambda: stage.write.save(format="noop", mode="overwrite"))
            ratios.append(ours / bare)
            print(f"| {bare:.2f} | {ours:.2f} | {ours / bare:.3f} |", flush=True)
        print(f"\nMedian {statistics.median(ratios):.3f}")
        spark.stop()


# --- documents to kept documents ----------------------------------------------------------------------------


def semhash_removed(path: Path, model: Path, threshold: float) -> np.ndarray:
    """Positions of the rows that semhash removes, with its defaults."""
    from model2vec import StaticModel
    from semhash import SemHash

    texts = texts_of(path)
    deduplicator = SemHash.from_records(texts, model=StaticModel.from_pretrained(model))
    selected = set(deduplicator.self_deduplicate(threshold).selected)
    first = {text: row for row, text in reversed(list(enumerate(texts)))}
    return np.setdiff1d(np.arange(len(texts)), [first[text] for text in selected])


def measured(command: list[str], folder: str) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak GiB of a process and all its children. Raises where it fails."""
    import psutil

    start = time.monotonic()
    cpu: dict[int, float] = {}
    peak = bench.Peak()
    with open(Path(folder, "log"), "w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": folder})
        while process.poll() is None:
            bench._sample(psutil, process.pid, cpu, peak)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
        wall = time.monotonic() - start
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read()[-2000:])
    return wall, sum(cpu.values()), peak.pss / 2**30


def ours_measured(args: argparse.Namespace, folder: str) -> tuple[tuple[float, float, float], np.ndarray]:
    out = f"{folder}/out"
    command = ["-m", "spark_semdedup", "run", "--input", str(args.data), "--output", out, "--overwrite"]
    command += ["--text-col", "text", "--model", str(args.model), "--threshold", str(args.threshold)]
    command += ["--coverage", "exact", "--which-to-keep", "first", "--handle-invalid", "keep"]
    figures = measured([sys.executable, *command], folder)
    removed = pq.read_table(f"{out}/duplicates", columns=["id"])["id"].combine_chunks()
    return figures, pc.index_in(removed, bench.ids_of(args.data)).to_numpy()


def semhash_measured(args: argparse.Namespace, folder: str) -> tuple[tuple[float, float, float], np.ndarray]:
    out = f"{folder}/removed.npy"
    command = [__file__, "semhash", str(args.data), "--model", str(args.model), "--threshold", str(args.threshold)]
    return measured([sys.executable, *command, "--out", out], folder), np.load(out)


def corpus(args: argparse.Namespace) -> None:
    methods = {"ours, exact": ours_measured, "semhash": semhash_measured}
    walls: dict[str, list[float]] = {name: [] for name in methods}
    with tempfile.TemporaryDirectory() as folder:
        truth = bench.Truth.of(embeddings_of(args, Path(folder, "embeddings.parquet")), args.threshold, 0)
        print(f"{len(truth.rank):,} texts, {args.model.name}, similarity ≥ {args.threshold}; {bench.machine()}\n")
        print("| method | wall s | CPU s | peak GiB | removed | recall | precision |\n|---|---|---|---|---|---|---|")
        for _ in range(args.repeat):
            for name, run in methods.items():
                (wall, cpu, peak), removed = run(args, folder)
                recall, precision = truth.worth(removed)
                walls[name].append(wall)
                print(
                    f"| {name} | {wall:.1f} | {cpu:.0f} | {peak:.1f} | {len(removed):,} | {recall} | {precision} |",
                    flush=True,
                )
    ours, theirs = (statistics.median(each) for each in walls.values())
    print(f"\nMedian wall: {ours / theirs:.2f} × semhash's")


def embeddings_of(args: argparse.Namespace, file: Path) -> Path:
    """Ids and the model's own embeddings, for the truth."""
    vectors = np.asarray(bare_loop(args.model)(texts_of(args.data)), np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"id": bench.ids_of(args.data), "embedding": lists}), file)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["throughput", "corpus", "semhash"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, help="texts to embed for the throughput (default: all)")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "semhash":
        np.save(args.out, semhash_removed(args.data, args.model, args.threshold))
    else:
        {"throughput": throughput, "corpus": corpus}[args.what](args)


if __name__ == "__main__":
    main()
