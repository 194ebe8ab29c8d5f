"""Training: the trainer configures a run, the loop runs it, and callbacks do what happens beside the steps."""
