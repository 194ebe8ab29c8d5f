"""What the compiled engine knows by name, in the order of the enums in its header lowmem_native.h."""

ACTIVATIONS = (
    *("identity", "relu", "leaky_relu", "elu", "selu", "tanh", "sigmoid", "softplus"),
    *("gelu", "gelu_tanh", "silu", "mish"),
)
NORMS = (None, "layer", "rms", "batch")
LOSSES = ("mse", "cross_entropy", "bce", "huber", "mae", "quantile", "poisson")
RULES = (None, "sgd", "momentum", "nesterov", "adam", "adamw")
"""Rules of optimizers."""
