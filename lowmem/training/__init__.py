"""Training: the trainer, its loop, and what happens beside the steps."""
