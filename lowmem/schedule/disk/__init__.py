"""The disk as a second tier: transfers beside the ops, which states go there, and where the transfers stand."""
