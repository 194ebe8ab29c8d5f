"""Files of the disk tier: without a name, of fixed size, with a thread for each direction while something moves."""

PAGE = 4096
"""Bytes; transfers past the page cache begin at multiples of this, in memory and in the file, and their sizes are
multiples of it."""
