"""Chains whose stages are reversed from a tape, as PyTorch's are: model, planners, and how good a plan is."""
