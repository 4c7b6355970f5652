"""Dense displacement against OpenCV's Farneback and against known motion; the background's motion; warping."""

import itertools
import os
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy import ndimage

from mqc_jax.errors import UserError
from mqc_jax.models import flow as flow_module
from mqc_jax.models.farneback import FarnebackConfig
from mqc_jax.models.flow import (
    BackgroundConfig,
    affine_displacement,
    dominant_motion,
    flow,
    grey,
    remove_background_motion,
    stabilise,
    warp,
)

DATA = Path(os.environ.get("MQC_JAX_TEST_DATA", ""))
real = pytest.mark.skipif(
    not (DATA / "aerial_aphill").is_dir(),
    reason="real test video is not here; set MQC_JAX_TEST_DATA to the folder with aerial_aphill/ and vos_bike/",
)
SIDE = 96
CONFIGS = (
    FarnebackConfig(inclusive=False),
    FarnebackConfig(winsize=15, gaussian=True, iterations=3, poly_n=7, poly_sigma=1.5, inclusive=False),
    FarnebackConfig(pyr_scale=0.6, levels=2, winsize=8, iterations=1, inclusive=False),
)


def opencv(frames: np.ndarray, config: FarnebackConfig) -> np.ndarray:
    flags = cv2.OPTFLOW_FARNEBACK_GAUSSIAN if config.gaussian else 0
    arguments = (config.pyr_scale, config.levels, config.winsize, config.iterations, config.poly_n, config.poly_sigma)
    return np.stack(
        [
            cv2.calcOpticalFlowFarneback(first, second, None, *arguments, flags)
            for first, second in itertools.pairwise(frames)
        ]
    )


def error(displacement, truth) -> np.ndarray:
    """End-point error, pixels."""
    return np.linalg.norm(np.asarray(displacement) - truth, axis=-1)


def texture(side: int, seed: int = 0, sigma: float = 2.0) -> np.ndarray:
    """A smooth random image, 0 to 255."""
    image = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), sigma, mode="wrap")
    return (255 * (image - image.min()) / np.ptp(image)).astype(np.float32)


def moved(image: np.ndarray, affine: np.ndarray, steps: int) -> np.ndarray:
    """uint8 [steps + 1, H, W]: in each next frame what was at p is at p + A (p, 1)."""
    height, width = image.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    step = np.eye(3)
    step[:2] += affine
    place, frames = np.eye(3), []
    for _ in range(steps + 1):
        x, y, _ = np.einsum("ij,jhw->ihw", place, np.stack([columns, rows, np.ones_like(rows)]))
        sampled = ndimage.map_coordinates(image, [y, x], order=3, mode="grid-wrap")
        frames.append(np.rint(sampled).clip(0, 255).astype(np.uint8))
        place = place @ np.linalg.inv(step)
    return np.stack(frames)


def motions() -> dict[str, np.ndarray]:
    centre = (SIDE - 1) / 2
    turn = np.array([[0, -0.02], [0.02, 0]])
    zoom = np.array([[0.015, 0], [0, 0.015]])
    linear = lambda a: np.concatenate([a, (-a @ [centre, centre])[:, None]], axis=1)  # noqa: E731
    shift = lambda x, y: np.array([[0, 0, x], [0, 0, y]], float)  # noqa: E731
    return {
        "half a pixel": shift(0.5, 0.25),
        "pixels": shift(3, -2),
        "far": shift(6.5, 4.25),
        "turn": linear(turn),
        "zoom": linear(zoom),
    }


@pytest.mark.parametrize("config", CONFIGS, ids=["box", "gaussian", "even box, scale 0.6"])
@pytest.mark.parametrize("motion", motions())
def test_known_motion(motion, config):
    """Equals OpenCV, and is as close to the truth as OpenCV is."""
    affine = motions()[motion]
    frames = moved(texture(SIDE), affine, 2)
    displacement, reference = flow(frames, config), opencv(frames, config)
    assert displacement.shape == (2, SIDE, SIDE, 2)
    assert displacement.dtype == jnp.float32
    assert np.median(error(displacement, reference)) < 1e-4
    assert np.quantile(error(displacement, reference), 0.99) < 1e-2
    inner = np.s_[:, 12:-12, 12:-12]
    truth = np.asarray(affine_displacement(jnp.asarray(affine, jnp.float32), SIDE, SIDE))
    ours, theirs = error(displacement, truth)[inner], error(reference, truth)[inner]
    assert np.median(ours) <= np.median(theirs) + 1e-4
    assert ours.mean() <= theirs.mean() + 1e-3
    if motion != "far":  # the pyramid of so small a frame does not reach that far, here or in OpenCV
        assert np.median(ours) < 0.2


def test_small_object_over_a_still_background():
    ground, target = texture(SIDE, 1), texture(SIDE, 2)
    truth = np.zeros((2, SIDE, SIDE, 2), np.float32)
    frames = np.stack([ground] * 3)
    for t, frame in enumerate(frames):
        frame[40:60, 30 + 2 * t : 50 + 2 * t] = target[:20, :20]
        truth[t : t + 1, 40:60, 30 + 2 * t : 50 + 2 * t] = (2, 0)
    frames = frames.astype(np.uint8)
    displacement, reference = np.asarray(flow(frames, CONFIGS[0])), opencv(frames, CONFIGS[0])
    assert np.median(error(displacement, reference)) < 1e-4
    on = truth[..., 0] > 0
    ours, theirs = error(displacement, truth), error(reference, truth)
    assert ours[on].mean() <= theirs[on].mean() + 1e-3
    assert ours[~on].mean() <= theirs[~on].mean() + 1e-3
    assert np.median(displacement[on], axis=0) == pytest.approx([2, 0], abs=0.3)
    assert np.median(np.linalg.norm(displacement[~on], axis=-1)) < 1e-3


@real
@pytest.mark.parametrize("config", CONFIGS, ids=["box", "gaussian", "even box, scale 0.6"])
@pytest.mark.parametrize("clip", ["aerial", "bike"])
def test_real_frames_equal_opencv(clip, config):
    if clip == "aerial":
        video = cv2.VideoCapture(str(DATA / "aerial_aphill/aphill_240_1fps_crf32.mp4"))
        colours = [video.read()[1] for _ in range(24)][::8]
        frames = np.stack([cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY) for colour in colours])
    else:
        paths = sorted((DATA / "vos_bike/JPEGImages/bike").glob("*.jpg"))[:3]
        frames = np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths])[:, 120:360, 247:607]
    assert frames.shape == (3, 240, 360)
    difference = error(flow(frames, config), opencv(frames, config))
    assert np.median(difference) < 1e-3
    assert np.quantile(difference, 0.95) < 0.05


def flow_of_users(frames: np.ndarray) -> np.ndarray:
    return np.asarray(flow(frames))


def test_no_motion_is_none():
    frames = np.stack([texture(SIDE)] * 3)
    # Rounding decides here, and so do the flags that `make test` compiles with.
    assert np.abs(tiny.alone(flow_of_users, frames)).max() < 1e-4
    assert np.abs(flow(np.full((3, SIDE, SIDE), 100, np.uint8))).max() == 0


def test_inclusive_border_differs_from_opencv_at_two_edges_only():
    still = np.stack([texture(SIDE)] * 2)
    spurious = opencv(still.astype(np.uint8), CONFIGS[0])
    assert np.abs(spurious).max() > 0.1  # OpenCV sees motion where there is none
    assert np.abs(np.asarray(flow(still.astype(np.uint8), CONFIGS[0])) - spurious).max() < 1e-2
    frames = moved(texture(SIDE), motions()["half a pixel"], 1)
    difference = error(flow(frames), opencv(frames, CONFIGS[0]))
    assert np.median(difference) < 1e-4
    assert difference[:, : SIDE // 2, : SIDE // 2].max() < 1e-3


def test_batch_equals_pairs():
    frames = moved(texture(SIDE), np.array([[0.01, 0, 1.5], [0, -0.01, 1.0]]), 3)
    together = flow(frames)
    for t in range(3):
        assert np.abs(together[t] - flow(frames[t : t + 2])[0]).max() < 1e-5
    assert flow(frames[:1]).shape == (0, SIDE, SIDE, 2)


@pytest.mark.parametrize("shape", [(33, 70), (12, 14)])
def test_odd_and_tiny_frames_equal_opencv(shape):
    frames = np.stack([texture(96)[: shape[0], : shape[1]], texture(96)[1 : shape[0] + 1, 1 : shape[1] + 1]])
    frames = frames.astype(np.uint8)
    assert np.median(error(flow(frames, CONFIGS[0]), opencv(frames, CONFIGS[0]))) < 1e-4


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_export(platform):
    """No host callback, no custom call of the CPU's: the same program lowers for an accelerator."""

    def everything(frames):
        residual, affine = remove_background_motion(flow(frames), frames=frames)
        _, plain = remove_background_motion(residual)
        return residual, stabilise(frames, affine + plain), warp(frames[1:], residual)

    frames = jax.ShapeDtypeStruct((3, 64, 64), jnp.float32)
    exported = jax.export.export(jax.jit(everything), platforms=[platform])(frames)
    assert exported.out_avals[0].shape == (2, 64, 64, 2)
    assert "callback" not in exported.mlir_module()


def test_compiles_once_per_size(monkeypatch):
    class Counted:
        def __hash__(self):
            return 0

        def __eq__(self, other):
            return isinstance(other, Counted)

    sizes = []

    def estimate(frames, _):
        sizes.append(frames.shape)
        return jnp.zeros((*frames[1:].shape, 2))

    monkeypatch.setitem(flow_module.ESTIMATORS, Counted, estimate)
    for side in (8, 8, 12, 8):
        flow(np.zeros((3, side, side), np.uint8), Counted())
    assert sizes == [(3, 8, 8), (3, 12, 12)]


def test_another_estimator(monkeypatch):
    class Still:
        pass

    monkeypatch.setitem(flow_module.ESTIMATORS, Still, lambda frames, _: jnp.zeros((*frames[1:].shape, 2)))
    assert flow(np.zeros((3, 8, 8), np.uint8), Still()).shape == (2, 8, 8, 2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: flow(np.zeros((2, 8, 8, 3), np.uint8)), r"\(2, 8, 8, 3\).*grey"),
        (lambda: flow(np.zeros((2, 8, 8)), 3), "int.*FarnebackConfig"),
        (lambda: FarnebackConfig(pyr_scale=1.0), "pyr_scale=1.0"),
        (lambda: FarnebackConfig(winsize=1), "winsize=1.*2"),
        (lambda: BackgroundConfig(stride=0), "stride=0.*1"),
        (lambda: BackgroundConfig(tukey=0), "tukey=0.*4.685"),
        (lambda: BackgroundConfig(full=2), "full=2.*0.013"),
        (lambda: warp(jnp.zeros((4, 5)), jnp.zeros((4, 4, 2))), r"\(4, 4, 2\).*\(4, 5, 2\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_grey_equals_opencv():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.abs(np.asarray(grey(image)) - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)).max() < 0.51


def test_warp_equals_scipy():
    rng = np.random.default_rng(0)
    images = rng.random((2, 3, 12, 17)).astype(np.float32)
    displacement = rng.normal(0, 6, (2, 3, 12, 17, 2)).astype(np.float32)
    warped = np.asarray(warp(jnp.asarray(images), jnp.asarray(displacement)))
    rows, columns = np.mgrid[:12, :17]
    for i in np.ndindex(2, 3):
        places = [rows + displacement[i][..., 1], columns + displacement[i][..., 0]]
        assert np.abs(warped[i] - ndimage.map_coordinates(images[i], places, order=1, mode="nearest")).max() < 1e-5
    single = jnp.arange(5.0)[None]
    assert np.abs(warp(single, jnp.full((1, 5, 2), 0.5))[0] - np.array([0.5, 1.5, 2.5, 3.5, 4.0])).max() < 1e-6


def test_dominant_motion_ignores_targets():
    """Forty per cent of the frame moves otherwise, and every displacement is noisy."""
    rng = np.random.default_rng(0)
    affine = np.stack([[[0.01, -0.02, 3.0], [0.015, 0.005, -2.0]], np.zeros((2, 3))]).astype(np.float32)
    field = np.array(affine_displacement(jnp.asarray(affine), 80, 120))
    field[:, :, :48] += [4.0, 3.0]
    field += rng.normal(0, 0.03, field.shape)
    residual, found = remove_background_motion(jnp.asarray(field, jnp.float32))
    assert np.abs(affine_displacement(found, 80, 120) - affine_displacement(jnp.asarray(affine), 80, 120)).max() < 0.05
    assert np.median(np.linalg.norm(residual[:, :, 48:], axis=-1)) < 0.06
    assert np.median(residual[:, :, :48], axis=(0, 1, 2)) == pytest.approx([4, 3], abs=0.06)


def sea_and_pier(wind: tuple[float, float], shake: np.ndarray, side: int = 160) -> np.ndarray:
    """Frames of waves that drift and change, around a pier of a fifth of the frame that moves with the platform."""
    rng = np.random.default_rng(5)
    waves = [ndimage.gaussian_filter(rng.normal(0, 60, (2 * side, 2 * side)), 2.0) for _ in range(2)]
    ground = texture(2 * side, 6)
    frames = []
    for t, (dx, dy) in enumerate(shake):
        shift = lambda image, x, y: ndimage.shift(image, (y, x), order=3, mode="wrap")[:side, :side]  # noqa: E731
        drifted = [
            shift(wave, pace * wind[0] * t + dx, wind[1] * t + dy) for wave, pace in zip(waves, (1.0, 0.6), strict=True)
        ]
        dry = np.abs(np.arange(side)[:, None] - dy - 76) < 16
        frames.append(np.where(dry, shift(ground, dx, dy), 110 + 0.7 * sum(drifted)).clip(0, 255))
    return np.array(frames, np.float32)


def test_land_outvotes_the_sea_around_it():
    shake = np.array([[0.0, 0.0], [0.6, -0.4], [-0.3, 0.5]])
    frames = sea_and_pier((1.6, 0.9), shake)
    moved = flow(frames)
    truth = np.diff(shake, axis=0)

    def away(found) -> float:
        field = affine_displacement(found, *frames.shape[1:])
        return float(np.linalg.norm(np.asarray(field) - truth[:, None, None], axis=-1).mean())

    assert away(dominant_motion(moved, frames=frames)) < 0.1
    # What most of the field follows is the water's drift: without frames there is nothing to tell them apart by.
    assert away(dominant_motion(moved)) > 0.5


def test_one_bright_hull_under_way_does_not_outvote_what_is_moored():
    rng, side, shake = np.random.default_rng(2), 240, np.array([0.5, -0.4])
    frames = []
    for t in range(3):
        frame = 90 + rng.normal(0, 2, (side, side))
        for k in range(16):  # moored; read where the platform's shake has put them
            y, x = 20 + 56 * (k // 4), 16 + 56 * (k % 4)
            frame[y : y + 12, x : x + 20] += 40
        frames.append(ndimage.shift(frame, (shake[1] * t, shake[0] * t), order=3, mode="nearest"))
        frames[-1][70 + 3 * t : 78 + 3 * t, 44:52] = 250
    frames = np.array(frames, np.float32)
    moved = flow(frames)
    truth = np.broadcast_to(shake, (2, side, side, 2))

    def away(config: BackgroundConfig) -> float:
        field = affine_displacement(dominant_motion(moved, config, frames), side, side)
        return float(np.linalg.norm(np.asarray(field) - truth, axis=-1).mean())

    assert away(BackgroundConfig()) < 0.15
    assert away(BackgroundConfig(full=0.0)) > 1.0  # where the most trusted point alone counts in full


def test_trust_is_high_on_corners_and_low_on_edges_and_noise():
    frame = np.full((64, 64), 100.0)
    frame[:40, :32] = 200  # its corner is at row 40, column 32
    frame += np.random.default_rng(0).normal(0, 2, frame.shape)
    believed = np.asarray(flow_module.trust(jnp.asarray(frame), jnp.asarray(frame), jnp.zeros((64, 64, 2))))
    at = lambda row, column: believed[row // flow_module.SPACING, column // flow_module.SPACING]  # noqa: E731
    assert believed.shape == (16, 16)
    assert at(40, 32) > 20 * at(16, 32)
    assert at(40, 32) > 20 * at(16, 56)
    wrong = np.asarray(flow_module.trust(jnp.asarray(frame), jnp.asarray(frame), jnp.full((64, 64, 2), 3.0)))
    assert wrong[40 // 4, 32 // 4] < 0.1 * at(40, 32)


@pytest.mark.parametrize("shape", [(8, 8), (9, 31), (40, 33), (61, 100)])
def test_trusted_fit_of_any_size(shape):
    """Nothing to trust, little to choose from: still what the field says."""
    field = jnp.broadcast_to(jnp.asarray([0.5, -0.25]), (2, *shape, 2))
    for frames in (jnp.zeros((3, *shape)), jnp.asarray(np.random.default_rng(0).uniform(0, 255, (3, *shape)))):
        affine = dominant_motion(field, frames=frames)
        assert np.abs(affine_displacement(affine, *shape) - field).max() < 1e-3


def test_median_equals_numpy():
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=101), rng.exponential(size=64), np.zeros(5), np.array([3.0]), np.arange(9.0)[::-1]):
        values = values.astype(np.float32)
        lower = np.sort(values)[(len(values) - 1) // 2]
        assert abs(float(flow_module._median(jnp.asarray(values))) - lower) <= 1e-6 * max(np.ptp(values), 1)
        times = rng.integers(0, 4, len(values)) + (len(values) == 1)
        lower = np.sort(np.repeat(values, times))[(times.sum() - 1) // 2]
        found = float(flow_module._median(jnp.asarray(values), jnp.asarray(times, jnp.float32)))
        assert abs(found - lower) <= 1e-6 * max(np.ptp(values), 1)


def test_dominant_motion_of_none_is_none():
    assert np.abs(dominant_motion(jnp.zeros((2, 40, 40, 2)))).max() == 0


def test_stabilise_undoes_the_platform():
    affine = np.array([[0.004, -0.01, 1.2], [0.01, 0.004, -0.8]])
    frames = moved(texture(SIDE, sigma=3.0), affine, 4)
    aligned, seen = stabilise(jnp.asarray(frames), jnp.asarray(np.stack([affine] * 4), jnp.float32))
    assert np.array_equal(aligned[0], frames[0])
    assert bool(seen[0].all())
    assert not bool(seen[4].all())
    inner = np.array(seen[4])
    inner[:16], inner[-16:], inner[:, :16], inner[:, -16:] = False, False, False, False
    assert np.abs(np.asarray(aligned[4]) - frames[0])[inner].mean() < 2.5
    assert np.abs(frames[4].astype(float) - frames[0])[inner].mean() > 10


def test_background_removal_finds_the_target_under_drift():
    """A drifting platform, seen through the flow itself."""
    drift = np.array([[0, 0, 2.0], [0, 0, 1.0]])
    frames = moved(texture(SIDE, 3), drift, 2)
    target = texture(SIDE, 4)[:16, :16].astype(np.uint8)
    for t, frame in enumerate(frames):
        frame[40 : 40 + 16, 40 - t : 56 - t] = target
    residual, affine = remove_background_motion(flow(frames))
    assert np.abs(np.asarray(affine)[:, :, 2] - [2, 1]).max() < 0.2
    speed = np.linalg.norm(residual, axis=-1)
    assert np.median(speed[:, 44:52, 44:52]) > 2
    assert np.median(speed) < 0.1
