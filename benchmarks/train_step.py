"""Where a training step's time goes: its parts one by one, the share of the matrix product's rate, waiting for data.

    python benchmarks/train_step.py [--config configs/synth_small.py] [--clips 4] [--frames 3] [--rounds 5]
    python benchmarks/train_step.py --config configs/mqc_sam_hiera_l.py --clips 1 --frames 2 --rounds 2

Parts run as programs of their own, in turn, on what they would get in the step; `x` says how often the step runs one.
Their sum against the whole forward pass shows what XLA gains or loses by seeing all of them at once. Products are
counted in the traced programs, and so include what is computed a second time in the backward pass.
"""

import dataclasses
import functools
import importlib.util
import math
import os
import platform
import tempfile
import time
from collections import defaultdict
from importlib import metadata
from pathlib import Path

import jax
import jax.extend
import jax.numpy as jnp
import loader
import numpy as np
import optax
from absl import flags

from mqc_jax.config import parse
from mqc_jax.data.batches import batches
from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.source import open_source
from mqc_jax.errors import run
from mqc_jax.models import functional
from mqc_jax.train import optim
from mqc_jax.train.loop import batch_shapes
from mqc_jax.train.sharding import Program
from mqc_jax.train.step import TrainState, clip_loss, forward, train_step

_CONFIG = flags.DEFINE_string("config", "configs/synth_small.py", "The config whose model is measured.")
_CLIPS = flags.DEFINE_integer("clips", 4, "Clips in the batch.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 3, "Frames of a clip.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds that are timed, after one that compiles.", lower_bound=1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the computation.")
_MEMORY = flags.DEFINE_string("memory", None, "Overrides model.memory.")


def configuration():
    path = Path(_CONFIG.value).resolve()
    spec = importlib.util.spec_from_file_location("measured", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = parse(module.get_config())
    model = dataclasses.replace(config.model, memory=_MEMORY.value) if _MEMORY.value else config.model
    data = dataclasses.replace(config.data, clip_length=_FRAMES.value)
    return dataclasses.replace(
        config, model=model, data=data, batch_size=_CLIPS.value, accumulate=1, init_from="", dtype=_DTYPE.value
    )


def products(jaxpr) -> float:
    """Floating-point operations of all matrix products and convolutions of a traced program, loops unrolled."""
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            numbers, kernel = equation.params["dimension_numbers"].rhs_spec, equation.invars[1].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[numbers[0]]
        elif name == "while":
            if products(equation.params["body_jaxpr"].jaxpr):
                raise RuntimeError("a loop of unknown length computes products")
        else:
            inner = [products(sub) for sub in jax.extend.core.jaxprs_in_params(equation.params)]
            times = equation.params["length"] if name == "scan" else 1
            total += times * (max(inner, default=0.0) if name == "cond" else sum(inner))
    return total


def peak(rounds: int = 7) -> float:
    """GFLOP/s of a float32 matrix product, the best of several sizes and rounds."""
    product, best = jax.jit(jnp.dot), 0.0
    for n in (1024, 2048, 3072):
        a = jnp.asarray(np.random.default_rng(0).standard_normal((n, n), np.float32))
        product(a, a).block_until_ready()
        for _ in range(rounds):
            best = max(best, 2 * n**3 / timed(product, a, a) / 1e9)
    return best


def timed(do, *arguments) -> float:
    started = time.perf_counter()
    jax.block_until_ready(do(*arguments))
    return time.perf_counter() - started


def random_batch(config) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    arrays = {}
    for name, form in batch_shapes(config).items():
        high = {"frames": 256, "input_ids": 100}.get(name, 2)
        arrays[name] = jnp.asarray(rng.integers(0, high, form.shape).astype(form.dtype))
    return {**arrays, "present": arrays["present"] | True, "labelled": arrays["labelled"] | True}


def parts(net, config, params, batch) -> dict[str, tuple]:
    """Name -> (how often a step runs it, function, arguments)."""
    frames, length = batch["frames"], _FRAMES.value
    flat = frames.reshape(-1, *frames.shape[2:])
    apply = lambda method, *rest: net.apply({"params": rest[0]}, *rest[1:], method=method)  # noqa: E731
    encode = functools.partial(functional.encode_frame, net)
    text_of = lambda p, ids, mask: functional.encode_text(net, p, ids, mask.astype(bool))  # noqa: E731
    ground = lambda p, f, ids, mask: apply("ground", p, f, text_of(p, ids, mask))  # noqa: E731
    decode_first = functools.partial(apply, "decode_first")
    remember = functools.partial(apply, "encode_memory")
    read = lambda p, bank, f: apply("read_memory", p, bank, f)[0]  # noqa: E731

    def decode(module, embedding, f):
        """SAM2's decoder without a prompt, as `step` calls it."""
        n = embedding.shape[0]
        nowhere = module.sam_prompt_encoder.embed_points(jnp.zeros((n, 1, 2)), -jnp.ones((n, 1), jnp.int32))
        return module._output(module._decode(embedding, f, nowhere, module.sam_prompt_encoder.no_mask(n)))

    later = lambda p, embedding, f: net.apply({"params": p}, embedding, f, method=decode)  # noqa: E731

    first = jax.jit(encode)(params, frames[:, 0])
    words = batch["input_ids"], batch["attention_mask"]
    grounding = jax.jit(ground)(params, first, *words)
    output = jax.jit(decode_first)(params, first, grounding)
    bank, _ = jax.jit(functools.partial(functional.start, net))(params, first, jax.jit(text_of)(params, *words))
    bank, _ = jax.jit(functools.partial(functional.step, net))(params, bank, first)
    embedding = jax.jit(read)(params, bank, first)
    return {
        "image encoder, all frames": (1, encode, (params, flat)),
        "text encoder and bridge": (1, ground, (params, first, *words)),
        "decoder, frame 0": (1, decode_first, (params, first, grounding)),
        "memory attention": (length - 1, read, (params, bank, first)),
        "decoder, later frames": (length - 1, later, (params, embedding, first)),
        "memory encoder": (length, remember, (params, first, output)),
    }


def waiting(config, update, state, steps: int) -> float:
    """Share of the time that a loop of steps waits for clips of its size, read from 1920x1080 JPEG frames."""
    with tempfile.TemporaryDirectory() as folder:
        loader.write_dataset(Path(folder), (1080, 1920))
        length, side, tokens = config.data.clip_length, config.model.image_size, config.model.bert.max_tokens
        some = {"input_ids": np.ones(tokens, np.int32), "attention_mask": np.ones(tokens, np.int32)}
        source = open_source("ref_youtube_vos", folder, "train")
        dataset = ClipDataset(source, image_size=side, clip_length=length, tokenize=lambda text: some)
        stream = batches(dataset, config.batch_size, num_threads=config.data.num_threads)
        next(stream)
        waited, started = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            rows, _ids = next(stream)
            waited += time.perf_counter() - asked
            state, metrics = update(state, rows)
            float(metrics["loss"])
        total = time.perf_counter() - started
        stream.close()
    return waited / total


def main(_: list[str]) -> None:
    config = configuration()
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "flax", "optax"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    net = functional.build(config.model, config.dtype)
    params = functional.init(net, 0)
    number = sum(x.size for x in jax.tree.leaves(params))
    size = config.model.image_size
    print(
        f"{_CONFIG.value}: {number / 1e6:.1f} million parameters, {_CLIPS.value} clips of {_FRAMES.value} frames at "
        f"{size}x{size}, {config.dtype}, memory {config.model.memory}, remat {config.model.remat}"
    )
    tx = optim.optimizer(config.optim, config.steps, params)
    batch = random_batch(config)
    forced = jnp.zeros(_CLIPS.value, bool)

    def loss(p, data):
        return clip_loss(*forward(net, p, data, forced), data, config.loss)[0]

    # The backward pass is what the step takes beyond these: a program of its own would compile for minutes more.
    def apply_update(grads, opt_state, p):
        updates, opt_state = tx.update(grads, opt_state, p)
        return optax.apply_updates(p, updates), opt_state

    pieces = parts(net, config, params, batch)
    grads, opt_state = jax.tree.map(jnp.ones_like, params), tx.init(params)
    pieces |= {
        "forward and loss": (1, loss, (params, batch)),
        "update": (1, apply_update, (grads, opt_state, params)),
    }
    programs = {name: jax.jit(do) for name, (_, do, _) in pieces.items()}
    seconds, work = defaultdict(list), {}
    for name, (_, do, arguments) in pieces.items():
        work[name] = products(jax.make_jaxpr(do)(*arguments).jaxpr) / 1e9
        jax.block_until_ready(programs[name](*arguments))
    for _ in range(_ROUNDS.value):
        for name, (_, _, arguments) in pieces.items():
            seconds[name].append(timed(programs[name], *arguments))
    del grads, opt_state, programs

    update = Program("step", jax.jit(functools.partial(train_step, net, tx, config), donate_argnums=0))
    state = TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
    often = {name: times for name, (times, _, _) in pieces.items()}
    del pieces
    work["whole step"] = (
        products(jax.make_jaxpr(functools.partial(train_step, net, tx, config))(state, batch).jaxpr) / 1e9
    )
    state = jax.block_until_ready(update(state, batch))[0]
    for _ in range(_ROUNDS.value):
        started = time.perf_counter()
        state = jax.block_until_ready(update(state, batch))[0]
        seconds["whole step"].append(time.perf_counter() - started)

    machine = peak()
    print(f"float32 matrix product: {machine:.0f} GFLOP/s; medians of {_ROUNDS.value} rounds")
    print(f"{'':<28}{'x':>3} {'s':>9} {'of the step':>12} {'GFLOP':>10} {'share of the product':>21}")
    whole = float(np.median(seconds["whole step"]))

    def line(name: str, times: int, value: float, flops: float) -> None:
        share = f"{flops / value / machine:>21.2f}" if flops else ""
        print(f"{name:<28}{times:>3} {value:>9.3f} {value / whole:>12.3f} {flops:>10.1f} {share}")

    median = {name: float(np.median(values)) for name, values in seconds.items()}
    summed = 0.0
    for name, times in often.items():
        if name == "forward and loss":
            break
        summed += times * median[name]
        line(name, times, times * median[name], times * work[name])
    line("sum of these", 1, summed, 0)
    line("forward and loss", 1, median["forward and loss"], work["forward and loss"])
    backward = whole - median["forward and loss"] - median["update"]
    line("backward (what is left)", 1, backward, work["whole step"] - work["forward and loss"])
    line("update", 1, median["update"], 0)
    line("whole step", 1, whole, work["whole step"])
    print(
        "The step also encodes the true first mask, from which teacher-forced clips go on; 'forward and loss' does too."
    )
    print(f"waiting for data: {waiting(config, update, state, max(2, _ROUNDS.value)):.4f} of the time")


if __name__ == "__main__":
    run(main)
