"""The training loop: data in, steps, logs, checkpoints. What a step computes is in `step`."""

import functools
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from mqc_jax import checkpoint, viz
from mqc_jax.config import BertConfig, Config
from mqc_jax.data import clips
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError
from mqc_jax.models import functional
from mqc_jax.models.mqc_sam import MQCSAM
from mqc_jax.text import Tokenizer
from mqc_jax.train import losses, optim
from mqc_jax.train.run_folder import RunFolder
from mqc_jax.train.step import TrainState, forward, train_step


def make_dataset(config: Config, tokenizer: Tokenizer, split: str, training: bool) -> clips.ClipDataset:
    """Training clips are drawn at random; held-out clips begin at frame 0 and are the same for every run."""
    source = open_source(config.data.dataset, config.data.data_dir, split)
    return clips.ClipDataset(
        source,
        image_size=config.model.image_size,
        clip_length=config.data.clip_length,
        max_stride=config.data.max_stride,
        tokenize=functools.partial(_tokenize, tokenizer, config.model.bert.max_tokens),
        seed=config.seed if training else 0,
        start=config.data.start if training else "first",
    )


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


def initial_state(config: Config, net: MQCSAM) -> tuple[TrainState, Any]:
    """Fresh or converted parameters, and the optimizer."""
    params = functional.init(net, config.seed)
    if config.init_from:
        params, note = checkpoint.init_from(config.init_from, params)
        print(note)
        params = jax.tree.map(jnp.asarray, params)
    tx = optim.optimizer(config.optim, config.steps, params)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params)), tx


def train(config: Config, workdir: str) -> TrainState:
    """Trains until `config.steps`, from the newest checkpoint in `workdir` if it has one."""
    tokenizer = make_tokenizer(config.model.bert)
    net = functional.build(config.model, config.dtype)
    dataset = make_dataset(config, tokenizer, config.data.train_split, training=True)
    held_out = make_dataset(config, tokenizer, config.data.eval_split, training=False) if config.eval_every else None
    folder = RunFolder(workdir, config, tokenizer)
    try:
        state, tx = initial_state(config, net)
        # Restored arrays are bound to their device. Fresh ones must be too, or a resumed run would be another program:
        # compiled again for minutes, and free to round differently.
        state = jax.device_put(folder.restore(state), jax.devices()[0])
        _run(config, net, tx, state, dataset, held_out, folder)
    finally:
        folder.close()
    return state


def _run(
    config: Config, net: MQCSAM, tx: Any, state: TrainState, dataset: Any, held_out: Any, folder: RunFolder
) -> None:
    update = jax.jit(functools.partial(train_step, net, tx, config), donate_argnums=0)
    predict = jax.jit(functools.partial(forward, net))
    start = int(state.step)
    folder.open_log(start)
    rate = optim.schedule(config.optim, config.steps)
    if held_out is not None and start == 0:
        folder.log(0, evaluate_clips(predict, state.params, held_out, config), "held_out")
    data = clips.batches(dataset, config.batch_size, start, num_threads=config.data.num_threads)
    waited, logged_at, logged_step = 0.0, time.perf_counter(), start
    with tqdm(total=config.steps, initial=start, unit="step", dynamic_ncols=True) as bar:
        for step in range(start + 1, config.steps + 1):
            before = time.perf_counter()
            batch, ids = next(data)
            waited += time.perf_counter() - before
            state, metrics = update(state, batch)
            loss = float(metrics["loss"])
            if not np.isfinite(loss):
                raise UserError(f"the loss is {loss} at step {step}, on {', '.join(ids)}; lower the learning rate")
            bar.update()
            if step % config.log_every == 0 or step == config.steps:
                now = time.perf_counter()
                speed = (step - logged_step) * config.batch_size / (now - logged_at)
                values = {name: float(value) for name, value in metrics.items()}
                values |= {"lr": float(rate(step - 1)), "clips_per_s": speed, "data_wait": waited / (now - logged_at)}
                folder.log(step, values)
                bar.set_postfix(loss=f"{values['loss']:.3f}", J=f"{values['J']:.3f}", clips_s=f"{speed:.2f}")
                waited, logged_at, logged_step = 0.0, now, step
            if step % config.picture_every == 0:
                folder.board.add_image("clip", _picture(predict(state.params, batch), batch), step, dataformats="HWC")
            if held_out is not None and (step % config.eval_every == 0 or step == config.steps):
                folder.log(step, evaluate_clips(predict, state.params, held_out, config), "held_out")
            if step % config.checkpoint_every == 0 or step == config.steps:
                folder.save(state)


def evaluate_clips(predict: Any, params: Any, dataset: clips.ClipDataset, config: Config) -> dict[str, float]:
    """J over held-out clips at the model's own resolution: of all frames that show the target, and of frame 0."""
    totals = np.zeros(4)
    # Whole batches only: a ragged last one would compile again.
    rounds = max(1, min(config.eval_clips, dataset.clips_per_epoch) // config.batch_size)
    for batch, _ in itertools.islice(clips.batches(dataset, config.batch_size), rounds):
        overlap, present = (np.asarray(x) for x in _overlaps(predict(params, batch), jnp.asarray(batch["masks"])))
        totals += np.array([(overlap * present).sum(), present.sum(), (overlap * present)[0].sum(), present[0].sum()])
    return {"held_out_J": totals[0] / max(totals[1], 1), "held_out_J_first": totals[2] / max(totals[3], 1)}


@jax.jit
def _overlaps(outputs: Any, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
    truth = jnp.swapaxes(masks, 0, 1).astype(jnp.float32)  # [T, B, S, S]
    overlap = jax.lax.map(
        lambda x: losses.iou(losses.upsample(x[0], truth.shape[-2:]), x[1]), (outputs.mask_logits, truth)
    )
    return overlap, truth.any((-2, -1))


def _picture(outputs: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """The first clip of a batch: truth above, prediction below, uint8 [H, W, 3]."""
    frames, truth = np.asarray(batch["frames"][0]), np.asarray(batch["masks"][0], bool)
    logits = np.asarray(losses.upsample(outputs.mask_logits[:, 0], truth.shape[-2:]))
    rows = [
        np.hstack([viz.overlay(f, m[None]) for f, m in zip(frames, masks, strict=True)])
        for masks in (truth, logits > 0)
    ]
    return np.vstack(rows)


def dry_run(config: Config) -> str:
    """Parameters for each part of the model, as text."""
    shapes = functional.shapes(functional.build(config.model, config.dtype))
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
    return "\n".join(lines)
