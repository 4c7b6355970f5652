"""The six ship classes of SAT-MTB: hull outline, deck and what stands on it."""

import numpy as np

from mqc_jax.data.synthetic.drawing import Drawing, shade

_CONTAINERS = (
    (128, 60, 50),
    (64, 88, 120),
    (92, 110, 84),
    (164, 120, 66),
    (150, 152, 154),
    (104, 58, 48),
    (70, 112, 122),
)
_PAINT = {"white": (226, 228, 228), "blue": (66, 92, 132), "red": (140, 66, 58), "dark": (70, 74, 80)}


def _hull(length: float, beam: float, bow: float, stern: float, blunt: float = 0.0) -> np.ndarray:
    """An outline: `bow` and `stern` are the shares of the length that taper; `blunt` is the bow's width as a share."""
    h, n = beam / 2, length / 2
    s = np.linspace(0, 1, 9)
    x = n - bow * length * (1 - s)
    y = h * np.maximum(blunt, 1 - s**1.9)
    right = np.stack([x, y], 1)
    left = right[::-1] * (1, -1)
    aft = [(-n + stern * length, -h), (-n, -0.82 * h), (-n, 0.82 * h), (-n + stern * length, h)]
    return np.vstack([right, left, aft])


def _inset(outline: np.ndarray, x: float, y: float) -> np.ndarray:
    return outline * (x, y)


def _speed_boat(rng: np.random.Generator) -> Drawing:
    n = rng.uniform(8, 15)
    beam = 0.31 * n
    name = ("white", "white", "blue", "red")[rng.integers(4)]
    d = Drawing(n, beam, 1.2, name)
    hull = _hull(n, beam, 0.55, 0.05)
    d.add(hull, _PAINT[name])
    d.add(_inset(hull, 0.9, 0.75), (236, 236, 232))
    d.box(-0.4 * n, 0.02 * n, 0.26 * beam, (96, 92, 88))
    d.add(
        [(0.02 * n, -0.3 * beam), (0.13 * n, -0.2 * beam), (0.13 * n, 0.2 * beam), (0.02 * n, 0.3 * beam)], (46, 58, 70)
    )
    d.box(-0.52 * n, -0.46 * n, 0.12 * beam, (50, 50, 52))
    return d


def _yacht(rng: np.random.Generator) -> Drawing:
    n = rng.uniform(22, 46)
    beam = 0.215 * n
    d = Drawing(n, beam, 3.0)
    hull = _hull(n, beam, 0.5, 0.08)
    d.add(hull, (232, 234, 236))
    d.add(_hull(0.24 * n, 0.8 * beam, 0.05, 0.05, 0.9) - (0.36 * n, 0), (160, 132, 104))
    d.add(_inset(_hull(0.62 * n, 0.72 * beam, 0.4, 0.1), 1, 1) - (0.04 * n, 0), (214, 216, 218))
    d.add(_hull(0.34 * n, 0.56 * beam, 0.4, 0.1) - (0.03 * n, 0), (246, 247, 248))
    d.add(
        [
            (0.13 * n, -0.26 * beam),
            (0.2 * n, 0),
            (0.13 * n, 0.26 * beam),
            (0.1 * n, 0.24 * beam),
            (0.1 * n, -0.24 * beam),
        ],
        (44, 54, 66),
    )
    d.oval(-0.05 * n, 0, 0.02 * n, 0.1 * beam, (150, 152, 156))
    return d


def _cruise(rng: np.random.Generator) -> Drawing:
    n = rng.uniform(130, 250)
    beam = n * rng.uniform(0.125, 0.14)
    d = Drawing(n, beam, 26.0)
    hull = _hull(n, beam, 0.24, 0.1)
    d.add(hull, (206, 212, 218))
    d.add(_hull(0.78 * n, 0.86 * beam, 0.12, 0.06) - (0.04 * n, 0), (236, 238, 239))
    for x in np.arange(-0.34, 0.26, 0.045) * n:  # lifeboats
        for side in (-1, 1):
            d.box(x, x + 0.032 * n, 0.03 * beam, (196, 120, 62), side * 0.45 * beam)
    d.box(-0.42 * n, 0.3 * n, 0.27 * beam, (206, 202, 192))
    for x in (0.12, -0.08):
        d.oval(x * n, 0, 0.035 * n, 0.13 * beam, (92, 158, 176))
    d.box(0.24 * n, 0.29 * n, 0.4 * beam, (222, 226, 229))
    d.box(-0.31 * n, -0.21 * n, 0.16 * beam, ((46, 76, 128), (166, 60, 56), (226, 186, 80))[rng.integers(3)])
    d.oval(-0.26 * n, 0, 0.02 * n, 0.07 * beam, (52, 54, 58))
    d.oval(0.42 * n, 0, 0.02 * n, 0.1 * beam, (150, 156, 150))
    return d


def _freighter(rng: np.random.Generator) -> Drawing:
    n = rng.uniform(80, 210)
    beam = n * rng.uniform(0.14, 0.165)
    rust = ((112, 66, 56), (66, 84, 74), (74, 82, 96), (58, 60, 64))[rng.integers(4)]
    d = Drawing(n, beam, 10.0)
    hull = _hull(n, beam, 0.16, 0.07, 0.08)
    d.add(hull, shade(rust, 0.8))
    d.add(_inset(hull, 0.985, 0.93), shade(rust, 1.15))
    if rng.random() < 0.5:  # containers
        rows, step = max(3, int(beam / 4.2)), 0.075 * n
        for x in np.arange(-0.3 * n, 0.34 * n, step):
            narrow = 1.0 if x < 0.26 * n else 0.7
            for k in range(rows):
                w = 0.86 * beam * narrow / rows
                y = (k - (rows - 1) / 2) * w
                if rng.random() < 0.93:
                    rgb = shade(_CONTAINERS[rng.integers(len(_CONTAINERS))], rng.uniform(0.8, 1.15))
                    d.box(x, x + 0.9 * step, 0.48 * w, rgb, y)
    else:  # bulk carrier: hatch covers and cranes
        for x in np.linspace(-0.27, 0.3, rng.integers(4, 7)) * n:
            cover = shade((146, 132, 112), rng.uniform(0.75, 1.1))
            d.box(x - 0.042 * n, x + 0.042 * n, 0.33 * beam, shade(cover, 0.72))
            d.box(x - 0.037 * n, x + 0.037 * n, 0.3 * beam, cover)
            d.box(x + 0.048 * n, x + 0.056 * n, 0.36 * beam, (196, 178, 110))
    d.box(-0.45 * n, -0.36 * n, 0.46 * beam, (226, 226, 222))
    d.box(-0.44 * n, -0.41 * n, 0.2 * beam, (178, 180, 182))
    d.oval(-0.46 * n, 0, 0.014 * n, 0.12 * beam, (90, 62, 54))
    d.box(0.415 * n, 0.43 * n, 0.2 * beam, (170, 166, 150))
    return d


def _naval(rng: np.random.Generator) -> Drawing:
    n = rng.uniform(95, 175)
    beam = 0.118 * n
    grey = (132, 140, 146)
    d = Drawing(n, beam, 11.0)
    hull = _hull(n, beam, 0.46, 0.1)
    d.add(hull, shade(grey, 0.82))
    d.add(_inset(hull, 0.985, 0.9), grey)
    d.box(-0.49 * n, -0.3 * n, 0.4 * beam, (104, 110, 114))  # flight deck
    d.oval(-0.4 * n, 0, 0.045 * n, 0.3 * beam, (188, 190, 188))
    d.oval(-0.4 * n, 0, 0.036 * n, 0.24 * beam, (104, 110, 114))
    d.box(-0.28 * n, -0.13 * n, 0.36 * beam, shade(grey, 1.14))
    d.box(-0.1 * n, 0.16 * n, 0.38 * beam, shade(grey, 1.2))
    d.box(-0.02 * n, 0.12 * n, 0.22 * beam, shade(grey, 1.42))
    for x in (-0.07, -0.22):
        d.box((x - 0.025) * n, (x + 0.02) * n, 0.15 * beam, (74, 78, 82))
    d.oval(0.07 * n, 0, 0.014 * n, 0.12 * beam, (196, 200, 202))
    d.oval(0.28 * n, 0, 0.022 * n, 0.17 * beam, shade(grey, 1.3))
    d.box(0.29 * n, 0.345 * n, 0.035 * beam, shade(grey, 0.7))
    d.box(0.19 * n, 0.235 * n, 0.2 * beam, shade(grey, 0.75))
    return d


def _other(rng: np.random.Generator) -> Drawing:
    kind = rng.integers(3)
    if kind == 0:  # barge
        n = rng.uniform(40, 75)
        beam = 0.2 * n
        d = Drawing(n, beam, 3.0)
        hull = _hull(n, beam, 0.1, 0.05, 0.35)
        d.add(hull, (84, 78, 72))
        load = ((58, 56, 56), (160, 140, 106), (120, 104, 84))[rng.integers(3)]
        d.box(-0.3 * n, 0.38 * n, 0.38 * beam, shade(load, 0.72))
        d.box(-0.28 * n, 0.36 * n, 0.31 * beam, load)
        d.box(-0.46 * n, -0.35 * n, 0.36 * beam, (206, 206, 200))
    elif kind == 1:  # ferry: blunt at both ends
        n = rng.uniform(38, 80)
        beam = 0.25 * n
        d = Drawing(n, beam, 7.0)
        d.add(_hull(n, beam, 0.2, 0.16, 0.4), (110, 122, 128))
        d.box(-0.38 * n, 0.38 * n, 0.42 * beam, (206, 210, 210))
        d.box(-0.2 * n, 0.2 * n, 0.3 * beam, (128, 148, 140))
        d.box(0.2 * n, 0.26 * n, 0.36 * beam, (238, 238, 236))
        d.oval(-0.12 * n, 0, 0.04 * n, 0.1 * beam, (160, 74, 60))
    else:  # tug or fishing boat
        n = rng.uniform(22, 38)
        beam = 0.29 * n
        d = Drawing(n, beam, 4.0)
        hull = _hull(n, beam, 0.3, 0.12, 0.1)
        d.add(hull, ((76, 52, 46), (48, 66, 86), (58, 76, 66))[rng.integers(3)])
        d.add(_inset(hull, 0.9, 0.8), (128, 108, 90))
        d.box(-0.02 * n, 0.2 * n, 0.3 * beam, (226, 224, 216))
        d.box(0.14 * n, 0.2 * n, 0.24 * beam, (62, 74, 84))
        d.oval(-0.1 * n, 0, 0.035 * n, 0.1 * beam, (176, 96, 58))
    return d


_SHIPS = {
    "speed_boat": _speed_boat,
    "yacht": _yacht,
    "cruise": _cruise,
    "freighter": _freighter,
    "naval_vessels": _naval,
    "other_ship": _other,
}


def draw_ship(category: str, rng: np.random.Generator) -> Drawing:
    """A ship of the class, at a size and in colours drawn from `rng`."""
    return _SHIPS[category](rng)
