"""Recipes as frozen dataclasses. Needs only the standard library and yaml: a login node has no torch."""
