"""What the stages of a PyTorch chain take: seconds and bytes, measured one stage after the other."""
