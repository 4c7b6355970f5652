"""DAMI's gates against plain NumPy over a thousand random streams, one number at a time as the equations state them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mqc_jax.models import registration
from mqc_jax.models.registration import Past, RobustnessScorer

STREAMS = 1000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw_slots(rng, slots=4):
    """Any state of any memory: bool [N, S], distinct ages int32 [N, S]."""
    age = np.argsort(rng.random((STREAMS, 30)), axis=1)[:, :slots].astype(np.int32) + 1
    return rng.random((STREAMS, slots)) < 0.7, age


# ---- eqs. 19 and 20 --------------------------------------------------------------------------------------------------


def numpy_novelty(entry, entries, valid, age, eta, otherwise):
    chosen = [k for k in range(len(age)) if valid[k]]
    if chosen:
        total = sum(np.exp(-eta * float(age[k])) for k in chosen)
        expected = sum(np.exp(-eta * float(age[k])) / total * entries[k].astype(np.float64) for k in chosen)
    else:
        expected = otherwise
    height, width, _ = entry.shape
    distance = [np.linalg.norm(entry[y, x] - expected[y, x]) for y in range(height) for x in range(width)]
    return sum(distance) / len(distance)


@pytest.mark.parametrize("eta", [0.0, 0.5, 10.0])
def test_novelty_equals_numpy(rng, eta):
    """Also for a decay so fast that the sum of eq. 19's exponentials underflows in float32."""
    valid, age = draw_slots(rng)
    entry, otherwise = rng.normal(size=(2, STREAMS, 2, 3, 5)).astype(np.float32)
    entries = rng.normal(size=(STREAMS, 4, 2, 3, 5)).astype(np.float32)

    @jax.jit
    def ours(entry, entries, valid, age, otherwise):
        return registration.novelty(entry, registration.predict(entries, valid, age, eta, otherwise))

    columns = zip(entry, entries, valid, age, otherwise, strict=True)
    expected = [numpy_novelty(e, es, v, a, eta, o) for e, es, v, a, o in columns]
    assert (~valid.any(1)).any()
    np.testing.assert_allclose(ours(entry, entries, valid, age, otherwise), expected, rtol=2e-5)


def test_what_is_expected_is_no_news():
    entry = jnp.ones((1, 2, 2, 3))
    expected = registration.predict(
        jnp.ones((1, 4, 2, 2, 3)), jnp.ones((1, 4), bool), jnp.arange(1, 5)[None], 0.5, entry
    )
    assert registration.novelty(entry, expected)[0] < 1e-6


# ---- causal percentiles ----------------------------------------------------------------------------------------------


@functools.cache
def percentiles(percent, size=16):
    """(values, when) of T steps for N streams -> the threshold that each step saw."""

    def body(past, step):
        value, when = step
        return registration.note(past, value, when), registration.percentile(past, percent)

    def run(values, when):
        _, seen = jax.lax.scan(body, Past.empty(values.shape[1], size), (values, when))
        return seen

    return jax.jit(run)


@pytest.mark.parametrize("percent", [0.0, 37.5, 100.0])
def test_percentiles_equal_numpy(rng, percent):
    values = rng.normal(size=(30, STREAMS)).astype(np.float32)
    when = rng.random((30, STREAMS)) < 0.8
    seen = np.asarray(percentiles(percent)(values, when))
    for n in range(STREAMS):
        past: list[float] = []
        expected = []
        for value, noted in zip(values[:, n], when[:, n], strict=True):
            expected.append(np.percentile(np.float64(past[-16:]), percent) if past else -np.inf)
            past += [value] if noted else []
        np.testing.assert_allclose(seen[:, n], expected, rtol=1e-5, atol=1e-6)


def test_a_threshold_depends_on_the_past_alone(rng):
    values = rng.normal(size=(30, STREAMS)).astype(np.float32)
    when = np.ones(values.shape, bool)
    before = np.asarray(percentiles(37.5)(values, when))
    for t in (0, 7, 20):
        changed = values.copy()
        changed[t:] = rng.normal(5, 1, size=changed[t:].shape)
        after = np.asarray(percentiles(37.5)(changed, when))
        # Step t's own value is compared with the threshold, not part of it.
        np.testing.assert_array_equal(after[: t + 1], before[: t + 1])
        assert (after[t + 1 :] != before[t + 1 :]).any(0).all()


# ---- eq. 21 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["none", "certainty", "probability"])
def test_the_confidence_map_equals_numpy(rng, kind):
    logits = rng.normal(0, 4, (50, 8, 12)).astype(np.float32)
    presence = rng.normal(0, 3, 50).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    of_pixel = {"none": np.ones_like(p), "certainty": np.abs(2 * p - 1), "probability": p}[kind]
    expected = np.stack(
        [[of_pixel[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((1, 2)) for x in range(3)] for y in range(2)]
    )
    expected = expected.transpose(2, 0, 1)
    if kind != "none":
        expected = expected / (1 + np.exp(-presence))[:, None, None]
    np.testing.assert_allclose(
        registration.confidence_map(logits, presence, (2, 3), kind), expected, rtol=1e-4, atol=1e-6
    )


# ---- eq. 22 ----------------------------------------------------------------------------------------------------------


def numpy_kl(main, alternative):
    p, q = (x.astype(np.float64) + 1e-6 for x in (main, alternative))
    p, q = p / p.sum(), q / q.sum()
    return sum(a * np.log(a / b) for a, b in zip(p.ravel(), q.ravel(), strict=True))


def test_divergence_equals_numpy(rng):
    main, alternative = rng.random((2, STREAMS, 5, 6)).astype(np.float32) ** 6
    main[0], alternative[1] = 0, 0  # a map that claims nothing
    expected = [numpy_kl(*pair) for pair in zip(main, alternative, strict=True)]
    found = np.asarray(jax.jit(registration.divergence)(main, alternative))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(registration.divergence(main, main), 0, atol=1e-6)


def test_the_papers_alternative_is_the_hypothesis_of_second_highest_predicted_iou(rng):
    hypotheses = rng.normal(0, 3, (STREAMS, 3, 4, 4)).astype(np.float32)
    ious = rng.random((STREAMS, 3)).astype(np.float32)
    found = np.asarray(registration.ambiguity(hypotheses, ious, "paper", 2))
    for n in range(STREAMS):
        first, second = np.argsort(-ious[n])[:2]
        p = 1 / (1 + np.exp(-hypotheses[n].astype(np.float64)))
        np.testing.assert_allclose(found[n], numpy_kl(p[first], p[second]), rtol=2e-4, atol=2e-6)


def numpy_elsewhere(main, alternatives, radius):
    height, width = main.shape
    claim = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            rows, columns = slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)
            claim[y, x] = alternatives[:, y, x].max() * (1 - main[rows, columns].max())
    p, q = (float(np.clip((m * m).sum() / max(m.sum(), 1e-6), 1e-6, 1 - 1e-6)) for m in (main.astype(float), claim))
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


@pytest.mark.parametrize("radius", [0, 2])
def test_divergence_elsewhere_equals_numpy(rng, radius):
    main = rng.random((STREAMS, 7, 6)).astype(np.float32) ** 8
    alternatives = rng.random((STREAMS, 2, 7, 6)).astype(np.float32) ** 4
    main[0], alternatives[1] = 0, 0
    expected = [numpy_elsewhere(m, a, radius) for m, a in zip(main, alternatives, strict=True)]
    found = jax.jit(registration.divergence_elsewhere, static_argnums=2)(main, alternatives, radius)
    np.testing.assert_allclose(found, expected, rtol=5e-3, atol=2e-5)


def scene(*boxes: tuple[int, int, int, int], side=24) -> np.ndarray:
    """Logits that are sure of these boxes (top, left, bottom, right)."""
    logits = np.full((side, side), -9.0, np.float32)
    for top, left, bottom, right in boxes:
        logits[top:bottom, left:right] = 9.0
    return logits


TARGET, TWIN, WIDER = (2, 2, 6, 6), (16, 16, 20, 20), (2, 2, 7, 7)
SCENES = {
    "alone": [scene(TARGET), scene(TARGET), scene(TARGET)],
    "wider": [scene(TARGET), scene(WIDER), scene(TARGET)],
    "twin": [scene(TARGET), scene(TWIN), scene(TARGET)],
}


@pytest.mark.parametrize(("kind", "lowest"), [("paper", "alone"), ("elsewhere", "twin"), ("dam4sam", "twin")])
def test_what_each_reading_calls_ambiguous(kind, lowest):
    """The paper's letter is most alarmed where nothing distracts; the other two where a twin stands elsewhere."""
    ious = np.array([[0.9, 0.8, 0.7]], np.float32)
    found = {n: float(registration.ambiguity(np.stack(s)[None], ious, kind, 2)[0]) for n, s in SCENES.items()}
    assert min(found, key=found.get) == lowest, found
    if kind == "dam4sam":
        np.testing.assert_allclose([found["twin"], found["wider"], found["alone"]], [16 / 18**2, 16 / 25, 1])
    elif kind == "elsewhere":
        assert found["twin"] < 0.01 < 1 < min(found["wider"], found["alone"])


def test_box_overlap_equals_numpy(rng):
    main = (rng.random((STREAMS, 6, 7)) < 0.06).astype(np.float32)
    alternatives = (rng.random((STREAMS, 2, 6, 7)) < 0.04).astype(np.float32)

    def area(mask):
        rows, columns = np.nonzero(mask)
        return (np.ptp(rows) + 1) * (np.ptp(columns) + 1) if len(rows) else 0

    expected = []
    for m, both in zip(main > 0.5, alternatives > 0.5, strict=True):
        pairs = [(area(m), area(m | a)) for a in both]
        expected.append(min(inner / outer if outer else 1.0 for inner, outer in pairs))
    np.testing.assert_allclose(jax.jit(registration.box_overlap)(main, alternatives), expected, rtol=1e-6)


# ---- eqs. 23 and 24 --------------------------------------------------------------------------------------------------


def test_areas_and_their_change():
    logits = np.stack([scene(TARGET), scene()])
    share = np.asarray(registration.area(logits))
    np.testing.assert_allclose(share, [16 / 576, 0])
    found = registration.area_change(jnp.asarray([0.2, 0.1, 0.0, 0.0, 0.3]), jnp.asarray([0.1, 0.2, 0.4, 0.0, 0.3]))
    np.testing.assert_allclose(found, [0.5, 0.5, 1, 0, 0])


def test_the_pooled_feature_is_the_targets_mean(rng):
    entry = rng.normal(size=(1, 6, 6, 5)).astype(np.float32)
    found = registration.pooled(entry, scene((4, 8, 12, 12))[None] * 3)
    np.testing.assert_allclose(found[0], entry[0, 1:3, 2].mean(0), rtol=1e-4, atol=1e-5)


def test_queue_and_pool_give_up_the_slots_that_a_plain_reading_gives_up(rng):
    valid, age = draw_slots(rng)
    score = rng.integers(0, 3, valid.shape).astype(np.float32)  # many equals
    found = [
        np.asarray(jax.jit(f)(*a))
        for f, a in [
            (registration.oldest, (valid, age)),
            (registration.worst, (valid, score, age)),
            (registration.recency, (valid, age)),
        ]
    ]
    for n in range(STREAMS):
        free = [k for k in range(4) if not valid[n, k]]
        used = [k for k in range(4) if valid[n, k]]
        if free:
            assert found[0][n] in free
            assert found[1][n] in free
        else:
            assert found[0][n] == max(used, key=lambda k: age[n, k])
            assert found[1][n] == min(used, key=lambda k: (score[n, k], -age[n, k]))
        queue = sorted(used, key=lambda k: age[n, k])
        assert [int(found[2][n, k]) for k in queue] == list(range(len(queue)))
    assert valid.all(1).any()


def test_the_scorer_learns_the_masks_quality_and_leaves_what_it_judges_alone(rng):
    feature = rng.normal(size=(64, 8)).astype(np.float32)
    confidence, change = rng.random((2, 64)).astype(np.float32)
    truth = np.clip(confidence - 0.5 * change, 0, 1)
    scorer = RobustnessScorer(16)
    params = scorer.init(jax.random.key(0), feature, confidence, change)

    def loss(params, feature, confidence, change):
        return registration.score_loss(scorer.apply(params, feature, confidence, change), truth).mean()

    into = jax.grad(loss, argnums=(1, 2, 3))(params, feature, confidence, change)
    assert all((np.asarray(x) == 0).all() for x in into)
    tx = optax.adam(1e-2)

    @jax.jit
    def train(params):
        def body(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, feature, confidence, change)
            updates, state = tx.update(grads, state)
            return (optax.apply_updates(params, updates), state), (
                value,
                jax.tree.map(lambda g: jnp.abs(g).max(), grads),
            )

        return jax.lax.scan(body, (params, tx.init(params)), length=300)

    (params, _), (losses, reached) = train(params)
    assert all((np.asarray(g)[0] > 0) for g in jax.tree.leaves(reached))
    assert losses[-1] < 0.25 * losses[0]
    score = np.asarray(scorer.apply(params, feature, confidence, change))
    assert score.dtype == np.float32
    assert ((score > 0) & (score < 1)).all()


def test_no_score_moves_the_truth():
    gradient = jax.grad(lambda s, t: registration.score_loss(s, t), argnums=(0, 1))(0.2, 0.7)
    np.testing.assert_allclose(gradient, [-1, 0])
