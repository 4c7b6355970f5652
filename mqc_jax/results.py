"""What the tracker says about a frame, put together from what each group of targets gave."""

import dataclasses

import jax
import numpy as np

from mqc_jax import imaging
from mqc_jax.groups import Part
from mqc_jax.models.memory_bank import MemoryBank
from mqc_jax.models.mqc_sam import Output
from mqc_jax.models.registration import WRITTEN, Decision


@dataclasses.dataclass(frozen=True)
class FrameResult:
    """What the tracker says about one frame, for the N targets that are followed in it. Rows are in order of adding.

    Attributes:
      frame_index: 0 for the first frame pushed.
      masks: bool [N, H, W] at the frame's own size.
      mask_logits: float32 [N, S/4, S/4], the decoder's grid; -1024 everywhere where the target is judged absent.
      presence: float32 [N] in [0, 1], the probability that the target is visible.
      iou: float32 [N] in [0, 1], the IoU with the truth that the decoder predicts for its best mask (SAM2's IoU head).
      memory: what the memory did: `registered` bool [N] (was this frame written), `ages` int32 [N, slots] (frames since
        each slot was written, -1: empty); with DAMI's memory also every field of `models.registration.Decision`.
        With calibration "tmcc", in a frame that targets start in, also `window` int32 [N], the displacements that were
        needed (eq. 7; 0 for targets that started before), and `is_static` bool [N]: motion could not verify the first
        mask. Where motion chose among the objects of a large frame that a sentence may mean (`tmcc.motion_odds`), also
        `candidates` int32 [N], how many there were, and `moves` bool [N]: the chosen one was seen to move. In a later
        frame `rechosen` bool [N]: from this frame on another of them is followed, which was seen to set off.
      evidence: in a frame that targets start in, the maps in [0, 1] that led to their first masks: from a sentence
        `coarse` float32 [N, S/4, S/4]; with calibration "tmcc" `first`, `displacement` (eq. 8, its largest value being
        1), `moving`, `expanded`, `refined`, `motion` and `calibrated`, [N, S, S]. Zero in rows that have no such map.
      targets: int64 [N], the target's id in each row.
      started: bool [N], whether this is the frame that the target's sentence or mask is about.
    """

    frame_index: int
    masks: np.ndarray
    mask_logits: np.ndarray
    presence: np.ndarray
    iou: np.ndarray
    memory: dict[str, np.ndarray]
    evidence: dict[str, np.ndarray]
    targets: np.ndarray
    started: np.ndarray


def assemble(frame_index: int, size: tuple[int, int], parts: list[Part]) -> FrameResult:
    """One frame's result at size (H, W), from at least one part."""
    height, width = size
    masks = [_masks(part, height, width) for part in parts]
    counts = [len(part.group.ids) for part in parts]
    return FrameResult(
        frame_index=frame_index,
        masks=np.concatenate(masks),
        mask_logits=np.concatenate([part.output.mask_logits for part in parts]),
        presence=np.concatenate([jax.nn.sigmoid(part.output.presence_logits) for part in parts]),
        iou=np.concatenate([np.asarray(part.output.ious, np.float32).max(1).clip(0, 1) for part in parts]),
        memory=rows([_memory(part) for part in parts], counts),
        evidence=rows([part.evidence for part in parts], counts),
        targets=np.array([number for part in parts for number in part.group.ids], np.int64),
        started=np.array([part.started for part in parts for _ in part.group.ids], bool),
    )


def _masks(part: Part, height: int, width: int) -> np.ndarray:
    logits = np.asarray(part.output.mask_logits) if part.logits is None else part.logits
    masks = np.empty((len(logits), height, width), bool)
    for row, own in zip(masks, logits, strict=True):
        row[:] = imaging.mask_from_logits(own, height, width)
    return masks


def _memory(part: Part) -> dict[str, np.ndarray]:
    return {**_slots(part.group.bank), **_record(part.output), **part.facts}


def _slots(bank: MemoryBank) -> dict[str, np.ndarray]:
    ages = np.where(np.asarray(bank.feature.valid), np.asarray(bank.feature.age), -1)
    return {"registered": (ages == 0).any(1), "ages": ages}


def passed_over(result: FrameResult, banks: list[MemoryBank]) -> FrameResult:
    """The result of a frame that none of its targets' memories, `banks`, is to have remembered after all."""
    slots = [_slots(bank) for bank in banks]
    memory = {**result.memory, **{name: np.concatenate([own[name] for own in slots]) for name in slots[0]}}
    for name in WRITTEN:
        memory[name] = np.full_like(memory[name], -1)
    return dataclasses.replace(result, memory=memory)


def _record(output: Output) -> dict[str, np.ndarray]:
    if output.decision is None:
        return {}
    return {field.name: np.asarray(getattr(output.decision, field.name)) for field in dataclasses.fields(Decision)}


def rows(entries: list[dict[str, np.ndarray]], counts: list[int]) -> dict[str, np.ndarray]:
    """Each name's rows of all entries, entry i having `counts[i]` of them; zeros where an entry lacks the name."""
    like = {name: own[name] for own in entries for name in own}

    def of(name: str, own: dict[str, np.ndarray], count: int) -> np.ndarray:
        return own[name] if name in own else np.zeros((count, *like[name].shape[1:]), like[name].dtype)

    pairs = list(zip(entries, counts, strict=True))
    return {name: np.concatenate([of(name, *pair) for pair in pairs]) for name in like}
