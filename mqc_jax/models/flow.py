"""Dense displacement between consecutive frames, the motion of the platform in it, and warping by it.

Displacements are pixels per frame, (x, y) with y downwards: what is at p in frame t is at p + d(p) in frame t + 1.
Everything has fixed shapes, gathers in place of callbacks, and runs under jit on any backend.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax.errors import UserError
from mqc_jax.models.farneback import FarnebackConfig, farneback

Estimator = Callable[[jax.Array, object], jax.Array]
"""([T + 1, H, W], uint8 or float in 0..255, its config) -> float32 [T, H, W, 2]; T at least 1."""

ESTIMATORS: dict[type, Estimator] = {FarnebackConfig: farneback}
"""The estimator that each type of config stands for. Another one joins with a frozen dataclass of its own."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), as OpenCV's `COLOR_RGB2GRAY`."""


def grey(frames: jax.Array) -> jax.Array:
    """RGB [..., 3], 0 to 255 in any dtype -> float32 [...], 0 to 255, not rounded."""
    red, green, blue = (jnp.asarray(frames[..., k], jnp.float32) * np.float32(LUMA[k]) for k in range(3))
    return red + green + blue  # as a matrix product XLA takes three times as long on a CPU


@functools.partial(jax.jit, static_argnames="config")
def flow(frames: jax.Array, config: object = FarnebackConfig()) -> jax.Array:
    """Displacement from each frame to the next.

    Args:
      frames: [T + 1, H, W] grey, uint8 or float in 0..255. T may be 0.
      config: of a type in `ESTIMATORS`; chooses the estimator.

    Returns:
      float32 [T, H, W, 2], (x, y) in pixels per frame.

    Raises:
      UserError: frames of another shape, or a config that no estimator takes.
    """
    if frames.ndim != 3 or frames.shape[0] < 1 or min(frames.shape[1:]) < 2:
        raise UserError(
            f"frames of shape {tuple(frames.shape)} must be [T + 1, H, W], grey and at least 2x2 pixels; use flow.grey"
        )
    if type(config) not in ESTIMATORS:
        known = ", ".join(sorted(kind.__name__ for kind in ESTIMATORS))
        raise UserError(f"no estimator takes a {type(config).__name__}; known: {known}")
    if frames.shape[0] == 1:
        return jnp.zeros((0, *frames.shape[1:], 2), jnp.float32)
    return ESTIMATORS[type(config)](frames, config)


def sample(image: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Bilinear: [H, W] or [H, W, C] at positions [h, w] in pixels; beyond the edge the border repeats."""
    height, width = image.shape[:2]
    x, y = jnp.clip(x, 0, width - 1), jnp.clip(y, 0, height - 1)
    left = jnp.clip(jnp.floor(x), 0, max(width - 2, 0)).astype(jnp.int32)
    top = jnp.clip(jnp.floor(y), 0, max(height - 2, 0)).astype(jnp.int32)
    right_share, lower_share = x - left, y - top
    if image.ndim == 3:
        right_share, lower_share = right_share[..., None], lower_share[..., None]
    pixels, index = image.astype(jnp.float32).reshape(height * width, *image.shape[2:]), top * width + left
    right, below = min(width - 1, 1), width * min(height - 1, 1)

    def at(offset):
        return pixels.at[index + offset].get(mode="promise_in_bounds")

    upper = (1 - right_share) * at(0) + right_share * at(right)
    lower = (1 - right_share) * at(below) + right_share * at(below + right)
    return (1 - lower_share) * upper + lower_share * lower


def _grid(height: int, width: int) -> tuple[jax.Array, jax.Array]:
    return jnp.arange(width, dtype=jnp.float32), jnp.arange(height, dtype=jnp.float32)[:, None]


def warp(image: jax.Array, displacement: jax.Array) -> jax.Array:
    """Reads an image where a displacement points: out(p) = image(p + d(p)).

    With d from frame t to t + 1, `warp(frame[t + 1], d)` looks like frame t wherever d is right.

    Args:
      image: [..., H, W], any real dtype.
      displacement: float [..., H, W, 2], (x, y) in pixels, the same leading axes.

    Returns:
      float32 [..., H, W], bilinear; beyond the edge the border repeats.
    """
    if displacement.shape != (*image.shape, 2):
        raise UserError(
            f"displacement of shape {tuple(displacement.shape)} must be {(*image.shape, 2)} for an image of shape "
            f"{tuple(image.shape)}"
        )
    height, width = image.shape[-2:]
    x, y = _grid(height, width)
    images, moves = image.reshape(-1, height, width), displacement.reshape(-1, height, width, 2)
    warped = jax.vmap(lambda one, move: sample(one, x + move[..., 0], y + move[..., 1]))(images, moves)
    return warped.reshape(image.shape)


@dataclasses.dataclass(frozen=True)
class BackgroundConfig:
    """The robust fit of the background's motion.

    Attributes:
      stride: least side in pixels of the cells that give one point each to the fit; a large frame has some 30 along its
        shorter side, which leave six parameters with hundreds of points and cost a fifth of a grid four times as dense
        at 480 px.
      iterations: of reweighting, a fixed number.
      tukey: residuals beyond so many robust standard deviations have no weight (4.685: 95 % efficiency).
      candidates: fits through three points each, from which the best is the start.
      agreement: residual that halves a point's vote for a candidate, pixels per frame.
      sigma_floor: least robust standard deviation, pixels per frame; with exact displacements it would be 0.
      full: share of the points, those to be trusted most, that count in full: trust has no upper bound, and a single
        bright hull under way must not outvote all that is moored.
      vote, pull: powers of a point's trust (`trust`), relative to what counts in full, that are its vote for a
        candidate and for the spread, and its weight in the least squares. High powers let a pier outvote the sea
        around it.
    """

    stride: int = 8
    iterations: int = 12
    tukey: float = 4.685
    candidates: int = 64
    agreement: float = 0.25
    sigma_floor: float = 0.05
    full: float = 0.013
    vote: float = 7.0
    pull: float = 2.0

    def __post_init__(self) -> None:
        for name, least in (("stride", 1), ("iterations", 1), ("candidates", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} must be at least {least}; give {least} or more")
        if not 0 <= self.full <= 1:
            raise UserError(f"full={self.full} must lie in [0, 1], since it is a share; the default is 0.013")
        for name in ("tukey", "agreement", "sigma_floor"):
            if getattr(self, name) <= 0:
                raise UserError(
                    f"{name}={getattr(self, name)} must be positive; the default is {getattr(type(self), name)}"
                )


def affine_displacement(affine: jax.Array, height: int, width: int) -> jax.Array:
    """Affine motions [..., 2, 3], d(p) = A (x, y, 1), as displacements float32 [..., height, width, 2]."""
    x, y = _grid(height, width)
    a = affine[..., None, None, :, :]
    return a[..., 0] * x[..., None] + a[..., 1] * y[..., None] + a[..., 2]


def _median(values: jax.Array, weights: jax.Array | None = None) -> jax.Array:
    """The lower (weighted) median of [N] to 2^-24 of its range, by bisection: XLA's sort takes 3.6 times as long."""
    weights = jnp.ones_like(values) if weights is None else weights
    half = weights.sum() / 2

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        upper = (weights * (values <= middle)).sum() >= half
        return jnp.where(upper, low, middle), jnp.where(upper, middle, high)

    return jax.lax.fori_loop(0, 24, halve, (values.min(), values.max()))[1]


def _triples(basis: np.ndarray, count: int) -> np.ndarray:
    """Widely spaced triples of points, int [K, 3]: fixed numbers, drawn once while tracing.

    K is less than `count` where the grid has too few points apart.
    """
    rng = np.random.default_rng(0)
    triples = rng.integers(0, len(basis), (8 * count, 3))
    area = np.abs(np.linalg.det(basis[triples].astype(np.float64)))
    widest = np.argsort(-area, kind="stable")[: 4 * count]
    # Of the wider half a random part: the widest alone would all lie in the corners.
    return triples[[k for k in rng.permutation(widest) if area[k] > 1e-3][:count]]


def _through_three(rows: jax.Array, values: jax.Array) -> jax.Array:
    """Solutions C [K, 3, 2] of rows C = values, for rows [K, 3, 3] and values [K, 3, 2], by Cramer's rule."""
    a, b, c = rows[:, 0], rows[:, 1], rows[:, 2]
    columns = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)], -1)  # [K, 3, point]
    area = (a * jnp.cross(b, c)).sum(-1)[:, None, None]
    solved = jnp.einsum("kip,kpc->kic", columns, values, precision=jax.lax.Precision.HIGHEST)
    return solved / jnp.where(jnp.abs(area) < 1e-4, jnp.inf, area)  # points on a line: no motion, and few votes


SPACING = 4
"""Pixels between the places that a cell chooses its point from."""


def trust(before: jax.Array, after: jax.Array, displacement: jax.Array) -> jax.Array:
    """How far displacement may be believed at every `SPACING`-th pixel, from the second on: float32 [h, w], 0 or more.

    The least eigenvalue of the gradient's structure tensor, over the squared difference between the frame and the next
    one as displaced, both over 10x10 pixels. It is high on a roof's corner and low on drifting waves, whose picture
    changes as it moves, and along a straight edge, where displacement is known across it alone.

    Args:
      before, after: grey [H, W], 0 to 255.
      displacement: float [H, W, 2], from one to the other.
    """
    before, after = before.astype(jnp.float32), after.astype(jnp.float32)
    edged = jnp.pad(before, 1, mode="edge")
    smooth = (edged[:-2] + 2 * edged[1:-1] + edged[2:]) / 4
    smooth = jnp.pad((smooth[:, :-2] + 2 * smooth[:, 1:-1] + smooth[:, 2:]) / 4, 1, mode="edge")
    height, width = before.shape
    part = np.s_[1::2, 1::2]  # every second pixel will do, and costs a quarter
    across = ((smooth[1:-1, 2:] - smooth[1:-1, :-2]) / 2)[part]
    down = ((smooth[2:, 1:-1] - smooth[:-2, 1:-1]) / 2)[part]
    x, y = _grid(height, width)
    moved = displacement[part]
    left = sample(after, x[1::2] + moved[..., 0], y[1::2] + moved[..., 1]) - before[part]

    def around(plane):
        plane = jnp.pad(plane, 2, mode="edge")
        plane = sum(plane[k : plane.shape[0] - 4 + k : 2] for k in range(5))
        return sum(plane[:, k : plane.shape[1] - 4 + k : 2] for k in range(5)) / 25

    xx, yy, xy, changed = (around(plane) for plane in (across * across, down * down, across * down, left * left))
    least = (xx + yy) / 2 - jnp.sqrt((xx - yy) ** 2 / 4 + xy**2)
    return jnp.maximum(least, 0) / (changed + 1)


def _middles(height: int, width: int, stride: int) -> np.ndarray:
    """The middles (x, y) of a grid's cells, float32 [P, 2]."""
    rows, columns = (np.arange(min(stride // 2, (size - 1) // 2), size, stride) for size in (height, width))
    return np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2).astype(np.float32)


def _chosen(displacement: jax.Array, frames: jax.Array | None, stride: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One point for each cell of a grid: its (x, y) float32 [T, P, 2], its displacement [T, P, 2], its trust [T, P].

    Without frames it is a cell's middle, and all are trusted alike.
    """
    if frames is None:
        places = _middles(*displacement.shape[1:3], stride)
        column, row = places.astype(int).T
        field = displacement[:, row, column]
        return jnp.broadcast_to(places, field.shape), field, jnp.ones(field.shape[:2])

    def best(pair):
        before, after, moved = pair
        believed = trust(before, after, moved)
        tall, wide = (min(max(stride // SPACING, 1), size) for size in believed.shape)
        down, across = believed.shape[0] // tall, believed.shape[1] // wide
        cells = believed[: down * tall, : across * wide].reshape(down, tall, across, wide)
        cells = cells.transpose(0, 2, 1, 3).reshape(down * across, tall * wide)
        k = jnp.argmax(cells, 1)
        row, column = (index.reshape(-1) for index in np.mgrid[:down, :across])
        y = 1 + SPACING * (row * tall + k // wide)
        x = 1 + SPACING * (column * wide + k % wide)
        return jnp.stack([x, y], -1).astype(jnp.float32), moved[y, x], cells.max(1)

    # One by one: a pair's planes stay in the cache.
    return jax.lax.map(best, (frames[:-1], frames[1:], displacement))


def dominant_motion(
    displacement: jax.Array, config: BackgroundConfig = BackgroundConfig(), frames: jax.Array | None = None
) -> jax.Array:
    """The affine motion that the background follows, by iteratively reweighted least squares with Tukey's weights.

    It starts from the best of many fits through three points each, since least squares would tilt towards a large
    region that moves otherwise; what does so ends without weight. Where frames are given, points count by how far
    their displacement can be trusted: land and what lies still on it outvotes water that fills most of the frame.
    Without frames the background is what most of the field follows.

    Args:
      displacement: float [T, H, W, 2].
      frames: grey [T + 1, H, W], 0 to 255, that the displacements were taken from.

    Returns:
      float32 [T, 2, 3]: d(x, y) = A (x, y, 1) in pixels per frame, x and y in pixels from the first pixel's centre.
    """
    _, height, width, _ = displacement.shape
    stride = max(config.stride, min(height, width) // 30)
    # Coordinates near 1 keep the 3x3 system well conditioned in float32.
    scale = max(height, width) / 2
    middle = np.array([(width - 1) / 2, (height - 1) / 2], np.float32)
    highest = jax.lax.Precision.HIGHEST

    def lengths(basis, field, coefficients):
        residual = field - jnp.matmul(basis, coefficients, precision=highest)
        return jnp.sqrt((residual**2).sum(-1))

    places, field, believed = _chosen(displacement.astype(jnp.float32), frames, stride)
    # Triples of cells, of which some lie far apart whatever points the cells choose.
    spread = _middles(height, width, stride)
    if frames is not None:
        side = max(stride // SPACING, 1) * SPACING
        down, across = (max((size // 2 + 1) // 2 // (side // SPACING), 1) for size in (height, width))
        x, y = np.meshgrid(np.arange(across), np.arange(down))
        spread = np.stack([x, y], -1).reshape(-1, 2) * np.float32(side)
    triples = _triples(np.c_[(spread - middle) / scale, np.ones(len(spread))], config.candidates)

    def fit(points):
        place, field, believed = points
        basis = jnp.concatenate([(place - middle) / scale, jnp.ones((len(place), 1))], 1)
        enough = jax.lax.top_k(believed, max(round(config.full * len(believed)), 1))[0][-1]
        relative = jnp.minimum(believed / jnp.maximum(enough, 1e-6), 1.0)
        vote, pull = (jnp.maximum(relative**power, 1e-9) for power in (config.vote, config.pull))
        median = jax.vmap(_median, in_axes=(1, None))(field, vote)
        shift = jnp.zeros((1, 3, 2), jnp.float32).at[0, 2].set(median)
        starts = jnp.concatenate([shift, _through_three(basis[triples], field[triples])])
        agrees = lambda start: (vote / (1 + (lengths(basis, field, start) / config.agreement) ** 2)).sum()  # noqa: E731
        agreement = jax.vmap(agrees)(starts)

        def improve(_, coefficients):
            residual = lengths(basis, field, coefficients)
            # The median length of a two-dimensional normal residual is 1.1774 standard deviations.
            sigma = jnp.maximum(_median(residual, vote) / 1.1774, config.sigma_floor)
            weight = pull * jnp.maximum(1 - (residual / (config.tukey * sigma)) ** 2, 0) ** 2
            weighted = basis * weight[:, None]
            # A ridge far below the data: a grid of one row or column leaves directions undetermined, and then the
            # motion is one shift.
            ridge = weight.sum() * np.diag(np.float32([1e-4, 1e-4, 1e-7]))
            normal = jnp.matmul(weighted.T, basis, precision=highest) + ridge
            return jnp.linalg.solve(normal, jnp.matmul(weighted.T, field, precision=highest))

        coefficients = jax.lax.fori_loop(0, config.iterations, improve, starts[jnp.argmax(agreement)])
        linear = coefficients[:2].T / scale
        shift = coefficients[2] - jnp.matmul(linear, middle, precision=highest)
        return jnp.concatenate([linear, shift[:, None]], axis=1)

    return jax.vmap(fit)((places, field, believed))


def remove_background_motion(
    displacement: jax.Array, config: BackgroundConfig = BackgroundConfig(), frames: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Displacement relative to the background, for a drifting platform.

    Args:
      displacement: float [T, H, W, 2], pixels per frame.
      frames: grey [T + 1, H, W] that they were taken from; with them the fit knows which displacements to trust.

    Returns:
      float32 [T, H, W, 2], less the dominant motion, and that motion, float32 [T, 2, 3] (`dominant_motion`).
    """
    affine = dominant_motion(displacement, config, frames)
    return displacement - affine_displacement(affine, *displacement.shape[1:3]), affine


def stabilise(frames: jax.Array, affine: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Frames as a camera that moves with the background would see them, all in the first frame's coordinates.

    Args:
      frames: [T + 1, H, W] or [T + 1, H, W, C], any real dtype.
      affine: float [T, 2, 3], the background's motion from each frame to the next.

    Returns:
      float32 of the frames' shape, the first frame unchanged, and bool [T + 1, H, W]: where the frame was seen;
      elsewhere the border repeats.
    """
    height, width = frames.shape[1:3]
    highest = jax.lax.Precision.HIGHEST
    steps = jnp.concatenate([affine, jnp.zeros((len(affine), 1, 3), affine.dtype)], axis=1) + jnp.eye(3)

    def follow(position, step):
        position = jnp.matmul(step, position, precision=highest)
        return position, position

    _, maps = jax.lax.scan(follow, jnp.eye(3), steps)  # first frame's coordinates -> frame t's
    maps = jnp.concatenate([jnp.eye(3)[None], maps])
    x, y = _grid(height, width)

    def align(pair):
        frame, place = pair
        u = place[0, 0] * x + place[0, 1] * y + place[0, 2]
        v = place[1, 0] * x + place[1, 1] * y + place[1, 2]
        inside = (u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1)
        return sample(frame, u, v), inside

    # One by one: under vmap, XLA would compute what the frames are made of again for each of the four neighbours read.
    return jax.lax.map(align, (frames, maps))
