"""What shards of a batch have in common: their gradients are added up, on one process or on several ranks."""
