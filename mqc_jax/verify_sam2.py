"""Does a converted SAM2 compute what PyTorch's computes? Both sides on one image, and PyTorch's model with our weights.

PyTorch and `transformers` are imported where they are needed: converting alone needs neither.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax.config import ModelConfig, parse
from mqc_jax.convert import flax_to_torch
from mqc_jax.convert_sam2 import HF_POINTS, LANGUAGE, official_names
from mqc_jax.errors import UserError
from mqc_jax.models import functional, mqc_sam

VERIFY_LIMIT = 1e-3
"""Of each of `verify`'s differences, up to which a conversion is right."""
_SIDE = 480  # pixels


def verify(config: Mapping[str, Any], params: Mapping[str, Any], image_size: int = _SIDE) -> dict[str, float]:
    """Runs PyTorch's SAM2 (of `transformers`) and ours on one image that is shown twice, and compares.

    The first showing gets a mask and writes the memory, the second reads it. The weights go to PyTorch as they stand in
    `params`, so what is compared is the conversion, names and layouts included.

    Args:
      config: as in `ConvertedSam2`.
      params: as in `ConvertedSam2`.

    Returns:
      For "image embedding", "memory features" and "mask logits" max |ours - torch| / max |torch|.

    Raises:
      UserError: PyTorch is not installed, or its implementation does not know such a model.
    """
    try:
        import torch
        from transformers import Sam2VideoModel  # noqa: F401
    except ImportError as error:
        raise UserError("--verify needs PyTorch; run: pip install 'mqc_jax[convert]'") from error
    if config["mem_dim"] != 64:
        raise UserError(f"--verify needs memories of 64 channels, as transformers has them, not {config['mem_dim']}")
    model_config = parse({**config, "image_size": image_size}, ModelConfig, "model")
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (image_size // 8, image_size // 8, 3)).repeat(8, 0).repeat(8, 1)
    image = rough.astype(np.uint8)
    mask = np.zeros((1, image_size, image_size), np.float32)
    mask[:, image_size // 4 : image_size // 2, image_size // 3 : image_size * 3 // 4] = 1
    theirs = _run_torch(torch, model_config, params, image, mask)
    ours = _run_flax(model_config, params, image, mask)
    return {name: float(np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max()) for name in theirs}


def _run_flax(
    config: ModelConfig, params: Mapping[str, Any], image: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    net = functional.build(config)

    @jax.jit
    def both(params: Mapping[str, Any], image: jax.Array, mask: jax.Array) -> tuple[jax.Array, ...]:
        features = functional.encode_frame(net, params, image)
        bank, _ = functional.start_from_mask(net, params, features, mask)
        _, output = functional.step(net, params, bank, features)
        best = jnp.argmax(output.ious[0])
        return features.embedding, bank.feature.value[:, 0], output.hypotheses[:, best]

    embedding, memory, logits = both(dict(params), image[None], mask)
    return {
        "image embedding": np.asarray(embedding),
        "memory features": np.asarray(memory),
        "mask logits": np.asarray(logits),
    }


def _run_torch(
    torch: Any, config: ModelConfig, params: Mapping[str, Any], image: np.ndarray, mask: np.ndarray
) -> dict[str, np.ndarray]:
    from transformers import Sam2VideoInferenceSession

    model = torch_model(config, params)
    pixels = (image / np.float32(255) - np.float32(mqc_sam.IMAGE_MEAN)) / np.float32(mqc_sam.IMAGE_STD)
    frame = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32))
    with torch.no_grad():
        # Upstream scales the pointers' times by a short clip's length; a stream assumes a long one.
        clip = frame[None].expand(config.max_obj_ptrs, -1, -1, -1)
        session = Sam2VideoInferenceSession(clip, *image.shape[:2], dtype=torch.float32)
        target = session.obj_id_to_idx(1)
        session.add_mask_inputs(target, 0, torch.from_numpy(mask)[None])
        session.obj_with_new_inputs.append(1)
        # A given mask's pointer is upstream's single-mask token; transformers takes the best of three.
        several = model._single_frame_forward
        model._single_frame_forward = functools.partial(several, multimask_output=False)
        model(session, frame_idx=0)
        model._single_frame_forward = several
        flat = model.get_image_features(frame[None], return_dict=True).fpn_hidden_states[-1]  # [h * w, 1, D]
        side = config.image_size // 16
        embedding = flat.permute(1, 2, 0).reshape(1, config.d_model, side, side)
        # SAM2's video predictor remembers a given mask as 0 and 1, from the decoder's grid enlarged again.
        resize = functools.partial(torch.nn.functional.interpolate, mode="bilinear", align_corners=False)
        coarse = resize(torch.from_numpy(mask)[None] * 20 - 10, [config.image_size // 4] * 2, antialias=True)
        binary = (resize(coarse, [config.image_size] * 2) > 0).float()
        scaled = binary * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        memory, _ = model.memory_encoder(embedding, scaled)
        # The session stores memories as bfloat16, which would be the largest difference by far.
        stored = session.output_dict_per_obj[target]["cond_frame_outputs"][0]
        stored["maskmem_features"] = memory.flatten(2).permute(2, 0, 1)
        found = {}
        hook = model.mask_decoder.register_forward_hook(lambda _, __, output: found.update(output=output))
        model(session, frame_idx=1)
        hook.remove()
        masks, ious = found["output"][:2]
        best = masks[:, 0, ious[0, 0].argmax()]
    return {
        "image embedding": embedding.permute(0, 2, 3, 1).numpy(),
        "memory features": memory.permute(0, 2, 3, 1).numpy(),
        "mask logits": best.numpy(),
    }


def torch_model(config: ModelConfig, params: Mapping[str, Any]) -> Any:
    """`transformers.Sam2VideoModel` with our parameters, in evaluation mode."""
    import torch
    from transformers import Sam2VideoModel

    state = flax_to_torch({name: entry for name, entry in params.items() if name not in LANGUAGE})
    model = Sam2VideoModel(huggingface_config(config)).eval()
    names = official_names(model.state_dict())
    filled = {
        key: np.concatenate([state[f"{name}.{i}.weight"] for i in range(4)]) if key == HF_POINTS else state[name]
        for key, name in names.items()
    }
    model.load_state_dict({key: torch.from_numpy(np.array(tensor, np.float32)) for key, tensor in filled.items()})
    return model


def huggingface_config(config: ModelConfig) -> Any:
    """`transformers.Sam2VideoConfig` of our model, for frames of `config.image_size`."""
    from transformers import Sam2VideoConfig

    hiera, side = config.hiera, config.image_size
    widths = [hiera.embed_dim * 2**i for i in range(4)]
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": hiera.embed_dim,
        "num_attention_heads": hiera.num_heads,
        "image_size": [side, side],
        "window_positional_embedding_background_size": list(hiera.window_pos_embed_bkg_spatial_size),
        "blocks_per_stage": list(hiera.stages),
        "embed_dim_per_stage": widths,
        "num_attention_heads_per_stage": [hiera.num_heads * 2**i for i in range(4)],
        "window_size_per_stage": list(hiera.window_spec),
        "global_attention_blocks": list(hiera.global_att_blocks),
    }
    vision = {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": widths[::-1],
        "backbone_feature_sizes": [[side // s, side // s] for s in (4, 8, 16)],
        "fpn_hidden_size": config.d_model,
        "fpn_top_down_levels": list(config.fpn_top_down_levels),
    }
    prompt = {"hidden_size": config.d_model, "image_size": side, "mask_input_channels": config.mask_in_chans}
    decoder = {
        "hidden_size": config.d_model,
        "mlp_dim": config.decoder_mlp,
        "num_hidden_layers": config.decoder_depth,
        "num_attention_heads": config.decoder_heads,
        "iou_head_depth": config.iou_head_depth,
        "iou_head_hidden_dim": config.iou_head_hidden,
    }
    return Sam2VideoConfig(
        vision_config=vision,
        prompt_encoder_config=prompt,
        mask_decoder_config=decoder,
        image_size=side,
        num_maskmem=config.num_maskmem,
        sigmoid_scale_for_mem_enc=config.sigmoid_scale_for_mem_enc,
        sigmoid_bias_for_mem_enc=config.sigmoid_bias_for_mem_enc,
        enable_occlusion_spatial_embedding=config.no_obj_embed_spatial,
        enable_temporal_pos_encoding_for_object_pointers=config.obj_ptr_tpos,
        max_object_pointers_in_encoder=config.max_obj_ptrs,
        memory_attention_hidden_size=config.d_model,
        memory_attention_num_layers=config.memory_attention_layers,
        memory_attention_feed_forward_hidden_size=config.memory_attention_ffn,
        memory_attention_rope_feat_sizes=[side // 16, side // 16],
        memory_encoder_hidden_size=config.d_model,
        memory_encoder_output_channels=config.mem_dim,
        mask_downsampler_embed_dim=config.d_model,
        memory_fuser_num_layers=config.fuser_layers,
        memory_fuser_embed_dim=config.d_model,
        memory_fuser_intermediate_dim=4 * config.d_model,
    )
