"""Array code only: NumPy or CuPy arrays in, arrays of the same library out. Nothing here imports Spark.

One source serves both libraries, so what a laptop tests is what a GPU runs. ``arithmetic`` defines what a dot
product *is* (and with it the answer), ``pairwise`` and ``assignment`` use fast matrix products to find the few
candidates worth that arithmetic, ``lloyd`` fits centroids.
"""

from spark_semdedup.kernels.arithmetic import exact_dots, unit_vectors
from spark_semdedup.kernels.assignment import nearest_centroids
from spark_semdedup.kernels.pairwise import max_similarity, ranked_max_similarity

__all__ = ["exact_dots", "max_similarity", "nearest_centroids", "ranked_max_similarity", "unit_vectors"]
