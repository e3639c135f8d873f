"""Pictures: a PNG made by hand, and a table drawn as one, each cell a colour, with its number where there is room.

Shapes: H and W pixels.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

GLYPHS = {
    "0": ("###", "# #", "# #", "# #", "###"), "1": (" # ", "## ", " # ", " # ", "###"),
    "2": ("###", "  #", "###", "#  ", "###"), "3": ("###", "  #", "###", "  #", "###"),
    "4": ("# #", "# #", "###", "  #", "  #"), "5": ("###", "#  ", "###", "  #", "###"),
    "6": ("###", "#  ", "###", "# #", "###"), "7": ("###", "  #", " # ", " # ", " # "),
    "8": ("###", "# #", "###", "# #", "###"), "9": ("###", "# #", "###", "  #", "###"),
    "-": ("   ", "   ", "###", "   ", "   "), ".": ("   ", "   ", "   ", "   ", " # "), " ": ("   ",) * 5,
    "?": ("###", "  #", " ##", "   ", " # "),
    "A": (" # ", "# #", "###", "# #", "# #"), "B": ("## ", "# #", "## ", "# #", "## "),
    "C": (" ##", "#  ", "#  ", "#  ", " ##"), "D": ("## ", "# #", "# #", "# #", "## "),
    "E": ("###", "#  ", "## ", "#  ", "###"), "F": ("###", "#  ", "## ", "#  ", "#  "),
    "G": (" ##", "#  ", "# #", "# #", " ##"), "H": ("# #", "# #", "###", "# #", "# #"),
    "I": ("###", " # ", " # ", " # ", "###"), "K": ("# #", "# #", "## ", "# #", "# #"),
    "L": ("#  ", "#  ", "#  ", "#  ", "###"), "N": ("## ", "# #", "# #", "# #", "# #"),
    "O": (" # ", "# #", "# #", "# #", " # "), "Q": (" # ", "# #", "# #", "## ", " ##"),
    "R": ("## ", "# #", "## ", "# #", "# #"), "S": (" ##", "#  ", " # ", "  #", "## "),
    "T": ("###", " # ", " # ", " # ", " # "), "U": ("# #", "# #", "# #", "# #", "###"),
    "W": ("# #", "# #", "###", "###", "# #"), "Y": ("# #", "# #", " # ", " # ", " # "),
}
SCALE, MARGIN = 4, 8
"""pixels to one of a glyph; around what is written"""
LINE = 5 * SCALE + 2 * MARGIN
MOST_NUMBERS = 40
"""columns that have room for numbers; more are narrow, and every eighth of them is labelled"""
NARROW = 16
PAPER, INK, MORE, LESS, UNKNOWN = (np.array(colour) for colour in (
    (250, 250, 250), (20, 20, 20), (200, 40, 30), (40, 80, 200), (160, 160, 160)))


class Picture(NamedTuple):
    """Rows of cells with their labels."""

    shades: Sequence[Sequence[float]]
    """of each cell: -1 blue, 0 white, 1 red"""
    texts: Sequence[Sequence[str]]
    """of each cell, in digits, `-` and `.`"""
    rows: Sequence[str]
    columns: Sequence[str]
    key: Sequence[tuple[float, str]]
    """shades and what they stand for, shown below"""
    about: str = ""
    """what a reader should know, which TensorBoard shows beside it"""


class Drawn(NamedTuple):
    """A picture that is pixels already."""

    pixels_HW3: np.ndarray
    """uint8: red, green, blue"""
    about: str = ""
    """what a reader should know, which TensorBoard shows beside it"""


def png(picture: Picture | Drawn) -> tuple[bytes, int, int]:
    """(the file, its width, its height)."""
    pixels_HW3 = picture.pixels_HW3 if isinstance(picture, Drawn) else drawn(picture)
    height, width, _ = pixels_HW3.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels_HW3)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(lines, 9)),
             (b"IEND", b"")]
    chunks = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
              for kind, data in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks), width, height


def drawn(picture: Picture) -> np.ndarray:
    """[H, W, 3] uint8."""
    roomy = len(picture.columns) <= MOST_NUMBERS
    cell = _width([*picture.columns, *(text for row in picture.texts for text in row)]) if roomy else NARROW
    left, key_cell = _width(picture.rows), _width([text for _, text in picture.key])
    width = max(left + cell * len(picture.columns), left + key_cell * len(picture.key)) + MARGIN
    canvas_HW3 = np.empty((LINE * (len(picture.rows) + 2) + 2 * MARGIN, width, 3), dtype=np.uint8)
    canvas_HW3[:] = PAPER
    for number, label in enumerate(picture.columns):
        if roomy or number % 8 == 0:
            _write(canvas_HW3, label, 0, left + cell * number, INK)
    for line, (label, shades, texts) in enumerate(zip(picture.rows, picture.shades, picture.texts), start=1):
        _write(canvas_HW3, label, LINE * line, 0, INK)
        for number, (shade, text) in enumerate(zip(shades, texts)):
            _cell(canvas_HW3, LINE * line, left + cell * number, cell, shade, text if roomy else "")
    for number, (shade, text) in enumerate(picture.key):
        top = LINE * (len(picture.rows) + 1) + 2 * MARGIN
        _cell(canvas_HW3, top, left + key_cell * number, key_cell, shade, text)
    return canvas_HW3


def _cell(canvas_HW3: np.ndarray, top: int, left: int, width: int, shade: float, text: str) -> None:
    colour = _colour(shade)
    canvas_HW3[top:top + LINE - 1, left:left + width - 1] = colour
    _write(canvas_HW3, text, top, left, INK if colour.sum() > 380 else PAPER)


def _write(canvas_HW3: np.ndarray, text: str, top: int, left: int, colour: np.ndarray) -> None:
    write(canvas_HW3, text, top + MARGIN, left + MARGIN, colour, SCALE)


def write(canvas_HW3: np.ndarray, text: str, top: int, left: int, colour: np.ndarray, scale: int) -> None:
    """As far as there is room; a character is 3 x 5 dots of `scale` pixels, and a dot divides it from the next."""
    for place, character in enumerate(text):
        dots = np.array([[dot == "#" for dot in line] for line in GLYPHS.get(character, GLYPHS["?"])])
        dots = dots.repeat(scale, axis=0).repeat(scale, axis=1)
        across = left + 4 * scale * place
        part = canvas_HW3[top:top + dots.shape[0], across:across + dots.shape[1]]
        part[dots[:part.shape[0], :part.shape[1]]] = colour


def _colour(shade: float) -> np.ndarray:
    if not math.isfinite(shade):
        return UNKNOWN
    strength = min(1.0, abs(shade))
    return ((1 - strength) * PAPER + strength * (MORE if shade > 0 else LESS)).astype(np.uint8)


def _width(texts: Sequence[str]) -> int:
    return 4 * SCALE * max(map(len, texts), default=0) + 2 * MARGIN
