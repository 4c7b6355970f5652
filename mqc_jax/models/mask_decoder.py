"""SAM2's mask decoder: prompt tokens and the image embedding exchange information, then tokens become masks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from mqc_jax.models import layers
from mqc_jax.models.attention import MLP, Attention
from mqc_jax.models.torch_ops import HEAD_EPSILON, TRUNK_EPSILON, Conv1x1, ConvTranspose2x2, LayerNorm, gelu

NUM_MASKS = 4
"""One mask for unambiguous prompts, then three hypotheses for ambiguous ones."""


@struct.dataclass
class MaskPrediction:
    """Everything the decoder predicts for N objects.

    Attributes:
      masks: [N, 4, 4h, 4w] logits; index 0 is the single mask, 1 to 3 the alternatives.
      ious: [N, 4], the predicted IoU of each mask, in (0, 1).
      tokens: [N, 4, D], each mask's output token, the source of object pointers.
      object_score_logits: [N, 1], positive where the object is visible.
    """

    masks: jax.Array
    ious: jax.Array
    tokens: jax.Array
    object_score_logits: jax.Array


@struct.dataclass
class MaskChoice:
    """One of the hypotheses for each of N objects: mask [N, 4h, 4w], iou [N], token [N, D], index int32 [N]."""

    mask: jax.Array
    iou: jax.Array
    token: jax.Array
    index: jax.Array


def stability(logits: jax.Array, delta: float = 0.05) -> jax.Array:
    """IoU of the mask thresholded at +delta and at -delta: logits [..., H, W] -> [...] in [0, 1]; 1 for empty masks."""
    inner = (logits > delta).sum((-2, -1)).astype(jnp.float32)
    outer = (logits > -delta).sum((-2, -1)).astype(jnp.float32)
    return jnp.where(outer > 0, inner / jnp.maximum(outer, 1), 1.0)


def select(
    prediction: MaskPrediction,
    multimask: bool,
    *,
    dynamic: bool = True,
    stability_delta: float = 0.05,
    stability_thresh: float = 0.98,
    use_multimask_token_for_obj_ptr: bool = True,
) -> MaskChoice:
    """Picks one mask for each object, as `MaskDecoder.forward` followed by the choice in `_forward_sam_heads`.

    Args:
      prediction: the decoder's output.
      multimask: take the alternative with the highest predicted IoU; otherwise the single mask.
      dynamic: without `multimask`, fall back to the best alternative where the single mask is unstable
        (`dynamic_multimask_via_stability`, on in upstream's video predictor and off in its training).
      stability_delta: logits this close to zero count as uncertain.
      stability_thresh: a single mask less stable than this falls back.
      use_multimask_token_for_obj_ptr: with `multimask`, the token is the chosen mask's; otherwise, and always without
        `multimask`, it is the single mask's.
    """
    best = 1 + prediction.ious[:, 1:].argmax(-1)
    if multimask:
        index = best
    elif dynamic:
        stable = stability(prediction.masks[:, 0], stability_delta) >= stability_thresh
        index = jnp.where(stable, 0, best)
    else:
        index = jnp.zeros_like(best)
    token = index if multimask and use_multimask_token_for_obj_ptr else jnp.zeros_like(index)

    def pick(x: jax.Array, at: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, at.reshape(-1, *[1] * (x.ndim - 1)), axis=1)[:, 0]

    return MaskChoice(
        mask=pick(prediction.masks, index),
        iou=pick(prediction.ious, index),
        token=pick(prediction.tokens, token),
        index=index.astype(jnp.int32),
    )


class TwoWayAttentionBlock(layers.Module):
    """`sam2.modeling.sam.transformer.TwoWayAttentionBlock`: tokens read tokens and the image, it reads them."""

    num_heads: int
    mlp_dim: int
    attention_downsample_rate: int
    skip_first_layer_pe: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, tokens: jax.Array, image: jax.Array, tokens_pe: jax.Array, image_pe: jax.Array, valid: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """tokens, tokens_pe [N, T, D], image [N or 1, L, D], image_pe [1, L, D], valid bool [N, T] or None."""
        width = tokens.shape[-1]

        def attention(name: str, rate: int) -> Attention:
            return Attention(width, self.num_heads, rate, dtype=self.dtype, name=name)

        def norm(name: str) -> layers.Module:
            return LayerNorm(epsilon=HEAD_EPSILON, dtype=self.dtype, name=name)

        rate = self.attention_downsample_rate
        # The first layer's tokens are their own position encoding, and its attention replaces them.
        if self.skip_first_layer_pe:
            tokens = attention("self_attn", 1)(tokens, tokens, tokens, valid)
        else:
            q = tokens + tokens_pe
            tokens = tokens + attention("self_attn", 1)(q, q, tokens, valid)
        tokens = norm("norm1")(tokens)

        image_key = image + image_pe
        tokens = tokens + attention("cross_attn_token_to_image", rate)(tokens + tokens_pe, image_key, image)
        tokens = norm("norm2")(tokens)
        tokens = norm("norm3")(tokens + MLP(self.mlp_dim, width, 2, dtype=self.dtype, name="mlp")(tokens))

        key = tokens + tokens_pe
        image = image + attention("cross_attn_image_to_token", rate)(image_key, key, tokens, valid)
        return tokens, norm("norm4")(image)


class TwoWayTransformer(layers.Module):
    """`sam2.modeling.sam.transformer.TwoWayTransformer`."""

    depth: int
    num_heads: int
    mlp_dim: int
    attention_downsample_rate: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, image: jax.Array, image_pe: jax.Array, tokens: jax.Array, valid: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """image [N or 1, L, D], image_pe [1, L, D], tokens [N, T, D], valid bool [N, T] -> tokens, image, both N."""
        tokens_pe = tokens
        for i in range(self.depth):
            block = TwoWayAttentionBlock(
                self.num_heads, self.mlp_dim, self.attention_downsample_rate, i == 0, self.dtype, name=f"layers.{i}"
            )
            tokens, image = block(tokens, image, tokens_pe, image_pe, valid)
        final = Attention(
            tokens.shape[-1],
            self.num_heads,
            self.attention_downsample_rate,
            dtype=self.dtype,
            name="final_attn_token_to_image",
        )
        tokens = tokens + final(tokens + tokens_pe, image + image_pe, image)
        return LayerNorm(epsilon=HEAD_EPSILON, dtype=self.dtype, name="norm_final_attn")(tokens), image


class MaskDecoder(layers.Module):
    """`sam2.modeling.sam.mask_decoder.MaskDecoder` with high-resolution features and an object score.

    Attributes:
      transformer_dim: channels D of tokens and image embedding, a multiple of 8.
      depth: layers of the two-way transformer.
      num_heads: heads of each attention.
      mlp_dim: hidden channels of the transformer's MLPs.
      attention_downsample_rate: cross-attention works in D / rate channels.
      iou_head_hidden_dim: hidden channels of the IoU head.
      iou_head_depth: linear layers of the IoU head.
      dtype: compute dtype.
    """

    transformer_dim: int
    depth: int = 2
    num_heads: int = 8
    mlp_dim: int = 2048
    attention_downsample_rate: int = 2
    iou_head_hidden_dim: int = 256
    iou_head_depth: int = 3
    dtype: DTypeLike = jnp.float32

    def setup(self):
        dim, dtype = self.transformer_dim, self.dtype
        token = nn.initializers.normal(1.0)
        self.obj_score_token = layers.Embed(1, dim, embedding_init=token)
        self.iou_token = layers.Embed(1, dim, embedding_init=token)
        self.mask_tokens = layers.Embed(NUM_MASKS, dim, embedding_init=token)
        self.transformer = TwoWayTransformer(
            self.depth, self.num_heads, self.mlp_dim, self.attention_downsample_rate, dtype
        )
        self.conv_s0 = Conv1x1(dim // 8, dtype=dtype)
        self.conv_s1 = Conv1x1(dim // 4, dtype=dtype)
        self.upscale1 = ConvTranspose2x2(dim // 4, dtype, name="output_upscaling.0")
        self.upscale_norm = LayerNorm(epsilon=TRUNK_EPSILON, dtype=dtype, name="output_upscaling.1")
        self.upscale2 = ConvTranspose2x2(dim // 8, dtype, name="output_upscaling.3")
        self.hypernetworks = [
            MLP(dim, dim // 8, 3, dtype=dtype, name=f"output_hypernetworks_mlps.{i}") for i in range(NUM_MASKS)
        ]
        self.iou_prediction_head = MLP(
            self.iou_head_hidden_dim, NUM_MASKS, self.iou_head_depth, sigmoid_output=True, dtype=dtype
        )
        self.pred_obj_score_head = MLP(dim, 1, 3, dtype=dtype)

    def project_high_res(self, fpn0: jax.Array, fpn1: jax.Array) -> tuple[jax.Array, jax.Array]:
        """FPN levels of stride 4 and 8, [N, 4h, 4w, D] and [N, 2h, 2w, D], in D / 8 and D / 4 channels."""
        return self.conv_s0(fpn0), self.conv_s1(fpn1)

    def __call__(
        self,
        image_embedding: jax.Array,
        image_pe: jax.Array,
        sparse: jax.Array,
        dense: jax.Array,
        high_res: tuple[jax.Array, jax.Array],
        sparse_valid: jax.Array | None = None,
    ) -> MaskPrediction:
        """Predicts all four masks of each of N objects.

        Args:
          image_embedding: [N or 1, h, w, D]; one embedding serves all objects.
          image_pe: [1, h, w, D], `PromptEncoder.dense_pe`.
          sparse: [N, P, D] prompt tokens.
          dense: [N or 1, h, w, D], added to the image embedding.
          high_res: `project_high_res`'s result, with N or 1 in front.
          sparse_valid: bool [N, P]; tokens that are False have no influence. None: all count.
        """
        n, p, _ = sparse.shape
        if self.is_initializing():  # the projections run outside, but their parameters belong here
            _, h, w, dim = image_embedding.shape
            self.project_high_res(jnp.zeros((1, 4 * h, 4 * w, dim)), jnp.zeros((1, 2 * h, 2 * w, dim)))
        output = jnp.concatenate(
            [self.obj_score_token.embedding, self.iou_token.embedding, self.mask_tokens.embedding]
        ).astype(self.dtype)
        tokens = jnp.concatenate([jnp.broadcast_to(output, (n, *output.shape)), sparse.astype(self.dtype)], axis=1)
        valid = None
        if sparse_valid is not None:
            valid = jnp.concatenate([jnp.ones((n, len(output)), bool), jnp.broadcast_to(sparse_valid, (n, p))], axis=1)

        image = (image_embedding + dense).astype(self.dtype)
        _, h, w, dim = image.shape
        tokens, image = self.transformer(
            image.reshape(-1, h * w, dim), image_pe.reshape(-1, h * w, dim).astype(self.dtype), tokens, valid
        )
        mask_tokens = tokens[:, 2 : 2 + NUM_MASKS]

        fine0, fine1 = high_res
        image = gelu(self.upscale_norm(self.upscale1(image.reshape(n, h, w, dim)) + fine1))
        image = gelu(self.upscale2(image) + fine0)
        filters = jnp.stack([mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.hypernetworks)], axis=1)
        masks = jnp.einsum("nmc,nhwc->nmhw", filters, image, preferred_element_type=jnp.float32)
        return MaskPrediction(
            masks=masks,
            ious=self.iou_prediction_head(tokens[:, 1]).astype(jnp.float32),
            tokens=mask_tokens,
            object_score_logits=self.pred_obj_score_head(tokens[:, 0]).astype(jnp.float32),
        )
