"""Text models: what each kind offers (``TextModel``), and how one is loaded (``load_model``)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.text.folder import find_model
from spark_semdedup.text.hashing import HashingModel, hashing_dim
from spark_semdedup.text.tokens import ESTIMATED_TOKEN_CHARS, Tokens

Encoder = Callable[[list[str]], Any]
"""A user's function: n texts → n vectors, an array (n, d)."""


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how to load it. Equal specs share one loaded model within a Python worker."""

    model: str
    """``hashing`` (or ``hashing:DIM``), a folder, an ``.onnx`` file, or a name on the Hugging Face Hub."""
    max_tokens: int | None = None
    """Tokens a model reads of each text; None: as many as the model's own settings say."""
    prompt: str = ""
    """Text put before each text."""
    precision: str = "float32"
    """float32, float16 or bfloat16: of a sentence-transformers model's weights on a GPU."""
    backend: str = "auto"
    """gpu, cpu, or auto: gpu where the task has one."""


class TextModel(Protocol):
    """A loaded model."""

    @property
    def kind(self) -> str:
        """``sentence-transformers``, ``model2vec``, ``onnx``, ``hashing`` or ``callable``."""

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens read of each text, special ones included; None: all, or unknown."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """One for each text."""

    def split(self, text: str) -> list[str]:
        """Consecutive chunks of a text, none longer than ``max_tokens``; joined they are the text."""

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        """Float32 (n, d), in one forward pass; not normalised."""


class EncoderModel:
    """A user's callable as a model. It shows no tokenizer, so lengths are estimated and nothing counts as truncated.

    Raises ``SemDedupError`` where the callable fails or returns something other than n vectors of numbers.
    """

    kind = "callable"
    on_gpu = False
    max_tokens: int | None = None

    def __init__(self, encoder: Encoder, prompt: str = "") -> None:
        self._encoder, self._prompt = encoder, prompt

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        whole = [self._prompt + text for text in texts]
        return [Tokens(text, 1 + len(text) // ESTIMATED_TOKEN_CHARS) for text in whole]

    def split(self, text: str) -> list[str]:
        return [text]

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        name = shown(getattr(self._encoder, "__name__", type(self._encoder).__name__))
        try:
            vectors = self._encoder([tokens.value for tokens in batch])
        except SemDedupError:
            raise
        except Exception as error:
            why = shown(f"{type(error).__name__}: {error}", 300)
            raise SemDedupError(f"encoder {name} failed on {len(batch)} texts: {why}") from error
        return as_vectors(vectors, len(batch), f"encoder {name}")


def as_vectors(values: Any, rows: int, source: str) -> np.ndarray:
    """What a model returned, as float32 (rows, d); ``SemDedupError`` where it is anything else."""
    try:
        vectors = np.asarray(values, np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SemDedupError(
            f"{source} returned a {type(values).__name__} for {rows} texts ({shown(str(error))}): it must return an "
            "array of shape (texts, dimension)"
        ) from None
    if vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise SemDedupError(
            f"{source} returned an array of shape {vectors.shape} for {rows} texts: it must be ({rows}, dimension)"
        )
    return vectors


@functools.lru_cache(maxsize=1)
def load_model(spec: ModelSpec, threads: int, gpu: int | None) -> TextModel:
    """The model of a spec; kept, so that each Python worker loads it once.

    ``threads``: CPU threads it may use; ``gpu``: number of the GPU it may use, None for none. Raises ``SemDedupError``
    where the model does not exist, its package is missing, or it does not load.
    """
    limit_tokenizer_threads(threads)
    dim = hashing_dim(spec.model)
    if dim is not None:
        return HashingModel(dim, spec.prompt)
    place = find_model(spec.model)
    try:
        return _load(place.kind, place.path, spec, threads, gpu)
    except SemDedupError:
        raise
    except Exception as error:  # each package has exceptions of its own for a damaged or unsupported model
        why = shown(f"{type(error).__name__}: {error}", 300)
        raise SemDedupError(
            f"model={shown(spec.model, 400)} does not load as a {place.kind} model ({why}): give a complete model "
            "folder, or another model"
        ) from error


def _load(kind: str, path: str, spec: ModelSpec, threads: int, gpu: int | None) -> TextModel:
    if kind == "model2vec":
        from spark_semdedup.text.static import load_static

        return load_static(path, spec.max_tokens, spec.prompt)
    if kind == "onnx":
        from spark_semdedup.text.onnx import load_onnx

        return load_onnx(path, spec.max_tokens, spec.prompt, threads, gpu, require_gpu=spec.backend == "gpu")
    from spark_semdedup.text.transformer import load_transformer

    return load_transformer(
        path,
        max_tokens=spec.max_tokens,
        prompt=spec.prompt,
        precision=spec.precision,
        threads=threads,
        gpu=gpu,
        require_gpu=spec.backend == "gpu",
    )


def limit_tokenizer_threads(threads: int) -> None:
    """Limits the thread pool of Hugging Face's tokenizers, which otherwise has a thread for every core of the machine.

    The pool is made when a process first tokenizes, and reads these variables then.
    """
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
