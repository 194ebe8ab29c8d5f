"""Planners of chains whose stages are reversed from a tape, as PyTorch's are, and how good a plan is."""
