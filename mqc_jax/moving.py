"""Whether a sentence says that its target moves or stands, and the sentence without that.

    find("the moving car at the top")      ->  Motion(moves=True, bare="the car at the top")
    find("the yacht heading north")        ->  Motion(moves=True, bare="the yacht")
    find("the airliner that is parked")    ->  Motion(moves=False, bare="the airliner")

No first frame shows it, and the model has learned no such words, so they are not what tiles are asked for. A tracker
that calibrates sees what moves before it chooses (`paths`), and they tell it what to choose.
"""

import re
from dataclasses import dataclass

from mqc_jax import places

_HOW = r"(?:(?:slowly|slow|quickly|fast|now|currently|still|just)[ -])?"
_IS = rf"(?:(?:that|which|who)(?:'s| is| are) )?{_HOW}"
_DOES = rf"(?:that|which|who) {_HOW}"
# "Sailing yacht" is what some call a class.
_GOING = (
    r"(?:moving|driving|taxi?ing|taxying|sailing(?! (?:yacht|boat|ship|vessel))|travell?ing|heading|turning|steaming|"
    r"steering|drifting|flying|speeding|rolling)"
)
_GOES = r"(?:moves|drives|taxis|taxies|sails|travels|heads|turns|goes|drifts|flies|rolls)"
_SIDE = r"(?:left|right|north|south|east|west|top|bottom|up|down)"
_WHERE_TO = (
    rf"(?: (?:(?:to|towards?|for|from) )?(?:the )?{_SIDE}(?:[- ]?{_SIDE})?(?:wards?)?"
    r"(?= *$| *[,.;:!?]| (?:and|with|that|which|near|by|beside|in|on|at)\b))?"
)
_STANDING = (
    r"(?:parked|stationary|static|motionless|unmoving|moored|anchored|docked|berthed|idle|immobile|at rest|at anchor|"
    r"standing still|standing|stopped)"
)
_STANDS = re.compile(
    rf"[, ]*(?<![\w-])(?:{_IS}{_STANDING}|(?:(?:that|which|who) )?(?:is |are )?(?:not|isn't|aren't) {_GOING}|"
    rf"{_DOES}(?:does not|doesn't|do not|don't) move|{_DOES}(?:stands still|stands|stays))\b",
    re.IGNORECASE,
)
_MOVES = re.compile(
    rf"[, ]*(?<![\w-])(?:{_IS}(?:{_GOING}\b{_WHERE_TO}|on the move|in motion|under ?way)|"
    rf"{_DOES}{_GOES}\b{_WHERE_TO})(?!-)",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(rf"\b(?:{places.ELSEWHERE})\b", re.IGNORECASE)

_SAID = 20.0  # odds that what is meant is seen to move, where the sentence says that it moves (docs/tmcc.md)


@dataclass(frozen=True)
class Motion:
    """What a sentence says of its target's motion.

    Attributes:
      moves: True: it moves; False: it stands.
      bare: the sentence without that.
    """

    moves: bool
    bare: str


def find(text: str) -> Motion | None:
    """Whether a sentence says that its target moves or stands; None: it says neither, or only of something else."""
    # "Not moving" has "moving" in it, so what stands is looked for first.
    for pattern in (_STANDS, _MOVES):
        match = pattern.search(text)
        if match is not None and not _of_something_else(text[: match.start()]):
            bare = re.sub(r" (?=[,.;:!?])", "", f"{text[: match.start()]} {text[match.end() :].lstrip()}".strip())
            return Motion(pattern is _MOVES, bare) if re.search(r"\w", bare) else None
    return None


def odds(text: str, unsaid: float) -> float:
    """How many times likelier it is that a sentence means what is seen to move than what is not; below 1: less likely.

    "The leftmost car" means one object whatever moves: who says so tells it apart by its place or size, and motion has
    nothing left to settle (docs/tmcc.md).

    Args:
      unsaid: that of a sentence that says neither (`tmcc.motion_odds`), from 1 on; 1: motion does not choose.
    """
    motion = None if unsaid == 1 else find(text)
    if motion is not None:
        return _SAID if motion.moves else 1 / _SAID
    place = places.find(text)
    return unsaid if places.extreme(text if place is None else place.bare) is None else 1.0


def _of_something_else(before: str) -> bool:
    """Whether a sentence has come to something else than its target by its part `before`."""
    place = places.find(before)
    return _ELSEWHERE.search(before if place is None else place.bare) is not None
