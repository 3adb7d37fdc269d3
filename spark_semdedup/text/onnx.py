"""Transformer models exported to ONNX, run by onnxruntime with a ``tokenizer.json``: no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spark_semdedup.errors import SemDedupError, shown
from spark_semdedup.text.folder import STATIC_EXTRA, missing_package, onnx_file, read_json
from spark_semdedup.text.tokenizer import TextTokenizer
from spark_semdedup.text.tokens import Tokens

DEFAULT_MAX_TOKENS = 512
"""Where neither the model's files nor the user say: what BERT was trained on."""

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class OnnxModel:
    """An onnxruntime session whose first output is token embeddings (n, t, d), which are pooled, or (n, d).

    ``pooling``: mean (of the tokens that are no padding) or cls (the first token).
    """

    kind = "onnx"

    def __init__(self, session: Any, tokenizer: TextTokenizer, pooling: str = "mean", pad_id: int = 0) -> None:
        self._session, self._tokenizer, self._pooling, self._pad_id = session, tokenizer, pooling, pad_id
        self._inputs = [each.name for each in session.get_inputs()]
        self._output = _output_name(session)

    @property
    def on_gpu(self) -> bool:
        return "CUDAExecutionProvider" in self._session.get_providers()

    @property
    def max_tokens(self) -> int | None:
        return self._tokenizer.max_tokens

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        return self._tokenizer.tokenize(texts)

    def split(self, text: str) -> list[str]:
        return self._tokenizer.split(text)

    def embed(self, batch: Sequence[Tokens]) -> np.ndarray:
        ids = np.full((len(batch), max(1, *(tokens.count for tokens in batch))), self._pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : tokens.count] = tokens.value
            mask[row, : tokens.count] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (output,) = self._session.run([self._output], {name: given[name] for name in self._inputs})
        return pooled(output, mask, self._pooling)


def pooled(output: np.ndarray, mask: np.ndarray, pooling: str) -> np.ndarray:
    """Token embeddings (n, t, d) and the mask (n, t) of real tokens → float32 (n, d); an output (n, d) as it is."""
    output = output.astype(np.float32, copy=False)
    if output.ndim == 2:
        return output
    if pooling == "cls":
        return output[:, 0]
    weights = mask[:, :, None].astype(np.float32)
    return (output * weights).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)


def _output_name(session: Any) -> str:
    """``sentence_embedding`` where the model has it, else its first output."""
    names = [each.name for each in session.get_outputs()]
    return "sentence_embedding" if "sentence_embedding" in names else str(names[0])


# --- loading ------------------------------------------------------------------------------------------------


def load_onnx(
    path: str, max_tokens: int | None, prompt: str, threads: int, gpu: int | None, *, require_gpu: bool
) -> OnnxModel:
    """Raises ``SemDedupError`` where a package or the tokenizer is missing, or the model takes other inputs."""
    try:
        import onnxruntime
        from tokenizers import Tokenizer
    except ImportError as error:
        raise missing_package(path, "onnxruntime and tokenizers", STATIC_EXTRA, error) from None
    file = Path(path) if path.endswith(".onnx") else onnx_file(Path(path))
    assert file is not None  # find_model looked
    folder = file.parent if (file.parent / "tokenizer.json").exists() else file.parent.parent
    if not (folder / "tokenizer.json").exists():
        raise SemDedupError(
            f"model={shown(path, 400)} has no tokenizer.json: put it next to the .onnx file, or in the folder above"
        )
    session = onnxruntime.InferenceSession(
        str(file), _options(onnxruntime, threads), providers=_providers(onnxruntime, gpu, require_gpu=require_gpu)
    )
    _check_inputs(session, path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    padding = tokenizer.padding or {}
    limit = max_tokens or own_max_tokens(folder, tokenizer.truncation)
    text_tokenizer = TextTokenizer(tokenizer, limit, prompt=prompt)
    return OnnxModel(session, text_tokenizer, pooling_of(folder), padding.get("pad_id", 0))


def _options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    # Its default is a thread for each core of the machine, in every worker.
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return options


def _providers(onnxruntime: Any, gpu: int | None, *, require_gpu: bool) -> list[Any]:
    available = onnxruntime.get_available_providers()
    if gpu is not None and "CUDAExecutionProvider" in available:
        return [("CUDAExecutionProvider", {"device_id": gpu}), "CPUExecutionProvider"]
    if require_gpu:
        raise SemDedupError(
            "backend='gpu' cannot be used for an ONNX model here: onnxruntime has no CUDAExecutionProvider or the task "
            "no GPU; install onnxruntime-gpu instead of onnxruntime, or set backend to auto"
        )
    return ["CPUExecutionProvider"]


def _check_inputs(session: Any, path: str) -> None:
    names = [each.name for each in session.get_inputs()]
    if "input_ids" not in names or not set(names) <= set(_INPUTS):
        raise SemDedupError(
            f"model={shown(path, 400)} takes the inputs {', '.join(names)}: a text model must take input_ids, and may "
            "take attention_mask and token_type_ids"
        )


def own_max_tokens(folder: Path, truncation: dict[str, Any] | None) -> int:
    """The limit that a model's files name: sentence-transformers' first, then the tokenizer's, then the model's.

    (The tokenizer's is not first: all-MiniLM-L6-v2's says 128, its ``sentence_bert_config.json`` 256.)
    """
    candidates = (
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        (truncation or {}).get("max_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        read_json(folder / "config.json").get("max_position_embeddings"),
    )
    # Tokenizers without a limit say 10^30.
    return next((n for n in candidates if isinstance(n, int) and 0 < n < 10**6), DEFAULT_MAX_TOKENS)


def pooling_of(folder: Path) -> str:
    """``cls`` or ``mean``, as sentence-transformers' settings say; mean without any.

    Raises ``SemDedupError`` for another pooling.
    """
    settings = read_json(folder / "1_Pooling" / "config.json")
    if settings.get("pooling_mode_cls_token") or settings.get("pooling_mode") == "cls":
        return "cls"
    modes = [name for name, value in settings.items() if name.startswith("pooling_mode_") and value is True]
    if modes not in ([], ["pooling_mode_mean_tokens"]) or settings.get("pooling_mode", "mean") != "mean":
        raise SemDedupError(
            f"the model in {shown(str(folder), 400)} pools tokens by {', '.join(modes) or settings['pooling_mode']}: "
            "of ONNX models mean and cls are supported; load it with sentence-transformers"
        )
    return "mean"
