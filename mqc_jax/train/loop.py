"""The training loop: data in, steps, logs, checkpoints. What a step computes is in `step`."""

import dataclasses
import functools
import itertools
import signal
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from tqdm import tqdm

from mqc_jax import checkpoint, viz
from mqc_jax.config import BertConfig, Config
from mqc_jax.data.batches import batches
from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError
from mqc_jax.models import functional
from mqc_jax.models.mqc_sam import MQCSAM
from mqc_jax.text import Tokenizer
from mqc_jax.train import losses, optim, sharding
from mqc_jax.train.run_folder import RunFolder
from mqc_jax.train.step import TrainState, forward, train_step


def make_dataset(config: Config, tokenizer: Tokenizer, split: str, training: bool) -> ClipDataset:
    """Training clips are drawn at random; held-out clips begin at frame 0 and are the same for every run."""
    folder = config.data.data_dir if training else config.data.eval_dir or config.data.data_dir
    source = open_source(config.data.dataset, folder, split)
    return ClipDataset(
        source,
        image_size=config.model.image_size if training else _held_out_size(config),
        clip_length=config.data.clip_length,
        max_stride=config.data.max_stride,
        tokenize=functools.partial(_tokenize, tokenizer, config.model.bert.max_tokens),
        seed=config.seed if training else 0,
        start=config.data.start if training else "first",
        min_crop=config.data.min_crop if training else 1.0,
        max_crop=config.data.max_crop if training else 1.0,
        targets=config.data.targets if training else 1,
        reword=config.data.reword if training else 0.0,
        placeless=config.data.placeless if training else 0.0,
        absent=config.data.absent if training else 0.0,
        every=config.data.every if training else 0.0,
        stray=config.data.stray if training else 0.0,
        square=config.data.square and training,
        turn=config.data.turn and training,
        class_map=training and config.model.classes > 0,
        follow=config.data.follow if training else 0.0,
        tile=config.model.tile,
        balance=config.data.balance if training else 0.0,
    )


def _held_out_size(config: Config) -> int:
    return config.data.eval_image_size or config.model.image_size


def _tokenize(tokenizer: Tokenizer, length: int, text: str) -> dict[str, np.ndarray]:
    input_ids, mask = tokenizer.encode([text], length)
    return {"input_ids": input_ids[0], "attention_mask": mask[0]}


def make_tokenizer(config: BertConfig) -> Tokenizer:
    """The text encoder's tokenizer, checked against its word embedding's size."""
    tokenizer = Tokenizer.default() if config.vocab == "small" else Tokenizer.load(config.vocab)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"model.bert.vocab_size={config.vocab_size} is smaller than the vocabulary {config.vocab!r}, "
            f"which has {tokenizer.vocab_size} pieces; set it to at least that"
        )
    return tokenizer


def initial_parameters(config: Config, net: MQCSAM) -> Any:
    """Fresh or converted ones."""
    params = functional.init(net, config.seed)
    if config.init_from:
        params, note = checkpoint.init_from(config.init_from, params, make_tokenizer(config.model.bert))
        print(note)
        params = jax.tree.map(jnp.asarray, params)
    return params


def _begun(config: Config, tx: optax.GradientTransformation, params: Any) -> TrainState:
    average = jax.tree.map(jnp.copy, params) if config.optim.average else None
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), average)


def train(config: Config, workdir: str) -> TrainState:
    """Trains until `config.steps`, from the newest checkpoint in `workdir` if it has one.

    SIGTERM ends it early, after the step that is under way and with a checkpoint.
    """
    mesh = sharding.make_mesh(config)
    tokenizer = make_tokenizer(config.model.bert)
    net = functional.build(config.model, config.dtype)
    dataset = make_dataset(config, tokenizer, config.data.train_split, training=True)
    held_out = make_dataset(config, tokenizer, config.data.eval_split, training=False) if config.eval_every else None
    folder = RunFolder(workdir, config, tokenizer)
    try:
        shapes = functional.shapes(net)
        tx = optim.optimizer(config.optim, config.steps, shapes)
        begun = functools.partial(_begun, config, tx)
        form = jax.eval_shape(begun, shapes)
        shardings = sharding.of_state(mesh, form, config.sharding.smallest)
        # Restored arrays are bound to their devices. Fresh ones must be too, or a resumed run would be another program:
        # compiled again for minutes, and free to round differently.
        state = folder.restore(form, shardings)
        if state is None:  # drawing parameters takes longer than reading them
            state = sharding.place(begun(initial_parameters(config, net)), shardings)
        state = _run(config, net, tx, state, mesh, dataset, held_out, folder)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() > 1:
            sharding.give_up(error)
        raise
    finally:
        folder.close()
    return state


def _run(
    config: Config,
    net: MQCSAM,
    tx: Any,
    state: TrainState,
    mesh: jax.sharding.Mesh,
    dataset: ClipDataset,
    held_out: ClipDataset | None,
    folder: RunFolder,
) -> TrainState:
    whole = sharding.replicated(mesh)
    shardings = sharding.of_state(mesh, state, config.sharding.smallest)
    step_in_place = functools.partial(train_step, net, tx, config)
    update = sharding.Program("step", jax.jit(step_in_place, donate_argnums=0, out_shardings=(shardings, whole)))
    # Parameters do not depend on the frames' size: crops may be learned from and whole frames judged.
    judged = MQCSAM(dataclasses.replace(config.model, image_size=_held_out_size(config)), net.dtype)
    overlaps = sharding.Program("held-out", jax.jit(functools.partial(_overlaps, judged), out_shardings=whole))
    first_clip = sharding.Program("picture", jax.jit(functools.partial(_first_clip, net), out_shardings=whole))
    start = int(state.step)
    folder.open_log(start)
    rate = optim.schedule(config.optim, config.steps)
    if held_out is not None and start == 0:
        folder.log(0, evaluate_clips(overlaps, state.learned, held_out, config, mesh), "held_out")
    data = batches(
        dataset,
        config.batch_size,
        start,
        shard=sharding.shard_of_process(),
        num_threads=config.data.num_threads,
        num_workers=config.data.num_workers,
    )
    waited, logged_at, logged_step, skipped = 0.0, time.perf_counter(), start, 0
    unasked = None
    hidden = jax.process_index() > 0
    with (
        Preemption() as preemption,
        tqdm(total=config.steps, initial=start, unit="step", dynamic_ncols=True, disable=hidden) as bar,
    ):
        for step in range(start + 1, config.steps + 1):
            before = time.perf_counter()
            rows, ids = next(data)
            waited += time.perf_counter() - before
            batch = sharding.place_batch(mesh, rows)
            state, metrics = update(state, batch)
            # A step is asked how it went when the next one is under way, or an accelerator would wait for every answer.
            if unasked is not None:
                skipped = _refuse_nonfinite(*unasked, skipped, config)
            unasked = (metrics, step, ids)
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                now = time.perf_counter()
                speed = (step - logged_step) * config.batch_size / (now - logged_at)
                values = {name: float(value) for name, value in metrics.items()}
                values |= {"lr": float(rate(step - 1)), "clips_per_s": speed, "data_wait": waited / (now - logged_at)}
                folder.log(step, values)
                bar.set_postfix(loss=f"{values['loss']:.3f}", J=f"{values['J']:.3f}", clips_s=f"{speed:.2f}")
                waited, logged_at, logged_step = 0.0, now, step
            if step % config.picture_every == 0 and config.data.targets:
                folder.add_picture(step, _picture(*map(np.asarray, first_clip(state.learned, batch))))
            scores = None
            if held_out is not None and (step % config.eval_every == 0 or step == config.steps):
                scores = evaluate_clips(overlaps, state.learned, held_out, config, mesh)
                folder.log(step, scores, "held_out")
            stopped = preemption.agreed(step)
            if step % config.checkpoint_every == 0 or step == config.steps or stopped or folder.is_best(scores):
                skipped, unasked = _refuse_nonfinite(*unasked, skipped, config), None
                folder.save(state, scores)
            if stopped and step < config.steps:
                bar.close()
                print(f"stopped at step {step} of {config.steps} and saved; the same command goes on from there")
                break
    return state


def _refuse_nonfinite(metrics: Any, step: int, ids: list[str], skipped: int, config: Config) -> int:
    """How many updates were left out, this one included; says which, and raises where the config allows fewer."""
    if not float(metrics["skipped"]):
        return skipped
    skipped += 1
    what = f"the loss is {float(metrics['loss'])}, its gradient's norm {float(metrics['grad_norm'])}"
    where = f"at step {step}, on {', '.join(ids)}"
    if skipped > config.skip_nonfinite:
        raise UserError(
            f"{what} {where}; lower the learning rate, or allow some such updates to be left out with "
            f"config.skip_nonfinite (now {config.skip_nonfinite})"
        )
    tqdm.write(f"{what} {where}: update left out ({skipped} of at most {config.skip_nonfinite})")
    return skipped


class Preemption:
    """SIGTERM as a request that the loop honours between two steps; a second one ends the process at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Preemption":
        # JAX's coordination service handles the signal itself where there are several processes. Only a program's main
        # thread may set handlers.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: Any) -> None:
        if hasattr(self, "_previous"):
            signal.signal(signal.SIGTERM, self._previous)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True
        signal.signal(signal.SIGTERM, self._previous)

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; all processes get the same answer for the same step."""
        return self.asked if jax.process_count() == 1 else multihost_utils.reached_preemption_sync_point(step)


def evaluate_clips(
    overlaps: Any, params: Any, dataset: ClipDataset, config: Config, mesh: jax.sharding.Mesh
) -> dict[str, float]:
    """J over held-out clips at the model's own resolution: of all frames that show the target, and of frame 0."""
    totals = np.zeros(4)
    # Whole batches only: a ragged last one would compile again.
    rounds = max(1, min(config.eval_clips, dataset.clips_per_epoch) // config.batch_size)
    stream = batches(dataset, config.batch_size, shard=sharding.shard_of_process())
    for rows, _ in itertools.islice(stream, rounds):
        totals += np.asarray(overlaps(params, sharding.place_batch(mesh, rows)))
    return {"held_out_J": totals[0] / max(totals[1], 1), "held_out_J_first": totals[2] / max(totals[3], 1)}


def _overlaps(net: MQCSAM, params: Any, batch: dict[str, jax.Array]) -> jax.Array:
    """Sum of J and number of frames, of all frames that show the target and of frame 0: float [4]."""
    outputs, _ = forward(net, params, batch)
    truth = jnp.swapaxes(batch["masks"], 0, 1).astype(jnp.float32)  # [T, B, S, S]
    overlap = jax.lax.map(
        lambda x: losses.iou(losses.upsample(x[0], truth.shape[-2:]), x[1]), (outputs.mask_logits, truth)
    )
    present = truth.any((-2, -1))
    scored = overlap * present
    return jnp.stack([scored.sum(), present.sum(), scored[0].sum(), present[0].sum()])


def _first_clip(net: MQCSAM, params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, ...]:
    """Frames, true masks and predicted logits of a batch's first clip."""
    outputs, _ = forward(net, params, batch)
    logits = losses.upsample(outputs.mask_logits[:, 0], batch["masks"].shape[-2:])
    return batch["frames"][0], batch["masks"][0], logits


def _picture(frames: np.ndarray, truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Truth above, prediction below, uint8 [H, W, 3]."""
    rows = [
        np.hstack([viz.overlay(f, m[None]) for f, m in zip(frames, masks, strict=True)])
        for masks in (truth.astype(bool), logits > 0)
    ]
    return np.vstack(rows)


def dry_run(config: Config, topology: str = "") -> str:
    """What a run would be, as text, without running it: parameters by module, layout, memory of each device.

    The memory is XLA's own account of the compiled step. It is made for the devices that are there; simulated ones will
    do (XLA_FLAGS=--xla_force_host_platform_device_count=8), though XLA computes bfloat16 as float32 on a CPU; or, with
    `topology`, for TPUs that are not there (`sharding.imagined`).
    """
    mesh = sharding.make_mesh(config, sharding.imagined(topology) if topology else None)
    net = functional.build(config.model, config.dtype)
    shapes = functional.shapes(net)
    factors = optim.multipliers(config.optim, shapes)
    lines = [f"{'module':28s} {'parameters':>14s} {'trained':>14s}"]
    total = trained = 0
    for name in sorted(shapes):
        sizes = [int(np.prod(x.shape)) for x in jax.tree.leaves(shapes[name])]
        live = sum(s for s, f in zip(sizes, jax.tree.leaves(factors[name]), strict=True) if f)
        lines.append(f"{name:28s} {sum(sizes):14,d} {live:14,d}")
        total, trained = total + sum(sizes), trained + live
    lines.append(f"{'all':28s} {total:14,d} {trained:14,d}")
    lines.append(f"parameters {4 * total / 2**20:.1f} MiB, optimizer state {8 * trained / 2**20:.1f} MiB, in float32")

    tx = optim.optimizer(config.optim, config.steps, shapes)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), shapes, jax.eval_shape(tx.init, shapes))
    shardings = sharding.of_state(mesh, state, config.sharding.smallest)
    spread = sum(not x.is_fully_replicated for x in jax.tree.leaves(shardings.params))
    data, fsdp = (mesh.shape[axis] for axis in sharding.AXES)
    lines.append(
        f"mesh: data {data} x fsdp {fsdp}; {config.batch_size} clips of {config.data.clip_length} frames a step, in "
        f"{config.accumulate} part(s), {config.batch_size // config.accumulate // mesh.size} on a device at a time; "
        f"{spread} of {len(jax.tree.leaves(shapes))} parameters are spread over fsdp"
    )
    step = jax.jit(
        functools.partial(train_step, net, tx, config),
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
    lay = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    batch = jax.tree.map(lambda x: lay(x, sharding.over_batch(mesh)), batch_shapes(config))
    platform = mesh.devices.flat[0].platform
    # On a CPU memory is laid out before machine code is optimised, so that the latter would only cost time.
    fast = {"xla_backend_optimization_level": 0} if platform == "cpu" else None
    lowered = step.lower(jax.tree.map(lay, state, shardings), batch)
    memory = lowered.compile(compiler_options=fast).memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    lines.append(
        f"memory of each device (XLA's account for {topology or platform}): state and batch {held / 2**30:.2f} GiB, "
        f"work space {memory.temp_size_in_bytes / 2**30:.2f} GiB"
    )
    return "\n".join(lines)


def batch_shapes(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """The form of a training batch, as `data.clips` makes it."""
    clips_, frames, size = config.batch_size, config.data.clip_length, config.model.image_size
    rows = clips_ * config.data.targets
    tokens = (rows, config.model.bert.max_tokens)
    shapes = {
        "input_ids": jax.ShapeDtypeStruct(tokens, jnp.int32),
        "attention_mask": jax.ShapeDtypeStruct(tokens, jnp.int32),
        "frames": jax.ShapeDtypeStruct((clips_, frames, size, size, 3), jnp.uint8),
        "masks": jax.ShapeDtypeStruct((rows, frames, size, size), jnp.uint8),
        "present": jax.ShapeDtypeStruct((rows, frames), bool),
        "labelled": jax.ShapeDtypeStruct((rows, frames), bool),
    }
    if not rows:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(("input", "attention"))}
    if config.model.classes:
        shapes["classes"] = jax.ShapeDtypeStruct((clips_, size // 4, size // 4), jnp.uint8)
    return shapes
