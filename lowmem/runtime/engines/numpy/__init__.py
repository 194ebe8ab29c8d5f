"""The reference engine: NumPy, one thread of Python, BLAS with its own threads, one line for each formula."""
