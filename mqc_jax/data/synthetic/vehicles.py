"""Cars and trains."""

import numpy as np

from mqc_jax.data.synthetic.drawing import Drawing, shade

CAR_COLOURS = {
    "white": (232, 233, 233),
    "silver": (172, 176, 180),
    "black": (44, 46, 50),
    "red": (150, 44, 42),
    "blue": (52, 78, 134),
}
_SHARES = (0.36, 0.22, 0.22, 0.1, 0.1)
TRAIN_CAR = 25.0  # metres from one car's middle to the next


def _small_car(rng: np.random.Generator) -> Drawing:
    n = rng.uniform(4.2, 5.2)
    w = 0.42 * n
    name = list(CAR_COLOURS)[rng.choice(len(_SHARES), p=_SHARES)]
    rgb = CAR_COLOURS[name]
    d = Drawing(n, w, 1.5, name)
    h, q = w / 2, n / 2
    d.add(
        [
            (q, -0.7 * h),
            (q, 0.7 * h),
            (0.8 * q, h),
            (-0.85 * q, h),
            (-q, 0.8 * h),
            (-q, -0.8 * h),
            (-0.85 * q, -h),
            (0.8 * q, -h),
        ],
        rgb,
    )
    d.box(0.1 * q, 0.42 * q, 0.8 * h, (52, 60, 68))
    d.box(-0.74 * q, -0.5 * q, 0.75 * h, (58, 64, 70))
    d.box(-0.5 * q, 0.1 * q, 0.78 * h, shade(rgb, 1.12))
    return d


def _large_car(rng: np.random.Generator) -> Drawing:
    if rng.random() < 0.4:  # bus
        n, w = rng.uniform(10.5, 12.5), 2.9
        name, rgb = (("white", (228, 230, 228)), ("blue", (74, 104, 148)), ("red", (158, 62, 54)))[rng.integers(3)]
        d = Drawing(n, w, 3.1, name)
        d.box(-n / 2, n / 2, w / 2, rgb)
        d.box(-n / 2 + 0.5, n / 2 - 0.8, 0.36 * w, shade(rgb, 1.1))
        for x in (-0.22, 0.2):
            d.box(x * n - 0.9, x * n + 0.9, 0.25 * w, (190, 192, 190))
    else:  # lorry
        n, w = rng.uniform(11, 17.5), 3.0
        name, rgb = (
            ("white", (234, 234, 230)),
            ("silver", (170, 172, 172)),
            ("blue", (84, 106, 134)),
            ("red", (146, 80, 66)),
        )[rng.integers(4)]
        d = Drawing(n, w, 3.6, name)
        d.box(n / 2 - 3.0, n / 2 - 1.9, 0.4 * w, (70, 72, 76))
        d.box(n / 2 - 2.1, n / 2, 0.47 * w, shade(rgb, 0.86))
        d.box(-n / 2, n / 2 - 2.8, w / 2, rgb)
        d.box(-n / 2 + 0.6, n / 2 - 3.4, 0.3 * w, shade(rgb, 1.06))
    return d


def _train_car(rng: np.random.Generator) -> Drawing:
    n, w = TRAIN_CAR - 0.8, 3.2
    roof = ((196, 200, 202), (222, 224, 224), (150, 156, 162), (176, 170, 158))[rng.integers(4)]
    d = Drawing(n, w, 3.8)
    h, q = w / 2, n / 2
    d.add(
        [
            (q, -0.8 * h),
            (q, 0.8 * h),
            (q - 0.5, h),
            (-q + 0.5, h),
            (-q, 0.8 * h),
            (-q, -0.8 * h),
            (-q + 0.5, -h),
            (q - 0.5, -h),
        ],
        shade(roof, 0.86),
    )
    d.box(-q + 0.3, q - 0.3, 0.62 * h, roof)
    for x in (-0.55, 0.55):
        d.box(x * q - 1.7, x * q + 1.7, 0.42 * h, shade(roof, 0.72))
    return d


_VEHICLES = {"small car": _small_car, "large car": _large_car, "train": _train_car}


def draw_vehicle(category: str, rng: np.random.Generator) -> Drawing:
    """A vehicle of the class; a train's drawing is one of its cars."""
    return _VEHICLES[category](rng)
