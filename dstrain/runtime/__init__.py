"""Ranks, the DeepSpeed engine, checkpoints. The only package (with nn/experts.py) that imports deepspeed."""
