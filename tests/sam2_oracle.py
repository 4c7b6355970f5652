"""The public PyTorch SAM2 at any size, built from one of the project's model configs."""

from collections.abc import Iterator

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base

from mqc_jax.config import ModelConfig


def build(config: ModelConfig) -> SAM2Base:
    """`SAM2Base` as the public SAM 2.1 (or, without its two additions, 2.0) configs set it up, in evaluation mode.

    Its SAM heads have fixed sizes (256 hidden channels in the IoU head, 2048 in the decoder's MLP, 8 heads, two
    layers): `config` has to say the same.
    """
    assert (config.iou_head_hidden, config.decoder_mlp, config.decoder_heads, config.decoder_depth) == (256, 2048, 8, 2)
    hiera, width = config.hiera, config.d_model
    trunk = Hiera(
        embed_dim=hiera.embed_dim,
        num_heads=hiera.num_heads,
        stages=hiera.stages,
        global_att_blocks=hiera.global_att_blocks,
        window_pos_embed_bkg_spatial_size=hiera.window_pos_embed_bkg_spatial_size,
        window_spec=hiera.window_spec,
    )
    neck = FpnNeck(
        PositionEmbeddingSine(width),
        width,
        trunk.channel_list,
        fpn_top_down_levels=list(config.fpn_top_down_levels),
        fpn_interp_model="nearest",
    )
    grid = [config.image_size // 16] * 2

    def attention(**extra) -> RoPEAttention:
        return RoPEAttention(
            rope_theta=10000.0,
            feat_sizes=grid,
            embedding_dim=width,
            num_heads=1,
            downsample_rate=1,
            dropout=0.0,
            **extra,
        )

    layer = MemoryAttentionLayer(
        activation="relu",
        dim_feedforward=config.memory_attention_ffn,
        dropout=0.0,
        pos_enc_at_attn=False,
        self_attention=attention(),
        d_model=width,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        cross_attention=attention(rope_k_repeat=True, kv_in_dim=config.mem_dim),
    )
    memory_encoder = MemoryEncoder(
        out_dim=config.mem_dim,
        in_dim=width,
        position_encoding=PositionEmbeddingSine(config.mem_dim),
        mask_downsampler=MaskDownSampler(embed_dim=width, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(CXBlock(dim=width, kernel_size=7, padding=3), config.fuser_layers),
    )
    model = SAM2Base(
        image_encoder=ImageEncoder(trunk, neck, scalp=1),
        memory_attention=MemoryAttention(
            d_model=width, pos_enc_at_input=True, layer=layer, num_layers=config.memory_attention_layers
        ),
        memory_encoder=memory_encoder,
        num_maskmem=config.num_maskmem,
        image_size=config.image_size,
        sigmoid_scale_for_mem_enc=config.sigmoid_scale_for_mem_enc,
        sigmoid_bias_for_mem_enc=config.sigmoid_bias_for_mem_enc,
        use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True,
        use_high_res_features_in_sam=True,
        multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True,
        max_obj_ptrs_in_encoder=config.max_obj_ptrs,
        add_tpos_enc_to_obj_ptrs=config.obj_ptr_tpos,
        proj_tpos_enc_in_obj_ptrs=config.obj_ptr_tpos,
        use_signed_tpos_enc_to_obj_ptrs=config.obj_ptr_tpos,
        only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True,
        multimask_output_for_tracking=True,
        use_multimask_token_for_obj_ptr=True,
        multimask_min_pt_num=0,
        multimask_max_pt_num=1,
        use_mlp_for_obj_ptr_proj=True,
        no_obj_embed_spatial=config.no_obj_embed_spatial,
        binarize_mask_from_pts_for_mem_enc=True,
    )
    return model.eval()


def track(model: SAM2Base, frames: torch.Tensor, mask: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """All that `stream` yields."""
    return list(stream(model, frames, mask))


@torch.no_grad()
def stream(model: SAM2Base, frames: torch.Tensor, mask: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
    """Follows one target from frame 0's mask, as the public video predictor drives `track_step`.

    Args:
      frames: float [T, 3, S, S], normalised.
      mask: float [1, 1, S, S] in {0, 1}.

    Yields:
      For each frame `pred_masks`, `object_score_logits`, `obj_ptr` and `maskmem_features`.
    """
    outputs: dict[str, dict] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    # Upstream scales pointer times by a short clip's length; a stream assumes a long one.
    length = max(len(frames), model.max_obj_ptrs_in_encoder)
    for t, frame in enumerate(frames):
        _, features, positions, sizes = model._prepare_backbone_features(model.forward_image(frame[None]))
        out = model.track_step(
            frame_idx=t,
            is_init_cond_frame=t == 0,
            current_vision_feats=features,
            current_vision_pos_embeds=positions,
            feat_sizes=sizes,
            point_inputs=None,
            mask_inputs=mask if t == 0 else None,
            output_dict=outputs,
            num_frames=length,
            run_mem_encoder=t > 0,
        )
        if t == 0:  # as the predictor does with what a user gave: the low resolution enlarged, then 0 and 1
            enlarged = torch.nn.functional.interpolate(
                out["pred_masks"], [model.image_size] * 2, mode="bilinear", align_corners=False
            )
            out["maskmem_features"], out["maskmem_pos_enc"] = model._encode_new_memory(
                current_vision_feats=features,
                feat_sizes=sizes,
                pred_masks_high_res=enlarged,
                object_score_logits=out["object_score_logits"],
                is_mask_from_pts=True,
            )
        outputs["cond_frame_outputs" if t == 0 else "non_cond_frame_outputs"][t] = out
        yield {name: out[name] for name in ("pred_masks", "object_score_logits", "obj_ptr", "maskmem_features")}
