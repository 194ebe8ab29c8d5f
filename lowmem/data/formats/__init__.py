"""One file for each format that data can be read from, and the headers and columns that they share."""
