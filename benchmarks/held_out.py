"""J of single frames by the target's size: whole frames, or windows of them as training may cut them.

    python benchmarks/held_out.py --data_dir data/tfds [--split test] [--size 640] [--min_crop 1] [--clips 60]

Clips are the same for every checkpoint. J is at the model's resolution, from the sentence alone.
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
_MIN_CROP = flags.DEFINE_float("min_crop", 1.0, "Smallest window, as a share of the frame's sides; 1: whole frames.")
_CLIPS = flags.DEFINE_integer("clips", 60, "Frames to score.", lower_bound=1)
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

    dataset = ClipDataset(
        open_source(_DATASET.value, _DATA_DIR.value, _SPLIT.value),
        image_size=_SIZE.value,
        clip_length=1,
        tokenize=tokenize,
        seed=3,
        start="anywhere" if _MIN_CROP.value < 1 else "first",
        min_crop=_MIN_CROP.value,
    )

    @jax.jit
    def score(params, frame, truth, ids, mask):
        text = functional.encode_text(net, params, ids[None], mask[None])
        _, output = functional.start(net, params, functional.encode_frame(net, params, frame[None]), text)
        return losses.iou(losses.upsample(output.mask_logits, truth.shape), truth[None])[0]

    rows = []
    for i in range(_CLIPS.value):
        clip = dataset[i]
        truth = clip["masks"][0, 0].astype(np.float32)
        j = score(model.params, clip["frames"][0], truth, clip["input_ids"][0], clip["attention_mask"][0].astype(bool))
        rows.append((float(j), float(truth.mean())))
    j, area = np.array(rows).T
    print(f"J {j.mean():.3f}, above 0.1 in {(j > 0.1).mean():.2f} of {len(j)}; median area {np.median(area):.4%}")
    for low, high in itertools.pairwise(BINS):
        here = (area > low) & (area <= high)
        if here.any():
            print(f"  targets of {low:.2%} to {high:.2%}: J {j[here].mean():.3f} over {here.sum()}")


if __name__ == "__main__":
    run(main)
