"""How wide text is, for laying it out before anybody knows the font: by the widths of Helvetica, which its like share."""

from __future__ import annotations

__all__ = ["text_width"]

_WIDTHS = {
    0.191: "'",
    0.222: "ijl",
    0.26: "|",
    0.278: " !,./:;I[\\]ft·",
    0.333: "()-`r{}",
    0.355: '"',
    0.389: "*°",
    0.469: "^",
    0.5: "Jcksvxyz",
    0.584: "+<=>~\N{MINUS SIGN}\N{MULTIPLICATION SIGN}",
    0.611: "FTZ",
    0.667: "&ABEKPSVXY",
    0.722: "CDHNRUw",
    0.778: "GOQ",
    0.833: "Mm",
    0.889: "%",
    0.944: "W",
    1.015: "@",
}
"""Width in ems -> the characters that have it (Adobe's Core 14 metrics, Helvetica)."""
_OTHER = 0.556
"""Digits and most small letters; taken for what is not in the table, too."""
_WIDTH_OF = {letter: width for width, letters in _WIDTHS.items() for letter in letters}


def text_width(text: str, size: float) -> float:
    """How wide a line of text is where an em is `size`, in the units of `size`."""
    return size * sum(_WIDTH_OF.get(letter, _OTHER) for letter in text)
