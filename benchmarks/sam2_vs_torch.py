"""SAM2's streaming tracker here and in PyTorch eager: time, first-mask latency, memory, and what bfloat16 costs.

    python benchmarks/sam2_vs_torch.py [--size large] [--side 480] [--rounds 8]
    python benchmarks/sam2_vs_torch.py --size tiny

Same random weights, same frames, the same cores, alternating frame by frame in one run. The reference is the public
`sam2` package (`make .venv/installed-test` installs it). Latency and memory are measured in a process of each library's
own; theirs begins when weights are loaded, and ours includes compilation, with an empty cache and then with a full one.
"""

import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import mqc_jax
from mqc_jax.checkpoint import Model
from mqc_jax.config import BertConfig, BridgeConfig, HieraConfig, ModelConfig
from mqc_jax.errors import run
from mqc_jax.models import functional
from mqc_jax.models.hiera import HIERA_SIZES
from mqc_jax.models.mqc_sam import IMAGE_MEAN, IMAGE_STD

TESTS = Path(__file__).resolve().parent.parent / "tests"

_SIZE = flags.DEFINE_enum("size", "large", sorted(HIERA_SIZES), "Hiera's size.")
_SIDE = flags.DEFINE_integer("side", 480, "Side of the model's input.", lower_bound=64)
_ROUNDS = flags.DEFINE_integer("rounds", 8, "Frames that are timed, after eight that fill the memory.", lower_bound=1)
_CHILD = flags.DEFINE_enum("child", None, ["jax", "torch"], "Used by the benchmark itself: latency and memory alone.")
PARTS = ["time", "bfloat16", "process"]
_PARTS = flags.DEFINE_multi_enum("part", PARTS, PARTS, "What to do.")
FILL = 9
"""Frames until the memory is full: the first one, its six followers, and two more."""


def configuration() -> ModelConfig:
    """A published size without language."""
    return ModelConfig(
        image_size=_SIDE.value,
        hiera=HieraConfig(**HIERA_SIZES[_SIZE.value]),
        bert=BertConfig(
            vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, max_tokens=8
        ),
        bridge=BridgeConfig(num_prompts=1, num_layers=1, num_heads=1, ffn_dim=8),
    )


def scene(length: int) -> tuple[np.ndarray, np.ndarray]:
    sys.path.insert(0, str(TESTS))
    from test_video_parity import moving_scene

    return moving_scene(length, _SIDE.value)


def pixels(frames: np.ndarray):
    """uint8 [T, S, S, 3] -> normalised torch [T, 3, S, S]."""
    import torch

    scaled = (frames / np.float32(255) - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)))


def upstream():
    sys.path.insert(0, str(TESTS))
    import sam2_oracle
    import torch
    from torch_parity import randomise

    torch.manual_seed(0)
    # Without gradients: the operation counter looks for their functions even where none are recorded.
    model = randomise(sam2_oracle.build(configuration()), 0).requires_grad_(False)
    # Were the target judged absent, its masks would be one constant.
    model.sam_mask_decoder.pred_obj_score_head.layers[2].bias += 20.0
    return sam2_oracle, model


def ported(model, dtype: str = "float32") -> Model:
    """The same weights; `model` None: small random ones, for a process that should not import torch."""
    config = configuration()
    net = functional.build(config, dtype)
    template = functional.shapes(net)
    if model is None:
        rng = np.random.default_rng(0)
        params = jax.tree.map(lambda x: jnp.asarray(0.02 * rng.standard_normal(x.shape, np.float32)), template)
        return Model(config, params, None, net, "benchmark")
    from mqc_jax.convert import torch_to_flax

    vision = {name: value for name, value in template.items() if name not in ("text_encoder", "bridge")}
    params = torch_to_flax({k: v.numpy() for k, v in model.state_dict().items()}, vision)
    return Model(config, jax.tree.map(jnp.asarray, params), None, net, "benchmark")


def peak(rounds: int = 7) -> dict[str, float]:
    """GFLOP/s of a float32 matrix product, best of several sizes and rounds: what the machine can reach."""
    import torch

    best = {"jax": 0.0, "torch": 0.0}
    product = jax.jit(jnp.dot)
    for n in (1024, 2048, 3072):
        a = np.random.default_rng(0).standard_normal((n, n), np.float32)
        ours, theirs = jnp.asarray(a), torch.from_numpy(a)
        work = {
            "jax": functools.partial(lambda x: product(x, x).block_until_ready(), ours),
            "torch": functools.partial(lambda x: x @ x, theirs),
        }
        work["jax"]()
        for _ in range(rounds):
            for name, do in work.items():
                best[name] = max(best[name], 2 * n**3 / timed(do) / 1e9)
    return best


def attention_flops(q: tuple, k: tuple, v: tuple, *_, **__) -> int:
    """Of the two matrix products of an attention, from the shapes [N, H, tokens, C]."""
    n, heads, queries, width = q
    return 2 * n * heads * queries * k[2] * (width + v[3])


def timed(do) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def high_water() -> float:
    """Largest resident memory of this process so far, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1e3


def child() -> None:
    """Prints first-mask latency, the second frame's, and the largest resident memory of eleven frames, as JSON."""
    frames, mask = scene(FILL + 2)
    if _CHILD.value == "torch":
        oracle, model = upstream()
        stream = oracle.stream(model, pixels(frames), __import__("torch").from_numpy(mask)[None, None])
        loaded = high_water()
        seconds = [timed(lambda: next(stream)) for _ in frames]
    else:
        model = ported(None)
        loaded = high_water()
        tracker = mqc_jax.Tracker(model, masks=mask[None] > 0)
        seconds = [timed(lambda frame=frame: tracker.push(frame)) for frame in frames]
    print(json.dumps({"first": seconds[0], "second": seconds[1], "loaded": loaded, "peak": high_water()}))


def processes() -> None:
    command = [sys.executable, __file__, f"--size={_SIZE.value}", f"--side={_SIDE.value}"]
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        }
        print(f"\n{'process of its own':<26} {'first mask s':>13} {'second s':>9} {'loaded MB':>10} {'peak MB':>8}")
        for name, library in (("PyTorch", "torch"), ("mqc_jax, empty cache", "jax"), ("mqc_jax, full cache", "jax")):
            done = subprocess.run([*command, f"--child={library}"], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            r = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{name:<26} {r['first']:>13.2f} {r['second']:>9.2f} {r['loaded']:>10.0f} {r['peak']:>8.0f}", flush=True
            )


def alternating() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    oracle, reference = upstream()
    model = ported(reference)
    frames, mask = scene(FILL + _ROUNDS.value)
    tensors = pixels(frames)
    tracker = mqc_jax.Tracker(model, masks=mask[None] > 0)
    stream = oracle.stream(reference, tensors, torch.from_numpy(mask)[None, None])
    for frame in frames[:FILL]:
        tracker.push(frame)
        next(stream)
    encode = jax.jit(lambda params, image: functional.encode_frame(model.net, params, image))
    jax.block_until_ready(encode(model.params, frames[:1]))
    seconds = {name: [] for name in ("frame", "frame torch", "encoder", "encoder torch")}
    with torch.no_grad():
        reference.forward_image(tensors[:1])
        for t in range(FILL, FILL + _ROUNDS.value):
            one, tensor = frames[t], tensors[t : t + 1]
            seconds["frame"].append(timed(lambda one=one: tracker.push(one)))
            seconds["frame torch"].append(timed(lambda: next(stream)))
            seconds["encoder"].append(timed(lambda one=one: jax.block_until_ready(encode(model.params, one[None]))))
            seconds["encoder torch"].append(timed(lambda tensor=tensor: reference.forward_image(tensor)))
        count = oracle.stream(reference, tensors, torch.from_numpy(mask)[None, None])
        for _ in range(FILL):
            next(count)
        # The counter knows the fused attention of GPUs, not the CPU's.
        fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
        with FlopCounterMode(display=False, custom_mapping=fused) as counter:
            next(count)
        work = {"frame": counter.get_total_flops() / 1e9}
        with FlopCounterMode(display=False, custom_mapping=fused) as counter:
            reference.forward_image(tensors[:1])
        work["encoder"] = counter.get_total_flops() / 1e9
    machine = peak()
    print(f"float32 matrix product: JAX {machine['jax']:.0f} GFLOP/s, PyTorch {machine['torch']:.0f} GFLOP/s")
    print(f"\n{'medians of ' + str(_ROUNDS.value):<16} {'GFLOP':>7} {'mqc_jax s':>10} {'PyTorch s':>10} {'ratio':>6}"
          f" {'GFLOP/s':>8} {'share of the product':>21} {'PyTorch':>8}")  # fmt: skip
    for name in ("frame", "encoder"):
        ours, theirs = (float(np.median(seconds[key])) for key in (name, f"{name} torch"))
        rate = work[name] / ours
        shares = f"{rate / max(machine.values()):>21.2f} {work[name] / theirs / max(machine.values()):>8.2f}"
        label = "tracked frame" if name == "frame" else "image encoder"
        times = f"{ours:>10.3f} {theirs:>10.3f} {theirs / ours:>6.2f}"
        print(f"{label:<16} {work[name]:>7.1f} {times} {rate:>8.0f} {shares}")


def bfloat16() -> None:
    """How far bfloat16 leads from float32 over a dozen frames, each stream fed by its own memory."""
    reference = upstream()[1]
    frames, mask = scene(FILL + 3)
    trackers = [mqc_jax.Tracker(ported(reference, dtype), masks=mask[None] > 0) for dtype in ("float32", "bfloat16")]
    results = [[tracker.push(frame)[0] for frame in frames] for tracker in trackers]
    again = [timed(functools.partial(trackers[1].push, frame)) for frame in frames[-3:]]
    error, overlap = [], []
    for a, b in zip(*results, strict=True):
        error.append(np.abs(a.mask_logits - b.mask_logits).max() / np.abs(a.mask_logits).max())
        overlap.append((a.masks & b.masks).sum() / (a.masks | b.masks).sum())
    print(
        f"\nbfloat16 against float32, {len(frames)} frames, random weights: largest logit difference "
        f"{max(error):.3f} of the largest logit (median frame {np.median(error):.3f}), least mask IoU "
        f"{min(overlap):.3f}; {np.median(again):.2f} s a frame on this CPU"
    )


def main(_: list[str]) -> None:
    if _CHILD.value:
        child()
        return
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "flax", "torch", "sam2"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(f"Hiera {_SIZE.value}, {_SIDE.value}x{_SIDE.value}, one target")
    for name, do in (("time", alternating), ("bfloat16", bfloat16), ("process", processes)):
        if name in _PARTS.value:
            do()


if __name__ == "__main__":
    run(main)
