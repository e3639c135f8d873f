"""dstrain: one recipe, any shape. A DeepSpeed training stack for Transformers from scratch."""

__version__ = "0.1.0"
