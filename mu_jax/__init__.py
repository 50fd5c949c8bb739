"""Machine unlearning and membership-inference attacks in JAX/Flax."""

__version__ = "0.1.0"
