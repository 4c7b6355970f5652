"""The schema of every config: frozen dataclasses with the paper's values as defaults.

A file under `configs/` returns an `ml_collections.ConfigDict`, so that `--config.a.b=v` works on the command line;
`parse` turns it into the frozen form once, at the edge, and names the nearest field when one is misspelt.
"""

import dataclasses
import types
import typing
from typing import Any

import ml_collections

from mqc_jax.errors import UserError, nearest

CALIBRATIONS = ("none", "tmcc")
MEMORIES = ("sam2", "dami")
EVIDENCE = ("none", "background", "residual", "vacated")
EXPANSION = ("single", "geodesic")
SELECTION = ("best", "anchored")
FOCAL_PER = ("pixel", "target")
RULES = ("adamw", "muon")
FUSIONS = ("sum", "joint")
CONFIDENCES = ("none", "certainty", "probability")
AMBIGUITIES = ("paper", "elsewhere", "dam4sam")


@dataclasses.dataclass(frozen=True)
class HieraConfig:
    """Hiera trunk (Ryali et al. 2023); the defaults are Hiera-L as SAM2 uses it."""

    embed_dim: int = 144
    num_heads: int = 2
    stages: tuple[int, ...] = (2, 6, 36, 4)
    global_att_blocks: tuple[int, ...] = (23, 33, 43)
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (7, 7)
    window_spec: tuple[int, ...] = (8, 4, 16, 8)


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """A BERT-family text encoder; the defaults are BERT-base (uncased)."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    max_tokens: int = 40  # of one sentence, [CLS] and [SEP] included
    vocab: str = "small"  # "small": the vocabulary that ships with the package; else a folder with a tokenizer


@dataclasses.dataclass(frozen=True)
class BridgeConfig:
    """CroBIM's text bridge: context prompts (CAPM), language-guided aggregation (LGFA), mutual interaction (MID)."""

    num_prompts: int = 8  # CAPM's learnable tokens in front of the words
    num_layers: int = 3  # MID's cascaded layers
    num_heads: int = 8
    ffn_dim: int = 1024
    stride: int = 8  # of the fused map V, in input pixels


SMALLEST_TILE = 32
"""Least side of a window into a large frame, in pixels."""


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """TMCC (eqs. 7-15). Radii and distances in pixels, displacements in pixels per frame.

    `evidence="none"` and `expansion="single"` are the paper's letter.

    Attributes:
      n_start, n_step, n_max: the windows that eq. 7 tries: n_start, n_start + n_step, ... up to n_max displacements.
      tau_motion: a region or pixel that moves more is moving (eqs. 7 and 9).
      tau_sem: probability above which a pixel is a semantic anchor.
      alpha, beta: standard deviations within which motion is consistent, to join (10) and to stay (11); beta > alpha.
      sigma_floor: least standard deviation; a rigid target's own is 0, and nothing would be consistent with it.
      neighbourhood: radius of N(.) (10).
      lam, sigma_s: weight and scale of proximity in a component's score (12).
      closing: radius of the closing (15).
      evidence: what must say that a pixel moves before its displacement counts, since dense flow smears. "vacated":
        frame 0 shows there what is gone later: it differs from the median of all the longest window's frames and from
        that of its last third, so a stream waits for that window's end, and a region moves (7) only as far as its
        pixels are found again where displacement took them and not on the other side; "background": the frame differs
        from the median of the window so far; "residual": the displacement explains the next frame better than standing
        still does; "none": nothing.
      evidence_sigmas: all but "residual": robust standard deviations of difference that are motion.
      evidence_floor: grey levels (of 255) that a difference must at least have; a pixel that is found again differs by
        less than twice as many.
      expansion: "single": one neighbourhood is tried (10); "geodesic": again and again until nothing joins.
      selection: "best": the component of the highest score (13); "anchored": with it every component that shares
        pixels with the anchor, since a smooth target's middle shows no motion and leaves it in pieces.
      rim: pixels of the first mask stay within this radius of what eq. 14 keeps: the sentence is less sure of a
        target's edge than of its middle, and motion shows those edges alone that vacate something. 0 is the letter.
      remove_background: displacements are taken relative to the background's affine motion, and everything is compared
        in the first frame's coordinates: for a platform that drifts or shakes.
      motion_odds: how many times likelier it is that a sentence means what moves than what stands, where it may mean
        several objects of a large frame (`paths`), and neither says so nor names the most of something (`moving`);
        what is seen to do neither has their root. 1: motion does not choose.
    """

    n_start: int = 4
    n_step: int = 4
    n_max: int = 16
    tau_motion: float = 0.2
    tau_sem: float = 0.8
    alpha: float = 2.0
    beta: float = 3.0
    sigma_floor: float = 0.15
    neighbourhood: int = 3
    lam: float = 0.5
    sigma_s: float = 5.0
    closing: int = 2
    evidence: str = "vacated"
    evidence_sigmas: float = 4.0
    evidence_floor: float = 4.0
    expansion: str = "geodesic"
    selection: str = "best"
    remove_background: bool = False
    rim: int = 0
    motion_odds: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("evidence", EVIDENCE), ("expansion", EXPANSION), ("selection", SELECTION)):
            value = getattr(self, name)
            if value not in known:
                raise UserError(f"{name}={value!r} must be one of {', '.join(known)}{nearest(str(value), known)}")
        for name, least in (
            ("n_start", 1),
            ("n_step", 1),
            ("n_max", self.n_start),
            ("neighbourhood", 0),
            ("closing", 0),
            ("rim", 0),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)} must be at least {least}; give {least} or more")
        for name in ("tau_motion", "alpha", "lam", "evidence_sigmas", "evidence_floor"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name}={getattr(self, name)} must be at least 0")
        for name in ("sigma_floor", "sigma_s"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name}={getattr(self, name)} must be greater than 0")
        if not 1 <= self.motion_odds < float("inf"):
            raise UserError(f"motion_odds={self.motion_odds} must be a number from 1 on; at 1 motion does not choose")
        if not self.beta > self.alpha:
            raise UserError(f"beta={self.beta} must be greater than alpha={self.alpha} (eq. 11)")
        if not 0 <= self.tau_sem <= 1:
            raise UserError(f"tau_sem={self.tau_sem} must lie in [0, 1], since it is a probability")

    def windows(self, displacements: int) -> tuple[int, ...]:
        """The window lengths to try where there are so many displacements; all of them where there are too few."""
        last = min(self.n_max, displacements)
        return tuple(range(self.n_start, last + 1, self.n_step)) or ((last,) if last else ())


@dataclasses.dataclass(frozen=True)
class DamiConfig:
    """DAMI's memory (eqs. 16-24), read where `model.memory` is "dami". The paper gives L, eta and no threshold."""

    fusion: str = "sum"  # "sum": eq. 16 | "joint": one softmax over all entries, as SAM2
    short: int = 4  # L - 1, slots of the short-term memory
    prototypes: int = 2  # slots of the discriminative memory; 1 + short + prototypes <= model.num_maskmem
    eta: float = 0.5  # eq. 19's decay per frame
    gain_percentile: float = 50.0  # tau_gain among past novelties; 0: every frame is registered
    confidence: str = "certainty"  # eq. 21's C_t: "certainty" |2p - 1| | "probability" p | "none": no weighting
    ambiguity: str = "paper"  # eq. 22: "paper" | "elsewhere" | "dam4sam"; see models.registration.ambiguity
    ambiguity_percentile: float = 10.0  # tau_amb(t) among past divergences
    elsewhere_radius: int = 2  # pixels of the stride-4 grid around the main mask that are not elsewhere
    reliability: float = 0.5  # tau_reg; scores lie in (0, 1), so 1 keeps the prototypes empty
    min_presence: float = 0.5  # presence above which a frame may be remembered; 0: absent targets too
    min_quality: float = 0.25  # least presence times predicted IoU of a frame that may be remembered; 0: any
    min_usual_quality: float = 0.85  # least share of the median quality that a remembered frame's mask has; 0: any
    max_usual_area: float = 1.6  # most times the median area that a remembered frame's mask has; 0: any
    history: int = 64  # past frames that a percentile or the median is taken over
    scorer_hidden: int = 32


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """SAM2 + BERT + bridge. The defaults are SAM 2.1 Hiera-L at the paper's 480x480."""

    calibration: str = "none"  # "none" | "tmcc"
    memory: str = "sam2"  # "sam2" | "dami"
    text_every_frame: bool = False  # the sentence prompts later frames too, which drifts (paper, I): an ablation
    shown_presence: float = 0.5  # presence above which a later frame's mask is shown (0.5: SAM2's), remembered or not
    one_object: bool = False  # of a mask in pieces, those stay that can be one object where it is expected
    image_size: int = 480  # pixels, a multiple of 32; frames are resized to a square of this side
    tile: int = 0  # side, in a frame's own pixels, of the windows that it was trained to see; 0: whole frames
    hiera: HieraConfig = HieraConfig()
    bert: BertConfig = BertConfig()
    bridge: BridgeConfig = BridgeConfig()
    # Read where calibration is "tmcc". A satellite's picture shakes, and a target's mask may come in pieces. The odds
    # are the likeliest ones of 127 sentences (docs/tmcc.md).
    tmcc: CalibrationConfig = CalibrationConfig(remove_background=True, selection="anchored", rim=3, motion_odds=5.0)
    dami: DamiConfig = DamiConfig()
    d_model: int = 256
    mem_dim: int = 64
    fpn_top_down_levels: tuple[int, ...] = (2, 3)
    memory_attention_layers: int = 4
    memory_attention_ffn: int = 2048
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    iou_head_depth: int = 3
    iou_head_hidden: int = 256
    mask_in_chans: int = 16
    fuser_layers: int = 2
    num_maskmem: int = 7  # N_max: the first frame and the 6 frames before this one
    max_obj_ptrs: int = 16  # the first frame's pointer and the 15 frames' before this one
    sigmoid_scale_for_mem_enc: float = 20.0
    sigmoid_bias_for_mem_enc: float = -10.0
    no_obj_embed_spatial: bool = True  # SAM 2.1; SAM 2.0 lacks it
    obj_ptr_tpos: bool = True  # SAM 2.1: sine time encoding of the pointers, projected; SAM 2.0: none
    classes: int = 0  # classes that a linear layer names at each place, to teach the image encoder; 0: no such layer
    remat: bool = False  # recompute each trunk block and each frame in the backward pass


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a training step reads."""

    dataset: str = "rs_rvos_synth"  # a TFDS name or a folder layout
    data_dir: str = ""
    train_split: str = "train"
    eval_split: str = "test"
    clip_length: int = 8  # frames
    max_stride: int = 3  # frames between two frames of a clip, drawn from 1..max_stride
    start: str = "first"  # "first": frame 0 of the sequence, which the sentence describes | "anywhere"
    # Training clips are cut to windows of at least this share of the frame's sides; 1: never cut; more: in pixels.
    min_crop: float = 1.0
    max_crop: float = 1.0  # and at most this
    eval_image_size: int = 0  # side that held-out frames are resized to; 0: model.image_size
    square: bool = False  # such windows are square, with a share of the frame's shorter side
    turn: bool = False  # clips are turned by quarters and mirrored, and their sentences made again
    eval_dir: str = ""  # where the held-out split is, if not in data_dir
    targets: int = 1  # sentences of a training clip, which share its frames; 0: only classes are learned
    reword: float = 0.0  # probability that a sentence made from class and position is said in other words
    placeless: float = 0.0  # probability that a sentence names no place, where its class alone will do
    absent: float = 0.0  # probability that a further sentence of a clip names what is not there
    every: float = 0.0  # probability that a further sentence means all objects of a class: "every yacht"
    stray: float = 0.0  # probability that a clip's window lies anywhere, and mostly does not show what is named
    follow: float = 0.0  # probability that a clip's window is made for its target and moves after it (model.tile > 0)
    balance: float = 0.0  # probability that a clip is about any object of a class drawn first, evenly
    num_threads: int = 2  # that decode, in each process
    num_workers: int = 0  # processes that make clips; 0: threads of the training process alone


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW with polynomial decay and no warm-up (LAVT's recipe, which the paper's numbers match).

    Attributes:
      rule: "adamw"; "muon": matrices move along the nearest orthogonal matrix to their gradient's running mean (Muon,
        whose steps here are as large as Adam's: root mean square 0.2), all else as with "adamw". For models that start
        from nothing.
    """

    rule: str = "adamw"
    learning_rate: float = 5e-5
    end_learning_rate: float = 0.0
    power: float = 0.9
    warmup_steps: int = 0
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.999
    clip_norm: float = 1.0  # of the global gradient; 0: off
    average: float = 0.0  # decay, a step, of the running mean of the parameters that is judged and handed on; 0: off
    freeze: tuple[str, ...] = ()  # regular expressions over parameter paths "a.b.c"
    multipliers: tuple[tuple[str, float], ...] = ()  # (regular expression, learning-rate factor); first match counts


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """SAM2's terms and weights, plus the same mask terms on the bridge's coarse mask."""

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    objectness: float = 1.0
    coarse: float = 1.0  # weight of focal + dice on the coarse mask; focal also where the target is absent
    classes: float = 1.0  # weight of naming the class at each place of the first frame (model.classes > 0)
    scorer: float = 1.0  # weight of the robustness scorer's regression (memory="dami")
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    focal_per: str = "pixel"  # focal is a mean over the frame's pixels, as SAM2's; "target": sum / target's pixels
    teacher_forcing: float = 0.5  # probability, at step 0, that memory starts from frame 0's true mask
    teacher_forcing_steps: int = 0  # steps over which that probability falls linearly to 0; 0: the whole run


@dataclasses.dataclass(frozen=True)
class ShardingConfig:
    """How parameters and optimizer state lie on the devices; the batch always goes over all of them."""

    fsdp: int = 1  # devices that share one copy of them; 1: every device holds all
    smallest: int = 65536  # arrays of fewer numbers stay whole


@dataclasses.dataclass(frozen=True)
class Config:
    """One run. The top level holds what the command line changes most."""

    steps: int = 1000
    batch_size: int = 32  # clips of one optimizer step, over all devices
    accumulate: int = 1  # parts that such a batch is computed in, one after the other
    seed: int = 0
    dtype: str = "float32"  # of the computation; parameters stay float32
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    eval_every: int = 0  # 0: never during training
    eval_clips: int = 32  # of the held-out split; the same clips every time
    picture_every: int = 500
    init_from: str = ""  # a checkpoint folder whose parameters start this run
    dry_run: bool = False
    skip_nonfinite: int = 0  # updates that may be left out because the loss or gradient is not finite; then it stops
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    loss: LossConfig = LossConfig()
    sharding: ShardingConfig = ShardingConfig()


def to_dict(config: Any) -> dict[str, Any]:
    """The nested dict of a config dataclass: JSON-ready but for tuples, which become lists when written."""
    return dataclasses.asdict(config)


def to_config_dict(config: Config) -> ml_collections.ConfigDict:
    """The form that `configs/*.py` return and the command line overrides."""
    return ml_collections.ConfigDict(to_dict(config))


def parse(values: Any, schema: type = Config, path: str = "config") -> Any:
    """Builds `schema` from a (nested) mapping and checks it.

    Args:
      values: `ConfigDict` or dict; fields left out keep their default.

    Raises:
      UserError: an unknown field (with the nearest name), a value of the wrong type, or one outside its range.
    """
    if isinstance(values, ml_collections.ConfigDict):
        values = values.to_dict()
    if not isinstance(values, dict):
        raise UserError(f"{path}={values!r} must be a group of fields, not {type(values).__name__}")
    fields = {field.name: field for field in dataclasses.fields(schema)}
    hints = typing.get_type_hints(schema)
    built = {}
    for name, value in values.items():
        if name not in fields:
            raise UserError(f"unknown config field {path}.{name}{nearest(name, fields)}")
        kind = hints[name]
        where = f"{path}.{name}"
        built[name] = parse(value, kind, where) if dataclasses.is_dataclass(kind) else _cast(value, kind, where)
    config = schema(**built)
    if schema is Config:
        check(config)
    elif schema is ModelConfig:
        check_model(config)
    return config


def require_field(name: str) -> None:
    """Raises `UserError`, with the nearest name, unless "a.b" leads to a field of `Config`."""
    schema, path = Config, "config"
    for part in name.split("."):
        fields = typing.get_type_hints(schema) if dataclasses.is_dataclass(schema) else {}
        if part not in fields:
            raise UserError(f"unknown config field {path}.{part}{nearest(part, fields)}")
        schema, path = fields[part], f"{path}.{part}"


def _cast(value: Any, kind: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (tuple, types.GenericAlias) or kind is tuple:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise UserError(f"{where}={value!r} must be a list")
        arguments = typing.get_args(kind)
        inner = arguments[0] if len(arguments) == 2 and arguments[1] is Ellipsis else None
        if inner is None and arguments and len(arguments) != len(value):
            raise UserError(f"{where}={value!r} must have {len(arguments)} entries, not {len(value)}")
        kinds = [inner] * len(value) if inner is not None else arguments
        return tuple(_cast(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        raise UserError(f"{where}={value!r} must be a whole number")
    if not isinstance(value, kind):
        raise UserError(f"{where}={value!r} must be of type {kind.__name__}, not {type(value).__name__}")
    return value


def _among(value: str, known: tuple[str, ...], where: str) -> None:
    if value not in known:
        raise UserError(f"{where}={value!r} must be one of {', '.join(known)}{nearest(str(value), known)}")


def check_dtype(dtype: str, where: str) -> None:
    """Raises `UserError` for a dtype that the model does not compute in."""
    _among(dtype, ("float32", "bfloat16"), where)


def check_model(model: ModelConfig) -> None:
    """Raises `UserError` for a model that cannot be built."""
    size = model.image_size
    if size < 64 or size % 32:
        low = max(64, size // 32 * 32)
        raise UserError(f"model.image_size={size} must be a multiple of 32, at least 64; nearest: {low} or {low + 32}")
    if model.tile and model.tile < SMALLEST_TILE:
        raise UserError(f"model.tile={model.tile} must be at least {SMALLEST_TILE} pixels, or 0 for whole frames")
    if not 0 < model.shown_presence <= 0.5:
        raise UserError(f"model.shown_presence={model.shown_presence} must lie above 0 and up to 0.5, which is SAM2's")
    _among(model.calibration, CALIBRATIONS, "model.calibration")
    _among(model.memory, MEMORIES, "model.memory")
    if model.d_model % 8 or model.d_model % model.mem_dim:
        raise UserError(
            f"model.d_model={model.d_model} must be a multiple of 8 and of model.mem_dim={model.mem_dim}; "
            "try d_model=256, mem_dim=64"
        )
    if model.bridge.stride not in (4, 8, 16):
        raise UserError(f"model.bridge.stride={model.bridge.stride} must be 4, 8 or 16")
    if len(model.hiera.stages) != 4 or len(model.hiera.window_spec) != 4:
        stages, windows = model.hiera.stages, model.hiera.window_spec
        raise UserError(f"model.hiera.stages={stages} and window_spec={windows} must have 4 entries each")
    if model.bert.hidden_size % model.bert.num_attention_heads:
        raise UserError(
            f"model.bert.hidden_size={model.bert.hidden_size} must be a multiple of "
            f"num_attention_heads={model.bert.num_attention_heads}"
        )
    if model.text_every_frame and model.calibration != "none":
        raise UserError(
            f'model.text_every_frame=True is an ablation of the baseline; set model.calibration="none" (it is '
            f"{model.calibration!r})"
        )
    if model.classes < 0:
        raise UserError(f"model.classes={model.classes} must not be negative; 0 is no classification")
    if model.num_maskmem < 2 or model.max_obj_ptrs < 2:
        raise UserError(
            f"model.num_maskmem={model.num_maskmem} and max_obj_ptrs={model.max_obj_ptrs} must be at least 2"
        )
    _check_dami(model)


def _check_dami(model: ModelConfig) -> None:
    dami = model.dami
    _among(dami.fusion, FUSIONS, "model.dami.fusion")
    _among(dami.confidence, CONFIDENCES, "model.dami.confidence")
    _among(dami.ambiguity, AMBIGUITIES, "model.dami.ambiguity")
    for name in ("short", "prototypes", "history", "scorer_hidden"):
        if getattr(dami, name) < 1:
            raise UserError(f"model.dami.{name}={getattr(dami, name)} must be at least 1")
    slots = 1 + dami.short + dami.prototypes
    if slots > model.num_maskmem:
        raise UserError(
            f"model.dami.short={dami.short} and prototypes={dami.prototypes} need {slots} slots with the anchor, "
            f"model.num_maskmem={model.num_maskmem} allows fewer; lower one of them"
        )
    for name in ("gain_percentile", "ambiguity_percentile"):
        if not 0.0 <= getattr(dami, name) <= 100.0:
            raise UserError(f"model.dami.{name}={getattr(dami, name)} must lie in [0, 100]")
    for name in ("reliability", "min_presence", "min_quality", "min_usual_quality"):
        if not 0.0 <= getattr(dami, name) <= 1.0:
            raise UserError(f"model.dami.{name}={getattr(dami, name)} must lie in [0, 1]")
    if dami.max_usual_area != 0 and not dami.max_usual_area >= 1:
        raise UserError(f"model.dami.max_usual_area={dami.max_usual_area} must be at least 1, or 0 for any")
    if dami.eta < 0 or dami.elsewhere_radius < 0:
        raise UserError(f"model.dami.eta={dami.eta} and elsewhere_radius={dami.elsewhere_radius} must not be negative")


def check(config: Config) -> None:
    """Raises `UserError` for a run that cannot start."""
    for name in ("steps", "batch_size", "accumulate", "log_every", "checkpoint_every", "keep_checkpoints"):
        if getattr(config, name) < 1:
            raise UserError(f"config.{name}={getattr(config, name)} must be at least 1")
    if config.sharding.fsdp < 1:
        raise UserError(f"config.sharding.fsdp={config.sharding.fsdp} must be at least 1")
    if config.batch_size % config.accumulate:
        raise UserError(
            f"config.accumulate={config.accumulate} does not divide config.batch_size={config.batch_size}; "
            "give a divisor of it"
        )
    check_dtype(config.dtype, "config.dtype")
    _among(config.data.start, ("first", "anywhere"), "config.data.start")
    if config.data.clip_length < 1 or config.data.max_stride < 1:
        raise UserError(
            f"config.data.clip_length={config.data.clip_length} and "
            f"max_stride={config.data.max_stride} must be at least 1"
        )
    if config.data.targets < 0:
        raise UserError(f"config.data.targets={config.data.targets} must not be negative")
    if not config.data.targets and (not config.model.classes or config.data.clip_length > 1):
        raise UserError(
            "config.data.targets=0 teaches the image encoder alone, on single frames; set config.model.classes=14 and "
            "config.data.clip_length=1"
        )
    for name in ("reword", "placeless", "absent", "every", "stray"):
        if not 0.0 <= getattr(config.data, name) <= 1.0:
            raise UserError(f"config.data.{name}={getattr(config.data, name)} must lie in [0, 1]")
    if config.data.eval_image_size:
        check_model(dataclasses.replace(config.model, image_size=config.data.eval_image_size))
    _among(config.optim.rule, RULES, "config.optim.rule")
    if not 0.0 <= config.optim.average < 1.0:
        raise UserError(
            f"config.optim.average={config.optim.average} must lie in [0, 1), the share of the running mean that a "
            "step keeps"
        )
    _among(config.loss.focal_per, FOCAL_PER, "config.loss.focal_per")
    if not 0.0 <= config.loss.teacher_forcing <= 1.0:
        raise UserError(f"config.loss.teacher_forcing={config.loss.teacher_forcing} must lie in [0, 1]")
