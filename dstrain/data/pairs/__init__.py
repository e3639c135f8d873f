"""Pairs of sentences: from a source's pairs to batches by length, in an order that no rank decides."""
