import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder as TorchMaskDecoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from torch_parity import TOLERANCE, compiled, jitted, normal, ported, randomise, relative, to_torch

from mqc_jax.models import mask_decoder
from mqc_jax.models.mask_decoder import MaskDecoder, MaskPrediction, select

# transformer_dim, heads, mlp_dim, IoU head's hidden channels, grid
SIZES = {"small": (32, 4, 48, 24, (5, 6)), "sam2": (256, 8, 2048, 256, (12, 12))}


def make(size):
    dim, heads, mlp_dim, hidden, _ = SIZES[size]
    theirs = TorchMaskDecoder(
        transformer_dim=dim,
        transformer=TwoWayTransformer(depth=2, embedding_dim=dim, num_heads=heads, mlp_dim=mlp_dim),
        iou_head_hidden_dim=hidden,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        dynamic_multimask_via_stability=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        use_multimask_token_for_obj_ptr=True,
    )
    return randomise(theirs), MaskDecoder(dim, num_heads=heads, mlp_dim=mlp_dim, iou_head_hidden_dim=hidden)


def make_inputs(size, n=3, p=5, shared=False):
    dim, *_, (h, w) = SIZES[size]
    one = 1 if shared else n
    return {
        "image_embedding": normal(0, one, h, w, dim),
        "image_pe": normal(1, 1, h, w, dim),
        "sparse": normal(2, n, p, dim),
        "dense": normal(3, one, h, w, dim),
        "high_res": (normal(4, one, 4 * h, 4 * w, dim // 8), normal(5, one, 2 * h, 2 * w, dim // 4)),
    }


def run_torch(theirs, inputs, multimask):
    n = len(inputs["sparse"])
    repeat = lambda x: to_torch(np.broadcast_to(x, (n, *x.shape[1:])))  # noqa: E731
    with torch.no_grad():
        return theirs(
            image_embeddings=repeat(inputs["image_embedding"]),
            image_pe=to_torch(inputs["image_pe"]),
            sparse_prompt_embeddings=torch.from_numpy(inputs["sparse"]),
            dense_prompt_embeddings=repeat(inputs["dense"]),
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=[repeat(x) for x in inputs["high_res"]],
        )


def nchw(x):
    """Masks [N, M, H, W] in the layout that `relative` gives PyTorch's."""
    return np.asarray(x).transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def small():
    theirs, ours = make("small")
    return theirs, ours, ported(theirs, ours, **make_inputs("small"))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_equals_torch(size, shared):
    theirs, ours = make(size)
    inputs = make_inputs(size, shared=shared)
    prediction = jitted(ours)(ported(theirs, ours, **inputs), **inputs)
    masks, ious, tokens, score = run_torch(theirs, inputs, multimask=True)
    assert relative(nchw(prediction.masks[:, 1:]), masks) < TOLERANCE
    assert relative(prediction.ious[:, 1:], ious) < TOLERANCE
    assert relative(prediction.tokens[:, 1:], tokens) < TOLERANCE
    assert relative(prediction.object_score_logits, score) < TOLERANCE
    theirs.dynamic_multimask_via_stability = False
    masks, ious, tokens, _ = run_torch(theirs, inputs, multimask=False)
    assert relative(nchw(prediction.masks[:, :1]), masks) < TOLERANCE
    assert relative(prediction.ious[:, :1], ious) < TOLERANCE
    assert relative(prediction.tokens[:, :1], tokens) < TOLERANCE


def test_high_res_projection_equals_torch(small):
    theirs, ours, variables = small
    fpn0, fpn1 = normal(0, 1, 12, 8, 32), normal(1, 1, 6, 4, 32)
    fine0, fine1 = ours.apply(variables, fpn0, fpn1, method="project_high_res")
    assert relative(fine0, theirs.conv_s0(to_torch(fpn0))) < TOLERANCE
    assert relative(fine1, theirs.conv_s1(to_torch(fpn1))) < TOLERANCE


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_select_equals_torch(small, multimask, dynamic):
    theirs, ours, variables = small
    theirs.dynamic_multimask_via_stability = dynamic
    # A coarse limit, so that random masks fall on both sides of it.
    theirs.dynamic_multimask_stability_delta = 0.5
    inputs = make_inputs("small", n=8)
    prediction = jitted(ours)(variables, **inputs)
    scores = mask_decoder.stability(prediction.masks[:, 0], 0.5)
    theirs.dynamic_multimask_stability_thresh = float(np.median(scores))
    choice = select(
        prediction,
        multimask,
        dynamic=dynamic,
        stability_delta=0.5,
        stability_thresh=theirs.dynamic_multimask_stability_thresh,
    )
    masks, ious, tokens, _ = run_torch(theirs, inputs, multimask)
    if multimask:  # the rest of the choice is in SAM2Base._forward_sam_heads
        best = ious.argmax(-1)
        masks, ious, tokens = (x[torch.arange(8), best][:, None] for x in (masks, ious, tokens))
    assert relative(nchw(choice.mask[:, None]), masks) < TOLERANCE
    assert relative(choice.iou[:, None], ious) < TOLERANCE
    assert relative(choice.token[:, None], tokens) < TOLERANCE
    fell_back = np.asarray(choice.index) > 0
    assert fell_back.all() if multimask else fell_back.any() == dynamic and not fell_back.all()


def test_select_keeps_the_single_masks_token_when_told():
    prediction = MaskPrediction(
        masks=jnp.arange(4.0).reshape(1, 4, 1, 1),
        ious=jnp.array([[0.9, 0.1, 0.8, 0.2]]),
        tokens=jnp.arange(4.0).reshape(1, 4, 1),
        object_score_logits=jnp.zeros((1, 1)),
    )
    choice = select(prediction, True, use_multimask_token_for_obj_ptr=False)
    assert (int(choice.index[0]), float(choice.mask[0, 0, 0]), float(choice.token[0, 0])) == (2, 2.0, 0.0)
    assert float(select(prediction, True).token[0, 0]) == 2.0


def test_stability_of_empty_and_certain_masks():
    logits = jnp.array([[[-9.0, -9.0]], [[9.0, -9.0]], [[0.01, 9.0]], [[0.01, -9.0]]])
    np.testing.assert_allclose(mask_decoder.stability(logits), [1.0, 1.0, 0.5, 0.0])


def test_masked_tokens_equal_the_shorter_list(small):
    _, ours, variables = small
    inputs = make_inputs("small", n=2, p=7)
    valid = np.array([[True, False, True, True, False, True, False]] * 2)
    masked = jitted(ours)(variables, **inputs, sparse_valid=valid)
    short = jitted(ours)(variables, **{**inputs, "sparse": inputs["sparse"][:, valid[0]]})
    for ours_long, ours_short in zip(jax.tree.leaves(masked), jax.tree.leaves(short), strict=True):
        assert relative(ours_long, np.asarray(ours_short)) < 1e-5
    unmasked = jitted(ours)(variables, **inputs)
    assert relative(unmasked.masks, np.asarray(short.masks)) > 1e-3


def test_no_prompt_token_at_all_is_allowed(small):
    _, ours, variables = small
    inputs = make_inputs("small", n=2, p=3)
    nothing = jitted(ours)(variables, **inputs, sparse_valid=np.zeros((2, 3), bool))
    none = jitted(ours)(variables, **{**inputs, "sparse": inputs["sparse"][:, :0]})
    assert relative(nothing.masks, np.asarray(none.masks)) < 1e-5


def test_objects_do_not_see_each_other(small):
    _, ours, variables = small
    inputs = make_inputs("small", n=3, shared=True)
    together = jitted(ours)(variables, **inputs)
    for i in range(3):
        alone = jitted(ours)(variables, **{**inputs, "sparse": inputs["sparse"][i : i + 1]})
        assert relative(together.masks[i : i + 1], np.asarray(alone.masks)) < 1e-5


@pytest.mark.parametrize("trap", ["mirrored transposed convolution", "tanh gelu", "layer norm epsilon"])
def test_traps_are_seen(monkeypatch, trap):
    """Each mistake that other ports made changes the result by more than the tolerance of the comparison."""
    theirs, ours = make("small")
    inputs = make_inputs("small")
    if trap == "layer norm epsilon":
        # An epsilon shows where features are faint: shrink what the first norm sees.
        theirs.transformer.layers[0].self_attn.out_proj.weight.data *= 1e-2
        theirs.transformer.layers[0].self_attn.out_proj.bias.data *= 1e-2
        monkeypatch.setattr(mask_decoder, "HEAD_EPSILON", 1e-6)
    if trap == "tanh gelu":
        monkeypatch.setattr(mask_decoder, "gelu", jax.nn.gelu)
    variables = ported(theirs, ours, **inputs)
    if trap.startswith("mirrored"):
        kernel = variables["params"]["output_upscaling.0"]["transposed_kernel"]
        variables["params"]["output_upscaling.0"]["transposed_kernel"] = kernel[:, ::-1, ::-1]
    masks = run_torch(theirs, inputs, multimask=True)[0]
    assert relative(nchw(compiled(ours)(variables, **inputs).masks[:, 1:]), masks) > 2 * TOLERANCE
    monkeypatch.undo()
    right = ported(theirs, ours, **inputs)
    assert relative(nchw(jitted(ours)(right, **inputs).masks[:, 1:]), masks) < TOLERANCE


def test_gradients_equal_torch(small):
    theirs, ours, variables = small
    inputs = make_inputs("small")
    theirs.zero_grad()
    tensors = {k: to_torch(inputs[k]).requires_grad_() for k in ("image_embedding", "sparse", "dense")}
    masks, ious, _, score = theirs(
        image_embeddings=tensors["image_embedding"],
        image_pe=to_torch(inputs["image_pe"]),
        sparse_prompt_embeddings=tensors["sparse"],
        dense_prompt_embeddings=tensors["dense"],
        multimask_output=True,
        repeat_image=False,
        high_res_features=[to_torch(x) for x in inputs["high_res"]],
    )
    (masks.sin().sum() + ious.sum() + score.sum()).backward()

    def loss(variables, floats):
        out = ours.apply(variables, **{**inputs, **floats})
        return jnp.sin(out.masks[:, 1:]).sum() + out.ious[:, 1:].sum() + out.object_score_logits.sum()

    grads, inner = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, {k: inputs[k] for k in tensors})
    for name, tensor in tensors.items():
        assert relative(inner[name], tensor.grad) < TOLERANCE
    tokens = grads["params"]["mask_tokens"]["embedding"]
    assert relative(tokens, theirs.mask_tokens.weight.grad) < TOLERANCE
