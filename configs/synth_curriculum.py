"""The small model from nothing in four stages on two CPU cores, each from the one before it.

A small model has no pretrained encoder, and a sentence teaches about one object. So the encoder first learns what is
where, from all objects at once; then sentences, several to a frame, as people say them and about what is not there;
then to follow, from clips; then DAMI's memory. Frames are cut to square windows, as `--tile` cuts them: a target of a
few hundred pixels in a frame of a million is learned from and followed at the size at which it can be told apart.

SYN="python -m mqc_jax.data.synthetic"
STILL="--frames 2 --disable late_start,leaves_frame,occlusion"
$SYN --output data/stills --sequences 2400 --seed 101 $STILL
$SYN --output data/stills --split test --sequences 1500 --seed 102 $STILL
$SYN --output data/clips --sequences 300 --seed 201 --frames 18
$SYN --output data/clips --split test --sequences 240 --seed 202 --frames 18
$SYN --output data/val --split test --sequences 60 --seed 902 $STILL

TRAIN="python -m mqc_jax.train"
$TRAIN --config configs/synth_curriculum.py:encoder --workdir runs/encoder
$TRAIN --config configs/synth_curriculum.py:words --workdir runs/words --config.init_from=runs/encoder
$TRAIN --config configs/synth_curriculum.py:clips --workdir runs/clips --config.init_from=runs/words
$TRAIN --config configs/synth_curriculum.py:dami --workdir runs/dami --config.init_from=runs/clips

With an accelerator `words` may come first: in batches of 32 (`--config.batch_size=32 --config.accumulate=1
--config.data.num_workers=14 --config.optim.learning_rate=1e-3`) it learns what is where by itself.
"""

import importlib.util
from pathlib import Path

import ml_collections

from mqc_jax.errors import UserError, nearest

STAGES = ("encoder", "words", "clips", "dami")


def _small() -> ml_collections.ConfigDict:
    """`configs/synth_small.py`, which lies beside this file."""
    path = Path(__file__).with_name("synth_small.py")
    spec = importlib.util.spec_from_file_location("synth_small", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


def get_config(stage: str = "encoder") -> ml_collections.ConfigDict:
    """The small model's run of one stage, `--config configs/synth_curriculum.py:STAGE`."""
    if stage not in STAGES:
        raise UserError(f"unknown stage {stage!r}{nearest(stage, STAGES)}; known: {', '.join(STAGES)}")
    c = _small()
    c.model.image_size = 256
    c.model.tile = 128
    c.model.classes = 14
    c.log_every = 20
    c.eval_every = 0
    c.picture_every = 10**6
    c.data.update(
        dataset="ref_youtube_vos", data_dir="data/stills", train_split="train+test", eval_dir="data/val",
        start="anywhere", min_crop=60, max_crop=260, square=True, turn=True, clip_length=1, eval_image_size=768,
    )  # fmt: skip
    if stage == "encoder":
        c.steps, c.batch_size, c.data.targets = 1500, 12, 0
        c.optim.update(learning_rate=1e-3, warmup_steps=20)
        return c
    # A tiled search looks at windows of ground, and tiny targets are followed in small ones: both must be learned.
    c.data.update(reword=0.4, placeless=0.5, absent=0.2, every=0.6, stray=0.3, min_crop=48, max_crop=230)
    # A sentence seldom names what is small and common: any annotated object may be what a clip is about, and what is
    # small counts as much as what is large.
    c.data.balance = 0.6
    c.loss.update(focal=2.0, focal_per="target", classes=0.5)
    c.optim.update(rule="muon", average=0.99)
    if stage == "words":
        # In three parts a step takes 2.0 s rather than 2.4: what is passed on between operations stays in the cache.
        c.steps, c.batch_size, c.accumulate, c.data.targets, c.data.follow = 2600, 6, 3, 3, 0.3
        c.optim.update(learning_rate=6e-4, warmup_steps=20)
        return c
    # What a first frame passes through stays as it is: a frame costs no backward pass through the encoder, clips undo
    # nothing of what sentences taught, and the rows of the table differ by their memory alone. It learns mostly from
    # true first masks.
    memory = ("memory_", "robustness_scorer", "obj_ptr", "maskmem", "no_obj", "mask_downsample")
    c.model.classes, c.loss.classes = 0, 0.0
    # Most windows are the tracker's: made for one target, and moved after it.
    c.data.update(data_dir="data/clips", clip_length=8, max_stride=2, targets=1, max_crop=200, follow=0.85)
    c.data.update(every=0.0, absent=0.0, stray=0.0, balance=0.3)
    c.steps, c.batch_size, c.accumulate = 700, 4, 2
    c.optim.update(learning_rate=4e-4, warmup_steps=20, average=0.98)
    c.optim.freeze = (f"(?!{'|'.join(memory)})",)
    c.loss.update(teacher_forcing=0.8, teacher_forcing_steps=120_000)  # as good as constant
    if stage == "dami":
        c.model.memory = "dami"
        c.optim.learning_rate = 3e-4
    return c
