"""One claim a file. Each has `CLAIM` and `prove(case) -> Finding`; the tests call the same functions."""
