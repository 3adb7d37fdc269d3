"""The command ``spark-semdedup``."""
