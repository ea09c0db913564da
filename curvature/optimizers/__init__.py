"""The optimizers that can be named."""
