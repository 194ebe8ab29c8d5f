"""The cheapest schedule for a byte budget: the table of segments, the bounds, and the planner."""
