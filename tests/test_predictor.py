"""The tracker from a first-frame mask against the public PyTorch video predictor itself, through its own interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sam2_oracle
import torch
from PIL import Image
from sam2.sam2_video_predictor import SAM2VideoPredictor
from test_video_parity import LANGUAGE, TINY, moving_scene
from torch_parity import randomise, relative

import mqc_jax
from mqc_jax.checkpoint import Model
from mqc_jax.convert import torch_to_flax
from mqc_jax.models import functional

LENGTH = 18  # upstream scales pointers' ages by a clip's length where it is under 16


def predictor(seed: int) -> SAM2VideoPredictor:
    """Upstream's predictor on upstream's model, with what its builder switches on."""
    torch.manual_seed(0)
    model = randomise(sam2_oracle.build(TINY), seed)
    with torch.no_grad():  # Seed 0 sees its target throughout, seed 1 judges for itself.
        model.sam_mask_decoder.pred_obj_score_head.layers[2].bias += 5.0 * (seed == 0)
    model.__class__ = SAM2VideoPredictor
    model.fill_hole_area = 8
    model.binarize_mask_from_pts_for_mem_enc = True
    model.sam_mask_decoder.dynamic_multimask_via_stability = True
    model.non_overlap_masks = model.clear_non_cond_mem_around_input = False
    model.add_all_frames_to_correct_as_cond = False
    return model


def ported(model: torch.nn.Module) -> Model:
    net = functional.build(TINY)
    template = {name: value for name, value in functional.shapes(net).items() if name not in LANGUAGE}
    params = torch_to_flax({k: v.numpy() for k, v in model.state_dict().items()}, template)
    return Model(TINY, jax.tree.map(jnp.asarray, params), None, net, "upstream")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [0, 1])
def test_the_tracker_equals_the_public_video_predictor(seed, tmp_path, monkeypatch):
    # Upstream stores memories in bfloat16 to save a GPU's memory; in float32 the two can be compared to the last digit.
    monkeypatch.setattr(torch, "bfloat16", torch.float32)
    frames, mask = moving_scene(LENGTH, TINY.image_size, seed)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"{t:05d}.jpg", quality=95)
    frames = [np.array(Image.open(path)) for path in sorted(tmp_path.glob("*.jpg"))]
    upstream = predictor(seed)
    state = upstream.init_state(str(tmp_path))
    upstream.add_new_mask(state, 0, 1, torch.from_numpy(mask) > 0)
    theirs = {t: logits[0, 0].numpy() for t, _, logits in upstream.propagate_in_video(state)}
    stored = state["output_dict_per_obj"][0]
    stored = {**stored["cond_frame_outputs"], **stored["non_cond_frame_outputs"]}

    tracker = mqc_jax.Tracker(ported(upstream), masks=mask[None] > 0)
    ours = [result for frame in frames for result in tracker.push(frame)] + tracker.finish()
    assert len(ours) == len(theirs) == LENGTH
    for t, result in enumerate(ours):
        a, b = result.masks[0], theirs[t] > 0
        union = (a | b).sum()
        assert union == 0 or (a & b).sum() / union >= 0.999, t
        assert relative(result.mask_logits, stored[t]["pred_masks"][:, 0]) < 1e-3, t
        score = 1 / (1 + np.exp(-stored[t]["object_score_logits"].numpy()[:, 0]))
        np.testing.assert_allclose(result.presence, score, atol=1e-3)
    if seed == 0:
        assert all(result.masks.any() for result in ours)
