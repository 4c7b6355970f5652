"""The fine classes of SAT-MTB and their drawings."""

import numpy as np

from mqc_jax.data.synthetic.aircraft import draw_aircraft
from mqc_jax.data.synthetic.drawing import Drawing
from mqc_jax.data.synthetic.ships import draw_ship
from mqc_jax.data.synthetic.vehicles import draw_vehicle

AIRCRAFT = (
    "wide_bodied_aircraft",
    "narrow_bodied_aircraft",
    "rear_engine_aircraft",
    "four_engine_aircraft",
    "corporate_aircraft",
)
SHIPS = ("speed_boat", "yacht", "cruise", "freighter", "naval_vessels", "other_ship")
CARS = ("large car", "small car")
TRAINS = ("train",)
SUPERCLASS = {
    **dict.fromkeys(AIRCRAFT, "airplane"),
    **dict.fromkeys(SHIPS, "ship"),
    **dict.fromkeys(CARS, "car"),
    **dict.fromkeys(TRAINS, "train"),
}

# Metres: the longest of the class, for keeping parked neighbours apart.
LONGEST = {
    "wide_bodied_aircraft": 74,
    "narrow_bodied_aircraft": 45,
    "rear_engine_aircraft": 45,
    "four_engine_aircraft": 78,
    "corporate_aircraft": 27,
    "speed_boat": 15,
    "yacht": 46,
    "cruise": 250,
    "freighter": 210,
    "naval_vessels": 175,
    "other_ship": 80,
    "large car": 17.5,
    "small car": 5.2,
    "train": 25,
}

# Metres per second: taxiing, under way, driving.
SPEED = {
    "wide_bodied_aircraft": (7, 14),
    "narrow_bodied_aircraft": (7, 15),
    "rear_engine_aircraft": (7, 15),
    "four_engine_aircraft": (6, 13),
    "corporate_aircraft": (7, 15),
    "speed_boat": (9, 18),
    "yacht": (5, 10),
    "cruise": (5, 9),
    "freighter": (4, 8),
    "naval_vessels": (6, 12),
    "other_ship": (4, 8),
    "large car": (10, 20),
    "small car": (11, 24),
    "train": (16, 36),
}


def draw(category: str, rng: np.random.Generator) -> Drawing:
    """A drawing of the fine class; the same state of `rng` gives the same drawing."""
    kind = SUPERCLASS[category]
    if kind == "airplane":
        return draw_aircraft(category, rng)
    if kind == "ship":
        return draw_ship(category, rng)
    return draw_vehicle(category, rng)
