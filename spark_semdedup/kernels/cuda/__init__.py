"""The comparison's kernels for NVIDIA GPUs: the CUDA source, and what compiles and launches it."""
