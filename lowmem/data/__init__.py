"""Data sets: in memory or streamed from files, in batches, described and checked."""
