"""The Spark ML stages, one file for each step of the pipeline."""
