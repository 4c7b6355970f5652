"""Which colour a sentence says that its target has, and which of several things has it.

    find("the dark red car")  ->  Colour(name="red", bare="the car")

A model that has seen few colours named cannot tell the red car from the others, while the pixels can. So the colour is
taken out of the sentence, all of the class are listed (`listing`), and those count that are most like it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mqc_jax import places

_COLOURS = {
    "white": (230, 230, 230),
    "silver": (172, 176, 178),
    "grey": (130, 130, 130),
    "black": (45, 47, 50),
    "red": (150, 55, 48),
    "orange": (200, 115, 50),
    "yellow": (200, 180, 60),
    "brown": (120, 85, 60),
    "green": (70, 110, 60),
    "blue": (70, 95, 140),
}
"""As paint looks from above, in RGB; through haze all are paler, and alike so."""

_SAID = {"gray": "grey", "silvery": "silver", "dark": "black", "reddish": "red", "bluish": "blue", "greenish": "green"}
_WORDS = "|".join(sorted({*_COLOURS, *_SAID}, key=len, reverse=True))
# Not "red and white", which is two, nor "red-hulled", which is a part.
_COLOUR = re.compile(
    rf"\b(?:(?:dark|light|bright|pale|deep)[ -])?(?P<word>{_WORDS})(?:[- ]colou?red)? (?=\w)(?!and\b|or\b|to\b)"
    rf"(?!(?:{_WORDS})\b)",
    re.IGNORECASE,
)
# What the target does is not its colour's place either: "the ship passing red buoys".
_ELSEWHERE = re.compile(rf"\b(?:{places.ELSEWHERE}|that|which|who|not|\w+ing)\b", re.IGNORECASE)

_CHROMA = 2.0  # how many times more hue tells than lightness, which shade and haze change
_TOLERANCE = 12.0  # grey levels of difference that make a thing 2.7 times less likely (68 sentences, docs/tiles.md)


@dataclass(frozen=True)
class Colour:
    """The colour that a sentence says that its target has.

    Attributes:
      name: one of ten basic ones.
      bare: the sentence without it.
    """

    name: str
    bare: str


def find(text: str) -> Colour | None:
    """The target's colour; None where the sentence names none, or only something else's."""
    match = _COLOUR.search(text)
    if match is None or _ELSEWHERE.search(text[: match.start()]):
        return None
    word = match["word"].lower()
    return Colour(_SAID.get(word, word), text[: match.start()] + text[match.end() :])


def agreement(seen: Sequence[tuple[float, float, float]], name: str) -> np.ndarray:
    """How well each of several things has a colour, float [n] in (0, 1]; the best of them 1.

    Args:
      seen: their mean colours, RGB in [0, 255].
      name: a `Colour.name`.
    """
    off = _opponents(np.asarray(seen, float).reshape(-1, 3)) - _opponents(np.array(_COLOURS[name], float))
    distance = np.sqrt((off**2).sum(-1))
    return np.exp(-(distance - distance.min(initial=np.inf)) / _TOLERANCE)


def _opponents(rgb: np.ndarray) -> np.ndarray:
    """RGB [..., 3] -> lightness, redness and blueness, weighted by what they tell."""
    red, green, blue = np.moveaxis(rgb, -1, 0)
    hues = red - (green + blue) / 2, blue - (red + green) / 2
    return np.stack([rgb.mean(-1), *(_CHROMA * hue for hue in hues)], -1) / 2
