"""The Params of text models and of ``TextEmbedder``."""

from __future__ import annotations

from spark_semdedup.accessors import accessors, param_of
from spark_semdedup.converters import Boolean, Integer, OneOf, Sentence, Text
from spark_semdedup.params import SemDedupParams


class HasTextModel(SemDedupParams):
    model = param_of(
        "model",
        "model that embeds texts: a folder or a name on the Hugging Face Hub (sentence-transformers, Model2Vec or "
        "ONNX), an .onnx file, or hashing (no model: hashed words, a baseline)",
        Text("model"),
    )
    getModel, setModel = accessors(model)
    prompt = param_of(
        "prompt", "text put before each text, as some models want: 'passage: ' (unset: none)", Sentence("prompt")
    )
    getPrompt, setPrompt = accessors(prompt)
    maxTokens = param_of(
        "maxTokens",
        "tokens that the model reads of a text; longer texts are truncated (unset: the model's own limit)",
        Integer("maxTokens", 4),
    )
    getMaxTokens, setMaxTokens = accessors(maxTokens)
    chunk = param_of(
        "chunk",
        "what to do with texts longer than the model reads: none (only their beginning counts), or tokens (the mean "
        "of the embeddings of all chunks of maxTokens, weighted by their tokens)",
        OneOf("chunk", ("none", "tokens")),
    )
    getChunk, setChunk = accessors(chunk)
    batchTokens = param_of(
        "batchTokens",
        "tokens of one forward pass, padding included; bounds the model's memory (unset: 8,192, on a GPU 65,536)",
        Integer("batchTokens", 1),
    )
    getBatchTokens, setBatchTokens = accessors(batchTokens)
    maxChars = param_of(
        "maxChars",
        "characters of a text that are sent to the model's tokenizer at most; of longer texts the rest is ignored",
        Integer("maxChars", 1),
    )
    getMaxChars, setMaxChars = accessors(maxChars)
    modelPrecision = param_of(
        "modelPrecision",
        "precision of a sentence-transformers model on a GPU: float32, float16 or bfloat16",
        OneOf("modelPrecision", ("float32", "float16", "bfloat16")),
    )
    getModelPrecision, setModelPrecision = accessors(modelPrecision)


class TextEmbedderParams(HasTextModel):
    inputCol = param_of("inputCol", "column with the text: string", Text("inputCol"))
    getInputCol, setInputCol = accessors(inputCol)
    outputCol = param_of("outputCol", "column that gets the embedding: array<float>", Text("outputCol"))
    getOutputCol, setOutputCol = accessors(outputCol)
    backend = param_of(
        "backend",
        "where the model runs: gpu (the task's GPU), cpu, or auto (gpu where the task has one that the model's package "
        "can use); static and hashing models always run on CPUs",
        OneOf("backend", ("auto", "gpu", "cpu")),
    )
    getBackend, setBackend = accessors(backend)
    normalize = param_of("normalize", "divide embeddings by their norm", Boolean("normalize"))
    getNormalize, setNormalize = accessors(normalize)
    cache = param_of(
        "cache",
        "keep the output in Spark's memory and on its disks, so that later stages read embeddings instead of embedding "
        "again; unpersist() frees it",
        Boolean("cache"),
    )
    getCache, setCache = accessors(cache)
