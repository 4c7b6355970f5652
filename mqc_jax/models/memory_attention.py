"""SAM2's memory attention: the current frame's features read what the memory holds."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from mqc_jax.models import layers
from mqc_jax.models.attention import RoPEAttention
from mqc_jax.models.torch_ops import HEAD_EPSILON, LayerNorm


@struct.dataclass
class Memory:
    """What one cross-attention reads: slots of h * w tokens each, then object-pointer tokens.

    Attributes:
      tokens: [N, M, mem_dim], M = slots * h * w + num_obj_ptr_tokens.
      position: [N or 1, M, mem_dim], added to the keys.
      valid: bool [N, M], or None when all are valid.
      num_obj_ptr_tokens: how many tokens at the end have no place in the image and are not rotated.
    """

    tokens: jax.Array
    position: jax.Array
    valid: jax.Array | None = None
    num_obj_ptr_tokens: int = struct.field(pytree_node=False, default=0)


class MemoryAttentionLayer(layers.Module):
    """`sam2.modeling.memory_attention.MemoryAttentionLayer` (pre-norm, ReLU, no dropout).

    A variant that reads several memories overrides `attend_memory`, and `setup` for its parameters; the rest stays.
    """

    d_model: int
    dim_feedforward: int
    num_heads: int = 1
    rope_theta: float = 10000.0
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.self_attn = self.rope_attention()
        self.cross_attn_image = self.rope_attention()
        self.linear1 = layers.Dense(self.dim_feedforward, dtype=self.dtype)
        self.linear2 = layers.Dense(self.d_model, dtype=self.dtype)
        self.norm1 = LayerNorm(epsilon=HEAD_EPSILON, dtype=self.dtype)
        self.norm2 = LayerNorm(epsilon=HEAD_EPSILON, dtype=self.dtype)
        self.norm3 = LayerNorm(epsilon=HEAD_EPSILON, dtype=self.dtype)

    def rope_attention(self) -> RoPEAttention:
        """A new attention of this layer's size, unnamed: the attribute it is assigned to in `setup` names it."""
        return RoPEAttention(self.d_model, self.num_heads, rope_theta=self.rope_theta, dtype=self.dtype)

    def attend_self(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """The change that self-attention makes to x [N, h * w, d_model]."""
        x = self.norm1(x)
        return self.self_attn(x, x, x, grid)

    def attend_memory(self, x: jax.Array, grid: tuple[int, int], memory: Memory) -> jax.Array:
        """The change that the memory makes to x [N, h * w, d_model]; exactly zero where no token is valid."""
        keys = memory.tokens + memory.position
        return self.cross_attn_image(self.norm2(x), keys, memory.tokens, grid, memory.num_obj_ptr_tokens, memory.valid)

    def feed_forward(self, x: jax.Array) -> jax.Array:
        """The change that the MLP makes to x [N, h * w, d_model]."""
        return self.linear2(nn.relu(self.linear1(self.norm3(x))))

    def __call__(self, x: jax.Array, grid: tuple[int, int], memory: Memory) -> jax.Array:
        """x [N, h * w, d_model], grid (h, w) -> [N, h * w, d_model]."""
        x = x + self.attend_self(x, grid)
        x = x + self.attend_memory(x, grid, memory)
        return x + self.feed_forward(x)


class MemoryAttention(layers.Module):
    """`sam2.modeling.memory_attention.MemoryAttention`.

    Attributes:
      d_model: channels of the image features.
      num_layers: layers, `layers.0` onwards.
      dim_feedforward: hidden channels of each layer's MLP.
      kv_in_dim: channels of the memory (64 in SAM2, not `d_model`).
      num_heads: heads of every attention.
      rope_theta: base of the rotary frequencies.
      pos_enc_at_input: add a tenth of the position encoding to the input.
      layer: makes one layer; called with `MemoryAttentionLayer`'s attributes.
      dtype: compute dtype.
    """

    d_model: int
    num_layers: int
    dim_feedforward: int
    kv_in_dim: int
    num_heads: int = 1
    rope_theta: float = 10000.0
    pos_enc_at_input: bool = True
    layer: Callable[..., layers.Module] = MemoryAttentionLayer
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.layers = [
            self.layer(
                d_model=self.d_model,
                dim_feedforward=self.dim_feedforward,
                num_heads=self.num_heads,
                rope_theta=self.rope_theta,
                dtype=self.dtype,
                name=f"layers.{i}",
            )
            for i in range(self.num_layers)
        ]
        self.norm = LayerNorm(epsilon=HEAD_EPSILON, dtype=self.dtype)

    def attend(self, curr: jax.Array, curr_pos: jax.Array, memory: Memory) -> jax.Array:
        """As `__call__`, with the memory already packed in whatever form `layer` reads."""
        n, h, w, channels = curr.shape
        x = curr + 0.1 * curr_pos if self.pos_enc_at_input else curr
        x = x.reshape(n, h * w, channels).astype(self.dtype)
        for layer in self.layers:
            x = layer(x, (h, w), memory)
        return self.norm(x).reshape(n, h, w, channels)

    def __call__(
        self,
        curr: jax.Array,
        curr_pos: jax.Array,
        memory: jax.Array,
        memory_pos: jax.Array,
        memory_valid: jax.Array | None = None,
        num_obj_ptr_tokens: int = 0,
    ) -> jax.Array:
        """Conditions the current frame on the memory.

        Args:
          curr: [N, h, w, d_model], the stride-16 features.
          curr_pos: [h, w, d_model] or with a leading axis of 1 or N, their position encoding.
          memory: [N, M, kv_in_dim], M = slots * h * w + num_obj_ptr_tokens; invalid tokens must be finite.
          memory_pos: [N or 1, M, kv_in_dim], position encoding of the memory, added to the keys.
          memory_valid: bool [N, M], or None when every token is valid.
          num_obj_ptr_tokens: tokens at the end of the memory that are object pointers, which are not rotated.

        Returns:
          [N, h, w, d_model]. A masked token has no influence: the result is that of the shorter memory.

        Raises:
          ValueError: the memory's channels or its number of tokens do not fit.
        """
        if memory.shape[-1] != self.kv_in_dim:
            raise ValueError(f"memory has {memory.shape[-1]} channels, the memory attention reads {self.kv_in_dim}")
        return self.attend(curr, curr_pos, Memory(memory, memory_pos, memory_valid, num_obj_ptr_tokens))
