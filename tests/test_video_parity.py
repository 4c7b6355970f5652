"""The streaming step against the public PyTorch SAM2, frame by frame, past every memory's length."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sam2_oracle
import torch
from torch_parity import randomise, relative

from mqc_jax.config import BertConfig, BridgeConfig, HieraConfig, ModelConfig
from mqc_jax.convert import torch_to_flax
from mqc_jax.models import functional
from mqc_jax.models.mqc_sam import IMAGE_MEAN, IMAGE_STD

TOLERANCE = 1e-3
LANGUAGE = ("text_encoder", "bridge")
TINY = ModelConfig(
    image_size=96,
    hiera=HieraConfig(
        embed_dim=16,
        num_heads=1,
        stages=(1, 2, 2, 1),
        global_att_blocks=(4,),
        window_pos_embed_bkg_spatial_size=(7, 7),
        window_spec=(8, 4, 14, 7),
    ),
    bert=BertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, max_tokens=8
    ),
    bridge=BridgeConfig(num_prompts=1, num_layers=1, num_heads=1, ffn_dim=8),
    d_model=64,
    mem_dim=16,
    memory_attention_layers=2,
    memory_attention_ffn=64,
)


def moving_scene(length: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [T, S, S, 3] of textured ground under a bright moving patch, and the patch's mask in frame 0."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(40, 120, (size, size, 3))
    frames = np.repeat(ground[None], length, 0)
    patch = rng.integers(150, 250, (size // 5, size // 4, 3))
    for t in range(length):
        y, x = size // 4 + 2 * t, size // 5 + 3 * t
        part = frames[t, y : y + patch.shape[0], x : x + patch.shape[1]]
        part[:] = patch[: part.shape[0], : part.shape[1]]
    mask = np.zeros((size, size), np.float32)
    mask[size // 4 : size // 4 + patch.shape[0], size // 5 : size // 5 + patch.shape[1]] = 1
    return frames.astype(np.uint8), mask


def both(config: ModelConfig, length: int, seed: int = 0):
    """Frame by frame outputs of upstream and of the streaming step, on the same random weights."""
    torch.manual_seed(0)
    model = randomise(sam2_oracle.build(config), seed)
    net = functional.build(config)
    template = functional.shapes(net)
    vision = {name: value for name, value in template.items() if name not in LANGUAGE}
    params = jax.tree.map(jnp.asarray, torch_to_flax({k: v.numpy() for k, v in model.state_dict().items()}, vision))
    params |= {name: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), template[name]) for name in LANGUAGE}

    frames, mask = moving_scene(length, config.image_size, seed)
    pixels = (frames / np.float32(255) - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    upstream = sam2_oracle.track(
        model, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(mask)[None, None]
    )

    # Parameters are arguments: as constants a published size would be compiled into the program.
    encode = jax.jit(lambda params, image: functional.encode_frame(net, params, image))
    step = jax.jit(lambda params, bank, features: functional.step(net, params, bank, features))
    start = jax.jit(lambda params, features, masks: functional.start_from_mask(net, params, features, masks))
    bank, output = start(params, encode(params, frames[:1]), mask[None])
    ours = [output]
    for frame in frames[1:]:
        bank, output = step(params, bank, encode(params, frame[None]))
        ours.append(output)
    return upstream, ours


SAM20 = dataclasses.replace(TINY, no_obj_embed_spatial=False, obj_ptr_tpos=False)


@pytest.mark.parametrize(("config", "seed"), [(TINY, 0), (TINY, 1), (SAM20, 0)], ids=["2.1", "2.1 again", "2.0"])
def test_twenty_frames_equal_upstream(config, seed):
    assert True in agree(*both(config, 20, seed))


def agree(upstream, ours) -> set[bool]:
    """Asserts that every frame agrees, and returns whether targets were judged present, absent or both."""
    seen = set()
    for theirs, mine in zip(upstream, ours, strict=True):
        present = float(theirs["object_score_logits"]) > 0
        seen.add(present)
        assert bool(mine.presence_logits[0] > 0) == present
        assert relative(mine.presence_logits[:, None], theirs["object_score_logits"]) < TOLERANCE
        assert relative(mine.pointer, theirs["obj_ptr"]) < TOLERANCE
        assert relative(mine.mask_logits, theirs["pred_masks"][:, 0]) < TOLERANCE
        a, b = np.asarray(mine.mask_logits[0]) > 0, theirs["pred_masks"][0, 0].numpy() > 0
        union = (a | b).sum()
        assert union == 0 or (a & b).sum() / union >= 0.999
    return seen
