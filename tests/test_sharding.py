"""One training run on one device, on eight, on eight with spread parameters, and in two processes: the same numbers.

Each run is the command itself in a process of its own, since the number of devices is fixed when JAX starts.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from mqc_jax import checkpoint
from mqc_jax.config import Config, OptimConfig, ShardingConfig, parse, to_dict
from mqc_jax.errors import UserError
from mqc_jax.models import functional
from mqc_jax.train import sharding

STEPS = 5
TOLERANCE = 1e-5


def run_config(data_dir: Path, **fields) -> Config:
    base = {"steps": STEPS, "batch_size": 8, "checkpoint_every": 3, "keep_checkpoints": 5}
    base["optim"] = OptimConfig(learning_rate=1e-4)
    return tiny.config(data_dir, **(base | fields))


def start(config: Path, workdir: Path, devices: int, *arguments: str) -> subprocess.Popen:
    """The training command on simulated devices."""
    # Compiling for eight devices in full would take minutes, and what is compared does not depend on it.
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    line = [sys.executable, "-m", "mqc_jax.train", "--config", str(config), "--workdir", str(workdir), *arguments]
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        line, cwd=tiny.ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen, timeout: float = 300) -> str:
    try:
        text, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, text
    return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_pair(config: Path, workdir: Path, devices: int) -> list[subprocess.Popen]:
    """Two processes that train together over loopback."""
    where = ["--distributed", "--coordinator", f"127.0.0.1:{free_port()}", "--num_processes", "2", "--process_id"]
    return [start(config, workdir, devices, *where, str(i)) for i in range(2)]


def parameters(workdir: Path, step: int = STEPS):
    folder = workdir / checkpoint.STEPS / str(step) / checkpoint.PARAMS
    return checkpoint.read_params(folder, functional.shapes(functional.build(tiny.MODEL)))


def losses(workdir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(a: Path, b: Path) -> None:
    assert len(losses(a)) == STEPS
    np.testing.assert_allclose(losses(b), losses(a), rtol=TOLERANCE)
    # Module by module: a bias that starts at zero is nothing but five of Adam's steps, which divide small gradients by
    # themselves and so blow their rounding up.
    found = parameters(b)
    for part, expected in parameters(a).items():
        x, y = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (expected, found[part]))
        assert np.linalg.norm(x - y) <= TOLERANCE * np.linalg.norm(x), part


@pytest.fixture(scope="module")
def one_device(tiny_dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    finish(start(tiny.write_config(folder / "config.py", run_config(tiny_dataset)), folder / "run", 1))
    return folder / "run"


@pytest.fixture(scope="module")
def eight_devices(tiny_dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eight")
    config = run_config(tiny_dataset, sharding=ShardingConfig(fsdp=4, smallest=64))
    finish(start(tiny.write_config(folder / "config.py", config), folder / "run", 8))
    return folder / "run"


@pytest.mark.slow
def test_eight_devices_with_spread_parameters_equal_one(one_device, eight_devices):
    assert_same_run(one_device, eight_devices)


@pytest.mark.slow
def test_two_processes_equal_one(one_device, tiny_dataset, tmp_path):
    config = tiny.write_config(tmp_path / "config.py", run_config(tiny_dataset))
    for process in start_pair(config, tmp_path / "run", 4):
        finish(process)
    assert_same_run(one_device, tmp_path / "run")


@pytest.mark.slow
def test_accumulated_parts_equal_the_whole_batch(one_device, tiny_dataset, tmp_path):
    config = run_config(tiny_dataset, accumulate=4)
    finish(start(tiny.write_config(tmp_path / "config.py", config), tmp_path / "run", 2))
    assert_same_run(one_device, tmp_path / "run")


def before_the_last_step(run: Path, workdir: Path) -> Path:
    """A copy of a finished run as it was when its first checkpoint was the newest."""
    subprocess.run(["cp", "-r", str(run), str(workdir)], check=True)
    subprocess.run(["rm", "-r", str(workdir / checkpoint.STEPS / str(STEPS))], check=True)
    return workdir


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_resumes_on_one(one_device, eight_devices, tiny_dataset, tmp_path):
    workdir = before_the_last_step(eight_devices, tmp_path / "run")
    finish(start(tiny.write_config(tmp_path / "config.py", run_config(tiny_dataset)), workdir, 1))
    assert_same_run(one_device, workdir)


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_resumes_on_two_processes(one_device, eight_devices, tiny_dataset, tmp_path):
    workdir = before_the_last_step(eight_devices, tmp_path / "run")
    for process in start_pair(tiny.write_config(tmp_path / "config.py", run_config(tiny_dataset)), workdir, 4):
        finish(process)
    assert_same_run(one_device, workdir)


@pytest.mark.slow
def test_sigterm_saves_and_ends_well_and_the_run_goes_on(one_device, tiny_dataset, tmp_path):
    config = tiny.write_config(tmp_path / "config.py", run_config(tiny_dataset, checkpoint_every=100))
    workdir = tmp_path / "run"
    process = start(config, workdir, 1)
    log = workdir / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 1):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    text = finish(process)
    saved = [int(path.name) for path in (workdir / checkpoint.STEPS).iterdir()]
    if saved != [STEPS]:  # the run may have been over before the signal came
        assert f"stopped at step {saved[0]} of {STEPS} and saved" in text
    finish(start(config, workdir, 1))
    assert_same_run(one_device, workdir)


@pytest.mark.slow
def test_a_lost_process_ends_the_other_and_the_run_resumes(one_device, tiny_dataset, tmp_path):
    config = tiny.write_config(tmp_path / "config.py", run_config(tiny_dataset, checkpoint_every=1))
    workdir = tmp_path / "run"
    first, second = start_pair(config, workdir, 4)
    log = workdir / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 1):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    second.kill()
    text, _ = first.communicate(timeout=90)
    # It is at most one step ahead of the process that was killed, so that it cannot have come to the end.
    assert first.returncode == 1, text
    assert "error: one of the 2 processes was lost" in text
    for process in start_pair(config, workdir, 4):
        finish(process)
    assert_same_run(one_device, workdir)


def test_what_does_not_divide_is_refused():
    with pytest.raises(UserError, match="fsdp=2 does not divide the 1 devices"):
        sharding.make_mesh(Config(batch_size=8, sharding=ShardingConfig(fsdp=2)))


def test_the_longest_axis_that_divides_is_spread_and_small_arrays_are_not():
    mesh = jax.sharding.AbstractMesh((2, 4), sharding.AXES)
    shapes = {"wide": (6, 8, 16), "odd": (7, 9), "small": (4, 4), "scalar": ()}
    state = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    specs = {name: tuple(found.spec) for name, found in sharding.of_state(mesh, state, 32).items()}
    assert specs == {"wide": (None, None, "fsdp"), "odd": (), "small": (), "scalar": ()}


def test_config_fields_are_checked():
    with pytest.raises(UserError, match="accumulate=3 does not divide"):
        parse({**to_dict(Config()), "accumulate": 3})


def test_devices_that_cannot_be_compiled_for_are_refused(monkeypatch):
    def missing(**_):
        raise RuntimeError("no such plugin\nand more")

    monkeypatch.setattr(sharding.topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match=r"v5p:2x2x2' cannot be compiled for \(no such plugin\).*mqc_jax\[tpu\]"):
        sharding.imagined("v5p:2x2x2")
