"""Array code only: NumPy or CuPy arrays in, arrays of the same library out. Nothing here imports Spark.

``arithmetic`` defines what a dot product *is* (and with it the answer). ``similarity`` and ``assignment`` use fast
matrix products to find the few candidates worth that arithmetic. ``visits`` says which further cells rows visit,
``cells`` compares cells with their probing rows, most of which ``sketch`` dismisses, and ``lloyd`` fits centroids.
Where GPU memory does not suffice, ``oom`` halves what is worked on at once.

One source serves both libraries, so a laptop tests what a GPU runs. Only the comparison of all pairs, which takes most
of the time, has kernels of its own for a GPU (``cuda``); the tests run these on a CPU as well.
"""

from spark_semdedup.kernels.arithmetic import exact_dots, unit_vectors
from spark_semdedup.kernels.assignment import nearest_centroids
from spark_semdedup.kernels.similarity import max_similarity, ranked_max_similarity

__all__ = ["exact_dots", "max_similarity", "nearest_centroids", "ranked_max_similarity", "unit_vectors"]
