"""What a network is, without NumPy.

Its widths and names, what each kind of layer takes, and what is known of activations, losses, optimizers and norms
before a run.
"""
