"""Texts → embeddings: models of several kinds behind one protocol, and what a task does with a batch of texts.

``models`` loads a model once per Python worker; ``embed`` drives it. Nothing here imports ``pyspark.ml``, so that
workers start fast, and each kind of model imports its package only when it is loaded.
"""
