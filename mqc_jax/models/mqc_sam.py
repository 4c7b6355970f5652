"""MQC-SAM: the paper's Figure 4 as code.

A frame is encoded once (`encode_frame`); the sentence is encoded and grounded on frame 0 (`start`); every later frame
reads the memory, decodes a mask and writes the memory (`step`). The module holds no state of its own: the state is an
argument and a return value with fixed shapes, so that `step` compiles once, scans over a clip in training and streams
for ever in use. N is the number of targets; image features have leading dimension 1 (shared by all targets) or N;
frame 0's may have any B that divides N, when each of B frames has N / B targets.
Parameter names are those of the official SAM2 checkpoints; the text encoder's are Hugging Face's BERT's.
"""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from mqc_jax.config import ModelConfig
from mqc_jax.models import crobim, dami, dami_bank, layers, memory_bank, one_object, position, torch_ops
from mqc_jax.models.attention import MLP
from mqc_jax.models.bert import Bert
from mqc_jax.models.fpn import ImageEncoder
from mqc_jax.models.mask_decoder import MaskDecoder, MaskPrediction, select
from mqc_jax.models.memory_attention import MemoryAttention
from mqc_jax.models.memory_bank import MemoryBank, Slots
from mqc_jax.models.memory_encoder import MemoryEncoder
from mqc_jax.models.prompt_encoder import PromptEncoder
from mqc_jax.models.registration import Decision, RobustnessScorer

NO_OBJECT_LOGIT = -1024.0
"""Mask logit of a frame in which the target is judged absent (upstream's NO_OBJ_SCORE)."""

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


@struct.dataclass
class Features:
    """One encoded frame (or B of them).

    Attributes:
      pyramid: trunk features at strides 4, 8, 16 and 32, [B, S/s, S/s, C_s]; read by the bridge on frame 0.
      high_res: decoder's skip features, [B, S/4, S/4, D/8] and [B, S/8, S/8, D/4].
      embedding: [B, S/16, S/16, D].
    """

    pyramid: tuple[jax.Array, ...]
    high_res: tuple[jax.Array, ...]
    embedding: jax.Array


@struct.dataclass
class Text:
    """Encoded sentences: `input_ids` int32 [N, L], `mask` bool [N, L], plain `words` [N, L, text width]."""

    input_ids: jax.Array
    mask: jax.Array
    words: jax.Array


@struct.dataclass
class Output:
    """What one frame gave, for N targets.

    Attributes:
      mask_logits: float32 [N, S/4, S/4], the chosen mask; NO_OBJECT_LOGIT everywhere if the target is judged absent,
        which in later frames it is up to a presence of `shown_presence`.
      hypotheses: float32 [N, 3, S/4, S/4], all masks before that judgement.
      ious: float32 [N, 3], predicted quality of each.
      presence_logits: float32 [N], positive: visible.
      coarse_logits: float32 [N, S/4, S/4], the bridge's mask on frame 0; zeros elsewhere.
      pointer: [N, D], the object pointer.
      decision: what each gate of DAMI's memory decided, and why; None with SAM2's memory.
    """

    mask_logits: jax.Array
    hypotheses: jax.Array
    ious: jax.Array
    presence_logits: jax.Array
    coarse_logits: jax.Array
    pointer: jax.Array
    decision: Decision | None = None


def logits_from_mask(masks: jax.Array) -> jax.Array:
    """A given mask in [0, 1] as decoder logits, -10 outside and 10 inside (upstream `_use_mask_as_output`)."""
    return masks.astype(jnp.float32) * 20.0 - 10.0


def for_each(features: Features, targets: int) -> Features:
    """Features of B frames as features of `targets` = B * N, those of one frame following one another.

    One frame may also stay one for all targets, because what reads it broadcasts.
    """
    frames = features.embedding.shape[0]
    if frames in (1, targets):
        return features
    return jax.tree.map(lambda x: jnp.repeat(x, targets // frames, axis=0), features)


class ClassHead(layers.Module):
    """Names the class at each place, from the pyramid that the bridge reads; only training uses it.

    A small model has no pretrained encoder. One sentence teaches about one object, this about all that are in view.
    """

    outputs: int
    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pyramid: tuple[jax.Array, ...]) -> jax.Array:
        """pyramid: [B, h_i, w_i, C_i], fine to coarse. Returns float32 [B, h_0, w_0, outputs]."""
        size = pyramid[0].shape[1:3]
        total = jnp.zeros((), self.dtype)
        for i, level in enumerate(pyramid):
            x = torch_ops.Dense(self.width, dtype=self.dtype, name=f"proj.{i}")(level)
            total = total + torch_ops.resize_bilinear(x, size)
        x = torch_ops.gelu(torch_ops.LayerNorm(dtype=self.dtype, name="norm")(total))
        return torch_ops.Dense(self.outputs, dtype=self.dtype, name="out")(x).astype(jnp.float32)


class MQCSAM(layers.Module):
    """The whole model; see the module's docstring."""

    config: ModelConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        c, dtype = self.config, self.dtype
        grid = (c.image_size // 16, c.image_size // 16)
        self.image_encoder = ImageEncoder(
            **dataclasses.asdict(c.hiera),
            d_model=c.d_model,
            fpn_top_down_levels=c.fpn_top_down_levels,
            remat=c.remat,
            dtype=dtype,
        )
        attention = {
            "d_model": c.d_model,
            "num_layers": c.memory_attention_layers,
            "dim_feedforward": c.memory_attention_ffn,
            "kv_in_dim": c.mem_dim,
            "dtype": dtype,
        }
        if c.memory == "dami":
            layer = functools.partial(dami.DecoupledLayer, short_slots=c.dami.short, fusion=c.dami.fusion)
            self.memory_attention = dami.DecoupledMemoryAttention(**attention, layer=layer)
            self.robustness_scorer = RobustnessScorer(c.dami.scorer_hidden, dtype)
        else:
            self.memory_attention = MemoryAttention(**attention)
        self.memory_encoder = MemoryEncoder(
            in_dim=c.d_model, out_dim=c.mem_dim, fuser_layers=c.fuser_layers, dtype=dtype
        )
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=c.d_model,
            image_embedding_size=grid,
            input_image_size=(c.image_size, c.image_size),
            mask_in_chans=c.mask_in_chans,
            dtype=dtype,
        )
        self.sam_mask_decoder = MaskDecoder(
            transformer_dim=c.d_model,
            depth=c.decoder_depth,
            num_heads=c.decoder_heads,
            mlp_dim=c.decoder_mlp,
            iou_head_depth=c.iou_head_depth,
            iou_head_hidden_dim=c.iou_head_hidden,
            dtype=dtype,
        )
        self.obj_ptr_proj = MLP(c.d_model, c.d_model, 3, dtype=dtype)
        self.mask_downsample = layers.Conv(1, (4, 4), strides=4, padding="VALID", dtype=dtype)
        if c.obj_ptr_tpos:
            self.obj_ptr_tpos_proj = layers.Dense(c.mem_dim, dtype=dtype)
        small = nn.initializers.truncated_normal(0.02)
        self.maskmem_tpos_enc = self.param("maskmem_tpos_enc", small, (c.num_maskmem, 1, 1, c.mem_dim))
        self.no_mem_embed = self.param("no_mem_embed", small, (1, 1, c.d_model))
        self.no_mem_pos_enc = self.param("no_mem_pos_enc", small, (1, 1, c.d_model))
        self.no_obj_ptr = self.param("no_obj_ptr", small, (1, c.d_model))
        if c.no_obj_embed_spatial:
            self.no_obj_embed_spatial = self.param("no_obj_embed_spatial", small, (1, c.mem_dim))

        b = c.bert
        self.text_encoder = Bert(
            vocab_size=b.vocab_size,
            hidden_size=b.hidden_size,
            num_hidden_layers=b.num_hidden_layers,
            num_attention_heads=b.num_attention_heads,
            intermediate_size=b.intermediate_size,
            max_position_embeddings=b.max_position_embeddings,
            type_vocab_size=b.type_vocab_size,
            layer_norm_eps=b.layer_norm_eps,
            dtype=dtype,
        )
        self.bridge = crobim.Bridge(c, dtype)
        if c.classes:
            self.class_head = ClassHead(c.classes + 1, c.d_model // 2, dtype)

    # ---- once a frame -------------------------------------------------------------------------------------------

    def encode_frame(self, image: jax.Array) -> Features:
        """uint8 RGB [B, S, S, 3] (or float in [0, 255]) -> `Features`."""
        x = image.astype(jnp.float32) / 255.0
        x = (x - jnp.asarray(IMAGE_MEAN)) / jnp.asarray(IMAGE_STD)
        pyramid = self.image_encoder.trunk(x.astype(self.dtype))
        fine, middle, embedding = self.image_encoder.neck(pyramid).features
        return Features(tuple(pyramid), tuple(self.sam_mask_decoder.project_high_res(fine, middle)), embedding)

    def classify(self, features: Features) -> jax.Array:
        """Logits of what is at each place, 0 being nothing: float32 [B, S/4, S/4, classes + 1]."""
        return self.class_head(features.pyramid)

    # ---- once a target ------------------------------------------------------------------------------------------

    def encode_text(self, input_ids: jax.Array, mask: jax.Array) -> Text:
        """int32 [N, L], bool [N, L] -> `Text`."""
        words, _ = self.text_encoder(input_ids, mask)
        return Text(input_ids, mask, words)

    def ground(self, features: Features, text: Text) -> crobim.Grounding:
        """The bridge on frame 0: the sentence finds its target in the image pyramid."""
        prompts = self.bridge.context_prompts(features.pyramid)
        prompts = jnp.repeat(prompts, text.input_ids.shape[0] // prompts.shape[0], axis=0)
        language, mask = self.text_encoder(text.input_ids, text.mask, prompt_embeds=prompts)
        return self.bridge(features.pyramid, text.words, text.mask, language, mask, features.embedding)

    def start(self, features: Features, text: Text, place: jax.Array | None = None) -> tuple[MemoryBank, Output]:
        """Frame 0 from a sentence: grounds it, decodes the first mask and writes the anchor.

        `place`: float32 [N, 3], where targets are known to be (`one_object`).
        """
        output = self.single(self.first(features, text), place)
        bank = self.write_anchor(features, output)
        if self.config.text_every_frame:
            bank = bank.replace(text=(text.input_ids, text.mask, text.words))
        return bank, output

    def first(self, features: Features, text: Text) -> Output:
        """Frame 0 from a sentence, before anything is remembered."""
        return self.decode_first(features, self.ground(features, text))

    def single(self, output: Output, place: jax.Array | None = None) -> Output:
        """The output with one object in each mask, if the model is to keep one."""
        if not self.config.one_object:
            return output
        place = one_object.unknown(output.pointer.shape[0]) if place is None else place
        return output.replace(mask_logits=one_object.keep(output.mask_logits, place)[0])

    def start_calibrated(
        self, features: Features, output: Output, logits: jax.Array, given: bool = False
    ) -> tuple[MemoryBank, Output]:
        """Frame 0 with the mask that TMCC made of it: `logits` [N, S, S] replace the output's own and are remembered.

        The pointer stays the one that the decoder gave: the paper calibrates the mask in memory and nothing else.
        `given`: the first mask came from a user, and is remembered as `start_from_mask` does.
        """
        quarter = logits.shape[1] // 4
        small = torch_ops.resize_bilinear(logits[..., None], (quarter, quarter), antialias=True)[..., 0]
        output = output.replace(mask_logits=small)
        return self.write_anchor(features, output, None if given else logits, binary=given), output

    def decode_first(self, features: Features, grounding: crobim.Grounding) -> Output:
        """SAM2's decoder on frame 0: language tokens as sparse prompts, the coarse logits as its mask prompt."""
        features = for_each(features, grounding.coarse_logits.shape[0])
        dense = self.sam_prompt_encoder.embed_masks(grounding.coarse_logits[..., None])
        embedding = grounding.embedding + self.no_mem_embed.astype(self.dtype)
        prediction = self._decode(embedding, features, grounding.prompts, dense, grounding.prompt_mask)
        return self._output(prediction, grounding.coarse_logits)

    def start_from_mask(self, features: Features, masks: jax.Array) -> tuple[MemoryBank, Output]:
        """Frame 0 from masks [N, S, S] (bool or float in [0, 1]), without text, as SAM2's video predictor does.

        It remembers a mask that a user gave as 0 and 1, from the decoder's grid enlarged again.
        """
        output = self.output_from_mask(features, masks)
        bank = self.write_anchor(features, output, binary=True)
        if self.config.text_every_frame:
            b, form = self.config.bert, (masks.shape[0], self.config.bert.max_tokens)
            words = jnp.zeros((*form, b.hidden_size), self.dtype)
            bank = bank.replace(text=(jnp.zeros(form, jnp.int32), jnp.zeros(form, bool), words))
        return bank, output

    def output_from_mask(self, features: Features, masks: jax.Array) -> Output:
        """The given masks as frame 0's output; the decoder only turns them into object pointers."""
        n = masks.shape[0]
        features = for_each(features, n)
        full = logits_from_mask(masks)
        quarter = masks.shape[1] // 4
        logits = torch_ops.resize_bilinear(full[..., None], (quarter, quarter), antialias=True)[..., 0]
        prompt = self.mask_downsample(masks[..., None].astype(self.dtype))
        nowhere = self.sam_prompt_encoder.embed_points(jnp.zeros((n, 1, 2)), -jnp.ones((n, 1), jnp.int32))
        prediction = self._decode(features.embedding, features, nowhere, self.sam_prompt_encoder.embed_masks(prompt))
        appears = jnp.any(masks > 0, axis=(1, 2))
        visible = prediction.object_score_logits[:, 0] > 0
        pointer = self._gate_pointer(self.obj_ptr_proj(prediction.tokens[:, 0]), visible)
        return Output(
            mask_logits=logits,
            hypotheses=jnp.broadcast_to(logits[:, None], (n, 3, quarter, quarter)),
            ious=jnp.ones((n, 3)),
            presence_logits=jnp.where(appears, 10.0, -10.0),
            coarse_logits=jnp.zeros_like(logits),
            pointer=self._gate_pointer(pointer, appears),
            decision=self._no_decision(n),
        )

    def write_anchor(
        self, features: Features, output: Output, mask_logits: jax.Array | None = None, binary: bool = False
    ) -> MemoryBank:
        """A fresh memory that holds frame 0 alone. `mask_logits` [N, S, S] replaces the output's own mask."""
        c, n = self.config, output.pointer.shape[0]
        features = for_each(features, n)
        own = output.mask_logits if mask_logits is None else mask_logits
        entry = self.encode_memory(features, output, mask_logits, binary)
        if c.memory == "dami":
            bank = dami_bank.begin(c.dami, entry, output.pointer, own)
        else:
            slots = Slots.empty(n, c.num_maskmem, entry.shape[1:], self.dtype)
            pointers = Slots.empty(n, c.max_obj_ptrs, (c.d_model,), self.dtype)
            bank = MemoryBank(memory_bank.anchor(slots, entry), memory_bank.anchor(pointers, output.pointer))
        if c.one_object:
            bank = bank.replace(place=one_object.seen(own > 0, one_object.unknown(n)))
        return bank

    # ---- every later frame --------------------------------------------------------------------------------------

    def step(self, bank: MemoryBank, features: Features) -> tuple[MemoryBank, Output]:
        """One frame: read the memory, decode, write the memory."""
        bank = bank.replace(feature=memory_bank.tick(bank.feature), pointer=memory_bank.tick(bank.pointer))
        n = bank.feature.valid.shape[0]
        embedding, mass = self.read_memory(bank, features)
        nowhere = self.sam_prompt_encoder.embed_points(jnp.zeros((n, 1, 2)), -jnp.ones((n, 1), jnp.int32))
        inputs = embedding, nowhere, self.sam_prompt_encoder.no_mask(n), None
        if bank.text is not None:
            inputs = self._read_text_again(bank.text, features, *inputs[:3])
        embedding, sparse, dense, sparse_mask = inputs
        prediction = self._decode(embedding, features, sparse, dense, sparse_mask)
        output = self._output(prediction, least_presence=self.config.shown_presence)
        present = output.presence_logits > 0
        if self.config.one_object:
            logits, place = one_object.keep(output.mask_logits, bank.place)
            output = output.replace(mask_logits=logits)
            bank = bank.replace(place=jnp.where(present[:, None], place, bank.place))
        # What is shown of a target that is hardly there is neither remembered nor a sight of where it is.
        sure = output.replace(mask_logits=jnp.where(present[:, None, None], output.mask_logits, NO_OBJECT_LOGIT))
        entry = self.encode_memory(features, sure)
        if self.config.memory == "dami":
            seen = dami_bank.Seen(
                entry, sure.pointer, sure.mask_logits, sure.hypotheses, sure.ious, sure.presence_logits
            )
            bank, decision = dami_bank.register(self.config.dami, bank, seen, self.robustness_scorer, mass)
            return bank, output.replace(decision=decision)
        always = jnp.ones(n, bool)
        bank = bank.replace(
            feature=memory_bank.write(bank.feature, entry, always),
            pointer=memory_bank.write(bank.pointer, output.pointer, always),
        )
        return bank, output

    def _read_text_again(
        self, text: tuple, features: Features, embedding: jax.Array, nowhere: jax.Array, dense: jax.Array
    ) -> tuple[jax.Array, ...]:
        """A later frame's decoder inputs with the sentence grounded in it as in a first frame (`text_every_frame`).

        Returns the embedding, sparse and dense prompts, and which sparse ones count; a target without a sentence keeps
        what it had.
        """
        text = Text(*text)
        said = text.mask.any(1)
        grounding = self.ground(features.replace(embedding=embedding), text)
        coarse = self.sam_prompt_encoder.embed_masks(grounding.coarse_logits[..., None])
        silent = jnp.broadcast_to(~said[:, None], nowhere.shape[:2])
        counts = jnp.concatenate([silent, grounding.prompt_mask & said[:, None]], 1)
        here = said[:, None, None, None]
        return (
            jnp.where(here, grounding.embedding, embedding),
            jnp.concatenate([nowhere, grounding.prompts], 1),
            jnp.where(here, coarse, dense),
            counts,
        )

    def read_memory(self, bank: MemoryBank, features: Features) -> tuple[jax.Array, jax.Array | None]:
        """The frame's embedding conditioned on the memory, [N, h, w, D], and DAMI's shares [N, 3] of what was read."""
        c = self.config
        n, slots, height, width, _ = bank.feature.value.shape
        slot, age = jnp.arange(slots), bank.feature.age
        # Index num_maskmem - 1 is the first frame's, age - 1 the others' (upstream: num_maskmem - t_pos - 1).
        timeless = slot == memory_bank.ANCHOR
        latest = c.num_maskmem - 1
        pointer_age = bank.pointer.age
        if c.memory == "dami":
            # Prototypes count "regardless of their temporal origin": as frames that were given, not tracked. What
            # waited long in the queue is at most as old as the oldest tracked entry that SAM2 knows.
            prototype = slot > c.dami.short
            timeless, latest = timeless | prototype, c.num_maskmem - 2
            pointer_age = jnp.where(prototype, c.max_obj_ptrs - 1, pointer_age)
        time = jnp.where(timeless, c.num_maskmem - 1, jnp.clip(age - 1, 0, latest))
        time = jnp.take(self.maskmem_tpos_enc[:, 0, 0], time, axis=0)  # [N, slots, mem_dim]
        place = position.sine_2d(height, width, c.mem_dim)
        memory_pos = (place.reshape(-1, c.mem_dim) + time[:, :, None]).astype(self.dtype)  # [N, slots, h * w, mem_dim]
        memory = bank.feature.value.reshape(n, slots, -1, c.mem_dim)

        # A pointer is d_model wide, a memory token mem_dim: it becomes several tokens.
        parts = c.d_model // c.mem_dim
        pointers = bank.pointer.value.reshape(n, -1, parts, c.mem_dim)
        pointer_pos = jnp.repeat(self._pointer_time(pointer_age)[:, :, None], parts, axis=2).astype(self.dtype)
        embedding = jnp.broadcast_to(features.embedding, (n, *features.embedding.shape[1:]))
        current = embedding, position.sine_2d(height, width, c.d_model)
        if c.memory == "dami":
            memories = dami.pack(memory, memory_pos, pointers, pointer_pos, bank.feature.valid, age, c.dami.short)
            return self.memory_attention(*current, memories)
        flat = lambda x: x.reshape(n, -1, c.mem_dim)  # noqa: E731
        valid = jnp.repeat(bank.feature.valid, height * width, axis=1)
        pointer_valid = jnp.repeat(bank.pointer.valid, parts, axis=1)
        embedding = self.memory_attention(
            *current,
            jnp.concatenate([flat(memory), flat(pointers)], 1),
            jnp.concatenate([flat(memory_pos), flat(pointer_pos)], 1),
            jnp.concatenate([valid, pointer_valid], 1),
            num_obj_ptr_tokens=pointers.shape[1] * parts,
        )
        return embedding, None

    def _pointer_time(self, age: jax.Array) -> jax.Array:
        """int32 [N, P] -> [N, P, mem_dim]. Upstream scales by a short clip's length; a stream has no length."""
        if not self.config.obj_ptr_tpos:
            return jnp.zeros((*age.shape, self.config.mem_dim), self.dtype)
        scaled = age.astype(jnp.float32) / (self.config.max_obj_ptrs - 1)
        return self.obj_ptr_tpos_proj(position.sine_1d(scaled, self.config.d_model).astype(self.dtype))

    def encode_memory(
        self, features: Features, output: Output, mask_logits: jax.Array | None = None, binary: bool = False
    ) -> jax.Array:
        """MemoryEncoder(frame, mask) (eq. 17's operator): [N, h, w, mem_dim].

        Args:
          binary: the mask is 0 and 1, not a probability (upstream's `binarize_mask_from_pts_for_mem_enc`).
        """
        c = self.config
        if mask_logits is None:
            size = (c.image_size, c.image_size)
            mask_logits = torch_ops.resize_bilinear(output.mask_logits[..., None], size)[..., 0]
        mask = (mask_logits > 0).astype(jnp.float32) if binary else jax.nn.sigmoid(mask_logits)
        mask = mask * c.sigmoid_scale_for_mem_enc + c.sigmoid_bias_for_mem_enc
        feature, _ = self.memory_encoder(features.embedding, mask[..., None].astype(self.dtype))
        if c.no_obj_embed_spatial:
            absent = (output.presence_logits <= 0)[:, None, None, None]
            feature = feature + absent * self.no_obj_embed_spatial.astype(self.dtype)
        return feature

    # ---- shared -------------------------------------------------------------------------------------------------

    def _decode(
        self,
        embedding: jax.Array,
        features: Features,
        sparse: jax.Array,
        dense: jax.Array,
        sparse_mask: jax.Array | None = None,
    ) -> MaskPrediction:
        return self.sam_mask_decoder(
            embedding, self.sam_prompt_encoder.dense_pe(), sparse, dense, features.high_res, sparse_mask
        )

    def _output(
        self, prediction: MaskPrediction, coarse: jax.Array | None = None, least_presence: float = 0.5
    ) -> Output:
        """Best of the three hypotheses by predicted IoU, and its pointer; no mask up to a presence of so much."""
        choice = select(prediction, multimask=True)
        presence = prediction.object_score_logits[:, 0]
        appears, shown = presence > 0, presence > math.log(least_presence / (1 - least_presence))
        return Output(
            mask_logits=jnp.where(shown[:, None, None], choice.mask, NO_OBJECT_LOGIT),
            hypotheses=prediction.masks[:, 1:],
            ious=prediction.ious[:, 1:],
            presence_logits=presence,
            coarse_logits=jnp.zeros_like(choice.mask) if coarse is None else coarse,
            pointer=self._gate_pointer(self.obj_ptr_proj(choice.token), appears),
            decision=self._no_decision(presence.shape[0]),
        )

    def _no_decision(self, targets: int) -> Decision | None:
        """Frame 0's record, of the form that every later frame has."""
        return Decision.none(targets) if self.config.memory == "dami" else None

    def _gate_pointer(self, pointer: jax.Array, appears: jax.Array) -> jax.Array:
        return jnp.where(appears[:, None], pointer, self.no_obj_ptr.astype(self.dtype))

    def everything(self, image: jax.Array, input_ids: jax.Array, mask: jax.Array) -> None:
        """Touches every parameter once; `init` runs this."""
        features = self.encode_frame(image)
        if self.config.classes:
            self.classify(features)
        bank, output = self.start(features, self.encode_text(input_ids, mask))
        size = self.config.image_size
        self.start_from_mask(features, jnp.zeros((output.pointer.shape[0], size, size)))
        self.step(bank, features)
