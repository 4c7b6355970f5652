"""The paper's experiment: MQC-SAM on SAM 2.1 Hiera-L and BERT-base, 480x480, 40 epochs, eight GPUs.

python tools/convert_sam2.py --sam2 sam2.1_hiera_large.pt --bert bert-base-uncased --output checkpoints/sam2_large
tfds build mqc_jax/data/rs_rvos_bench --manual_dir RAW --data_dir data/tfds
python -m mqc_jax.train --config configs/mqc_sam_hiera_l.py --workdir runs/paper --config.data.data_dir=data/tfds \
    --config.init_from=checkpoints/sam2_large --config.model.bert.vocab=checkpoints/sam2_large/tokenizer

The rows of Table II are this config with `--config.model.calibration` none or tmcc and `--config.model.memory` sam2 or
dami. What it needs of each device, before anything is trained: add `--config.dry_run`. On eight devices that is 35 GiB
each, by XLA's account for float32 (31 GiB with `--config.sharding.fsdp=8`); a step is 401 TFLOP, and 40 epochs are 875
steps (docs/training.md).
"""

import ml_collections

from mqc_jax.config import Config, DataConfig, ModelConfig, OptimConfig, to_config_dict

CLIPS = 700
"""(sequence, sentence) pairs of the training split, which an epoch visits once each: the paper's 213,000 annotations in
25,000 frames are 8.5 targets a sequence, times 82 sequences. Set it to your own dataset's number."""


def get_config() -> ml_collections.ConfigDict:
    """AdamW, weight decay 0.01, lr 5e-5 with polynomial decay of power 0.9, batch 32, no augmentation; BERT frozen."""
    batch_size, epochs = 32, 40
    return to_config_dict(
        Config(
            steps=CLIPS * epochs // batch_size,
            batch_size=batch_size,
            dtype="bfloat16",
            log_every=20,
            checkpoint_every=200,
            eval_every=400,
            eval_clips=128,
            picture_every=1000,
            model=ModelConfig(remat=True),
            data=DataConfig(dataset="rs_rvos_bench", clip_length=8, max_stride=3, num_threads=8),
            optim=OptimConfig(
                learning_rate=5e-5,
                weight_decay=0.01,
                power=0.9,
                clip_norm=1.0,
                freeze=(r"text_encoder\.",),
            ),
        )
    )
