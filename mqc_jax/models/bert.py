"""BERT's encoder (Devlin et al., 2019) in Flax, with learnable prompts at its input.

Module names are those of Hugging Face's `BertModel`, so a parameter's path joined with dots is the key of its PyTorch
weight. Sentences are single (token type 0), and there is no dropout: the encoder is either frozen, or small and trained
with the rest of the model.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mqc_jax.models import layers

Array = jax.Array
Dtype = Any


class BertLayer(layers.Module):
    """Post-norm transformer layer (`BertLayer` upstream): `[N, T, D]` and keys' mask bool `[N, T]` to `[N, T, D]`."""

    num_heads: int
    intermediate_size: int
    layer_norm_eps: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        width = x.shape[-1]
        heads = (self.num_heads, width // self.num_heads)

        def project(name: str) -> Array:
            return layers.Dense(width, dtype=self.dtype, name=f"attention.self.{name}")(x).reshape(*x.shape[:2], *heads)

        def add_and_norm(y: Array, residual: Array, name: str) -> Array:
            y = layers.Dense(width, dtype=self.dtype, name=f"{name}.dense")(y)
            return _layer_norm(self.layer_norm_eps, self.dtype, f"{name}.LayerNorm")(y + residual)

        query, key, value = project("query"), project("key"), project("value")
        scores = jnp.einsum("NTHD,NSHD->NHTS", query, key, preferred_element_type=jnp.float32) * heads[1] ** -0.5
        # A finite floor, not -inf: a row that is all padding (a batch filled up to its size) must not become NaN.
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        context = jnp.einsum("NHTS,NSHD->NTHD", weights, value).reshape(x.shape)
        x = add_and_norm(context, x, "attention.output")
        inner = layers.Dense(self.intermediate_size, dtype=self.dtype, name="intermediate.dense")(x)
        return add_and_norm(nn.gelu(inner, approximate=False), x, "output")


class Bert(layers.Module):
    """BERT's encoder (`BertModel` upstream).

    Attributes:
      vocab_size: rows of the word embedding.
      hidden_size: D, a multiple of `num_attention_heads`.
      num_hidden_layers: transformer layers.
      num_attention_heads: heads of each layer.
      intermediate_size: width of the feed-forward part.
      max_position_embeddings: most tokens of a sentence, prompts included.
      type_vocab_size: rows of the token-type embedding (only row 0 is used).
      layer_norm_eps: added to the variance.
      hidden_act: "gelu", the exact one; nothing else is implemented.
      add_pooler: also has the parameters of `pool`.
      dtype: of the computation; parameters and attention scores are float32.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    add_pooler: bool = False
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
            )
        if self.hidden_act != "gelu":
            raise ValueError(f"hidden_act={self.hidden_act!r} is not implemented; only 'gelu' is")

        def table(rows: int, name: str) -> nn.Embed:
            init = nn.initializers.truncated_normal(0.02)
            return layers.Embed(
                rows, self.hidden_size, dtype=self.dtype, embedding_init=init, name=f"embeddings.{name}"
            )

        self.words = table(self.vocab_size, "word_embeddings")
        self.positions = table(self.max_position_embeddings, "position_embeddings")
        self.types = table(self.type_vocab_size, "token_type_embeddings")
        self.norm = _layer_norm(self.layer_norm_eps, self.dtype, "embeddings.LayerNorm")
        self.stack = [
            BertLayer(
                self.num_attention_heads,
                self.intermediate_size,
                self.layer_norm_eps,
                self.dtype,
                name=f"encoder.layer.{i}",
            )
            for i in range(self.num_hidden_layers)
        ]
        if self.add_pooler:
            self.pooler = layers.Dense(self.hidden_size, dtype=self.dtype, name="pooler.dense")

    def embed_words(self, input_ids: Array) -> Array:
        """Word embeddings alone, int32 `[N, L]` to `[N, L, D]`: no position, no norm. Prompts live in this space."""
        return self.words(input_ids)

    def __call__(
        self,
        input_ids: Array,
        attention_mask: Array,
        prompt_embeds: Array | None = None,
        prompt_mask: Array | None = None,
    ) -> tuple[Array, Array]:
        """The last layer `[N, T, D]` and the mask bool `[N, T]` of `layers`, whose arguments these are."""
        layers, mask = self.layers(input_ids, attention_mask, prompt_embeds, prompt_mask)
        if self.add_pooler and self.is_initializing():
            self.pool(layers[-1])
        return layers[-1], mask

    def pool(self, hidden: Array) -> Array:
        """Sentence vector `[N, D]` of the last layer `[N, T, D]`: tanh of a linear map of [CLS]. Needs `add_pooler`."""
        return jnp.tanh(self.pooler(hidden[:, 0]))

    def layers(
        self,
        input_ids: Array,
        attention_mask: Array,
        prompt_embeds: Array | None = None,
        prompt_mask: Array | None = None,
    ) -> tuple[tuple[Array, ...], Array]:
        """Encodes sentences, with P prompt embeddings between [CLS] and the first word where they are given.

        A word's position is its place among the tokens that are there: P valid prompts move every word P places on,
        and a prompt that is masked out leaves the sentence exactly as it was without it.

        Args:
          input_ids: int32 `[N, L]`, [CLS] first, padding last.
          attention_mask: bool or int `[N, L]`, non-zero where there is a token. Padding never influences a token.
          prompt_embeds: `[N, P, D]`, in the space of `embed_words`. Gradients reach them.
          prompt_mask: bool or int `[N, P]`; left out, every prompt is valid.

        Returns:
          The embeddings' output and then every layer's, each `[N, T, D]`, and the mask bool `[N, T]`, True where there
          is a token and not padding. T = L, or L + P in the order [CLS], prompts, words, [SEP], padding.

        Raises:
          ValueError: T exceeds `max_position_embeddings`, or the prompts' width is not `hidden_size`.
        """
        embeds = self.words(input_ids)
        mask = attention_mask.astype(bool)
        positions = jnp.broadcast_to(jnp.arange(input_ids.shape[1]), input_ids.shape)
        if prompt_embeds is not None:
            if prompt_embeds.shape[-1] != self.hidden_size:
                raise ValueError(f"prompts have width {prompt_embeds.shape[-1]}, not hidden_size={self.hidden_size}")
            valid = jnp.ones(prompt_embeds.shape[:2], bool) if prompt_mask is None else prompt_mask.astype(bool)
            count = jnp.cumsum(valid, axis=1)
            embeds = _after_first(embeds, prompt_embeds.astype(embeds.dtype))
            mask = _after_first(mask, valid)
            positions = _after_first(jnp.concatenate([positions[:, :1], positions[:, 1:] + count[:, -1:]], 1), count)
        if embeds.shape[1] > self.max_position_embeddings:
            raise ValueError(
                f"{embeds.shape[1]} tokens, prompts included, exceed"
                f" max_position_embeddings={self.max_position_embeddings}"
            )

        x = self.norm(embeds + self.positions(positions) + self.types(jnp.zeros_like(positions)))
        layers = [x]
        for layer in self.stack:
            layers.append(layer(layers[-1], mask))
        return tuple(layers), mask


def _after_first(tokens: Array, inserted: Array) -> Array:
    """Puts `inserted` `[N, P, ...]` behind the first of `tokens` `[N, L, ...]`."""
    return jnp.concatenate([tokens[:, :1], inserted, tokens[:, 1:]], axis=1)


def _layer_norm(epsilon: float, dtype: Dtype, name: str) -> layers.LayerNorm:
    # E[x^2] - E[x]^2 in float32 would lose the digits that an epsilon of 1e-12 relies on.
    return layers.LayerNorm(epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)
