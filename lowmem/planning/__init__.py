"""Plans: what a step takes, byte by byte and FLOP by FLOP, before anything is allocated. No NumPy."""
