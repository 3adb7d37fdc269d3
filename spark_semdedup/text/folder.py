"""Where a model's files are, and which kind of model they hold."""

from __future__ import annotations

import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spark_semdedup.errors import SemDedupError, shown

STATIC_EXTRA = "text"
TRANSFORMERS_EXTRA = "text-transformers"

OFFLINE = (
    "give a local folder, set HF_HOME (for executors spark.executorEnv.HF_HOME) to a cache that holds it, or ship it "
    "with --archives MODEL.zip#model and set model to ./model"
)
"""What to do where the Hub cannot be reached."""

_CONFIG = ["*.json", "*.txt", "1_Pooling/config.json"]


@dataclass(frozen=True)
class ModelPlace:
    kind: str
    """``sentence-transformers``, ``model2vec`` or ``onnx``."""
    path: str
    """Folder, ``.onnx`` file, or, for sentence-transformers alone, a name on the Hub."""


def find_model(model: str) -> ModelPlace:
    """Where the model is. Raises ``SemDedupError`` where there is none, or its package is missing."""
    path = Path(model).expanduser()
    if path.exists():
        return ModelPlace(_known_kind(path, model), str(path))
    if path.is_absolute() or model.startswith((".", "~")) or model.endswith(".onnx") or model.count("/") > 1:
        raise SemDedupError(f"model={shown(model, 400)} does not exist on {_host()}: {OFFLINE}")
    return _find_on_hub(model)


def _host() -> str:
    import socket

    return socket.gethostname()


def _known_kind(path: Path, model: str) -> str:
    kind = kind_of(path)
    if kind is None:
        raise SemDedupError(
            f"model={shown(model, 400)} holds no model: it must have the files of a sentence-transformers model "
            "(modules.json or config.json, and weights), a Model2Vec model, or an ONNX model (model.onnx and "
            "tokenizer.json)"
        )
    return kind


def kind_of(path: Path) -> str | None:
    """The kind of model in a folder or file, by its files; None where there is none.

    A folder with both PyTorch weights and an ONNX model is read as the latter where sentence-transformers is missing.
    """
    if path.is_file():
        return "onnx" if path.suffix == ".onnx" else None
    if _is_static(path):
        return "model2vec"
    has_onnx = onnx_file(path) is not None
    has_weights = any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin"))
    is_transformer = has_weights or (path / "modules.json").exists()
    if has_onnx and not (has_weights and _has_package("sentence_transformers")):
        return "onnx"
    return "sentence-transformers" if is_transformer else None


def _is_static(path: Path) -> bool:
    """Whether a folder holds a Model2Vec model, by its own settings or sentence-transformers' list of modules."""
    config = read_json(path / "config.json")
    if config.get("model_type") == "model2vec" or "StaticModel" in (config.get("architectures") or ()):
        return True
    modules = _read(path / "modules.json")
    first = modules[0] if isinstance(modules, list) and modules else None
    return isinstance(first, dict) and str(first.get("type")).endswith("StaticEmbedding")


def onnx_file(path: Path) -> Path | None:
    """The ONNX model in a folder: ``model.onnx``, in it or in its ``onnx``, else the only ``.onnx`` file."""
    for candidate in (path / "model.onnx", path / "onnx" / "model.onnx"):
        if candidate.exists():
            return candidate
    files = sorted(path.glob("*.onnx"))
    return files[0] if len(files) == 1 else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object's content; empty where the file is missing or holds something else."""
    content = _read(path)
    return content if isinstance(content, dict) else {}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _has_package(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def missing_package(model: str, package: str, extra: str, error: ImportError) -> SemDedupError:
    """One line that names the extra to install."""
    return SemDedupError(
        f"model={shown(model, 400)} needs {package}, which cannot be imported on {_host()} ({shown(str(error))}): "
        f"pip install 'spark-semdedup[{extra}]' on every executor"
    )


# --- the Hugging Face Hub -----------------------------------------------------------------------------------


def _find_on_hub(model: str) -> ModelPlace:
    """Reads the model's configuration, from the local cache where the Hub cannot be reached, then its weights.

    sentence-transformers fetches its own: it knows which files a model needs.
    """
    folder = Path(_snapshot(model, _CONFIG))
    kind = kind_of(folder)
    if kind == "model2vec":
        return ModelPlace(kind, _snapshot(model, [*_CONFIG, "*.safetensors"]))
    if _has_package("sentence_transformers"):
        return ModelPlace("sentence-transformers", model)
    fetched = _snapshot(model, [*_CONFIG, "onnx/model.onnx", "onnx/model.onnx_data", "model.onnx"])
    if onnx_file(Path(fetched)) is None:
        raise SemDedupError(
            f"model={shown(model, 400)} is a sentence-transformers model: pip install "
            f"'spark-semdedup[{TRANSFORMERS_EXTRA}]' on every executor, or give a Model2Vec or ONNX model"
        )
    return ModelPlace("onnx", fetched)


def _snapshot(model: str, patterns: list[str]) -> str:
    """The local folder with those of the model's files that match."""
    # A progress bar for every executor would be all that its log shows.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise missing_package(model, "huggingface_hub", STATIC_EXTRA, error) from None
    try:
        return str(huggingface_hub.snapshot_download(model, allow_patterns=patterns))
    except errors.GatedRepoError:
        raise SemDedupError(
            f"model={shown(model, 400)} is gated: accept its terms on the Hugging Face Hub and set HF_TOKEN (for "
            "executors spark.executorEnv.HF_TOKEN), or give a local folder"
        ) from None
    except errors.HFValidationError:
        raise SemDedupError(
            f"model={shown(model, 400)} does not exist: it must be a local folder, an .onnx file, a name on the "
            "Hugging Face Hub, or hashing"
        ) from None
    except Exception as error:  # no such name, no network, a proxy, a full disk: the Hub's client has many classes
        why = shown((str(error).strip() or type(error).__name__).splitlines()[0], 200)
        raise SemDedupError(
            f"model={shown(model, 400)} is neither a local folder nor available from the Hugging Face Hub ({why}): "
            f"{OFFLINE}"
        ) from None
