"""Operations on regions of a binary image as arrays of fixed shape: for jit and vmap, on any backend, no callback.

A mask is bool [H, W]. Beyond the frame's edge is background. Labels are int32 [H, W]: a pixel's label is the flat index
of its component's first pixel in reading order; the background's is H * W.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_FAR = np.int32(2**29)
"""A squared distance beyond every image's, small enough that two of them can be added."""

_FOUR = ((-1, 0), (0, -1), (0, 1), (1, 0))
_EIGHT = (*_FOUR, (-1, -1), (-1, 1), (1, -1), (1, 1))


def _shift(image: jax.Array, rows: int, columns: int, fill: int | bool) -> jax.Array:
    """`image` moved down and right; what comes in from beyond the edge is `fill`."""
    height, width = image.shape
    rows, columns = (int(np.clip(s, -n, n)) for s, n in ((rows, height), (columns, width)))
    pad = ((max(rows, 0), max(-rows, 0)), (max(columns, 0), max(-columns, 0)))
    padded = jnp.pad(image, pad, constant_values=fill)
    return padded[pad[0][1] : pad[0][1] + height, pad[1][1] : pad[1][1] + width]


def components(mask: jax.Array, connectivity: int = 8) -> jax.Array:
    """Labels of a mask's connected components.

    Every pixel points at one of its component; in a sweep a whole tree moves to the least neighbour that any of its
    pixels sees, and paths are halved (FastSV: Zhang, Azad, Buluc, 2020). The sweeps grow with the logarithm of a
    component's length, not with the length.

    Args:
      connectivity: 4 or 8.
    """
    return _components(mask, connectivity)[0]


def _components(mask: jax.Array, connectivity: int) -> tuple[jax.Array, jax.Array]:
    """Labels, and how many sweeps it took."""
    height, width = mask.shape
    nowhere = height * width
    neighbours = {4: _FOUR, 8: _EIGHT}[connectivity]
    own = jnp.where(mask, jnp.arange(nowhere, dtype=jnp.int32).reshape(height, width), nowhere)

    def sweep(carry: tuple) -> tuple:
        parent, grand, _, sweeps = carry
        plane = grand[:-1].reshape(height, width)
        seen = functools.reduce(jnp.minimum, (_shift(plane, *step, nowhere) for step in neighbours))
        least = jnp.where(mask, jnp.minimum(plane, seen), nowhere).ravel()
        hooked = parent.at[parent[:-1]].min(least)
        hooked = hooked.at[:-1].min(jnp.minimum(least, grand[:-1])).at[-1].set(nowhere)
        after = hooked[hooked]
        return hooked, after, jnp.any((after != grand) | (hooked != parent)), sweeps + 1

    # One entry more than pixels: the background points there, and it at itself.
    start = jnp.append(own.ravel(), jnp.int32(nowhere))
    _, label, _, sweeps = lax.while_loop(lambda carry: carry[2], sweep, (start, start, jnp.bool_(True), jnp.int32(0)))
    return label[:-1].reshape(height, width), sweeps


def component_sums(labels: jax.Array, values: jax.Array) -> jax.Array:
    """Sum of `values` [H, W] over each component: [H * W + 1], at the component's label; zero elsewhere."""
    return jax.ops.segment_sum(values.ravel(), labels.ravel(), labels.size + 1)


def component_minima(labels: jax.Array, values: jax.Array) -> jax.Array:
    """Least of `values` [H, W] over each component: [H * W + 1], at its label; the type's largest value elsewhere."""
    return jax.ops.segment_min(values.ravel(), labels.ravel(), labels.size + 1)


def count(labels: jax.Array) -> jax.Array:
    """Number of components, int32 []."""
    return (labels.ravel() == jnp.arange(labels.size)).sum(dtype=jnp.int32)


def squared_distance(mask: jax.Array) -> jax.Array:
    """Exact squared Euclidean distance, in pixels, from every pixel to the nearest pixel of the mask: int32 [H, W].

    An empty mask is 2**29 away or more.
    """
    height, width = mask.shape
    row = jnp.arange(height, dtype=jnp.int32)[:, None]
    above = lax.cummax(jnp.where(mask, row, -_FAR), axis=0)
    below = lax.cummin(jnp.where(mask, row, _FAR), axis=0, reverse=True)
    vertical = jnp.minimum(row - above, below - row)
    column = jnp.where(vertical < height, vertical * vertical, _FAR)

    # The nearest pixel lies in some column k away, no farther than the best one found so far.
    def nearer(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        k, best = carry
        across = jnp.arange(width)
        left = jnp.where(across >= k, jnp.roll(column, k, axis=1), _FAR)
        right = jnp.where(across < width - k, jnp.roll(column, -k, axis=1), _FAR)
        return k + 1, jnp.minimum(best, jnp.minimum(left, right) + k * k)

    unfinished = lambda carry: (carry[0] < width) & (carry[0] * carry[0] < carry[1].max())  # noqa: E731
    return lax.while_loop(unfinished, nearer, (jnp.int32(1), column))[1]


def dilate(mask: jax.Array, radius: int) -> jax.Array:
    """All pixels at a distance of at most `radius` pixels from the mask (a disk)."""
    width = mask.shape[1]
    total = jnp.pad(jnp.cumsum(mask, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
    column = np.arange(width)
    wide: dict[int, jax.Array] = {}
    result = mask
    for row in range(-radius, radius + 1):
        half = int(np.sqrt(radius * radius - row * row))  # exact: the argument is far below 2**52
        if half not in wide:
            last, first = np.minimum(column + half + 1, width), np.maximum(column - half, 0)
            wide[half] = total[:, last] > total[:, first]
        result = result | _shift(wide[half], row, 0, False)
    return result


def erode(mask: jax.Array, radius: int) -> jax.Array:
    """All pixels whose disk of `radius` pixels lies in the mask, and in the frame."""
    padded = jnp.pad(~mask, radius, constant_values=True)
    height, width = mask.shape
    return ~dilate(padded, radius)[radius : radius + height, radius : radius + width]


def close(mask: jax.Array, radius: int) -> jax.Array:
    """Dilation, then erosion, with room beyond the edge for the first: what the disk cannot enter is filled."""
    height, width = mask.shape
    grown = dilate(jnp.pad(mask, radius), radius)
    return erode(grown, radius)[radius : radius + height, radius : radius + width]


def fill_holes(mask: jax.Array) -> jax.Array:
    """The mask with those parts of the background that do not reach the frame's edge by steps to 4-neighbours."""
    labels = components(~mask, 4)
    edge = np.ones(mask.shape, bool)
    edge[1:-1, 1:-1] = False
    open_ = component_sums(labels, (edge & ~mask).astype(jnp.int32)) > 0
    return mask | ~open_[labels]


def boundary(mask: jax.Array) -> jax.Array:
    """Pixels of the mask with a 4-neighbour outside it, or beyond the edge."""
    inside = functools.reduce(jnp.logical_and, (_shift(mask, *step, False) for step in _FOUR))
    return mask & ~inside
