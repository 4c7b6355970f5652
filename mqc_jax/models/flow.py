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
      stride: least pixels between the grid points that are fitted; a large frame has some 30 along its shorter side,
        which leave six parameters with hundreds of points and cost a fifth of a grid four times as dense at 480 px.
      iterations: of reweighting, a fixed number.
      tukey: residuals beyond so many robust standard deviations have no weight (4.685: 95 % efficiency).
      candidates: fits through three points each, from which the best is the start.
      agreement: residual that halves a point's vote for a candidate, pixels per frame.
      sigma_floor: least robust standard deviation, pixels per frame; with exact displacements it would be 0.
    """

    stride: int = 8
    iterations: int = 12
    tukey: float = 4.685
    candidates: int = 64
    agreement: float = 0.5
    sigma_floor: float = 0.05

    def __post_init__(self) -> None:
        for name, least in (("stride", 1), ("iterations", 1), ("candidates", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} must be at least {least}; give {least} or more")
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


def _median(values: jax.Array) -> jax.Array:
    """The lower median of [N] to 2^-24 of its range, by bisection: XLA's sort makes the fit 3.6 times slower."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        upper = (values <= middle).mean() >= 0.5
        return jnp.where(upper, low, middle), jnp.where(upper, middle, high)

    return jax.lax.fori_loop(0, 24, halve, (values.min(), values.max()))[1]


def _triples(basis: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Widely spaced triples of grid points, int [K, 3], and the inverses of their rows of `basis`, float32 [K, 3, 3].

    Fixed numbers, drawn once while tracing. K is less than `count` where the grid has too few points apart.
    """
    rng = np.random.default_rng(0)
    triples = rng.integers(0, len(basis), (8 * count, 3))
    area = np.abs(np.linalg.det(basis[triples].astype(np.float64)))
    widest = np.argsort(-area, kind="stable")[: 4 * count]
    # Of the wider half a random part: the widest alone would all lie in the corners.
    chosen = [k for k in rng.permutation(widest) if area[k] > 1e-3][:count]
    return triples[chosen], np.linalg.inv(basis[triples[chosen]].astype(np.float64)).astype(np.float32)


def dominant_motion(displacement: jax.Array, config: BackgroundConfig = BackgroundConfig()) -> jax.Array:
    """The affine motion that most of a field follows, by iteratively reweighted least squares with Tukey's weights.

    It starts from the best of many fits through three points each, since least squares would tilt towards a large
    region that moves otherwise; what does so, less than half of the frame, ends without weight.

    Args:
      displacement: float [T, H, W, 2].

    Returns:
      float32 [T, 2, 3]: d(x, y) = A (x, y, 1) in pixels per frame, x and y in pixels from the first pixel's centre.
    """
    _, height, width, _ = displacement.shape
    stride = max(config.stride, min(height, width) // 30)
    rows, columns = (np.arange(min(stride // 2, (size - 1) // 2), size, stride) for size in (height, width))
    # Coordinates near 1 keep the 3x3 system well conditioned in float32.
    scale = max(height, width) / 2
    middle = np.array([(width - 1) / 2, (height - 1) / 2], np.float32)
    x, y = np.meshgrid((columns - middle[0]) / scale, (rows - middle[1]) / scale)
    basis = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3).astype(np.float32)
    triples, inverses = _triples(basis, config.candidates)
    highest = jax.lax.Precision.HIGHEST

    def lengths(field, coefficients):
        residual = field - jnp.matmul(basis, coefficients, precision=highest)
        return jnp.sqrt((residual**2).sum(-1))

    def fit(field):
        field = field.reshape(-1, 2)
        shift = jnp.zeros((1, 3, 2), jnp.float32).at[0, 2].set(jax.vmap(_median, in_axes=1)(field))
        exact = jnp.einsum("kij,kjc->kic", inverses, field[triples], precision=highest)
        starts = jnp.concatenate([shift, exact])
        agreement = jax.vmap(lambda start: (1 / (1 + (lengths(field, start) / config.agreement) ** 2)).mean())(starts)

        def improve(_, coefficients):
            residual = lengths(field, coefficients)
            # The median length of a two-dimensional normal residual is 1.1774 standard deviations.
            sigma = jnp.maximum(_median(residual) / 1.1774, config.sigma_floor)
            weight = jnp.maximum(1 - (residual / (config.tukey * sigma)) ** 2, 0) ** 2
            weighted = basis * weight[:, None]
            # A ridge far below the data: a grid of one row or column leaves a direction undetermined.
            normal = jnp.matmul(weighted.T, basis, precision=highest) + 1e-6 * weight.sum() * jnp.eye(3)
            return jnp.linalg.solve(normal, jnp.matmul(weighted.T, field, precision=highest))

        coefficients = jax.lax.fori_loop(0, config.iterations, improve, starts[jnp.argmax(agreement)])
        linear = coefficients[:2].T / scale
        shift = coefficients[2] - jnp.matmul(linear, middle, precision=highest)
        return jnp.concatenate([linear, shift[:, None]], axis=1)

    return jax.vmap(fit)(displacement[:, rows][:, :, columns].astype(jnp.float32))


def remove_background_motion(
    displacement: jax.Array, config: BackgroundConfig = BackgroundConfig()
) -> tuple[jax.Array, jax.Array]:
    """Displacement relative to the background, for a drifting platform.

    Args:
      displacement: float [T, H, W, 2], pixels per frame.

    Returns:
      float32 [T, H, W, 2], less the dominant motion, and that motion, float32 [T, 2, 3] (`dominant_motion`).
    """
    affine = dominant_motion(displacement, config)
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
