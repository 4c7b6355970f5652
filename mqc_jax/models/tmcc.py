"""TMCC: motion-consistency calibration of the first mask (Section IV-B, equations 7-15). No parameters, fixed shapes.

What moves together with the target belongs to it, what stands still does not, and the sentence's surest pixels stay
whatever they do. Masks are bool [H, W], displacements pixels per frame; `docs/tmcc.md` shows the chain on an example.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from mqc_jax.config import CalibrationConfig
from mqc_jax.errors import UserError
from mqc_jax.models import regions
from mqc_jax.models.flow import grey, remove_background_motion, sample, stabilise, warp

DEFAULT = CalibrationConfig()

CUT = 128
"""Side of the square that a target is calibrated in, where it and all that may join it lie well inside."""

VERIFIED = 1 / 4
"""Share of a region's displacement that must be found again where it went beyond what is found where it did not go."""

_SPREAD_SIDE = 64


@struct.dataclass
class Calibration:
    """The calibrated mask, and every step on the way to it.

    Attributes:
      mask: bool [H, W], the result (15).
      anchor: bool [H, W], the semantic anchor.
      moving, expanded, refined: bool [H, W], eqs. 9, 10, 11; empty where the target is static.
      motion: bool [H, W], the motion-verified component (13), with "anchored" components.
      displacement: float32 [H, W], D of eq. 8 as far as there is evidence for it.
      window: int32 [], n* of eq. 7; the longest window tried where the target is static.
      is_static: bool [], no window showed motion: then the mask is the first mask after morphology.
      mean, std: float32 [], eq. 9; std after its floor.
      score: float32 [], the chosen component's score (12); 0 where there is none.
    """

    mask: jax.Array
    anchor: jax.Array
    moving: jax.Array
    expanded: jax.Array
    refined: jax.Array
    motion: jax.Array
    displacement: jax.Array
    window: jax.Array
    is_static: jax.Array
    mean: jax.Array
    std: jax.Array
    score: jax.Array


def _exchanges(count: int) -> list[tuple[int, int]]:
    """Compare-exchanges that sort so many values whatever they are (Knuth, TAOCP 5.2.2, algorithm M)."""
    top = 1 << max(count - 1, 0).bit_length() >> 1
    pairs, p = [], top
    while p:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(count - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs


def median_frame(frames: jax.Array) -> jax.Array:
    """Median over the first axis, float [T, H, W] -> [H, W], equal to `jnp.median`, whose sorting is far slower."""
    planes = list(frames)
    for low, high in _exchanges(len(planes)):
        a, b = planes[low], planes[high]
        planes[low], planes[high] = jnp.minimum(a, b), jnp.maximum(a, b)
    middle = len(planes) // 2
    return planes[middle] if len(planes) % 2 else (planes[middle - 1] + planes[middle]) / 2


def _differs(frames: jax.Array, reference: jax.Array, config: CalibrationConfig) -> jax.Array:
    """Where frames [n, H, W] differ from a reference [H, W] by more than noise: bool [n, H, W].

    The noise of a frame is the median difference of some 64 rows and columns: most of the frame is background, and to
    sort all pixels would cost more than everything else here.
    """
    difference = jnp.abs(frames - reference)
    stride = max(1, min(reference.shape) // _SPREAD_SIDE)
    spread = 1.4826 * jnp.median(difference[:, ::stride, ::stride], axis=(1, 2), keepdims=True)
    return difference > jnp.maximum(config.evidence_sigmas * spread, config.evidence_floor)


def _last_frames(count: int) -> int:
    """How many of so many frames are the last third; at least one."""
    return max(1, count // 3)


def motion_evidence(displacement: jax.Array, frames: jax.Array | None, config: CalibrationConfig) -> jax.Array:
    """Where the pixels themselves show motion: bool [n, H, W], for one window of n displacements.

    Args:
      displacement: float [n, H, W, 2].
      frames: grey [n + 1, H, W], 0 to 255; for "vacated" all that there are; may be None where the config asks for no
        evidence.
    """
    if config.evidence == "none":
        return jnp.ones(displacement.shape[:3], bool)
    frames = jnp.asarray(frames, jnp.float32)
    before, after = frames[:-1], frames[1:]
    if config.evidence == "background":
        return _differs(before, median_frame(frames), config)
    if config.evidence == "vacated":
        last = frames[-_last_frames(len(frames)) :]
        shown = _differs(frames[:1], median_frame(frames), config) & _differs(frames[:1], median_frame(last), config)
        return jnp.broadcast_to(shown, displacement.shape[:3])
    still = jnp.abs(after - before)
    moved = jnp.abs(jax.vmap(warp)(after, displacement) - before)
    return (still - moved) > config.evidence_floor


class MotionMaps(NamedTuple):
    """What all targets of a video share, for every window to try.

    Attributes:
      displacement: float32 [windows, H, W], D of eq. 8.
      verified: float32 [windows, H, W], the same where what moves is also found again at its new place, less what is
        found where it did not go: what eq. 7 asks if a region moves. With evidence other than "vacated" it is D.
    """

    displacement: jax.Array
    verified: jax.Array


def motion_maps(displacement: jax.Array, frames: jax.Array | None, config: CalibrationConfig) -> MotionMaps:
    """Eq. 8 for every window to try.

    Args:
      displacement: float [T, H, W, 2]; T at least 1.
      frames: grey [T + 1, H, W] or None.
    """
    windows = config.windows(displacement.shape[0])
    displacement, seen = displacement[: windows[-1]].astype(jnp.float32), None
    if frames is not None:
        frames = jnp.asarray(frames[: windows[-1] + 1], jnp.float32)
    if config.remove_background:
        displacement, frames, seen = _steady(displacement, frames)
    speed = jnp.sqrt(displacement[..., 0] ** 2 + displacement[..., 1] ** 2)
    maps, total, shown = [], jnp.zeros(speed.shape[1:]), None
    for t in range(windows[-1]):
        # Only the background's evidence depends on the window; the others' sums go on from window to window.
        if config.evidence == "background" or shown is None:
            n = next(n for n in windows if n > t) if config.evidence == "background" else windows[-1]
            if shown is None or len(shown) != n:
                shown = motion_evidence(displacement[:n], None if frames is None else frames[: n + 1], config)
                if seen is not None:
                    shown = shown & seen[:n] & seen[1 : n + 1]
                total = (speed[:t] * shown[:t]).sum(0)
        total = total + speed[t] * shown[t]
        if t + 1 in windows:
            maps.append(total / (t + 1))
    maps = jnp.stack(maps)
    if config.evidence != "vacated":
        return MotionMaps(maps, maps)
    return MotionMaps(maps, maps * found_again(displacement, frames, windows, config))


def found_again(
    displacement: jax.Array, frames: jax.Array, windows: tuple[int, ...], config: CalibrationConfig
) -> jax.Array:
    """Whether frame 0's pixels are seen again at the place that displacement has taken them to: float32 [H, W].

    1 where they are, 0 where they are not. That is asked at the end of every window, and one answer will do. What a
    cloud's edge passes over, or a change of light, moves and differs as a target does, but it is found nowhere; or by
    chance, or because what a cloud leaves of a deck looks alike. So the same is asked of the place as far on the other
    side, where nothing went, and what is found there is subtracted: a region's sum is 0 by chance.

    Args:
      displacement: float32 [T, H, W, 2].
      frames: float32 [T + 1, H, W].
      windows: lengths, at most T.
    """
    height, width = frames.shape[1:]
    part = np.s_[::2, ::2]  # a quarter of the pixels will do: following them is what costs here
    y, x = (jnp.asarray(axis[part], jnp.float32) for axis in np.mgrid[:height, :width])

    def follow(place: tuple[jax.Array, jax.Array], moved: jax.Array) -> tuple:
        step = sample(moved, *place)
        place = place[0] + step[..., 0], place[1] + step[..., 1]
        return place, place

    _, (xs, ys) = lax.scan(follow, (x, y), displacement[: windows[-1]])
    first = frames[0][part]

    def alike(frame: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
        changed, left = jnp.abs(frame[part] - first), jnp.abs(sample(frame, u, v) - first)
        return (changed > config.evidence_floor) & (left < changed / 2) & (left < 2 * config.evidence_floor)

    there = opposite = jnp.zeros(x.shape, bool)
    for n in windows:
        u, v = xs[n - 1], ys[n - 1]
        there |= alike(frames[n], u, v)
        opposite |= alike(frames[n], 2 * x - u, 2 * y - v)
    found = there.astype(jnp.float32) - opposite
    return jnp.repeat(jnp.repeat(found, 2, 0), 2, 1)[:height, :width]


def _steady(displacement: jax.Array, frames: jax.Array | None) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """Displacements and frames as a camera that moves with the background would see them, and where it would."""
    displacement, affine = remove_background_motion(displacement, frames=frames)
    # Both are read at the same places; nothing is displaced from the last frame on.
    planes = jnp.pad(displacement, ((0, 1), (0, 0), (0, 0), (0, 0)))
    if frames is None:
        steady, seen = stabilise(planes, affine)
        return steady[:-1], None, seen
    steady, seen = stabilise(jnp.concatenate([planes, frames[..., None]], -1), affine)
    return steady[:-1, ..., :2], steady[..., 2], seen


def _expand(moving: jax.Array, consistent: jax.Array, config: CalibrationConfig) -> jax.Array:
    """Eq. 10: consistent pixels in the neighbourhood join, once or until nothing joins any more."""
    join = lambda mask: mask | (regions.dilate(mask, config.neighbourhood) & consistent)  # noqa: E731
    first = join(moving)
    if config.expansion == "single":
        return first
    grow = lambda carry: (carry[1], join(carry[1]))  # noqa: E731
    return lax.while_loop(lambda carry: jnp.any(carry[0] != carry[1]), grow, (moving, first))[1]


def _verified(refined: jax.Array, anchor: jax.Array, config: CalibrationConfig) -> tuple[jax.Array, jax.Array]:
    """Eqs. 12 and 13: the component that fits the anchor best (the first in reading order of equals), and its score.

    With "anchored" the components that share pixels with the anchor join it.
    """
    labels = regions.components(refined)
    size = regions.component_sums(labels, refined.astype(jnp.int32))
    shared = regions.component_sums(labels, (refined & anchor).astype(jnp.int32))
    to_anchor = regions.squared_distance(regions.boundary(anchor))
    far = jnp.iinfo(jnp.int32).max
    # A component's boundary: of its own pixels, those beside a pixel of another kind. Components do not touch.
    apart = regions.component_minima(labels, jnp.where(regions.boundary(refined), to_anchor, far))
    overlap = shared / jnp.maximum(jnp.minimum(size, anchor.sum()), 1)
    proximity = jnp.exp(-jnp.sqrt(apart.astype(jnp.float32)) / config.sigma_s)
    exists = (size > 0).at[-1].set(False)
    score = jnp.where(exists, overlap + config.lam * proximity, -1.0)
    best = jnp.argmax(score)
    found = exists[best]
    chosen = labels == best
    if config.selection == "anchored":
        chosen |= shared[labels] > 0
    return refined & chosen & found, jnp.where(found, score[best], 0.0)


def morphology(mask: jax.Array, config: CalibrationConfig) -> jax.Array:
    """Phi of eq. 15: closing, then holes are filled."""
    return regions.fill_holes(regions.close(mask, config.closing))


def _calibrate_whole(
    probability: jax.Array, maps: MotionMaps, windows: tuple[int, ...], config: CalibrationConfig
) -> Calibration:
    """`calibrate_on`, on all the pixels that are given."""
    first = probability > 0.5
    sure = probability > config.tau_sem
    anchor = jnp.where(sure.any(), sure, first)

    labels = regions.components(first)
    size = regions.component_sums(labels, first.astype(jnp.float32)).at[-1].set(0.0)
    displaced, verified = jax.tree.map(jax.vmap(lambda d: regions.component_sums(labels, d)), maps)
    moves = (verified > config.tau_motion * size) & (verified > VERIFIED * displaced) & (size > 0)
    moves = moves.any(1)  # [windows]
    is_static = ~moves.any()
    chosen = jnp.where(is_static, len(windows) - 1, jnp.argmax(moves))
    motion_map = maps.displacement[chosen]

    moving = first & (motion_map > config.tau_motion) & ~is_static
    number = jnp.maximum(moving.sum(), 1)
    mean = jnp.where(moving, motion_map, 0.0).sum() / number
    variance = jnp.where(moving, (motion_map - mean) ** 2, 0.0).sum() / number
    std = jnp.maximum(jnp.sqrt(variance), config.sigma_floor)
    deviation = jnp.abs(motion_map - mean)
    consistent = deviation < config.alpha * std
    if config.evidence != "none":
        # Where the moving part is uneven, standing still would count as moving alike, and expansion would run through
        # all the noise that evidence lets pass.
        consistent &= motion_map > config.tau_motion
    expanded = _expand(moving, consistent, config)
    refined = expanded & ~(deviation > config.beta * std)
    motion, score = _verified(refined, anchor, config)
    union = anchor | motion
    if config.rim:
        union |= first & regions.dilate(union, config.rim)
    union = jnp.where(is_static, first, union)
    return Calibration(
        mask=morphology(union, config),
        anchor=anchor,
        moving=moving,
        expanded=expanded,
        refined=refined,
        motion=motion,
        displacement=motion_map,
        window=jnp.asarray(windows, jnp.int32)[chosen],
        is_static=is_static,
        mean=mean,
        std=std,
        score=score,
    )


def calibrate_on(
    probability: jax.Array, maps: MotionMaps, windows: tuple[int, ...], config: CalibrationConfig
) -> Calibration:
    """Equations 7 and 9 to 15 for one target. For several use `lax.map`: under vmap the fall-back below always runs.

    A small target is calibrated in a square of `CUT` pixels around it, with the same result as in the whole frame: in
    a frame of 480x480 that is 14 times fewer pixels. One that does not fit, or grows towards the square's border, is
    done again in the whole frame.

    Args:
      probability: float [H, W] in [0, 1], the first mask.
      maps: from `motion_maps`.
      windows: their lengths, from `config.windows`.
    """
    shape = probability.shape
    if min(shape) <= CUT:
        return _calibrate_whole(probability, maps, windows, config)
    claimed = (probability > 0.5) | (probability > config.tau_sem)
    corner = [_cut_start(claimed.any(1 - axis), shape[axis]) for axis in (0, 1)]

    def cut(image: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (0,) * (image.ndim - 2) + tuple(corner), (*image.shape[:-2], CUT, CUT))

    def place(part: jax.Array) -> jax.Array:
        return lax.dynamic_update_slice(jnp.zeros(shape, part.dtype), part, corner) if part.ndim == 2 else part

    part = _calibrate_whole(cut(probability), jax.tree.map(cut, maps), windows, config)
    # Beyond this border nothing can have joined, and closing sees what it would see in the whole frame. Where the
    # square ends with the frame there is nothing beyond.
    room = max(config.neighbourhood, 2 * config.closing + 1) + 1
    index = jnp.arange(CUT)
    inner = [
        ((index >= room) | (start == 0)) & ((index < CUT - room) | (start == size - CUT))
        for start, size in zip(corner, shape, strict=True)
    ]
    reach = (cut(claimed) | part.expanded) & ~(inner[0][:, None] & inner[1])
    fits = (claimed.sum() == cut(claimed).sum()) & ~reach.any()
    chosen = jnp.argmax(jnp.asarray(windows, jnp.int32) == part.window)
    found = jax.tree.map(place, part).replace(displacement=maps.displacement[chosen])
    return lax.cond(fits, lambda: found, lambda: _calibrate_whole(probability, maps, windows, config))


def _cut_start(used: jax.Array, size: int) -> jax.Array:
    """Where a cut of `CUT` pixels begins that has the used rows, bool [size], in its middle."""
    first, last = jnp.argmax(used), size - 1 - jnp.argmax(used[::-1])
    return jnp.clip((first + last + 1 - CUT) // 2, 0, size - CUT)


@functools.partial(jax.jit, static_argnames="config")
def _calibrate(
    probability: jax.Array, displacement: jax.Array, frames: jax.Array | None, config: CalibrationConfig
) -> Calibration:
    maps = motion_maps(displacement, frames, config)
    return calibrate_on(probability, maps, config.windows(displacement.shape[0]), config)


def calibrate(
    probability: np.ndarray | jax.Array,
    displacement: np.ndarray | jax.Array,
    config: CalibrationConfig = DEFAULT,
    frames: np.ndarray | jax.Array | None = None,
) -> Calibration:
    """Calibrates one target's first mask by how the pixels move.

    Args:
      probability: float [H, W] in [0, 1].
      displacement: float [T, H, W, 2], pixels per frame, T at least 1; what lies beyond `config.n_max` is not read.
      config: parameters and switches.
      frames: [T + 1, H, W] grey or [T + 1, H, W, 3] RGB, 0 to 255; needed unless `config.evidence` is "none", and of
        use to `config.remove_background`, which with them tells land from water.

    Raises:
      UserError: arrays whose shapes do not fit each other, or frames missing.
    """
    shape, moved = np.shape(probability), np.shape(displacement)
    if len(shape) != 2 or len(moved) != 4 or moved[1:] != (*shape, 2) or moved[0] < 1:
        raise UserError(
            f"probability {list(shape)} and displacement {list(moved)} do not fit; give [H, W] and [T, H, W, 2], T >= 1"
        )
    length = min(moved[0], config.n_max)
    if config.evidence == "none" and not config.remove_background:
        frames = None  # nothing would look at them
    if frames is None and config.evidence != "none":
        raise UserError(
            f'evidence={config.evidence!r} looks at the frames; give frames=[T + 1, H, W], or evidence="none"'
        )
    if frames is not None:
        seen = np.shape(frames)
        if seen[:3] != (moved[0] + 1, *shape) or seen[3:] not in ((), (3,)):
            raise UserError(
                f"frames {list(seen)} must be [{moved[0] + 1}, {shape[0]}, {shape[1]}] grey, or with 3 channels"
            )
        frames = jnp.asarray(frames)[: length + 1]
        frames = grey(frames) if frames.ndim == 4 else frames.astype(jnp.float32)
    return _calibrate(jnp.asarray(probability, jnp.float32), jnp.asarray(displacement)[:length], frames, config)
