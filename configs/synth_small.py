"""The small size of the same model, trained from scratch on synthetic satellite video on two CPU cores.

python -m mqc_jax.data.synthetic --output data/raw --sequences 82 --seed 1 --split train
tfds build mqc_jax/data/rs_rvos_synth --data_dir data/tfds
python -m mqc_jax.train --config configs/synth_small.py --workdir runs/small --config.data.data_dir=data/tfds
"""

import ml_collections

from mqc_jax.config import (
    BertConfig,
    BridgeConfig,
    Config,
    DataConfig,
    HieraConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    to_config_dict,
)


def get_config() -> ml_collections.ConfigDict:
    """About 8 million parameters; frames are resized to 256x256."""
    return to_config_dict(
        Config(
            steps=4000,
            batch_size=4,
            log_every=10,
            checkpoint_every=100,
            eval_every=250,
            eval_clips=32,
            picture_every=250,
            model=ModelConfig(
                image_size=256,
                hiera=HieraConfig(
                    embed_dim=48,
                    num_heads=1,
                    stages=(1, 3, 6, 1),
                    global_att_blocks=(6, 9),
                    window_pos_embed_bkg_spatial_size=(8, 8),
                    window_spec=(8, 4, 10, 5),
                ),
                bert=BertConfig(
                    vocab_size=1152,
                    hidden_size=128,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    intermediate_size=256,
                    max_position_embeddings=64,
                    max_tokens=24,
                ),
                bridge=BridgeConfig(num_prompts=4, num_layers=2, num_heads=4, ffn_dim=256, stride=8),
                d_model=128,
                mem_dim=32,
                memory_attention_layers=2,
                memory_attention_ffn=256,
                decoder_heads=4,
                decoder_mlp=256,
                iou_head_hidden=128,
                fuser_layers=2,
            ),
            data=DataConfig(clip_length=3, max_stride=4),
            optim=OptimConfig(learning_rate=5e-4, warmup_steps=100, weight_decay=0.01),
            # Targets cover a hundredth of a frame or less, and focal is a mean over pixels: SAM2's 20 gives a model
            # that starts from nothing too little to follow.
            loss=LossConfig(focal=300.0, teacher_forcing=0.5),
        )
    )
