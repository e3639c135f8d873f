"""The model families' networks, each built from dstrain.nn."""
