"""What a sentence finds in single frames: whole ones, or windows of them as training may cut them.

    python benchmarks/held_out.py --data_dir data/tfds [--split test] [--size 640] [--min_crop 1] [--clips 60]
    python benchmarks/held_out.py --data_dir data/val --dataset ref_youtube_vos --size 320 --min_crop 0.2
        --max_crop 0.3 --square --targets 4 --absent 0.4

Frames and sentences are the same for every checkpoint. Each wording is scored: the template's ("the yacht at the
top-left"), other words that training uses, words kept from training, and no place at all where the class alone tells;
further targets of a frame are drawn anew for each, so that their numbers differ a little.
J is at the model's resolution, from the sentence alone; `found` is how often the coarse map is highest on the target;
`presence` is how often a target that is there gets a higher presence score than one that is not (0.5 is chance).
"""

import dataclasses
import itertools

import jax
import numpy as np
from absl import flags

import mqc_jax
from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError, run
from mqc_jax.models import functional
from mqc_jax.models.mqc_sam import MQCSAM
from mqc_jax.train import losses

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Left out: the one that ships.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "The dataset's folder.")
_DATASET = flags.DEFINE_string("dataset", "rs_rvos_synth", "A TFDS name or a layout.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the dataset.")
_SIZE = flags.DEFINE_integer("size", 640, "Side that frames are resized to.")
_MIN_CROP = flags.DEFINE_float(
    "min_crop", 1.0, "Smallest window, as a share of the frame's sides, or in pixels; 1: whole frames."
)
_MAX_CROP = flags.DEFINE_float("max_crop", 1.0, "Largest window.")
_SQUARE = flags.DEFINE_bool("square", False, "Windows are square.")
_TARGETS = flags.DEFINE_integer("targets", 1, "Sentences of a frame.", lower_bound=1)
_ABSENT = flags.DEFINE_float("absent", 0.0, "Share of further sentences that name what is not there.")
_CLIPS = flags.DEFINE_integer("clips", 60, "Frames to score.", lower_bound=1)
WORDINGS = {
    "template": {},
    "other words": {"reword": 1.0},
    "words kept from training": {"reword": 1.0, "unheard": True},
    "without a place": {"placeless": 1.0},
}
BINS = (0.0, 0.0005, 0.002, 0.01, 1.0)


def main(argv: list[str]) -> None:
    if not _DATA_DIR.value:
        raise UserError("--data_dir is missing; give the folder that the dataset was built into")
    model = mqc_jax.load(_CHECKPOINT.value)
    model.require_text()
    net = MQCSAM(dataclasses.replace(model.config, image_size=_SIZE.value), model.net.dtype)

    def tokenize(text: str) -> dict[str, np.ndarray]:
        ids, mask = model.tokenizer.encode([text], net.config.bert.max_tokens)
        return {"input_ids": ids[0], "attention_mask": mask[0]}

    @jax.jit
    def score(params, frame, truth, ids, mask):
        """J, whether the coarse map peaks on the target, and the presence logit, each [N]."""
        text = functional.encode_text(net, params, ids, mask)
        _, output = functional.start(net, params, functional.encode_frame(net, params, frame[None]), text)
        full = lambda logits: losses.upsample(logits, truth.shape[1:])  # noqa: E731
        peaks = full(output.coarse_logits).reshape(len(truth), -1).argmax(1)
        found = jax.vmap(lambda mask, peak: mask.reshape(-1)[peak])(truth, peaks)
        return losses.iou(full(output.mask_logits), truth), found, output.presence_logits

    source = open_source(_DATASET.value, _DATA_DIR.value, _SPLIT.value)
    for name, wording in WORDINGS.items():
        dataset = ClipDataset(
            source,
            image_size=_SIZE.value,
            clip_length=1,
            tokenize=tokenize,
            seed=3,
            start="anywhere" if _MIN_CROP.value != 1 else "first",
            min_crop=_MIN_CROP.value,
            max_crop=_MAX_CROP.value,
            square=_SQUARE.value,
            targets=_TARGETS.value,
            absent=_ABSENT.value,
            **wording,
        )
        rows = []
        for i in range(_CLIPS.value):
            clip = dataset[i]
            truth = clip["masks"][:, 0].astype(np.float32)
            given = clip["frames"][0], truth, clip["input_ids"], clip["attention_mask"].astype(bool)
            rows += zip(*map(np.asarray, score(model.params, *given)), truth.mean((1, 2)), strict=True)
        told(name, np.array(rows, float))


def told(name: str, rows: np.ndarray) -> None:
    """Prints what [J, found, presence logit, area] of each sentence say."""
    there = rows[:, 3] > 0
    j, found, presence, area = rows[there].T
    line = f"{name}: J {j.mean():.3f}, found {found.mean():.2f} of {len(j)}; median area {np.median(area):.4%}"
    if not there.all():
        line += f"; presence {(presence[:, None] > rows[~there, 2]).mean():.2f}"
    print(line, flush=True)
    if name == next(iter(WORDINGS)):
        for low, high in itertools.pairwise(BINS):
            here = (area > low) & (area <= high)
            if here.any():
                print(f"  targets of {low:.2%} to {high:.2%}: J {j[here].mean():.3f} over {here.sum()}")


if __name__ == "__main__":
    run(main)
