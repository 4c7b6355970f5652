"""The text bridge after CroBIM (arXiv 2410.08613): a sentence and an image become prompts that SAM2 understands.

Three stages, each a module below: context-aware prompts (CAPM), language-guided feature aggregation (LGFA) and mutual
interaction decoding (MID). CroBIM's equations are not public; its topology is followed and every choice of ours is
listed in `docs/paper.md`. Shapes: N sentences, L word tokens, P prompts, D the model's width.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from mqc_jax.config import ModelConfig
from mqc_jax.models import layers, position, torch_ops


@struct.dataclass
class Grounding:
    """What the sentence says about frame 0.

    Attributes:
      prompts: [N, P + L, D], language tokens for the mask decoder.
      prompt_mask: bool [N, P + L], False at padding.
      coarse_logits: float32 [N, S/4, S/4], a first mask; also the decoder's mask prompt.
      embedding: [N, S/16, S/16, D], the image embedding conditioned on the sentence.
    """

    prompts: jax.Array
    prompt_mask: jax.Array
    coarse_logits: jax.Array
    embedding: jax.Array


class _Weights(layers.Module):
    """The parameters of a `torch_ops.Dense`, for whoever multiplies them with something else first."""

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:
        """Kernel [width, features] and bias [features]."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (width, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return kernel.astype(self.dtype), bias.astype(self.dtype)


class CrossAttention(layers.Module):
    """Multi-head attention of `x` [N, Q, .] to `context` [N, K, .] -> [N, Q, features].

    A sentence has a few tokens, an image thousands. So the projections are multiplied into the side with fewer tokens,
    and the other meets two products instead of four, with its heads never apart from its channels: the same numbers to
    rounding, and less memory to go through.
    """

    features: int
    num_heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        heads, depth = self.num_heads, self.features // self.num_heads
        weights = lambda name, width: _Weights(self.features, self.dtype, name=name)(width)  # noqa: E731
        (wq, bq), (wk, bk), (wv, bv), (wo, bo) = (
            weights("q_proj", x.shape[-1]),
            weights("k_proj", context.shape[-1]),
            weights("v_proj", context.shape[-1]),
            weights("out_proj", self.features),
        )
        split = lambda y: y.reshape(*y.shape[:-1], heads, depth)  # noqa: E731
        if x.shape[1] >= context.shape[1]:
            return self._many_queries(x, context, mask, split(wq), split(bq), (wk, bk), (wv, bv), (wo, bo))
        return self._few_queries(x, context, mask, (wq, bq), split(wk), split(wv), split(bv), (wo, bo))

    def _many_queries(self, x, context, mask, wq, bq, key, value, out):
        (n, _, _), (_, heads, depth) = context.shape, wq.shape
        keys = (context @ key[0] + key[1]).reshape(n, -1, heads, depth)
        values = (context @ value[0] + value[1]).reshape(n, -1, heads, depth)
        count, scale = keys.shape[1], depth**-0.5
        into_scores = jnp.einsum("chd,nkhd->nchk", wq * scale, keys).reshape(n, -1, heads * count)
        offset = jnp.einsum("hd,nkhd->nhk", bq * scale, keys).astype(jnp.float32)
        scores = (x @ into_scores).astype(jnp.float32).reshape(*x.shape[:2], heads, count) + offset[:, None]
        if mask is not None:
            scores = jnp.where(mask[:, None, None, :], scores, -1e30)
        share = jax.nn.softmax(scores, axis=-1).astype(self.dtype).reshape(*x.shape[:2], heads * count)
        said = jnp.einsum("nkhd,hdf->nhkf", values, out[0].reshape(heads, depth, -1)).reshape(n, heads * count, -1)
        return share @ said + out[1]

    def _few_queries(self, x, context, mask, query, wk, wv, bv, out):
        (n, count, _), (_, heads, depth) = x.shape, wk.shape
        queries = (x @ query[0] + query[1]).reshape(n, count, heads, depth) * depth**-0.5
        # The keys' bias adds the same to all scores of a query, which the softmax does not see.
        into_scores = jnp.einsum("chd,nqhd->nchq", wk, queries).reshape(n, -1, heads * count)
        scores = (context @ into_scores).astype(jnp.float32)
        if mask is not None:
            scores = jnp.where(mask[:, :, None], scores, -1e30)
        share = jax.nn.softmax(scores, axis=1).astype(self.dtype)
        read = jnp.einsum("nkz,nkc->nzc", share, context).reshape(n, heads, count, -1)
        values = jnp.einsum("nhqc,chd->nqhd", read, wv) + bv
        return values.reshape(n, count, -1) @ out[0] + out[1]


class FeedForward(layers.Module):
    """Two layers with GELU between, [..., D] -> [..., D]."""

    hidden: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = torch_ops.gelu(torch_ops.Dense(self.hidden, dtype=self.dtype, name="fc1")(x))
        return torch_ops.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(hidden)


def average_pool(x: jax.Array, factor: int) -> jax.Array:
    """Mean over factor x factor cells: [N, H, W, D] -> [N, H/factor, W/factor, D]."""
    n, height, width, channels = x.shape
    cells = x.reshape(n, height // factor, factor, width // factor, factor, channels)
    return cells.mean((2, 4))


def _tokens(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1, x.shape[-1])


class ContextPrompts(layers.Module):
    """CAPM: learnable tokens look at the pooled image pyramid and become prompts in the text encoder's own space.

    Every pyramid level is pooled to the coarsest level's grid, so that each contributes as many tokens.
    """

    num_prompts: int
    text_dim: int
    num_heads: int
    d_model: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pyramid: Sequence[jax.Array]) -> jax.Array:
        """pyramid: [N, h_i, w_i, C_i], fine to coarse. Returns [N, P, text_dim]."""
        rows = pyramid[-1].shape[1]
        pooled = [average_pool(level, level.shape[1] // rows) for level in pyramid]
        context = jnp.concatenate(
            [
                _tokens(torch_ops.Dense(self.d_model, dtype=self.dtype, name=f"proj.{i}")(x))
                for i, x in enumerate(pooled)
            ],
            1,
        )
        context = torch_ops.LayerNorm(dtype=self.dtype, name="norm_context")(context)
        # The text encoder's embeddings have this scale; larger prompts would drown the words at the start.
        prompts = self.param("prompts", nn.initializers.normal(0.02), (self.num_prompts, self.d_model))
        prompts = jnp.broadcast_to(prompts.astype(self.dtype), (context.shape[0], *prompts.shape))
        prompts = prompts + CrossAttention(self.d_model, self.num_heads, self.dtype, name="attn")(prompts, context)
        prompts = torch_ops.LayerNorm(dtype=self.dtype, name="norm_prompts")(prompts)
        small = nn.initializers.normal(0.02)
        return torch_ops.Dense(self.text_dim, kernel_init=small, dtype=self.dtype, name="to_text")(prompts)


class LanguageGuidedAggregation(layers.Module):
    """LGFA: words attend into each pyramid level, and an attention over scales fuses the levels into one map V.

    The compensation branch re-adds what the scale attention suppressed: at every place the levels it turned down
    come back through a projection of their own.
    """

    d_model: int
    num_heads: int
    stride: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pyramid: Sequence[jax.Array], words: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """pyramid: [B, h_i, w_i, C_i] at strides 4, 8, 16, 32, B a divisor of N; words: [N, L, D].

        Returns V [N, S/stride, S/stride, D] and the residual, the guided finest level [N, S/4, S/4, D].
        """
        norm = lambda name: torch_ops.LayerNorm(dtype=self.dtype, name=name)  # noqa: E731
        guided = []
        for i, level in enumerate(pyramid):
            x = norm(f"norm_in.{i}")(torch_ops.Dense(self.d_model, dtype=self.dtype, name=f"proj.{i}")(level))
            x = jnp.repeat(x, words.shape[0] // x.shape[0], axis=0)
            read = CrossAttention(self.d_model, self.num_heads, self.dtype, name=f"attn.{i}")(_tokens(x), words, mask)
            guided.append(norm(f"norm_out.{i}")(x + read.reshape(x.shape)))
        size = guided[0].shape[1] * 4 // self.stride
        levels = jnp.stack([self._to_size(x, size) for x in guided], axis=3)  # [N, h, w, levels, D]
        scores = torch_ops.Dense(1, dtype=self.dtype, name="scale_attention")(levels).astype(jnp.float32)
        share = jax.nn.softmax(scores, axis=3).astype(self.dtype)
        fused = (share * levels).sum(3)
        suppressed = ((1 - share) * levels).sum(3) / (len(guided) - 1)
        return fused + torch_ops.Dense(self.d_model, dtype=self.dtype, name="compensation")(suppressed), guided[0]

    @staticmethod
    def _to_size(x: jax.Array, size: int) -> jax.Array:
        if x.shape[1] >= size:
            return average_pool(x, x.shape[1] // size)
        return torch_ops.resize_bilinear(x, (size, size))


class MutualInteraction(layers.Module):
    """One layer of MID: language reads the map, then the map reads language."""

    d_model: int
    num_heads: int
    ffn_dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, vision: jax.Array, language: jax.Array, mask: jax.Array, place: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """vision [N, hw, D], language [N, P + L, D], place: position encoding [hw, D]; both come back updated."""
        norm = lambda name: torch_ops.LayerNorm(dtype=self.dtype, name=name)  # noqa: E731
        attention = lambda name: CrossAttention(self.d_model, self.num_heads, self.dtype, name=name)  # noqa: E731
        language = norm("norm_l1")(language + attention("vision_to_language")(language, vision + place))
        language = norm("norm_l2")(language + FeedForward(self.ffn_dim, self.dtype, name="ffn_l")(language))
        vision = norm("norm_v1")(vision + attention("language_to_vision")(vision + place, language, mask))
        vision = norm("norm_v2")(vision + FeedForward(self.ffn_dim, self.dtype, name="ffn_v")(vision))
        return vision, language


class InteractionDecoder(layers.Module):
    """MID: cascaded mutual attention, then coarse mask logits = (V + residual) x language."""

    d_model: int
    num_layers: int
    num_heads: int
    ffn_dim: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, fused: jax.Array, residual: jax.Array, language: jax.Array, mask: jax.Array, embedding: jax.Array
    ) -> Grounding:
        """fused [N, h, w, D], residual [N, S/4, S/4, D], language [N, P + L, D], embedding [B, S/16, S/16, D]."""
        n, height, width, _ = fused.shape
        place = position.sine_2d(height, width, self.d_model).reshape(height * width, -1).astype(self.dtype)
        vision = _tokens(fused)
        for i in range(self.num_layers):
            layer = MutualInteraction(self.d_model, self.num_heads, self.ffn_dim, self.dtype, name=f"layers.{i}")
            vision, language = layer(vision, language, mask, place)
        fused = vision.reshape(n, height, width, self.d_model)

        width_out = self.d_model // 2
        fine = torch_ops.Dense(width_out, dtype=self.dtype, name="fused_proj")(fused)
        fine = torch_ops.resize_bilinear(fine, residual.shape[1:3])
        fine = torch_ops.gelu(fine + torch_ops.Dense(width_out, dtype=self.dtype, name="residual_proj")(residual))
        fine = torch_ops.Dense(width_out, dtype=self.dtype, name="fine_proj")(fine)
        # [CLS] stays first when prompts are put in front of the words, and speaks for the whole sentence.
        sentence = torch_ops.Dense(width_out, dtype=self.dtype, name="sentence_proj")(language[:, 0])
        # A target covers a hundredth of the frame or less: starting at that prior keeps the first steps calm.
        bias = self.param("coarse_bias", nn.initializers.constant(-4.0), ())
        coarse = jnp.einsum("NYXD,ND->NYX", fine, sentence).astype(jnp.float32) / width_out**0.5 + bias

        # Zero at the start: a pretrained SAM2 first sees exactly the embedding that it was trained on.
        condition = torch_ops.Dense(
            self.d_model, kernel_init=nn.initializers.zeros_init(), dtype=self.dtype, name="embedding_proj"
        )(average_pool(fused, height // embedding.shape[1]))
        prompts = torch_ops.Dense(self.d_model, dtype=self.dtype, name="prompt_proj")(language)
        embedding = jnp.repeat(embedding, n // embedding.shape[0], axis=0)
        return Grounding(prompts, mask, coarse, embedding + condition)


class Bridge(layers.Module):
    """CroBIM's three stages around the text encoder."""

    config: ModelConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        c, b, dtype = self.config, self.config.bridge, self.dtype
        self.capm = ContextPrompts(b.num_prompts, c.bert.hidden_size, b.num_heads, c.d_model, dtype)
        self.lgfa = LanguageGuidedAggregation(c.d_model, b.num_heads, b.stride, dtype)
        self.mid = InteractionDecoder(c.d_model, b.num_layers, b.num_heads, b.ffn_dim, dtype)
        self.word_proj = layers.Dense(c.d_model, dtype=dtype)
        self.language_proj = layers.Dense(c.d_model, dtype=dtype)

    def context_prompts(self, pyramid: tuple[jax.Array, ...]) -> jax.Array:
        return self.capm(pyramid)

    def __call__(
        self,
        pyramid: tuple[jax.Array, ...],
        words: jax.Array,
        words_mask: jax.Array,
        language: jax.Array,
        language_mask: jax.Array,
        embedding: jax.Array,
    ) -> Grounding:
        fused, residual = self.lgfa(pyramid, self.word_proj(words), words_mask)
        return self.mid(fused, residual, self.language_proj(language), language_mask, embedding)
