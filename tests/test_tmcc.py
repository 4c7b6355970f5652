"""The calibration equals a transcription of equations 7 to 15 written with NumPy and SciPy alone."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import mqc_jax
from mqc_jax import CalibrationConfig, UserError, calibrate
from mqc_jax.models import tmcc
from mqc_jax.models.flow import dominant_motion, flow

SHAPE, LENGTH = (32, 40), 6
EIGHT = np.ones((3, 3))
MOTION = jax.jit(lambda displacement, frames: dominant_motion(displacement, frames=frames))
LITERAL = CalibrationConfig(
    n_start=2,
    n_step=2,
    n_max=6,
    neighbourhood=2,
    closing=2,
    evidence="none",
    expansion="single",
    selection="best",
)
CONFIGS = {
    "the paper's letter": LITERAL,
    "geodesic": dataclasses.replace(LITERAL, expansion="geodesic", n_start=1, n_step=1, n_max=5),
    "background": dataclasses.replace(LITERAL, evidence="background", expansion="geodesic", selection="anchored"),
    "background, single": dataclasses.replace(LITERAL, evidence="background", closing=0, neighbourhood=1),
    "vacated": dataclasses.replace(LITERAL, evidence="vacated", expansion="geodesic"),
    "vacated, anchored": dataclasses.replace(LITERAL, evidence="vacated", expansion="geodesic", selection="anchored"),
    "vacated, with a rim": dataclasses.replace(LITERAL, evidence="vacated", selection="anchored", rim=2),
    "residual": dataclasses.replace(LITERAL, evidence="residual", expansion="geodesic", alpha=1.0, beta=1.5),
}


def disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


def boundary(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


def differs(frames: np.ndarray, reference: np.ndarray, config: CalibrationConfig) -> np.ndarray:
    difference, stride = np.abs(frames - reference), max(1, min(reference.shape) // 64)
    spread = np.array([1.4826 * np.median(d[::stride, ::stride]) for d in difference])[:, None, None]
    return difference > np.maximum(config.evidence_sigmas * spread, config.evidence_floor)


def steadied(displacement: np.ndarray, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Less the background's motion (whose fit has tests of its own), read where frame 0's pixels have gone with it."""
    height, width = frames.shape[1:]
    y, x = np.mgrid[:height, :width].astype(np.float64)
    place, rows, pictures, seen = np.eye(3), [], [], []
    for t, frame in enumerate(frames):
        u, v = (place[k, 0] * x + place[k, 1] * y + place[k, 2] for k in range(2))
        seen.append((u >= 0) & (u <= width - 1) & (v >= 0) & (v <= height - 1))
        read = lambda image: ndimage.map_coordinates(image, [v, u], order=1, mode="nearest")  # noqa: E731, B023
        pictures.append(read(frame.astype(np.float64)))
        if t < len(displacement):
            affine = np.asarray(MOTION(displacement[t : t + 1], frames[t : t + 2]))[0].astype(np.float64)
            field = displacement[t].astype(np.float64)
            own = np.stack([affine[k, 0] * x + affine[k, 1] * y + affine[k, 2] for k in range(2)], -1)
            rows.append(np.stack([read((field - own)[..., k]) for k in range(2)], -1))
            place = (np.vstack([affine, [0, 0, 0]]) + np.eye(3)) @ place
    return np.array(rows), np.array(pictures), np.array(seen)


def evidence(displacement: np.ndarray, frames: np.ndarray, config: CalibrationConfig) -> np.ndarray:
    if config.evidence == "none":
        return np.ones(displacement.shape[:3], bool)
    if config.evidence in ("background", "vacated"):
        if config.evidence == "background":
            return differs(frames[:-1], np.median(frames, 0), config)
        last = frames[-max(1, len(frames) // 3) :]
        gone = differs(frames[:1], np.median(frames, 0), config) & differs(frames[:1], np.median(last, 0), config)
        return np.repeat(gone, len(displacement), 0)
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    moved = [
        ndimage.map_coordinates(after, [y + d[..., 1], x + d[..., 0]], order=1, mode="nearest")
        for after, d in zip(frames[1:], displacement, strict=True)
    ]
    return np.abs(frames[1:] - frames[:-1]) - np.abs(np.array(moved) - frames[:-1]) > config.evidence_floor


def refound(displacement: np.ndarray, frames: np.ndarray, windows: range, c: CalibrationConfig) -> np.ndarray:
    """Whether what frame 0 shows is seen where displacement took it, at the end of any window, less whether it is seen
    as far on the other side; every second pixel."""
    frames = frames.astype(np.float64)
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]][:, ::2, ::2].astype(np.float64)
    read = lambda image, v, u: ndimage.map_coordinates(image, [v, u], order=1, mode="nearest")  # noqa: E731
    v, u, found = y, x, np.zeros((2, *y.shape), bool)
    for t, field in enumerate(displacement[: windows[-1]], 1):
        v, u = v + read(field[..., 1].astype(np.float64), v, u), u + read(field[..., 0].astype(np.float64), v, u)
        if t in windows:
            changed = np.abs(frames[t][::2, ::2] - frames[0][::2, ::2])
            for k, place in enumerate([(v, u), (2 * y - v, 2 * x - u)]):
                left = np.abs(read(frames[t], *place) - frames[0][::2, ::2])
                found[k] |= (changed > c.evidence_floor) & (left < changed / 2) & (left < 2 * c.evidence_floor)
    return np.kron(found[0].astype(float) - found[1], np.ones((2, 2)))[: frames.shape[1], : frames.shape[2]]


def transcription(probability, displacement, frames, c: CalibrationConfig, steady: tuple | None = None) -> dict:
    """Equations 7 to 15, one after the other, as they stand. `steady` may be what `steadied` returned before."""
    r0 = probability > 0.5
    anchor = probability > c.tau_sem
    if not anchor.any():
        anchor = r0
    regions, number = ndimage.label(r0, EIGHT)
    static = True
    last = range(c.n_start, min(c.n_max, len(displacement)) + 1, c.n_step)[-1]
    if c.remove_background:
        displacement, frames, seen = steady or steadied(displacement[:last], frames[: last + 1])
    windows = range(c.n_start, last + 1, c.n_step)
    sure = refound(displacement, frames, windows, c) if c.evidence == "vacated" else True
    for n in windows:  # eq. 7
        length = np.sqrt((displacement[:n].astype(np.float64) ** 2).sum(-1))
        looked_at = frames[: last + 1] if c.evidence == "vacated" else frames[: n + 1]
        shown = evidence(displacement[:n], looked_at, c)
        if c.remove_background:
            shown = shown & seen[:n] & seen[1 : n + 1]
        d = (length * shown).sum(0) / n  # eq. 8
        if number:
            shown, found = (np.atleast_1d(ndimage.mean(v, regions, range(1, number + 1))) for v in (d, d * sure))
            if ((found > c.tau_motion) & (found > shown / 4)).any():
                static = False
                break
    phi = lambda m: ndimage.binary_fill_holes(close(m, c.closing))  # noqa: E731
    if static:
        return {"mask": phi(r0), "window": n, "is_static": True, "score": 0.0}
    moving = r0 & (d > c.tau_motion)
    mu, sigma = d[moving].mean(), max(d[moving].std(), c.sigma_floor)  # eq. 9
    consistent = np.abs(d - mu) < c.alpha * sigma
    if c.evidence != "none":
        consistent &= d > c.tau_motion
    expanded = moving
    while True:  # eq. 10
        grown = expanded | (ndimage.binary_dilation(expanded, disk(c.neighbourhood)) & consistent)
        done = (grown == expanded).all()
        expanded = grown
        if done or c.expansion == "single":
            break
    refined = expanded & ~(np.abs(d - mu) > c.beta * sigma)  # eq. 11
    parts, count = ndimage.label(refined, EIGHT)
    best, best_score = np.zeros_like(r0), -1.0
    to_anchor = ndimage.distance_transform_edt(~boundary(anchor))
    for k in range(1, count + 1):  # eqs. 12 and 13
        part = parts == k
        score = (part & anchor).sum() / min(part.sum(), anchor.sum())
        score += c.lam * np.exp(-to_anchor[boundary(part)].min() / c.sigma_s)
        if score > best_score + 1e-6:
            best, best_score = part, score
    if c.selection == "anchored":
        for k in range(1, count + 1):
            if (anchor & (parts == k)).any():
                best = best | (parts == k)
    kept = anchor | best  # eq. 14
    if c.rim:
        kept = kept | (r0 & ndimage.binary_dilation(kept, disk(c.rim)))
    return {
        "mask": phi(kept),  # eq. 15
        "anchor": anchor,
        "moving": moving,
        "expanded": expanded,
        "refined": refined,
        "motion": best,
        "window": n,
        "is_static": False,
        "mean": mu,
        "std": sigma,
        "score": max(best_score, 0.0),
    }


def close(mask: np.ndarray, radius: int) -> np.ndarray:
    room = 2 * radius + 1
    closed = ndimage.binary_closing(np.pad(mask, room), disk(radius))
    return closed[room:-room, room:-room]


def blob(rng: np.random.Generator, level: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.random(SHAPE), rng.uniform(1, 3))
    return noise > np.quantile(noise, level)


def random_case(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A first mask that is partly wrong, a motion that covers part of it and something else, and frames to match."""
    target, other = blob(rng, rng.uniform(0.7, 0.97)), blob(rng, rng.uniform(0.8, 0.98))
    if rng.random() < 0.3:
        other |= target
    certain = ndimage.gaussian_filter((target ^ (rng.random(SHAPE) < 0.05)).astype(float), rng.uniform(0.3, 1.5))
    probability = np.clip(certain * rng.uniform(0.5, 1.3) + rng.normal(0, 0.05, SHAPE), 0, 1)
    speed = ndimage.gaussian_filter((blob(rng, 0.85) | other).astype(float), 1.0) * rng.uniform(0.5, 3.0)
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    begins = rng.integers(0, LENGTH + 1)
    displacement = rng.normal(0, 0.02, (LENGTH, *SHAPE, 2))
    displacement[begins:] += speed[..., None] * direction
    frames = rng.normal(100, 1, (LENGTH + 1, *SHAPE))
    if rng.random() < 0.3:  # something appears over rough ground and goes its own way
        frames += 20 * rng.random(SHAPE)
        for t in range(begins, LENGTH + 1):
            frames[t] += 60 * np.roll(other, t, axis=1)
    else:  # it goes where displacement says
        pace = speed.max() * direction[::-1]
        for t in range(LENGTH + 1):
            frames[t] += 60 * ndimage.shift(other.astype(float), pace * max(t - begins, 0), order=1)
    return probability.astype(np.float32), displacement.astype(np.float32), frames.astype(np.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_thousand_random_cases_equal_the_transcription(name):
    config, rng = CONFIGS[name], np.random.default_rng(len(name))
    moved = 0
    for _ in range(200):  # seven configs of two hundred
        case = random_case(rng)
        ours, plain = calibrate(case[0], case[1], config, frames=case[2]), transcription(*case, config)
        assert bool(ours.is_static) == plain["is_static"]
        np.testing.assert_array_equal(ours.mask, plain["mask"])
        assert int(ours.window) == plain["window"]
        np.testing.assert_allclose(ours.score, plain["score"], atol=1e-5)
        if not plain["is_static"]:
            moved += 1
            for field in ("anchor", "moving", "expanded", "refined", "motion"):
                np.testing.assert_array_equal(getattr(ours, field), plain[field], err_msg=field)
            np.testing.assert_allclose([ours.mean, ours.std], [plain["mean"], plain["std"]], rtol=1e-4)
    assert 20 < moved < 200  # both outcomes occur


def scene(speed: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A textured target of 12x16 pixels that moves right over still ground, beside one like it that does not."""
    rng = np.random.default_rng(seed)
    height, width = 64, 96
    ground = ndimage.gaussian_filter(rng.normal(90, 25, (height, width)), 1)
    patch = 170 + ndimage.gaussian_filter(rng.normal(0, 60, (12, 16)), 0.7)
    frames = np.repeat(ground[None], 9, 0)
    for t in range(9):
        x = 20 + round(speed * t)
        frames[t, 26:38, x : x + 16] = patch
        frames[t, 26:38, 64:80] = patch
    truth = np.zeros((height, width), bool)
    truth[26:38, 20:36] = True
    return np.clip(frames + rng.normal(0, 1, frames.shape), 0, 255).astype(np.float32), truth


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def test_a_damaged_mask_is_repaired_where_the_target_moves():
    frames, truth = scene(1.0)
    damaged = truth.copy()
    damaged[:, 29:] = False  # its right half is missing
    damaged[26:38, 64:80] = True  # and the parked one was taken for it
    probability = np.where(damaged, 0.7, 0.1).astype(np.float32)
    probability[30:34, 22:27] = 0.95
    found = calibrate(probability, flow(frames), CalibrationConfig(n_max=8), frames=frames)
    assert not found.is_static
    assert iou(np.asarray(found.mask), truth) > 0.7 > 0.45 > iou(damaged, truth)
    assert not np.asarray(found.mask)[:, 60:].any()


def test_a_static_target_keeps_its_first_mask_and_says_so():
    frames, truth = scene(0.0)
    probability = np.where(truth, 0.9, 0.1).astype(np.float32)
    found = calibrate(probability, flow(frames), CalibrationConfig(n_max=8), frames=frames)
    assert bool(found.is_static)
    np.testing.assert_array_equal(found.mask, truth)
    assert not found.moving.any()


def test_what_looks_alike_on_either_side_is_not_found_again():
    """A cloud covers the middle of an even deck that stands, and flow carries the middle off along the deck."""
    config, rng = CalibrationConfig(n_max=8), np.random.default_rng(3)
    truth = np.zeros((64, 96), bool)
    truth[24:40, 16:70] = True
    middle = np.s_[20:44, 42:54]
    frames = np.repeat(np.where(truth, 150.0, 90.0)[None], 9, 0) + rng.normal(0, 0.5, (9, *truth.shape))
    frames[1:, *middle] += 60
    displacement = np.zeros((8, *truth.shape, 2), np.float32)
    displacement[:, 20:44, :, 0] = 3.0
    found = calibrate(np.where(truth, 0.9, 0.1), displacement, config, frames=frames)
    assert bool(found.is_static)
    np.testing.assert_array_equal(found.mask, truth)
    shown = tmcc.motion_evidence(jnp.asarray(displacement), jnp.asarray(frames), config)
    assert (3.0 * np.asarray(shown)).mean(0)[truth].mean() > config.tau_motion  # by eq. 7 alone it would move
    moved = [frames[0]]  # and the same deck, if it did go there
    for t in range(1, 9):
        moved.append(np.where(np.roll(truth, 3 * t, 1), 150.0, 90.0))
    found = calibrate(np.where(truth, 0.9, 0.1), displacement, config, frames=np.array(moved))
    assert not bool(found.is_static)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_and_a_full_first_mask_stay(value):
    frames, _ = scene(1.0)
    found = calibrate(np.full(frames.shape[1:], value, np.float32), flow(frames), frames=frames)
    assert np.asarray(found.mask).mean() == value
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_several_targets_equal_one_by_one():
    rng, config = np.random.default_rng(5), CONFIGS["background"]
    cases = [random_case(rng) for _ in range(3)]
    maps = tmcc.motion_maps(jnp.asarray(cases[0][1]), jnp.asarray(cases[0][2]), config)
    windows = config.windows(LENGTH)
    together = jax.vmap(lambda p: tmcc.calibrate_on(p, maps, windows, config))(np.stack([c[0] for c in cases]))
    for n, case in enumerate(cases):
        alone = calibrate(case[0], cases[0][1], config, frames=cases[0][2])
        np.testing.assert_array_equal(together.mask[n], alone.mask)
        assert together.window[n] == alone.window


def grown(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random case inside a larger still frame, anywhere, also at its border."""
    probability, displacement, frames = random_case(rng)
    top, left = rng.integers(0, 60 - SHAPE[0] + 1), rng.integers(0, 72 - SHAPE[1] + 1)
    place = ((top, 60 - SHAPE[0] - top), (left, 72 - SHAPE[1] - left))
    fewer = np.zeros_like(probability)  # a small first mask, or one that the square cannot hold
    rows, columns = sorted(rng.integers(0, SHAPE[0] + 1, 2)), sorted(rng.integers(0, SHAPE[1] + 1, 2))
    fewer[slice(*rows), slice(*columns)] = probability[slice(*rows), slice(*columns)]
    return (
        np.pad(fewer, place),
        np.pad(displacement, ((0, 0), *place, (0, 0))),
        np.pad(frames, ((0, 0), *place), constant_values=100),
    )


@pytest.mark.parametrize("name", ["the paper's letter", "geodesic", "vacated, anchored"])
def test_a_target_that_is_cut_out_equals_the_whole_frame(name, monkeypatch):
    config, rng = CONFIGS[name], np.random.default_rng(8)
    cases = [grown(rng) for _ in range(120)]
    windows = config.windows(LENGTH)
    maps_of = jax.jit(lambda d, f: tmcc.motion_maps(d, f, config))
    maps = [maps_of(d, f) for _, d, f in cases]
    whole = jax.jit(lambda p, m: tmcc._calibrate_whole(p, m, windows, config))
    expected = [whole(case[0], m) for case, m in zip(cases, maps, strict=True)]
    monkeypatch.setattr(tmcc, "CUT", 40)
    cut = jax.jit(lambda p, m: tmcc.calibrate_on(p, m, windows, config))
    for case, m, plain in zip(cases, maps, expected, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), cut(case[0], m), plain)


def test_one_compilation_serves_every_target_of_a_size():
    rng, config = np.random.default_rng(6), CONFIGS["geodesic"]
    case = random_case(rng)
    calibrate(case[0], case[1], config)
    before = tmcc._calibrate._cache_size()
    for _ in range(3):
        case = random_case(rng)
        calibrate(case[0], case[1], config)
    assert tmcc._calibrate._cache_size() == before


def test_a_video_shorter_than_the_window_is_judged_by_what_there_is():
    assert CalibrationConfig(n_start=4, n_step=4, n_max=16).windows(3) == (3,)
    assert CalibrationConfig(n_start=4, n_step=4, n_max=16).windows(20) == (4, 8, 12, 16)
    frames, truth = scene(1.0)
    probability = np.where(truth, 0.9, 0.1).astype(np.float32)
    found = calibrate(probability, flow(frames[:3]), frames=frames[:3])
    assert int(found.window) == 2
    assert not found.is_static


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_exports_without_a_callback(platform):
    shapes = [jax.ShapeDtypeStruct(s, np.float32) for s in (SHAPE, (LENGTH, *SHAPE, 2), (LENGTH + 1, *SHAPE))]
    run = jax.jit(lambda p, d, f: tmcc._calibrate(p, d, f, CONFIGS["background"]))
    exported = jax.export.export(run, platforms=[platform])(*shapes)
    assert not re.search(r"custom_call @\w*callback", exported.mlir_module())


def test_what_does_not_fit_is_refused():
    rng = np.random.default_rng(0)
    probability, displacement, frames = random_case(rng)
    with pytest.raises(UserError, match="do not fit"):
        calibrate(probability[:-1], displacement)
    with pytest.raises(UserError, match="looks at the frames"):
        calibrate(probability, displacement)
    with pytest.raises(UserError, match=r"must be .7, 32, 40. grey"):
        calibrate(probability, displacement, frames=frames[:-1])
    with pytest.raises(UserError, match=r"beta=1.0 must be greater than alpha=2.0"):
        CalibrationConfig(beta=1.0)
    with pytest.raises(UserError, match="did you mean 'background'"):
        CalibrationConfig(evidence="backgrund")
    assert mqc_jax.Calibration is tmcc.Calibration


def test_a_shaking_platform_is_steadied():
    """Everything shifts by the same few pixels a frame; the parked target is static only once that is removed."""
    frames, truth = scene(1.0)
    still, _ = scene(0.0)
    rng = np.random.default_rng(3)
    shake = np.cumsum(rng.integers(-2, 3, (len(frames), 2)), 0)
    shake -= shake[0]
    shaken, parked = (
        np.stack([ndimage.shift(f, (dy, dx), order=1, mode="nearest") for f, (dy, dx) in zip(v, shake, strict=True)])
        for v in (frames, still)
    )
    probability = np.where(truth, 0.9, 0.1).astype(np.float32)
    steady = CalibrationConfig(n_max=8, remove_background=True)
    assert bool(calibrate(probability, flow(parked), steady, frames=parked).is_static)
    assert not calibrate(probability, flow(parked), CalibrationConfig(n_max=8), frames=parked).is_static
    found = calibrate(probability, flow(shaken), steady, frames=shaken)
    assert not found.is_static
    assert iou(np.asarray(found.mask), truth) > 0.6


@pytest.mark.parametrize("count", range(1, 19))
def test_the_median_frame_is_the_median(count):
    frames = np.random.default_rng(count).normal(size=(count, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(tmcc.median_frame(jnp.asarray(frames)), np.median(frames, 0))
