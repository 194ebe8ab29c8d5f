"""Engines: what carries out the program of a plan. One folder for each, and `Engine`, which they all are."""
