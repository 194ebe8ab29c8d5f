"""The disk tier as it runs: a file without a name, and threads that move states between it and the arena."""
