"""The published sizes, streaming, against the public PyTorch SAM2: `make parity` (minutes and gigabytes)."""

import dataclasses

import pytest
from test_hiera import assert_parity
from test_video_parity import agree, both

from mqc_jax.config import BertConfig, BridgeConfig, HieraConfig, ModelConfig
from mqc_jax.models.hiera import HIERA_SIZES

pytestmark = pytest.mark.slow

NO_LANGUAGE = {
    "bert": BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, max_tokens=8
    ),
    "bridge": BridgeConfig(num_prompts=1, num_layers=1, num_heads=1, ffn_dim=8),
}


@pytest.mark.parametrize("side", [480, 1024])
@pytest.mark.parametrize("size", HIERA_SIZES)
def test_image_encoder(size, side):
    """Every stage, every level of the pyramid, position encodings."""
    assert_parity(HIERA_SIZES[size], 256, (1, side, side, 3))


@pytest.mark.parametrize(
    ("size", "side", "length", "version"),
    [
        ("large", 480, 13, "2.1"),
        ("tiny", 480, 13, "2.0"),
        ("small", 480, 13, "2.1"),
        ("base_plus", 480, 13, "2.0"),
        ("tiny", 1024, 9, "2.1"),
    ],
)
def test_tracked_frames(size, side, length, version):
    """Masks, presence and pointers of a moving scene past the memory's length, all parameters randomised."""
    config = ModelConfig(image_size=side, hiera=HieraConfig(**HIERA_SIZES[size]), **NO_LANGUAGE)
    if version == "2.0":
        config = dataclasses.replace(config, no_obj_embed_spatial=False, obj_ptr_tpos=False)
    agree(*both(config, length))
