"""The mathematics of a network in NumPy: kernels that write where they are told to, and an oracle that shares none."""
