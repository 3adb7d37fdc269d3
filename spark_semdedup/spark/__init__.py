"""How the package talks to Spark, Arrow and the GPU. No part of the algorithm is here."""
