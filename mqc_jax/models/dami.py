"""DAMI's attention (eqs. 16-18): SAM2's memory attention with three memories, each read by an attention of its own.

`fusion="sum"` is the paper's: omega_1 Attn_sem + omega_2 Attn_short + omega_3 Attn_disc. `fusion="joint"` reads the
same entries under one softmax with one set of projections, which is SAM2's cross-attention where the age bias is zero;
the sum equals it only if each omega were, query by query, the share of that softmax which falls on its memory.
An entry brings its object pointer along, so nothing of a frame reaches the memory past that memory's gate.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from mqc_jax.models.attention import RoPEAttention, merge_heads, read, split_heads
from mqc_jax.models.memory_attention import Memory, MemoryAttention, MemoryAttentionLayer
from mqc_jax.models.registration import recency

ATTENTIONS = ("semantic_attn", "short_attn", "discriminative_attn")
"""Module names of the three attentions, in the order of eq. 16's omega."""


@struct.dataclass
class Memories:
    """What a DAMI layer reads.

    Attributes:
      semantic, short, discriminative: each as SAM2's memory attention reads its own.
      place: int32 [N, tokens of `short`], index of a token's slot in P_rel; 0 is the newest.
    """

    semantic: Memory
    short: Memory
    discriminative: Memory
    place: jax.Array

    @property
    def all(self) -> tuple[Memory, Memory, Memory]:
        """In the order of eq. 16's omega."""
        return self.semantic, self.short, self.discriminative


def pack(
    feature: jax.Array,
    feature_pos: jax.Array,
    pointer: jax.Array,
    pointer_pos: jax.Array,
    valid: jax.Array,
    age: jax.Array,
    short_slots: int,
) -> Memories:
    """Divides K slots, in the order anchor, short-term, prototypes, into what the three attentions read.

    Args:
      feature: [N, K, h * w, mem_dim], and its position encoding [N, K, h * w, mem_dim].
      pointer: [N, K, R, mem_dim], each object pointer cut into R tokens, and its position encoding likewise.
      valid: bool [N, K].
      age: int32 [N, K], frames.
      short_slots: L - 1.
    """
    n, _, cells, width = feature.shape
    tokens = pointer.shape[2]

    def spread(x: jax.Array) -> jax.Array:
        """One number a slot -> one a token."""
        return jnp.concatenate([jnp.repeat(x, cells, axis=1), jnp.repeat(x, tokens, axis=1)], 1)

    def part(first: int, last: int | None) -> Memory:
        here = slice(first, last)
        join = lambda *xs: jnp.concatenate([x[:, here].reshape(n, -1, width) for x in xs], 1)  # noqa: E731
        own = valid[:, here]
        return Memory(join(feature, pointer), join(feature_pos, pointer_pos), spread(own), own.shape[1] * tokens)

    short = slice(1, 1 + short_slots)
    place = spread(recency(valid[:, short], age[:, short]))
    return Memories(part(0, 1), part(1, 1 + short_slots), part(1 + short_slots, None), place)


def join(memories: Memories) -> Memory:
    """All entries as one memory: the places of the image first, then all object pointers."""
    keep = [(m, m.tokens.shape[1] - m.num_obj_ptr_tokens) for m in memories.all]

    def pick(get: Callable[[Memory], jax.Array]) -> jax.Array:
        return jnp.concatenate([get(m)[:, :cut] for m, cut in keep] + [get(m)[:, cut:] for m, cut in keep], 1)

    return Memory(
        pick(lambda m: m.tokens),
        pick(lambda m: m.position),
        pick(lambda m: m.valid),
        sum(m.num_obj_ptr_tokens for m in memories.all),
    )


class WeightedRoPEAttention(RoPEAttention):
    """`RoPEAttention` whose softmax gives each key a factor, softmax(q k / sqrt(d) + log factor) (eq. 18).

    The factors travel as channels of the values: attention that sums w v and w f anyway needs no second pass, and the
    sums of f are the mass that each group of keys received.
    """

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        grid: tuple[int, int],
        num_k_exclude_rope: int,
        key_valid: jax.Array,
        factor: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """As `RoPEAttention`.

        Args:
          factor: positive [N, K, G]; a key has its factor in the column of its group and zero in the others.

        Returns:
          [N, Q, embed_dim], and the mass of each group, float [N, Q, G], zero where no key is valid.
        """
        q = self.rotate(split_heads(self.q_proj(q), self.num_heads), grid)
        k = self.rotate(split_heads(self.k_proj(k), self.num_heads), grid, num_k_exclude_rope)
        groups = factor.shape[-1]
        # As in `RoPEAttention`: narrow values are projected after the read.
        narrow = self.num_heads == 1 and v.shape[-1] < self.embed_dim // self.downsample_rate
        v = v[:, None].astype(self.dtype) if narrow else split_heads(self.v_proj(v), self.num_heads)
        factor = jnp.broadcast_to(factor[:, None].astype(v.dtype), (*v.shape[:3], groups))
        x = read(q, k, jnp.concatenate([v * factor.sum(-1, keepdims=True), factor], -1), key_valid)
        total = x[..., -groups:].sum(-1, keepdims=True)
        x = x / jnp.where(total > 0, total, 1)
        value, mass = x[..., :-groups], x[..., -groups:].mean(1)
        value = self.v_proj(value[:, 0]) if narrow else merge_heads(value)
        return self.finish(value, key_valid), mass


class DecoupledLayer(MemoryAttentionLayer):
    """SAM2's layer with its one cross-attention replaced by DAMI's (eq. 16)."""

    short_slots: int = 4
    fusion: str = "sum"

    def setup(self):
        super().setup()  # its `cross_attn_image` is never called and has no parameters
        common = {"rope_theta": self.rope_theta, "dtype": self.dtype}
        self.p_rel = self.param("p_rel", nn.initializers.zeros, (self.short_slots,))
        if self.fusion == "joint":
            self.joint_attn = WeightedRoPEAttention(self.d_model, self.num_heads, **common)
        else:
            self.omega = self.param("omega", nn.initializers.ones, (len(ATTENTIONS),))
            self.semantic_attn = self.rope_attention()
            self.short_attn = WeightedRoPEAttention(self.d_model, self.num_heads, **common)
            self.discriminative_attn = self.rope_attention()

    def attend_memory(self, x: jax.Array, grid: tuple[int, int], memory: Memories) -> tuple[jax.Array, jax.Array]:
        """The change that the memories make to x [N, h * w, d_model], and their shares in it, float32 [N, 3]."""
        x = self.norm2(x)
        recent = jnp.exp(self.p_rel)[memory.place]
        if self.fusion == "joint":
            return self._attend_jointly(x, grid, memory, recent)
        arguments = lambda m: (x, m.tokens + m.position, m.tokens, grid, m.num_obj_ptr_tokens, m.valid)  # noqa: E731
        short, _ = self.short_attn(*arguments(memory.short), recent[..., None])
        found = (
            self.semantic_attn(*arguments(memory.semantic)),
            short,
            self.discriminative_attn(*arguments(memory.discriminative)),
        )
        parts = [omega.astype(self.dtype) * part for omega, part in zip(self.omega, found, strict=True)]
        sizes = [jnp.linalg.norm(jax.lax.stop_gradient(part).astype(jnp.float32), axis=-1).sum(1) for part in parts]
        sizes = jnp.stack(sizes, 1)
        share = sizes / jnp.where((sizes > 0).any(1), sizes.sum(1), 1.0)[:, None]
        return parts[0] + parts[1] + parts[2], share

    def _attend_jointly(
        self, x: jax.Array, grid: tuple[int, int], memory: Memories, recent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        one = lambda m: jnp.ones(m.tokens.shape[:2], recent.dtype)  # noqa: E731
        # The anchor's and the prototypes' entries have no place in the queue, and no bias.
        factors = (one(memory.semantic), recent, one(memory.discriminative))
        columns = [f[..., None] * jax.nn.one_hot(i, 3, dtype=recent.dtype) for i, f in enumerate(factors)]
        named = [m.replace(tokens=column) for m, column in zip(memory.all, columns, strict=True)]
        whole = join(memory)
        factor = join(memory.replace(semantic=named[0], short=named[1], discriminative=named[2])).tokens
        keys = whole.tokens + whole.position
        change, mass = self.joint_attn(x, keys, whole.tokens, grid, whole.num_obj_ptr_tokens, whole.valid, factor)
        return change, jax.lax.stop_gradient(mass).astype(jnp.float32).mean(1)

    def __call__(self, x: jax.Array, grid: tuple[int, int], memory: Memories) -> tuple[jax.Array, jax.Array]:
        """x [N, h * w, d_model], grid (h, w) -> [N, h * w, d_model], and `attend_memory`'s shares."""
        x = x + self.attend_self(x, grid)
        change, share = self.attend_memory(x, grid, memory)
        x = x + change
        return x + self.feed_forward(x), share


class DecoupledMemoryAttention(MemoryAttention):
    """`MemoryAttention` over three memories; `layer` makes a `DecoupledLayer`."""

    def __call__(self, curr: jax.Array, curr_pos: jax.Array, memories: Memories) -> tuple[jax.Array, jax.Array]:
        """Conditions the current frame on the memories.

        Args:
          curr: [N, h, w, d_model], the stride-16 features.
          curr_pos: [h, w, d_model] or with a leading axis of 1 or N, their position encoding.

        Returns:
          [N, h, w, d_model], and float32 [N, 3], the mean over the layers of each memory's share in what was read:
          of the norms of eq. 16's three terms, or, with `fusion="joint"`, of the softmax's mass. It carries no
          gradient, and where it is not used the compiler leaves it out. Zero where all memories are empty.
        """
        n, h, w, channels = curr.shape
        x = curr + 0.1 * curr_pos if self.pos_enc_at_input else curr
        x = x.reshape(n, h * w, channels).astype(self.dtype)
        shares = []
        for layer in self.layers:
            x, share = layer(x, (h, w), memories)
            shares.append(share)
        return self.norm(x).reshape(n, h, w, channels), jnp.stack(shares).mean(0)


def from_sam2(params: Mapping[str, Any], short_slots: int, fusion: str = "sum") -> dict[str, Any]:
    """A `MemoryAttention`'s parameters as a `DecoupledMemoryAttention`'s.

    Every attention starts as SAM2's cross-attention, with omega = 1 and P_rel = 0.

    Args:
      params: SAM2's tree, with `layers.{i}`; left as it is.
      short_slots: L - 1.
      fusion: as the layers'.
    """
    converted = {}
    for name, layer in params.items():
        if not name.startswith("layers."):
            converted[name] = layer
            continue
        kept = {key: value for key, value in layer.items() if key != "cross_attn_image"}
        names = ("joint_attn",) if fusion == "joint" else ATTENTIONS
        own = dict.fromkeys(names, layer["cross_attn_image"])
        omega = {} if fusion == "joint" else {"omega": jnp.ones(len(ATTENTIONS))}
        converted[name] = {**kept, **own, **omega, "p_rel": jnp.zeros(short_slots)}
    return converted
