"""Proofs on a model and one batch, one claim a file: each has a CLAIM and prove(Subject) -> Finding."""
