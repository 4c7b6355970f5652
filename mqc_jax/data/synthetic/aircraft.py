"""The five aircraft classes of SAT-MTB, told apart from above by proportions, sweep, engines and tail."""

import numpy as np

from mqc_jax.data.synthetic.drawing import Drawing, shade

_LIVERIES = ((52, 74, 118), (140, 52, 50), (58, 104, 88), (70, 70, 78), (176, 120, 58), (92, 58, 110), (200, 202, 206))


def _fuselage(d: Drawing, length: float, width: float, nose: float, tail: float, white) -> None:
    """A tube from -length/2 to length/2: a rounded nose, a tapering tail cone, a lit crown."""
    h, front, back = width / 2, length / 2, -length / 2
    t = np.linspace(-np.pi / 2, np.pi / 2, 9)
    bow = np.stack([front - nose + nose * np.cos(t), h * np.sin(t)], 1)
    d.add(
        np.vstack([bow, [(back + tail, h), (back, 0.12 * h), (back, -0.12 * h), (back + tail, -h)]]), shade(white, 0.9)
    )
    d.add([(front - nose, -0.45 * h), (front - nose, 0.3 * h), (back + tail, 0.3 * h), (back + tail, -0.45 * h)], white)


def _wing(d: Drawing, root: float, chord: float, span: float, sweep: float, taper: float, inner: float, rgb) -> None:
    """A swept wing with a kink at 35 % of the half span; `root` is where its leading edge meets the centre line."""
    half, kink = span / 2, 0.35 * span / 2
    lead = np.tan(sweep)
    tip_x, kink_x = root - lead * half, root - lead * kink
    trail_kink = root - chord + 0.04 * chord
    tip = taper * chord
    d.add(
        [(root, 0), (kink_x, kink), (tip_x, half), (tip_x - tip, half), (trail_kink, kink), (root - chord, inner)],
        rgb,
        mirror=True,
    )
    # Flaps and slats catch less light than the wing box.
    d.add(
        [(trail_kink, kink), (tip_x - tip, half), (tip_x - 0.7 * tip, half), (trail_kink + 0.16 * chord, kink)],
        shade(rgb, 0.86),
        mirror=True,
    )


def _tail(d: Drawing, x: float, chord: float, span: float, sweep: float, rgb, fin, fin_length: float) -> None:
    half = span / 2
    back = x - chord
    drop = np.tan(sweep) * half
    d.add([(x, 0), (x - drop, half), (x - drop - 0.4 * chord, half), (back - 0.1 * chord, 0)], rgb, mirror=True)
    w = max(0.35, 0.012 * fin_length * 3)
    d.add(
        [(x + 0.5 * fin_length, 0), (x - 0.2 * fin_length, w), (back - 0.15 * chord, 0), (x - 0.2 * fin_length, -w)],
        fin,
    )


def _engines(d: Drawing, places, length: float, width: float, rgb) -> None:
    for x, y in places:
        h = width / 2
        d.add([(x, y - h), (x + 0.12 * length, y), (x, y + h), (x - length, y + 0.6 * h), (x - length, y - 0.6 * h)],
              rgb, mirror=True)  # fmt: skip
        d.add([(x, y - h), (x + 0.05 * length, y), (x, y + h), (x - 0.18 * length, y + h), (x - 0.18 * length, y - h)],
              shade(rgb, 0.7), mirror=True)  # fmt: skip


def draw_aircraft(category: str, rng: np.random.Generator) -> Drawing:
    """An aircraft of the class, at a size and in a livery drawn from `rng`."""
    grey = rng.uniform(222, 248)
    white = (grey, grey, grey + rng.uniform(-2, 5))
    wing = shade(white, rng.uniform(0.80, 0.90))
    fin = _LIVERIES[rng.integers(len(_LIVERIES))]
    engine = fin if rng.random() < 0.25 else shade(white, rng.uniform(0.68, 0.85))
    if category == "wide_bodied_aircraft":
        n, slim = rng.uniform(58, 74), 0.088
        span = rng.uniform(58, 64)
        d = Drawing(n, span, 5.5)
        sweep, root, chord = np.radians(33), 0.17 * n, 0.24 * n
        _engines(d, [(root - np.tan(sweep) * 0.31 * span / 2 + 2.6, 0.31 * span / 2)], 7.0, 3.9, engine)
        _wing(d, root, chord, span, sweep, 0.17, 0.05 * n, wing)
        _tail(d, -0.38 * n, 0.085 * n, 0.33 * span, np.radians(34), wing, fin, 0.15 * n)
    elif category == "narrow_bodied_aircraft":
        n, slim = rng.uniform(34, 45), 0.098
        span = rng.uniform(34, 36)
        d = Drawing(n, span, 4.5)
        sweep, root, chord = np.radians(27), 0.14 * n, 0.18 * n
        _engines(d, [(root - np.tan(sweep) * 0.33 * span / 2 + 1.6, 0.33 * span / 2)], 4.6, 2.6, engine)
        _wing(d, root, chord, span, sweep, 0.2, 0.05 * n, wing)
        _tail(d, -0.37 * n, 0.085 * n, 0.35 * span, np.radians(30), wing, fin, 0.16 * n)
    elif category == "rear_engine_aircraft":
        n, slim = rng.uniform(31, 45), 0.082
        span = rng.uniform(24, 31)
        d = Drawing(n, span, 4.0)
        sweep, root, chord = np.radians(27), 0.04 * n, 0.15 * n
        _wing(d, root, chord, span, sweep, 0.25, 0.05 * n, wing)
        _engines(d, [(-0.27 * n, 0.044 * n + 1.7)], 5.2, 2.3, engine)
        _tail(d, -0.44 * n, 0.09 * n, 0.38 * span, np.radians(30), wing, fin, 0.2 * n)
    elif category == "four_engine_aircraft":
        n, slim = rng.uniform(64, 76), 0.092
        span = rng.uniform(62, 78)
        d = Drawing(n, span, 6.0)
        sweep, root, chord = np.radians(37), 0.22 * n, 0.27 * n
        lead = np.tan(sweep)
        places = [(root - lead * f * span / 2 + 2.4, f * span / 2) for f in (0.34, 0.64)]
        _engines(d, places, 6.2, 3.2, engine)
        _wing(d, root, chord, span, sweep, 0.15, 0.05 * n, wing)
        _tail(d, -0.37 * n, 0.1 * n, 0.34 * span, np.radians(38), wing, fin, 0.17 * n)
    else:  # corporate_aircraft
        n, slim = rng.uniform(15, 27), 0.098
        span = n * rng.uniform(0.86, 1.0)
        d = Drawing(n, span, 2.6)
        sweep, root, chord = np.radians(30), 0.02 * n, 0.15 * n
        _wing(d, root, chord, span, sweep, 0.3, 0.04 * n, wing)
        _engines(d, [(-0.24 * n, 0.05 * n + 0.9)], 0.16 * n, 1.4, engine)
        _tail(d, -0.42 * n, 0.1 * n, 0.42 * span, np.radians(32), wing, fin, 0.18 * n)
    nose = 1.6 * slim * n if category != "corporate_aircraft" else 2.4 * slim * n
    body = Drawing(n, span, d.height)
    _fuselage(body, n, slim * n, nose, 0.26 * n, white)
    # The fuselage hides the wing roots but lies under the fin, which is the last shape added.
    d.shapes = d.shapes[:-1] + body.shapes + d.shapes[-1:]
    h = slim * n / 2
    d.box(n / 2 - 0.9 * nose, n / 2 - 0.72 * nose, 0.45 * h, (70, 76, 84))  # cockpit windows
    return d
