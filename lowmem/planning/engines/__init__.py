"""The engines as planning sees them: which is chosen, with how many lanes, and what each takes in memory."""
