"""The one palette: Okabe and Ito's colours, which colour-blind readers tell apart."""

from __future__ import annotations

# Okabe & Ito (2008), the bright ones first: they stand on dark tissue. Hypotheses take them in their order.
COLOURS = ("#E69F00", "#56B4E9", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")


def rgb(place: int, *, white: float = 0.0) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of the colour at `place`, counted round and round; mixed with `white` (0 to 1)."""
    code = COLOURS[place % len(COLOURS)]
    red, green, blue = (round(int(code[i : i + 2], 16) * (1 - white) + 255 * white) for i in (1, 3, 5))
    return red, green, blue
