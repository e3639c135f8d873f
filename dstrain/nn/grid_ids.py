"""The ids of grids: data write them, models count rows by them."""

from __future__ import annotations

COLOURS = 10
"""ids 0 to 9 are cells"""
ROW_END, START, END, SEPARATOR = COLOURS, COLOURS + 1, COLOURS + 2, COLOURS + 3
"""`START` stands before a grid, `END` behind it, `SEPARATOR` between an input and its output"""
VOCABULARY = COLOURS + 4
MOST_SIDE = 30
"""cells of a row, and rows of a grid"""
