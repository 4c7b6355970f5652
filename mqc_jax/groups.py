"""Targets that one compiled program follows together, from the frame that they start in.

A group has a memory of its own, and all groups read one encoding of the frame. So targets may come and go without
compiling anything again, and what a target gets does not depend on who is followed beside it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax import imaging
from mqc_jax.checkpoint import Model
from mqc_jax.models import functional, one_object
from mqc_jax.models.memory_bank import MemoryBank
from mqc_jax.models.mqc_sam import MQCSAM, Features, Output

LARGEST = {"cpu": 1, "default": 16}
"""Most targets of one group, by platform. On a CPU a batch of Hiera-L's targets is slower than one after another
(`benchmarks/targets.py`), and groups of one let one program serve any number of targets, to the same bits. Accelerators
want few large operations."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What a user asked to follow.

    Attributes:
      id: its number, in order of adding.
      text: the sentence, or None where there is a mask.
      mask: bool [H, W] at the frames' own size, or None.
      start: number of the frame that the sentence or mask is about; None: the next one to be pushed.
      place: where the target is known to be in that frame (`models.one_object`), or None.
    """

    id: int
    text: str | None = None
    mask: np.ndarray | None = None
    start: int | None = None
    place: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The sentences or masks of targets that start together, as the model reads them.

    Attributes:
      ids: of the targets.
      tokens: (input_ids int32 [N, L], mask bool [N, L]), or None where there are masks.
      masks: float32 [N, S, S], 0 or 1, or None.
      places: float32 [N, 3], where the targets are known to be (`models.one_object`).
    """

    ids: list[int]
    tokens: tuple[np.ndarray, np.ndarray] | None
    masks: np.ndarray | None
    places: np.ndarray | None = None


@dataclasses.dataclass
class Group:
    """Targets `ids` and their memory, whose leaves have the leading axis N."""

    ids: list[int]
    bank: MemoryBank

    def without(self, ids: set[int]) -> "Group":
        """The same targets but for some."""
        if not ids.intersection(self.ids):
            return self
        rows = kept(self.ids, ids)
        return Group([self.ids[row] for row in rows], jax.tree.map(lambda x: x[rows], self.bank))


@dataclasses.dataclass(frozen=True)
class Part:
    """What one frame gave for one group.

    Attributes:
      group: after this frame.
      output: the model's.
      logits: float32 [N, S, S], finer than the output's mask where there are any.
      facts: about a start: entries [N, ...] of `FrameResult.memory`.
      evidence: maps that led to the first mask, entries of `FrameResult.evidence`.
      started: whether this was the targets' first frame.
    """

    group: Group
    output: Output
    logits: np.ndarray | None = None
    facts: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    evidence: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    started: bool = False


@functools.partial(jax.jit, static_argnums=0)
def encode(net: MQCSAM, params, image: jax.Array) -> Features:
    """uint8 RGB [S, S, 3] -> the features that all groups read."""
    return functional.encode_frame(net, params, image[None])


@functools.partial(jax.jit, static_argnums=0)
def start(
    net: MQCSAM, params, features: Features, input_ids: jax.Array, mask: jax.Array, place: jax.Array | None = None
) -> tuple[MemoryBank, Output]:
    """`functional.start` from tokens, int32 and bool [N, L]."""
    return functional.start(net, params, features, functional.encode_text(net, params, input_ids, mask), place)


@functools.partial(jax.jit, static_argnums=0)
def start_from_mask(net: MQCSAM, params, features: Features, masks: jax.Array) -> tuple[MemoryBank, Output]:
    """`functional.start_from_mask` from float32 [N, S, S]."""
    return functional.start_from_mask(net, params, features, masks)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def step(net: MQCSAM, params, bank: MemoryBank, features: Features) -> tuple[MemoryBank, Output]:
    """`functional.step`; the bank that is given is used up."""
    return functional.step(net, params, bank, features)


def largest() -> int:
    """Most targets of one group on this platform."""
    return LARGEST.get(jax.default_backend(), LARGEST["default"])


def kept(ids: list[int], dropped: set[int]) -> np.ndarray:
    """The rows of a group that stay, int [M]."""
    return np.array([row for row, number in enumerate(ids) if number not in dropped], int)


def prompts(model: Model, targets: Iterable[Target]) -> Iterator[Prompt]:
    """Divides targets that start together into groups, in their order."""
    most, size = largest(), model.config.image_size
    for has_text, alike in itertools.groupby(targets, lambda target: target.text is not None):
        alike = list(alike)
        for some in (alike[i : i + most] for i in range(0, len(alike), most)):
            ids = [target.id for target in some]
            if has_text:
                texts = [target.text for target in some]
                places = np.array([target.place or one_object.UNKNOWN for target in some], np.float32)
                yield Prompt(ids, model.tokenizer.encode(texts, model.config.bert.max_tokens), None, places)
            else:
                masks = np.stack([imaging.resize_mask(target.mask, size) for target in some])
                yield Prompt(ids, None, masks.astype(np.float32))


def begin(model: Model, features: Features, prompt: Prompt) -> Part:
    """A group's first frame."""
    if prompt.tokens is None:
        bank, output = start_from_mask(model.net, model.params, features, prompt.masks)
        return Part(Group(prompt.ids, bank), output, started=True)
    bank, output = start(model.net, model.params, features, *prompt.tokens, prompt.places)
    return Part(Group(prompt.ids, bank), output, evidence=coarse(output), started=True)


def coarse(output: Output) -> dict[str, np.ndarray]:
    """The bridge's mask as evidence, in [0, 1]."""
    return {"coarse": np.asarray(jax.nn.sigmoid(output.coarse_logits))}


def follow(model: Model, features: Features, group: Group) -> Part:
    """A group's next frame; its memory is replaced."""
    group.bank, output = step(model.net, model.params, group.bank, features)
    return Part(group, output)


def form(model: Model, targets: int) -> tuple[MemoryBank, Output]:
    """What a group of so many targets has after a frame, as `jax.ShapeDtypeStruct`s."""
    size = model.config.image_size
    features = jax.eval_shape(
        functools.partial(encode, model.net), model.params, jax.ShapeDtypeStruct((size, size, 3), jnp.uint8)
    )
    masks = jax.ShapeDtypeStruct((1, size, size), jnp.float32)
    shapes = jax.eval_shape(functools.partial(start_from_mask, model.net), model.params, features, masks)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((targets, *x.shape[1:]), x.dtype), shapes)


def nobody(model: Model) -> Part:
    """What a frame gives when no target is followed: every array has no rows."""
    bank, output = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), form(model, 0))
    return Part(Group([], bank), output)
