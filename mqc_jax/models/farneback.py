"""Farneback's dense displacement on the device: polynomial expansion, coarse to fine, fixed-point iterations.

Source: G. Farneback, "Two-Frame Motion Estimation Based on Polynomial Expansion", SCIA 2003. Each neighbourhood is
approximated by a quadratic, f(p) ~ p^T A p + b^T p + c. If the second frame is the first one moved by d, then
b_2 = b_1 - 2 A d; the equations of a window are solved for d by least squares, again and again with the second frame's
quadratics taken from where the last d points.

The paper leaves much open: pyramid, borders, regularisation. There the choices of OpenCV's
`calcOpticalFlowFarneback` are made, so that its parameters mean the same here and its result is the test's reference.

Images are planes [..., H, W], so that every filter is a sum of shifted slices along rows or columns: XLA's own
convolutions are slow on a CPU for so few channels.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mqc_jax.errors import UserError

SMALLEST_LEVEL = 32
"""Pixels; no level of the pyramid but the first is lower or narrower."""

BORDER = np.array([0.14, 0.14, 0.4472, 0.4472, 0.4472], np.float32)
"""Weights of the outermost rows and columns, where the expansion saw repeated pixels. They scale the equations, so the
least squares sees their squares."""

REGULARISATION = 1e-3
"""Added to the determinant of a window's 2x2 system; without texture the displacement then goes to zero."""


@dataclasses.dataclass(frozen=True)
class FarnebackConfig:
    """Parameters of Farneback's method, named and meant as OpenCV's.

    Attributes:
      pyr_scale: size of a pyramid level relative to the one below, in (0, 1).
      levels: levels above the full size; fewer where one would be smaller than 32 pixels.
      winsize: side of the window whose pixels are assumed to move alike, pixels. It bounds the detail: a small target's
        motion spreads over its surroundings by half of it.
      iterations: solutions per level.
      poly_n: radius of the neighbourhood that is approximated, pixels.
      poly_sigma: its Gaussian's standard deviation, pixels; 0 means 0.3 poly_n.
      gaussian: a Gaussian window in place of a box (`OPTFLOW_FARNEBACK_GAUSSIAN`).
      inclusive: a position on the last row or column lies inside the frame. OpenCV takes it to be outside and then sees
        motion along these two edges in a still video; False does as OpenCV.
    """

    pyr_scale: float = 0.5
    levels: int = 3
    winsize: int = 7
    iterations: int = 2
    poly_n: int = 5
    poly_sigma: float = 1.1
    gaussian: bool = False
    inclusive: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.pyr_scale < 1:
            raise UserError(
                f"pyr_scale={self.pyr_scale} must lie between 0 and 1, both excluded; 0.5 halves each level"
            )
        for name, least in (("levels", 0), ("winsize", 2), ("iterations", 1), ("poly_n", 1), ("poly_sigma", 0)):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"{name}={value} must be at least {least}; give {least} or more")


def _round(value: float) -> int:
    """Halves to even, as OpenCV rounds sizes."""
    return int(np.rint(value))


def _gaussian(radius: int, sigma: float) -> np.ndarray:
    """[radius + 1], the non-negative half of a normalised Gaussian."""
    half = np.exp(-(np.arange(radius + 1) ** 2) / (2 * sigma**2))
    return half / (half[0] + 2 * half[1:].sum())


@functools.lru_cache(maxsize=64)
def _bilinear_matrix(size: int, target: int) -> np.ndarray:
    """[target, size]: bilinear resampling between pixel centres, the border repeated."""
    position = (np.arange(target) + 0.5) * (size / target) - 0.5
    first = np.floor(position).astype(int)
    matrix, rows = np.zeros((target, size)), np.arange(target)
    np.add.at(matrix, (rows, np.clip(first, 0, size - 1)), first + 1 - position)
    np.add.at(matrix, (rows, np.clip(first + 1, 0, size - 1)), position - first)
    return matrix


@functools.lru_cache(maxsize=64)
def _level_matrix(size: int, scale: float) -> np.ndarray:
    """[round(size * scale), size]: Gaussian blur of the full image with mirrored borders, then bilinear resampling."""
    sigma = (1 / scale - 1) / 2
    radius = max(_round(5 * sigma) | 1, 3) // 2
    half = _gaussian(radius, sigma)
    blur, rows = np.zeros((size, size)), np.arange(size)
    for shift in range(-radius, radius + 1):
        mirrored = (size - 1) - np.abs((size - 1) - np.abs(rows + shift))
        np.add.at(blur, (rows, mirrored), half[abs(shift)])
    return _bilinear_matrix(size, _round(size * scale)) @ blur


def _resample(image: jax.Array, matrix: np.ndarray, axis: int) -> jax.Array:
    """A constant banded matrix [m, n] times `image` along `axis` (-2 or -1), as a sum over the band's taps."""
    taps = int((matrix != 0).sum(1).max())
    places = np.argsort(matrix == 0, axis=1, kind="stable")[:, :taps].astype(np.int32)
    weights = np.take_along_axis(matrix, places, 1).astype(np.float32)
    total = 0.0
    for place, weight in zip(places.T, weights.T, strict=True):
        total += jnp.take(image, place, axis, mode="clip") * (weight[:, None] if axis == -2 else weight)
    return total


def _pyramid_level(image: jax.Array, scale: float) -> jax.Array:
    """float32 [H, W], blurred and resampled to `scale`; at full size too OpenCV blurs, with its binomial kernel."""
    if scale == 1:
        padded = jnp.pad(image, 1, mode="reflect")
        rows = 0.25 * (padded[:-2] + padded[2:]) + 0.5 * padded[1:-1]
        return 0.25 * (rows[:, :-2] + rows[:, 2:]) + 0.5 * rows[:, 1:-1]
    # The product, unlike a second sum of taps, keeps XLA from computing the first once for each tap.
    rows = _resample(image, _level_matrix(image.shape[0], scale), -2)
    columns = _level_matrix(image.shape[1], scale).astype(np.float32)
    return jnp.matmul(rows, columns.T, precision=lax.Precision.HIGHEST)


def _shifted(image: jax.Array, axis: int, shift: int, size: int) -> jax.Array:
    return lax.slice_in_dim(image, shift, shift + size, axis=axis)


@functools.lru_cache(maxsize=16)
def _expansion_kernels(radius: int, sigma: float) -> tuple[np.ndarray, ...]:
    """(g, x g, x^2 g) for x = 0..radius, float32, and the entries of the inverse metric that the quadratic needs."""
    x = np.arange(-radius, radius + 1)
    half = _gaussian(radius, sigma or 0.3 * radius).astype(np.float32).astype(np.float64)
    g = half[np.abs(x)]
    second, fourth = (g * x**2).sum(), (g * x**4).sum()
    total = g.sum()
    # The basis 1, x^2, y^2 is not orthogonal under the Gaussian; x, y and xy are, to it and to each other.
    metric = np.array(
        [
            [total**2, total * second, total * second],
            [total * second, total * fourth, second**2],
            [total * second, second**2, total * fourth],
        ]
    )
    inverse = np.linalg.inv(metric)
    scales = np.array([1 / (total * second), inverse[0, 1], inverse[1, 1], 1 / second**2], np.float32)
    steps = np.arange(radius + 1)
    return *(kernel.astype(np.float32) for kernel in (half, steps * half, steps**2 * half)), scales


def expand(image: jax.Array, radius: int, sigma: float) -> jax.Array:
    """The quadratic at every pixel, by least squares under a Gaussian.

    Args:
      image: float32 [H, W]; beyond the edge the border repeats.
      radius, sigma: of the neighbourhood, pixels.

    Returns:
      float32 [5, H, W]: the coefficients of y, x, y^2, x^2 and xy.
    """
    g, xg, xxg, (linear, mixed, square, cross) = _expansion_kernels(radius, sigma)
    height, width = image.shape
    padded = jnp.pad(image, radius, mode="edge")

    def moments(rows, axis, size, order):
        """`order` of the three filters (even, odd, even) along an axis."""
        middle = _shifted(rows, axis, radius, size)
        sums = [middle * g[0], 0.0, 0.0]
        for k in range(1, radius + 1):
            before, after = _shifted(rows, axis, radius - k, size), _shifted(rows, axis, radius + k, size)
            terms = (g[k] * (after + before), xg[k] * (after - before), xxg[k] * (after + before))
            sums = [total + term for total, term in zip(sums[:order], terms, strict=False)]
        return sums

    # Without the barrier XLA's algebra takes the stack apart, and the second pass becomes 2.5 times slower on a CPU.
    zeroth, first, second = lax.optimization_barrier(jnp.stack(moments(padded, 0, height, 3)))
    one, x, xx = moments(zeroth, 1, width, 3)
    y, xy = moments(first, 1, width, 2)
    (yy,) = moments(second, 1, width, 1)
    return jnp.stack(
        [y * linear, x * linear, one * mixed + yy * square, one * mixed + xx * square, xy * cross],
    )


def _border_weights(size: int) -> np.ndarray:
    weights, count = np.ones(size, np.float32), min(len(BORDER), size)
    weights[:count] *= BORDER[:count]
    weights[size - count :] *= BORDER[:count][::-1]
    return weights


def _equations(first: jax.Array, second: jax.Array, displacement: jax.Array, inclusive: bool) -> jax.Array:
    """Each pixel's share in the window's normal equations G d = h.

    Args:
      first: float32 [5, H, W], `expand` of the first frame.
      second: float32 [H * W, 5], of the second frame with the coefficients last: a pixel's are read together.
      displacement: float32 [2, H, W], (x, y).
      inclusive: as in `FarnebackConfig`.

    Returns:
      float32 [5, H, W]: G_yy, G_yx, G_xx, h_y, h_x.
    """
    _, height, width = first.shape
    dx, dy = displacement
    x = jnp.arange(width, dtype=jnp.float32) + dx
    y = jnp.arange(height, dtype=jnp.float32)[:, None] + dy
    inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
    if not inclusive:
        inside &= (x < width - 1) & (y < height - 1)
    left, top = jnp.clip(jnp.floor(x), 0, width - 2), jnp.clip(jnp.floor(y), 0, height - 2)
    index = top.astype(jnp.int32) * width + left.astype(jnp.int32)
    right_share, lower_share = (x - left)[..., None], (y - top)[..., None]

    def corner(offset):
        return second.at[index + offset].get(mode="promise_in_bounds")

    upper = (1 - right_share) * corner(0) + right_share * corner(1)
    lower = (1 - right_share) * corner(width) + right_share * corner(width + 1)
    warped = jnp.moveaxis((1 - lower_share) * upper + lower_share * lower, -1, 0)
    b_y, b_x, a_yy, a_xx, a_xy = warped

    # A is the two frames' mean; a pixel that has left the frame keeps the first one's. xy's coefficient is 2 A_xy.
    a_yy = jnp.where(inside, (first[2] + a_yy) * 0.5, first[2])
    a_xx = jnp.where(inside, (first[3] + a_xx) * 0.5, first[3])
    a_xy = jnp.where(inside, (first[4] + a_xy) * 0.25, first[4] * 0.5)
    b_y = (first[0] - jnp.where(inside, b_y, 0)) * 0.5 + a_yy * dy + a_xy * dx
    b_x = (first[1] - jnp.where(inside, b_x, 0)) * 0.5 + a_xy * dy + a_xx * dx
    weight = _border_weights(height)[:, None] * _border_weights(width)
    a_yy, a_xx, a_xy, b_y, b_x = (value * weight for value in (a_yy, a_xx, a_xy, b_y, b_x))
    return jnp.stack(
        [
            a_yy * a_yy + a_xy * a_xy,
            (a_yy + a_xx) * a_xy,
            a_xx * a_xx + a_xy * a_xy,
            a_yy * b_y + a_xy * b_x,
            a_xy * b_y + a_xx * b_x,
        ]
    )


def _solve(equations: jax.Array, winsize: int, gaussian: bool) -> jax.Array:
    """Averages `_equations` over the window and solves them: float32 [2, H, W], (x, y)."""
    radius = winsize // 2
    if gaussian:
        half = _gaussian(radius, 0.3 * radius)
        kernel = [np.float32(half[abs(k)]) for k in range(-radius, radius + 1)]
    else:
        # An even window is one pixel wider than its name and is still divided by it, in OpenCV and so here.
        kernel = [np.float32(1 / winsize)] * (2 * radius + 1)
    _, height, width = equations.shape

    def blur(planes, axis, size):
        if gaussian:
            return sum(weight * _shifted(planes, axis, k, size) for k, weight in enumerate(kernel))
        return kernel[0] * sum(_shifted(planes, axis, k, size) for k in range(2 * radius + 1))

    padded = jnp.pad(equations, ((0, 0), (radius, radius), (radius, radius)), mode="edge")
    rows = blur(padded, 1, height)
    g_yy, g_yx, g_xx, h_y, h_x = blur(rows, 2, width)
    inverse = 1 / (g_yy * g_xx - g_yx * g_yx + REGULARISATION)
    return jnp.stack([(g_yy * h_x - g_yx * h_y) * inverse, (g_xx * h_y - g_yx * h_x) * inverse])


def _coefficients_last(levels: list[jax.Array]) -> list[jax.Array]:
    """Each [5, H, W] to [H * W, 5]."""
    return [jnp.moveaxis(level, 0, -1).reshape(-1, len(level)) for level in levels]


def _pyramid_scales(height: int, width: int, config: FarnebackConfig) -> list[float]:
    scales = [1.0]
    while len(scales) <= config.levels and min(height, width) * scales[-1] * config.pyr_scale >= SMALLEST_LEVEL:
        scales.append(scales[-1] * config.pyr_scale)
    return scales


def farneback(frames: jax.Array, config: FarnebackConfig) -> jax.Array:
    """Displacement from each frame to the next.

    A scan over the frames: each is expanded once and serves two pairs, and a pair's planes stay in the CPU's cache.

    Args:
      frames: [T + 1, H, W], grey, uint8 or float in 0..255; T at least 1, H and W at least 2.
      config: the method's parameters.

    Returns:
      float32 [T, H, W, 2], (x, y) in pixels per frame: what is at p in frame t is at p + d in frame t + 1.
    """
    height, width = frames.shape[1:]
    scales = _pyramid_scales(height, width, config)

    def expansions(image):
        image = image.astype(jnp.float32)
        return [expand(_pyramid_level(image, scale), config.poly_n, config.poly_sigma) for scale in scales]

    def displacement_between(firsts, seconds):
        displacement = None
        for first, second in zip(reversed(firsts), reversed(seconds), strict=True):
            _, rows, columns = first.shape
            if displacement is None:
                displacement = jnp.zeros((2, rows, columns), jnp.float32)
            else:
                displacement = _resample(displacement, _bilinear_matrix(displacement.shape[1], rows), -2)
                displacement = _resample(displacement, _bilinear_matrix(displacement.shape[2], columns), -1)
                displacement = displacement * np.float32(1 / config.pyr_scale)

            def improve(_, displacement, first=first, second=second):
                equations = _equations(first, second, displacement, config.inclusive)
                return _solve(equations, config.winsize, config.gaussian)

            displacement = lax.fori_loop(0, config.iterations, improve, displacement)
        return displacement

    def step(nexts, frame):
        current = expansions(frame)
        return _coefficients_last(current), jnp.moveaxis(displacement_between(current, nexts), 0, -1)

    # Backwards, so that what the loop carries is the second frame in the layout that it is read in.
    _, displacement = lax.scan(step, _coefficients_last(expansions(frames[-1])), frames[:-1], reverse=True)
    return displacement
