"""The config schema: what it accepts, and the sentence for everything else."""

import dataclasses

import ml_collections
import pytest
import tiny

from mqc_jax.config import Config, ModelConfig, OptimConfig, parse, require_field, to_config_dict, to_dict
from mqc_jax.errors import UserError


def changed(**model) -> dict:
    values = to_dict(Config())
    values["model"].update(model)
    return values


def test_a_config_survives_the_way_to_the_command_line_and_back():
    optim = OptimConfig(freeze=("text_encoder", "a.b"), multipliers=(("image_encoder", 0.1),))
    config = dataclasses.replace(tiny.config("somewhere"), optim=optim)
    assert parse(to_config_dict(config)) == config
    assert parse(to_dict(config)) == config


def test_json_lists_become_tuples_again():
    import json

    config = dataclasses.replace(tiny.config(), optim=OptimConfig(multipliers=(("a", 0.5), ("b", 2.0))))
    assert parse(json.loads(json.dumps(to_dict(config)))) == config


def test_fields_left_out_keep_their_default_and_whole_numbers_serve_as_floats():
    config = parse(ml_collections.ConfigDict({"steps": 7, "optim": {"learning_rate": 1}}))
    assert config == dataclasses.replace(Config(), steps=7, optim=OptimConfig(learning_rate=1.0))
    assert isinstance(config.optim.learning_rate, float)


def test_the_papers_values_are_the_defaults():
    config = Config()
    assert (config.batch_size, config.model.image_size, config.data.clip_length) == (32, 480, 8)
    optim = config.optim
    assert (optim.learning_rate, optim.weight_decay, optim.power, optim.warmup_steps) == (5e-5, 0.01, 0.9, 0)
    loss = config.loss
    assert (loss.focal, loss.dice, loss.iou, loss.objectness) == (20, 1, 1, 1)
    assert (loss.focal_alpha, loss.focal_gamma) == (0.25, 2)
    assert (config.model.num_maskmem, config.model.max_obj_ptrs) == (7, 16)
    for name in ("steps", "batch_size", "seed", "dtype", "log_every", "init_from", "dry_run"):
        assert hasattr(config, name), name


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"step": 3}, r"unknown config field config\.step; did you mean 'steps'\?"),
        ({"optim": {"learning_rat": 1.0}}, r"config\.optim\.learning_rat; did you mean 'learning_rate'\?"),
        ({"model": {"hiera": {"stage": (1,)}}}, r"config\.model\.hiera\.stage; did you mean 'stages'\?"),
        ({"steps": 3.5}, r"config\.steps=3\.5 must be of type int, not float"),
        ({"steps": True}, r"config\.steps=True must be a whole number"),
        ({"optim": {"learning_rate": "fast"}}, r"config\.optim\.learning_rate='fast' must be of type float"),
        ({"optim": {"freeze": "text_encoder"}}, r"config\.optim\.freeze='text_encoder' must be a list"),
        ({"optim": {"multipliers": (("a",),)}}, r"multipliers\[0\]=\('a',\) must have 2 entries, not 1"),
        ({"optim": {"multipliers": (("a", "b"),)}}, r"multipliers\[0\]\[1\]='b' must be of type float"),
        ({"optim": 3}, r"config\.optim=3 must be a group of fields"),
        ({"steps": 0}, r"config\.steps=0 must be at least 1"),
        ({"dtype": "float16"}, r"config\.dtype='float16' must be one of float32, bfloat16; did you mean 'bfloat16'"),
        ({"data": {"start": "last"}}, r"config\.data\.start='last' must be one of first, anywhere"),
        ({"data": {"clip_length": 0}}, r"clip_length=0 and max_stride=3 must be at least 1"),
        ({"model": {"dami": {"min_usual_quality": 1.5}}}, r"dami\.min_usual_quality=1\.5 must lie in \[0, 1\]"),
        ({"model": {"dami": {"max_usual_area": 0.5}}}, r"dami\.max_usual_area=0\.5 must be at least 1, or 0 for any"),
        ({"loss": {"teacher_forcing": 1.5}}, r"teacher_forcing=1\.5 must lie in \[0, 1\]"),
        ({"optim": {"average": 1.0}}, r"config\.optim\.average=1\.0 must lie in \[0, 1\)"),
        ({"optim": {"rule": "muom"}}, r"config\.optim\.rule='muom' must be one of adamw, muon; did you mean"),
        (changed(image_size=500), r"model\.image_size=500 must be a multiple of 32.*nearest: 480 or 512"),
        (changed(shown_presence=0.7), r"model\.shown_presence=0\.7 must lie above 0 and up to 0\.5"),
        (changed(image_size=32), r"image_size=32 must be .* at least 64"),
        (changed(calibration="tmc"), r"model\.calibration='tmc' must be one of none, tmcc; did you mean 'tmcc'\?"),
        (changed(memory="sam"), r"model\.memory='sam' must be one of sam2, dami; did you mean 'sam2'\?"),
        (changed(d_model=100), r"model\.d_model=100 must be a multiple of 8 and of model\.mem_dim=64"),
        (changed(num_maskmem=1), r"num_maskmem=1 and max_obj_ptrs=16 must be at least 2"),
    ],
)
def test_a_wrong_value_is_told_with_its_place_the_limit_and_the_fix(values, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(values)


def test_a_model_alone_is_checked_too():
    with pytest.raises(UserError, match=r"image_size=500"):
        parse({"image_size": 500}, ModelConfig, "model")


@pytest.mark.parametrize("name", ["steps", "optim", "optim.learning_rate", "model.hiera.stages"])
def test_an_override_may_name_any_field(name):
    require_field(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("stepss", r"config\.stepss; did you mean 'steps'"),
        ("model.hiera.stage", r"config\.model\.hiera\.stage; did you mean 'stages'"),
        ("steps.more", r"unknown config field config\.steps\.more"),
    ],
)
def test_an_override_of_no_field_names_the_nearest(name, sentence):
    with pytest.raises(UserError, match=sentence):
        require_field(name)
