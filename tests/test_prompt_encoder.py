import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sam2.modeling.sam.prompt_encoder import PromptEncoder as TorchPromptEncoder
from torch_parity import TOLERANCE, normal, ported, randomise, relative, to_torch

from mqc_jax.models import prompt_encoder
from mqc_jax.models.prompt_encoder import PatchConv2x2, PromptEncoder

SIZES = {"small": (32, (6, 8), 8), "sam2": (256, (30, 30), 16)}


@pytest.fixture(scope="module", params=SIZES)
def pair(request):
    dim, grid, hidden = SIZES[request.param]
    pixels = (16 * grid[0], 16 * grid[1])
    theirs = randomise(TorchPromptEncoder(dim, grid, pixels, hidden))
    ours = PromptEncoder(dim, grid, pixels, hidden)
    return theirs, ours, ported(theirs, ours), pixels


def points(pixels, n=3, p=6):
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 1, (n, p, 2)).astype(np.float32) * np.array(pixels[::-1], np.float32)
    labels = np.resize(np.array([-1, 0, 1, 2, 3, 1], np.int32), (n, p))
    corners = np.sort(rng.uniform(0, 1, (n, 2, 2)), axis=1).astype(np.float32) * np.array(pixels[::-1], np.float32)
    return xy, labels, corners.reshape(n, 4)


@pytest.mark.parametrize("given", ["points", "boxes", "masks", "points boxes masks", ""])
def test_equals_torch(pair, given):
    theirs, ours, variables, pixels = pair
    xy, labels, boxes = points(pixels)
    masks = normal(1, 3, pixels[0] // 4, pixels[1] // 4, 1, std=5)
    xy, labels, boxes, masks = (
        value if name in given else None
        for name, value in (("points", xy), ("points", labels), ("boxes", boxes), ("masks", masks))
    )
    with torch.no_grad():
        sparse, dense = theirs(
            None if xy is None else (torch.from_numpy(xy), torch.from_numpy(labels)),
            None if boxes is None else torch.from_numpy(boxes),
            None if masks is None else to_torch(masks),
        )
    our_sparse, our_dense = jax.jit(ours.apply)(variables, xy, labels, boxes, masks)
    assert relative(our_dense, dense) < TOLERANCE
    assert our_sparse.shape == sparse.shape
    if sparse.numel():
        assert relative(our_sparse, sparse) < TOLERANCE


def test_dense_position_equals_torch(pair):
    theirs, ours, variables, _ = pair
    assert relative(ours.apply(variables, method="dense_pe"), theirs.get_dense_pe()) < TOLERANCE


def test_boxes_are_two_corner_points(pair):
    _, ours, variables, pixels = pair
    _, _, boxes = points(pixels)
    labels = np.tile(np.array([2, 3], np.int32), (len(boxes), 1))
    as_points = ours.apply(variables, boxes.reshape(-1, 2, 2), labels, False, method="embed_points")
    np.testing.assert_array_equal(ours.apply(variables, boxes, method="embed_boxes"), as_points)


def test_padding_points_ignore_their_place(pair):
    _, ours, variables, _ = pair
    labels = -np.ones((1, 1), np.int32)
    here = ours.apply(variables, np.zeros((1, 1, 2)), labels, False, method="embed_points")
    there = ours.apply(variables, np.full((1, 1, 2), 7.0), labels, False, method="embed_points")
    np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(here[0], variables["params"]["not_a_point_embed"]["embedding"])


def test_pixel_shift_is_needed(pair):
    """Upstream places a point at its pixel's centre; without the half pixel the comparison above must fail."""
    theirs, ours, variables, pixels = pair
    xy, labels, _ = points(pixels)
    with torch.no_grad():
        expected = theirs._embed_points(torch.from_numpy(xy), torch.from_numpy(labels), pad=False)
    assert relative(ours.apply(variables, xy - 0.5, labels, False, method="embed_points"), expected) > 10 * TOLERANCE


@pytest.mark.parametrize("trap", ["tanh gelu", "layer norm epsilon"])
def test_traps_in_the_mask_path_are_seen(monkeypatch, trap):
    dim, grid, hidden = SIZES["small"]
    pixels = (16 * grid[0], 16 * grid[1])
    theirs = randomise(TorchPromptEncoder(dim, grid, pixels, hidden))
    if trap == "tanh gelu":
        monkeypatch.setattr(prompt_encoder, "gelu", jax.nn.gelu)
    else:
        monkeypatch.setattr(prompt_encoder, "TRUNK_EPSILON", 1e-5)
    ours = PromptEncoder(dim, grid, pixels, hidden)
    # Faint masks and no bias: the variance is then of the order of the epsilon.
    masks = normal(1, 1, pixels[0] // 4, pixels[1] // 4, 1, std=1e-2 if trap == "layer norm epsilon" else 1)
    with torch.no_grad():
        theirs.mask_downscaling[0].bias.zero_()
        expected = theirs._embed_masks(to_torch(masks))
    actual = ours.apply(ported(theirs, ours), masks, method="embed_masks")
    assert relative(actual, expected) > 1.5 * TOLERANCE


def test_patch_convolution_and_its_gradients_equal_torch():
    theirs = randomise(torch.nn.Conv2d(3, 5, 2, stride=2))
    ours = PatchConv2x2(5)
    x = normal(0, 2, 6, 4, 3)
    variables = ported(theirs, ours, x)
    x_torch = to_torch(x).requires_grad_()
    theirs(x_torch).sin().sum().backward()
    grads, dx = jax.grad(lambda v, x: jnp.sin(ours.apply(v, x)).sum(), argnums=(0, 1))(variables, x)
    assert relative(dx, x_torch.grad) < TOLERANCE
    assert relative(np.transpose(grads["params"]["kernel"], (3, 0, 1, 2)), theirs.weight.grad) < TOLERANCE
    assert relative(grads["params"]["bias"], theirs.bias.grad) < TOLERANCE


def test_fixed_frequencies_get_no_gradient(pair):
    _, ours, variables, pixels = pair
    xy, labels, _ = points(pixels)
    grads = jax.grad(lambda v: jnp.sum(ours.apply(v, xy, labels)[0] ** 2))(variables)["params"]
    assert not np.any(grads["pe_layer"]["positional_encoding_gaussian_matrix"])
    assert np.any(grads["point_embeddings.1"]["embedding"])


def test_wrong_mask_size_is_refused(pair):
    _, ours, variables, pixels = pair
    with pytest.raises(ValueError, match="four times the image embedding"):
        ours.apply(variables, np.zeros((1, *pixels, 1), np.float32), method="embed_masks")
