"""Where a run's arrays lie: one mesh for one device, eight, or several hosts, and one code path for all of them.

The mesh has two axes. A batch is spread over both; parameters and optimizer state lie whole on every device along
`data` and, where `config.sharding.fsdp` is more than 1, in slices along `fsdp`. XLA derives the communication from
that, so nothing in the model or the step knows of devices.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

from mqc_jax.config import Config
from mqc_jax.errors import UserError

AXES = ("data", "fsdp")

COMPILING = 3600
"""Seconds that a process waits for the slowest one to compile."""


def make_mesh(config: Config, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices of all processes (or those given), [devices / fsdp, fsdp]; a process's devices stay together.

    Raises:
      UserError: the devices do not divide into groups of `fsdp`, or the batch not over the devices.
    """
    devices, fsdp = list(devices or jax.devices()), config.sharding.fsdp
    if len(devices) % fsdp:
        raise UserError(
            f"config.sharding.fsdp={fsdp} does not divide the {len(devices)} devices; give a divisor of their number"
        )
    per_step = config.batch_size // config.accumulate
    if per_step % len(devices):
        above = -(-per_step // len(devices)) * len(devices) * config.accumulate
        raise UserError(
            f"config.batch_size={config.batch_size} in {config.accumulate} part(s) does not divide over "
            f"{len(devices)} devices; nearest: {above}"
        )
    return Mesh(np.asarray(devices).reshape(-1, fsdp), AXES)


def imagined(topology: str) -> list[Any]:
    """Devices that are not here, for which programs can be compiled all the same: TPUs, by the compiler in `libtpu`.

    Args:
      topology: a generation and its chips, e.g. "v5p:2x2x2" for eight of 95 GB.

    Raises:
      UserError: no libtpu, or it knows no such topology.
    """
    # Else it asks the network which machine of a TPU's this is, and waits for an answer.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # the plugin's loader and compiler raise whatever they like
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--topology={topology!r} cannot be compiled for ({reason}); give one such as v5p:2x2x2, and install its "
            "compiler with `pip install 'mqc_jax[tpu]'`"
        ) from error


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The leading axis in equal parts, one a device."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def of_state(mesh: Mesh, state: Any, smallest: int) -> Any:
    """A sharding for every leaf of a state: its longest axis that divides goes over `fsdp`.

    Args:
      state: arrays or `jax.ShapeDtypeStruct`s; Adam's moments have their parameter's shape, so they follow it.
      smallest: arrays of fewer numbers stay whole, because gathering them would cost more than it saves.
    """
    parts = mesh.shape["fsdp"]

    def rule(leaf: Any) -> NamedSharding:
        fitting = [axis for axis, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not fitting or np.prod(leaf.shape) < smallest:
            return replicated(mesh)
        longest = max(fitting, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * longest, "fsdp"))

    return jax.tree.map(rule, state)


def place(state: Any, shardings: Any) -> Any:
    """Puts a state that every process holds alike onto the devices; each keeps its own slices only."""

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, state, shardings)


def place_batch(mesh: Mesh, rows: Any) -> Any:
    """This process's rows of a batch -> arrays of the global batch."""
    sharding = over_batch(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), rows)


def shard_of_process() -> tuple[int, int]:
    """(index, count), as `data.batches.batches` takes it."""
    return jax.process_index(), jax.process_count()


class Program:
    """A jitted function that every process has compiled before any of them runs it, always on the same shapes.

    Inside a running program a process waits for another's share for half a minute at most (Gloo's limit on a CPU), and
    one process may well compile for longer than the others.
    """

    def __init__(self, name: str, jitted: Any):
        self._name, self._jitted, self._compiled = name, jitted, None

    def __call__(self, *arguments: Any) -> Any:
        if self._compiled is None:
            self._compiled = self._jitted.lower(*arguments).compile()
            _return_memory()
            if jax.process_count() > 1:
                everyone = set(range(jax.process_count()))
                multihost.sync_global_processes(f"mqc_jax: {self._name}", timeout=COMPILING, processes=everyone)
        return self._compiled(*arguments)


def _return_memory() -> None:
    """Gives the compiler's memory back to the system: of Hiera-L's step on a CPU the C library would keep 10 GB."""
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has this
        ctypes.CDLL(None).malloc_trim(0)


def give_up(error: Exception) -> NoReturn:
    """Ends this one of several processes at once, with a sentence: an orderly end would wait for the others."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    print(
        f"error: one of the {jax.process_count()} processes was lost, or their common step failed ({reason}); start "
        "the same command again on all hosts: the run goes on from its last checkpoint",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)
