"""Array code only: NumPy or CuPy arrays in, arrays of the same library out. Nothing here imports Spark.

``arithmetic`` defines what a dot product *is* (and with it the answer), ``pairwise`` and ``assignment`` use fast matrix
products to find the few candidates worth that arithmetic, ``coverage`` says which further cells rows visit, ``regions``
compares cells with their guests, most of which ``sketch`` dismisses, ``lloyd`` fits centroids. Where GPU memory does
not suffice, ``memory`` halves what is worked on at once. One source serves both libraries, so what a laptop tests is
what a GPU runs; only the comparison of all pairs, where time goes, has kernels of its own for a GPU (``cuda``,
``cuda_source``), which the tests run on a CPU as well.
"""

from spark_semdedup.kernels.arithmetic import exact_dots, unit_vectors
from spark_semdedup.kernels.assignment import nearest_centroids
from spark_semdedup.kernels.pairwise import max_similarity, ranked_max_similarity

__all__ = ["exact_dots", "max_similarity", "nearest_centroids", "ranked_max_similarity", "unit_vectors"]
