"""SAM's prompt encoder: points, boxes and masks as tokens and as a map for the mask decoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from mqc_jax.models import layers
from mqc_jax.models.torch_ops import TRUNK_EPSILON, Conv1x1, LayerNorm, gelu

PADDING, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
"""Labels of points. A padding point stands for "no point"; the last two are a box's corners."""


class PatchConv2x2(layers.Module):
    """`torch.nn.Conv2d(C, features, 2, stride=2)` as one matrix product over 2x2 patches.

    [..., 2h, 2w, C] -> [..., h, w, features]. Parameters: `kernel` [2, 2, C, features], `bias` [features].
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *lead, height, width, channels = x.shape
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (2, 2, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        patches = x.reshape(*lead, height // 2, 2, width // 2, 2, channels).swapaxes(-4, -3)
        patches = patches.reshape(*lead, height // 2, width // 2, 4 * channels)
        return patches @ kernel.reshape(4 * channels, self.features) + bias


class RandomPosition(layers.Module):
    """`sam2.modeling.position_encoding.PositionEmbeddingRandom`: Fourier features of fixed random frequencies."""

    features: int

    @nn.compact
    def __call__(self, xy: jax.Array) -> jax.Array:
        """[..., 2] in [0, 1], x first -> [..., 2 * features] in [-1, 1], float32."""
        matrix = self.param(
            "positional_encoding_gaussian_matrix", nn.initializers.normal(1.0), (2, self.features), jnp.float32
        )
        # A buffer upstream, so it is never trained. Phases reach many turns: keep full precision on every backend.
        phase = jnp.matmul(2 * xy - 1, jax.lax.stop_gradient(matrix), precision=jax.lax.Precision.HIGHEST)
        phase = 2 * jnp.pi * phase
        return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], axis=-1)


class PromptEncoder(layers.Module):
    """`sam2.modeling.sam.prompt_encoder.PromptEncoder`.

    Attributes:
      embed_dim: channels D of the prompts and of the image embedding.
      image_embedding_size: (h, w) of the image embedding.
      input_image_size: (H, W) in pixels of the image that points and boxes refer to.
      mask_in_chans: hidden channels for masks.
      dtype: compute dtype.
    """

    embed_dim: int
    image_embedding_size: tuple[int, int]
    input_image_size: tuple[int, int]
    mask_in_chans: int = 16
    dtype: DTypeLike = jnp.float32

    def setup(self):
        token = nn.initializers.normal(1.0)
        self.pe_layer = RandomPosition(self.embed_dim // 2)
        self.point_embeddings = [
            layers.Embed(1, self.embed_dim, embedding_init=token, name=f"point_embeddings.{i}") for i in range(4)
        ]
        self.not_a_point_embed = layers.Embed(1, self.embed_dim, embedding_init=token)
        self.no_mask_embed = layers.Embed(1, self.embed_dim, embedding_init=token)
        norm = {"epsilon": TRUNK_EPSILON, "dtype": self.dtype}
        self.mask_downscaling = [
            PatchConv2x2(self.mask_in_chans // 4, self.dtype, name="mask_downscaling.0"),
            LayerNorm(**norm, name="mask_downscaling.1"),
            gelu,
            PatchConv2x2(self.mask_in_chans, self.dtype, name="mask_downscaling.3"),
            LayerNorm(**norm, name="mask_downscaling.4"),
            gelu,
            Conv1x1(self.embed_dim, dtype=self.dtype, name="mask_downscaling.6"),
        ]

    @property
    def mask_input_size(self) -> tuple[int, int]:
        """(H / 4, W / 4): the size of mask prompts."""
        return 4 * self.image_embedding_size[0], 4 * self.image_embedding_size[1]

    def _encode(self, xy: ArrayLike) -> jax.Array:
        """Position of pixel coordinates [..., 2], x first; upstream shifts them to the pixel's centre."""
        height, width = self.input_image_size
        return self.pe_layer((jnp.asarray(xy, jnp.float32) + 0.5) / jnp.asarray([width, height], jnp.float32))

    def dense_pe(self) -> jax.Array:
        """Position encoding of the image embedding, [1, h, w, D] (upstream's `get_dense_pe`)."""
        h, w = self.image_embedding_size
        y, x = jnp.meshgrid((jnp.arange(h) + 0.5) / h, (jnp.arange(w) + 0.5) / w, indexing="ij")
        return self.pe_layer(jnp.stack([x, y], axis=-1))[None].astype(self.dtype)

    def embed_points(self, points: ArrayLike, labels: ArrayLike, pad: bool = True) -> jax.Array:
        """Point prompts as tokens.

        Args:
          points: [N, P, 2] in pixels of the input image, x first.
          labels: int [N, P], -1 (no point), 0 (background), 1 (target), 2 and 3 (a box's corners).
          pad: append one padding point, as upstream does where no box is given.

        Returns:
          [N, P + pad, D].
        """
        points, labels = jnp.asarray(points, jnp.float32), jnp.asarray(labels, jnp.int32)
        if pad:
            points = jnp.pad(points, ((0, 0), (0, 1), (0, 0)))
            labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=PADDING)
        kinds = jnp.concatenate([self.not_a_point_embed.embedding, *(e.embedding for e in self.point_embeddings)])
        # A padding point is its embedding alone, wherever it lies.
        place = jnp.where((labels == PADDING)[..., None], 0.0, self._encode(points))
        kind = jnp.einsum("npk,kd->npd", jax.nn.one_hot(labels + 1, 5), kinds, precision=jax.lax.Precision.HIGHEST)
        return (place + kind).astype(self.dtype)

    def embed_boxes(self, boxes: ArrayLike) -> jax.Array:
        """Boxes [N, 4] (x0, y0, x1, y1 in pixels of the input image) as two corner tokens, [N, 2, D]."""
        corners = jnp.asarray(boxes, jnp.float32).reshape(-1, 2, 2)
        labels = jnp.broadcast_to(jnp.array([TOP_LEFT, BOTTOM_RIGHT]), corners.shape[:2])
        return self.embed_points(corners, labels, pad=False)

    def embed_masks(self, masks: ArrayLike) -> jax.Array:
        """Mask logits [N, 4h, 4w, 1] as a map to add to the image embedding, [N, h, w, D]."""
        x = jnp.asarray(masks)
        if x.shape[1:] != (*self.mask_input_size, 1):
            expected = ("N", *self.mask_input_size, 1)
            raise ValueError(f"masks are {x.shape}, expected {expected}, four times the image embedding")
        x = x.astype(self.dtype)
        for layer in self.mask_downscaling:
            x = layer(x)
        return x

    def no_mask(self, n: int = 1) -> jax.Array:
        """The map that stands for "no mask", [n, h, w, D]; the decoder shares n = 1 among all objects."""
        return jnp.broadcast_to(
            self.no_mask_embed.embedding.astype(self.dtype), (n, *self.image_embedding_size, self.embed_dim)
        )

    def __call__(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        masks: ArrayLike | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """All prompts of N objects at once; each argument as in the method of its name.

        Returns:
          sparse [N, P', D] with points (and a padding point where no boxes are given) before boxes, P' = 0 without
          either; dense [N, h, w, D].
        """
        given = next((x for x in (points, boxes, masks) if x is not None), None)
        n = 1 if given is None else given.shape[0]
        if self.is_initializing():  # every parameter must come to exist, whichever prompts are given
            self.embed_points(jnp.zeros((1, 1, 2)), jnp.zeros((1, 1)))
            self.embed_masks(jnp.zeros((1, *self.mask_input_size, 1)))
            self.no_mask()
        tokens = [jnp.zeros((n, 0, self.embed_dim), self.dtype)]
        if points is not None:
            tokens.append(self.embed_points(points, labels, pad=boxes is None))
        if boxes is not None:
            tokens.append(self.embed_boxes(boxes))
        dense = self.no_mask() if masks is None else self.embed_masks(masks)
        return jnp.concatenate(tokens, axis=1), jnp.broadcast_to(dense, (n, *dense.shape[1:]))
