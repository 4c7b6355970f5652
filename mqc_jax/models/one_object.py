"""A sentence means one object: of a mask in pieces, those are kept that can be that object, where it is expected.

Look-alikes beside a target come into its mask as pieces of their own. Once they are remembered there, they are the
target, and the memory follows whichever stays. Nothing here is learned. A place is (x, y, length): the object's middle
as shares of the picture's sides, and its box's diagonal as a share of the picture's longer side; length 0 where nothing
is known.
"""

import jax
import jax.numpy as jnp

from mqc_jax.models import regions

UNKNOWN = (0.5, 0.5, 0.0)
"""Of an object that may be anywhere."""

REMOVED = -10.0
"""Logit of a piece that is another object, as outside a given mask."""

_WHOLE = 0.75  # of the known length, from which on the main piece is the whole object
_REACH = 0.6  # lengths from the expected middle within which the other pieces of one that is cut lie
_NEAR = 0.35  # lengths away from the expected place at which a piece counts 1/e of one that is there
_CELLS = 2.0  # of the grid, added to both
_GROW, _SHRINK = 0.2, 0.02  # the share of what is seen in the running length: what a cloud hides is not gone


def unknown(targets: int) -> jax.Array:
    """Places [N, 3] of which nothing is known."""
    return jnp.tile(jnp.array(UNKNOWN, jnp.float32), (targets, 1))


def keep(logits: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Leaves one object in each mask.

    The main piece has the most probability, which counts the less the farther it lies from the expected place. Other
    pieces stay that lie entirely in the circle around its box, or, where the main piece is but a part of the expected
    length, as behind a cloud's edge, in a circle of that length around the expected middle.

    Args:
      logits: float32 [N, h, w].
      place: float32 [N, 3], where each is expected.

    Returns:
      The logits, `REMOVED` where another object was, and the places seen; one whose mask is empty stays as it was.
    """
    return jax.vmap(_keep)(logits, place)


def seen(mask: jax.Array, place: jax.Array) -> jax.Array:
    """The places [N, 3] of masks bool [N, h, w]; `place` where one is empty. Lengths are running means."""
    return jax.vmap(_seen)(mask, place)


def _keep(logits: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
    mask = logits > 0
    height, width = mask.shape
    side = max(height, width)
    y, x = (axis + 0.5 for axis in jnp.indices(mask.shape, dtype=jnp.float32))
    labels = regions.components(mask)
    total = lambda values: regions.component_sums(labels, values * mask)  # noqa: E731
    cells = jnp.maximum(total(jnp.ones_like(logits)), 1.0)
    column, row = total(x) / cells, total(y) / cells  # [h * w + 1], at each piece's label

    known = place[2] > 0
    away = jnp.hypot(column - place[0] * width, row - place[1] * height)
    near = jnp.exp(-away / (_NEAR * place[2] * side + _CELLS))
    main = jnp.argmax(total(jax.nn.sigmoid(logits)) * jnp.where(known, near, 1.0))

    own, length = _length(labels == main) * side, place[2] * side
    outside = jnp.hypot(x - column[main], y - row[main]) > 0.5 * own + _CELLS
    parted = known & (own < _WHOLE * length)
    outside &= ~parted | (jnp.hypot(x - place[0] * width, y - place[1] * height) > _REACH * length + _CELLS)
    stays = (total(outside.astype(jnp.float32)) == 0)[labels] | (labels == main)
    kept = mask & stays
    return jnp.where(mask & ~kept, REMOVED, logits), _seen(kept, place)


def _box(mask: jax.Array) -> tuple[jax.Array, ...]:
    """x0, y0, x1, y1, the latter two exclusive, of a mask with at least one pixel."""
    columns, rows = mask.any(0), mask.any(1)
    first = lambda line: jnp.argmax(line)  # noqa: E731
    last = lambda line: line.size - jnp.argmax(line[::-1])  # noqa: E731
    return first(columns), first(rows), last(columns), last(rows)


def _length(mask: jax.Array) -> jax.Array:
    """The diagonal of a mask's box as a share of the picture's longer side."""
    x0, y0, x1, y1 = _box(mask)
    return jnp.hypot(1.0 * (x1 - x0), 1.0 * (y1 - y0)) / max(mask.shape)


def _seen(mask: jax.Array, place: jax.Array) -> jax.Array:
    x0, y0, x1, y1 = _box(mask)
    length = _length(mask)
    share = jnp.where(length > place[2], _GROW, _SHRINK)
    length = jnp.where(place[2] > 0, place[2] + share * (length - place[2]), length)
    here = jnp.stack([(x0 + x1) / 2 / mask.shape[1], (y0 + y1) / 2 / mask.shape[0], length])
    return jnp.where(mask.any(), here, place)
