"""Measuring: memory, machines, the time of a step, and reports of what was promised and what was measured."""
