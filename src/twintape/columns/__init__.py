"""The columnar half of the pure core: numpy, numba and pyarrow, still without touching the world."""
