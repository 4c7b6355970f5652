"""The same thing said as people say it: other words for the class, the place and the attribute, other sentences.

Eq. 4's template ("the yacht at the bottom-right") is one way to point; a person says "the boat in the lower right
corner", "jet near the top", "show me the biggest freighter in the south-west". A word may mean several fine classes
("ship", "airliner"); such a sentence is only made where it still fits one object alone.
"""

import zlib
from collections.abc import Mapping

import numpy as np

from mqc_jax import places
from mqc_jax.data.expressions import Description, class_phrase, describe

_AIRLINERS = ("wide_bodied_aircraft", "narrow_bodied_aircraft", "rear_engine_aircraft", "four_engine_aircraft")
_SHIPS = ("speed_boat", "yacht", "cruise", "freighter", "naval_vessels", "other_ship")

_FINE: dict[str, tuple[str, ...]] = {
    "wide_bodied_aircraft": ("wide-bodied aircraft", "wide-bodied jet", "wide-body airliner", "wide-body plane"),
    "narrow_bodied_aircraft": ("narrow-bodied aircraft", "narrow-bodied jet", "narrow-body airliner"),
    "rear_engine_aircraft": ("rear engine aircraft", "rear-engined jet", "plane with rear engines"),
    "four_engine_aircraft": ("four engine aircraft", "four-engined jet", "jumbo jet", "plane with four engines"),
    "corporate_aircraft": ("corporate aircraft", "business jet", "private jet", "executive jet", "small jet"),
    "speed_boat": ("speed boat", "speedboat", "motorboat", "powerboat", "fast boat"),
    "yacht": ("yacht", "private yacht", "sailing yacht"),
    "cruise": ("cruise ship", "cruise liner", "ocean liner", "passenger ship"),
    "freighter": ("freighter", "cargo ship", "container ship", "cargo vessel"),
    "naval_vessels": ("naval vessel", "warship", "navy ship", "military ship"),
    "other_ship": ("other ship", "other vessel", "different ship"),
    "large car": ("large car", "truck", "lorry", "large vehicle"),
    "small car": ("small car", "small vehicle", "passenger car"),
    "train": ("train", "railway train", "passenger train"),
}  # fmt: skip
"""Fine class -> what it is called; the first is the template's."""

_COARSE: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    ((*_AIRLINERS, "corporate_aircraft"), ("aircraft", "airplane", "plane", "jet", "aeroplane")),
    (_AIRLINERS, ("airliner", "passenger jet", "jetliner", "passenger plane")),
    (("wide_bodied_aircraft", "four_engine_aircraft"), ("big airliner", "large airliner", "big jet")),
    (_SHIPS, ("ship", "vessel", "watercraft")),
    (("speed_boat", "yacht"), ("boat", "small boat")),
    (("cruise", "freighter", "naval_vessels"), ("big ship", "large ship", "large vessel")),
    (("large car", "small car"), ("car", "vehicle")),
)
"""Fine classes -> words that mean any of them."""

_ABSENT = 0.3  # how often `every` draws any class, which the frame may well not show

_ROWS = {"top": ("top", "upper", "north"), "bottom": ("bottom", "lower", "south")}
_COLUMNS = {"left": ("left", "left", "west"), "right": ("right", "right", "east")}

_SENTENCES = (
    "the {what} {where}", "the {what} {where}", "{what} {where}", "a {what} {where}", "{where}, the {what}",
    "find the {what} {where}", "follow the {what} {where}", "segment the {what} {where}", "track the {what} {where}",
    "the {what} that is {where}", "the {what} located {where}", "show me the {what} {where}",
)  # fmt: skip
_HELD_OUT_SENTENCES = (
    "please follow the {what} {where}", "there is a {what} {where}", "where is the {what} {where}",
    "the one {what} {where}", "I want the {what} {where}", "this {what} {where} of the scene",
)  # fmt: skip


def _places(place: str) -> list[str]:
    """How a cell is spoken: "top-left" -> "in the upper left corner", "in the north-west", ...; "" -> [""]."""
    if not place:
        return [""]
    if place == "center":
        return [
            "at the center", "in the center", "in the middle", "in the centre", "in the center of the image",
            "in the middle of the picture", "near the center",
        ]  # fmt: skip
    row, _, column = place.partition("-")
    if column:
        out = []
        for r, c in zip(_ROWS[row], _COLUMNS[column], strict=True):
            if r in ("north", "south"):
                out += [f"in the {r}-{c}", f"in the {r}-{c} corner", f"to the {r}-{c}"]
            else:
                out += [f"at the {r}-{c}", f"in the {r} {c}", f"in the {r} {c} corner", f"near the {r} {c}"]
        return [*out, f"at the {row} {column} of the image", f"in the {row} {column} of the frame"]
    if row in _ROWS:
        names = _ROWS[row]
        return [
            f"at the {row}", f"near the {row}", f"at the {row} center", f"in the {names[1]} middle",
            f"in the {names[2]}", f"at the {row} of the image", f"in the {names[1]} part of the picture",
        ]  # fmt: skip
    names = _COLUMNS[row]
    return [
        f"at the {row}", f"on the {row}", f"on the {row} side", f"near the {row} edge", f"in the {names[2]}",
        f"at the {row} of the image", f"in the {row} part of the picture",
    ]  # fmt: skip


def _is_held_out(name: str, where: str) -> bool:
    """A fifth of all pairs of a name and a place, the same on every machine."""
    return zlib.crc32(f"{name}|{where}".encode()) % 5 == 0


def describe_freely(
    labels: np.ndarray, categories: Mapping[int, str], rng: np.random.Generator, coarse: float = 0.3
) -> tuple[Description, ...]:
    """`expressions.describe`, with a word that covers several fine classes where a draw (`coarse`) says so.

    Args:
      labels: object ids [H, W], as `describe` takes them.
      categories: the fine class of each object id.
      rng: what is drawn from.
      coarse: probability that one of the words for several classes is used for this frame.

    Returns:
      Descriptions whose `phrase` is a fine class's phrase or the coarse word that was drawn.
    """
    if rng.random() < coarse:
        there = set(categories.values())
        fitting = [(classes, words) for classes, words in _COARSE if there & set(classes)]
        if fitting:
            classes, words = fitting[rng.integers(len(fitting))]
            word = str(words[rng.integers(len(words))])
            seen = {i: word if name in classes else f"not {name}" for i, name in categories.items()}
            return tuple(d for d in describe(labels, seen) if d.phrase == word)
    return describe(labels, categories)


def is_only(description: Description, labels: np.ndarray, categories: Mapping[int, str]) -> bool:
    """Whether a description's phrase alone, without a place, fits one object of a first frame."""
    classes = next((c for c, words in _COARSE if description.phrase in words), None)
    there = [categories[i] for i in np.unique(labels).tolist() if i in categories]
    fits = [name for name in there if (name in classes if classes else class_phrase(name) == description.phrase)]
    return len(fits) == 1


def reword(description: Description, rng: np.random.Generator, held_out: bool = False) -> str:
    """Another sentence for the same object.

    Args:
      description: from `describe` or `describe_freely`.
      rng: what the wording is drawn from.
      held_out: use only sentences, and pairs of a name and a place, that the others never use.
    """
    names = _NAMES.get(description.phrase, (description.phrase,))
    pairs = [(n, p) for n in names for p in _places(description.place) if _is_held_out(n, p) == held_out]
    name, where = pairs[rng.integers(len(pairs))] if pairs else (names[0], _places(description.place)[0])
    said = places.EXTREMES.get(description.attribute, (description.attribute,))
    attribute = said[rng.integers(len(said))]
    sentences = _HELD_OUT_SENTENCES if held_out else _SENTENCES
    what = f"{attribute} {name}" if attribute else name
    said = sentences[rng.integers(len(sentences))]
    if not where:
        said = said.replace(" that is {where}", "").replace(" located {where}", "").replace("{where}, ", "")
        said = said.replace(" {where}", "")
    return said.format(what=what, where=where)


def every(
    labels: np.ndarray, categories: Mapping[int, str], rng: np.random.Generator, free: bool, held_out: bool = False
) -> tuple[str, tuple[int, ...]]:
    """A sentence for all objects of a class, and which of them the frame shows: none, about every fourth time.

    Args:
      labels: object ids [H, W].
      categories: the fine class of each object id.
      rng: what is drawn from.
      free: in other words, and half of those times in one that covers several fine classes.
      held_out: as in `reword`.
    """
    shown = [i for i in np.unique(labels).tolist() if i in categories]
    name = str(rng.choice(sorted({categories[i] for i in shown} or CLASSES)))
    if rng.random() < _ABSENT:
        name = str(rng.choice(CLASSES))
    classes, phrase = (name,), class_phrase(name)
    coarse = [(group, words) for group, words in _COARSE if name in group]
    if free and coarse and rng.random() < 0.5:
        classes, words = coarse[rng.integers(len(coarse))]
        phrase = str(words[rng.integers(len(words))])
    one = Description(0, f"the {phrase}", "", phrase, "")
    said = reword(one, rng, held_out) if free else one.text
    return places.every(said), tuple(i for i in shown if categories[i] in classes)


_NAMES = {class_phrase(category): names for category, names in _FINE.items()}

CLASSES = tuple(_FINE)
"""The benchmark's fine classes, in the order in which a dense class map numbers them from 1."""
