"""What a task does with a batch of texts: distinct texts are tokenized, embedded in sub-batches, and normalised."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from spark_semdedup.errors import SemDedupError
from spark_semdedup.text.batches import token_batches
from spark_semdedup.text.models import TextModel
from spark_semdedup.text.tokens import Tokens

CPU_BATCH_TOKENS = 8_192
GPU_BATCH_TOKENS = 65_536
"""Places of a forward pass, where the user sets no ``batchTokens``: 32 texts of 256 tokens, 256 on a GPU."""

_CACHE_BYTES = 32 << 20
"""Of embeddings that a task keeps, for texts that it meets again in a later batch."""


@dataclass(frozen=True)
class EmbeddingCounts:
    """What became of texts. Counts of two batches add up."""

    rows: int = 0
    """Texts, null ones included."""
    null: int = 0
    """Null texts, whose embedding is null."""
    blank: int = 0
    """Texts without a printable character, whose embedding is null."""
    embedded: int = 0
    """Texts that went through the model: of equal ones in a task, one."""
    truncated: int = 0
    """Rows whose text is longer than what the model read of it."""
    chunked: int = 0
    """Rows embedded as the mean of several chunks."""

    def __add__(self, other: EmbeddingCounts) -> EmbeddingCounts:
        return EmbeddingCounts(*(a + b for a, b in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> tuple[int, ...]:
        return tuple(asdict(self).values())

    def truncated_share(self) -> float:
        """Share of the embedded rows that were truncated; 0 where there are none."""
        return self.truncated / max(1, self.rows - self.null - self.blank)


@dataclass(frozen=True)
class EmbedSettings:
    """How texts are embedded, beside the model."""

    chunk: str = "none"
    """none: what a model does not read of a text is ignored; tokens: the mean over chunks of the whole text."""
    batch_tokens: int | None = None
    """Tokens of a forward pass at most, padding included; None: ``CPU_BATCH_TOKENS`` or ``GPU_BATCH_TOKENS``."""
    normalize: bool = True
    """Divide embeddings by their norm."""
    max_chars: int = 50_000
    """Characters of a text that reached the task, at most: one of exactly so many may be longer."""


@dataclass
class BatchEmbedder:
    """Embeds one batch after another of a task's texts.

    A text without a printable character has no meaning to compare, so it gets no embedding: it would make all such
    rows duplicates of each other.
    """

    model: TextModel
    settings: EmbedSettings
    _cache: EmbeddingCache = field(default_factory=lambda: EmbeddingCache(_CACHE_BYTES))

    @property
    def batch_tokens(self) -> int:
        return self.settings.batch_tokens or (GPU_BATCH_TOKENS if self.model.on_gpu else CPU_BATCH_TOKENS)

    def __call__(self, texts: Sequence[bytes | None]) -> tuple[list[np.ndarray | None], EmbeddingCounts]:
        """For each text its embedding, float32 (d,), or None; and the counts.

        ``texts``: UTF-8; bytes that are not count as U+FFFD each.
        """
        decoded = [None if text is None else text.decode("utf-8", "replace") for text in texts]
        digests = [_digest(text) if text and is_printable(text) else None for text in decoded]
        known = {digest: self._cache.get(digest) for digest in dict.fromkeys(digests) if digest is not None}
        new = {digest: row for row, digest in reversed(list(enumerate(digests))) if digest and known[digest] is None}
        order = sorted(new.values())
        rows = self._embed([decoded[row] or "" for row in order])
        for row, embedded in zip(order, rows, strict=True):
            digest = digests[row]
            assert digest is not None
            known[digest] = embedded
            self._cache.put(digest, embedded)
        found = [known[digest] if digest else None for digest in digests]
        return [each.vector if each else None for each in found], self._counts(decoded, found, len(order))

    def _counts(
        self, texts: Sequence[str | None], found: Sequence[EmbeddedText | None], embedded: int
    ) -> EmbeddingCounts:
        null = sum(text is None for text in texts)
        return EmbeddingCounts(
            rows=len(texts),
            null=null,
            blank=sum(each is None for each in found) - null,
            embedded=embedded,
            truncated=sum(each.truncated for each in found if each),
            chunked=sum(each.chunks > 1 for each in found if each),
        )

    def _embed(self, texts: list[str]) -> list[EmbeddedText]:
        """Distinct, printable texts → their embeddings."""
        if not texts:
            return []
        tokens = self.model.tokenize(texts)
        cut = [len(text) >= self.settings.max_chars for text in texts]
        if self.settings.chunk == "tokens":
            return self._embed_chunks(texts, tokens, cut)
        vectors = self._normalized(embed_tokens(self.model, tokens, self.batch_tokens))
        return [
            EmbeddedText(vector, 1, each.truncated or was_cut)
            for vector, each, was_cut in zip(vectors, tokens, cut, strict=True)
        ]

    def _embed_chunks(self, texts: list[str], tokens: list[Tokens], cut: list[bool]) -> list[EmbeddedText]:
        """Each text as the mean of its chunks' unit vectors, weighted by their tokens.

        Units, as models that normalise give no others; weighted, as a last chunk of three words is worth no more.
        """
        chunks = [
            self.model.split(text) if each.truncated else [text] for text, each in zip(texts, tokens, strict=True)
        ]
        counts = np.array([len(each) for each in chunks])
        pieces = [tokens[row : row + 1] if n == 1 else self.model.tokenize(chunks[row]) for row, n in enumerate(counts)]
        flat = [piece for each in pieces for piece in each]
        vectors = embed_tokens(self.model, flat, self.batch_tokens)
        weighted = unit_rows(vectors) * np.array([[max(1, piece.count)] for piece in flat], np.float32)
        owner = np.repeat(np.arange(len(texts)), counts)
        sums = np.zeros((len(texts), vectors.shape[1]), np.float64)
        np.add.at(sums, owner, weighted)
        totals = np.zeros(len(texts))
        np.add.at(totals, owner, [max(1, piece.count) for piece in flat])
        means = (sums / totals[:, None]).astype(np.float32)
        single = counts == 1
        means[single] = vectors[np.flatnonzero(single[owner])]
        return [
            EmbeddedText(vector, int(n), was_cut)
            for vector, n, was_cut in zip(self._normalized(means), counts, cut, strict=True)
        ]

    def _normalized(self, vectors: np.ndarray) -> np.ndarray:
        return unit_rows(vectors) if self.settings.normalize else vectors


@dataclass(frozen=True)
class EmbeddedText:
    vector: np.ndarray
    chunks: int
    truncated: bool


class EmbeddingCache:
    """Embeddings by the digest of their text, the first that fit into ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._texts: dict[bytes, EmbeddedText] = {}

    def get(self, digest: bytes) -> EmbeddedText | None:
        return self._texts.get(digest)

    def put(self, digest: bytes, embedded: EmbeddedText) -> None:
        size = embedded.vector.nbytes + 200  # about what the objects around it take
        if size <= self._left:
            self._left -= size
            # A copy: the row is a view that would keep its whole batch.
            self._texts[digest] = EmbeddedText(embedded.vector.copy(), embedded.chunks, embedded.truncated)


def _digest(text: str) -> bytes:
    """128 bits, of which no two texts have the same in practice: 10^15 texts have a pair with probability 10^-9."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def is_printable(text: str) -> bool:
    """Whether a text has a character that shows: neither space nor control, format or unassigned character."""
    return any(character.isprintable() and not character.isspace() for character in text)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of norm 1, float32 (n, d); a row of norm 0, or with NaN or infinite elements, stays as it is."""
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    usable = np.isfinite(norms) & (norms > 0)
    return np.where(usable, wide / np.where(usable, norms, 1), vectors).astype(np.float32)


def embed_tokens(model: TextModel, tokens: Sequence[Tokens], batch_tokens: int) -> np.ndarray:
    """Float32 (n, d) of n ≥ 1 texts, in their order."""
    counts = np.array([each.count for each in tokens])
    vectors: np.ndarray | None = None
    for rows in token_batches(counts, batch_tokens):
        part = embed_within_memory(model.embed, [tokens[row] for row in rows])
        if vectors is None:
            vectors = np.empty((len(tokens), part.shape[1]), np.float32)
        if part.shape[1] != vectors.shape[1]:
            raise SemDedupError(
                f"the model returned vectors of lengths {vectors.shape[1]} and {part.shape[1]}: all must have one"
            )
        vectors[rows] = part
    assert vectors is not None
    return vectors


def embed_within_memory(embed: Callable[[Sequence[Tokens]], np.ndarray], batch: Sequence[Tokens]) -> np.ndarray:
    """Embeds a batch; where a GPU's memory does not suffice, its halves.

    Raises ``SemDedupError`` where it does not suffice for one text.
    """
    try:
        return embed(batch)
    except Exception as error:
        if not _lacks_memory(error):
            raise
        if len(batch) == 1:
            raise SemDedupError(
                f"a text of {batch[0].count} tokens does not fit into the GPU's memory next to the model: lower "
                "maxTokens, or let fewer tasks share a GPU (spark.task.resource.gpu.amount)"
            ) from error
    middle = len(batch) // 2
    return np.concatenate([embed_within_memory(embed, part) for part in (batch[:middle], batch[middle:])])


def _lacks_memory(error: Exception) -> bool:
    """Whether PyTorch or onnxruntime says that a GPU's memory does not suffice."""
    said = str(error)
    return type(error).__name__ == "OutOfMemoryError" or "Failed to allocate memory" in said or "CUDA out of" in said
