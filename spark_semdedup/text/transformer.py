"""Models of sentence-transformers, on the task's GPU or CPU cores."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.text.folder import TRANSFORMERS_EXTRA, missing_package
from spark_semdedup.text.tokenizer import TextTokenizer
from spark_semdedup.text.tokens import ESTIMATED_TOKEN_CHARS, Tokens


class TransformerModel:
    """A ``SentenceTransformer``. The package itself tokenizes what it embeds; ``counter`` only counts tokens, so that
    batches can be sorted and bounded, and tells which texts are truncated. None: lengths are estimated.
    """

    kind = "sentence-transformers"

    def __init__(self, model: Any, counter: TextTokenizer | None, prompt: str = "") -> None:
        self._model, self._counter, self._prompt = model, counter, prompt

    @property
    def on_gpu(self) -> bool:
        return self._model.device.type == "cuda"

    @property
    def max_tokens(self) -> int | None:
        return self._counter.max_tokens if self._counter else None

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        if self._counter is None:
            return [Tokens(text, 1 + len(self._prompt + text) // ESTIMATED_TOKEN_CHARS) for text in texts]
        counted = self._counter.tokenize(texts)
        return [Tokens(text, each.count, each.truncated) for text, each in zip(texts, counted, strict=True)]

    def split(self, text: str) -> list[str]:
        return self._counter.split(text) if self._counter else [text]

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        vectors = self._model.encode(
            [tokens.value for tokens in batch],
            prompt=self._prompt or None,
            batch_size=len(batch),
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=False,
        )
        return np.asarray(vectors, np.float32)


def load_transformer(
    path: str,
    *,
    max_tokens: int | None,
    prompt: str,
    precision: str,
    threads: int,
    gpu: int | None,
    require_gpu: bool,
) -> TransformerModel:
    """Raises ``SemDedupError`` where sentence-transformers or PyTorch is missing, or a GPU is asked for in vain."""
    try:
        import sentence_transformers
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library of CUDA is missing
        why = error if isinstance(error, ImportError) else ImportError(str(error))
        raise missing_package(path, "sentence-transformers and PyTorch", TRANSFORMERS_EXTRA, why) from None
    torch.set_num_threads(threads)
    device = torch_device(torch, gpu, require_gpu=require_gpu)
    # Models that bring Python code of their own are refused: it would run on every executor.
    model = sentence_transformers.SentenceTransformer(path, device=device, trust_remote_code=False)
    if max_tokens is not None:
        model.max_seq_length = max_tokens
    if device != "cpu" and precision != "float32":
        model = model.to(getattr(torch, precision))
    model.eval()
    return TransformerModel(model, _counter(model, prompt), prompt)


def torch_device(torch: Any, gpu: int | None, *, require_gpu: bool) -> str:
    """``cuda:N`` or ``cpu``."""
    if gpu is not None and torch.cuda.is_available():
        return f"cuda:{gpu}"
    if require_gpu:
        raise SemDedupError(
            f"backend='gpu' cannot be used: PyTorch {shown(str(torch.__version__))} sees no GPU in this task; give the "
            "executors one, install a PyTorch with CUDA, or set backend to auto"
        )
    return "cpu"


def _counter(model: Any, prompt: str) -> TextTokenizer | None:
    """A copy of the model's tokenizer; None where it has no fast one or no limit that it could tell."""
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", None)
    limit = model.max_seq_length
    if tokenizer is None or limit is None:
        return None
    return TextTokenizer(copy.deepcopy(tokenizer), int(limit), prompt=prompt)
