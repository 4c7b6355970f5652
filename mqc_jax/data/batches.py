"""An endless stream of batches of clips, by number: a batch is a function of (seed, step).

Nothing is iterated and nothing is remembered, so exact resume is one integer, and the number of threads, processes or
shards changes the speed alone.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from mqc_jax.data.clips import ClipDataset
from mqc_jax.errors import UserError

_ENDLESS = 2**62  # items; Grain wants a length
_OF_CLIPS = ("frames", "classes")  # arrays with one row a clip; the others have one a target


class Batch(NamedTuple):
    """Stacked clips. `arrays` goes to the device; `ids` ("sequence/expression/start/stride") to logs.

    What belongs to a clip has B rows, what belongs to a target B * `targets`: those of one clip follow one another.
    """

    arrays: dict[str, np.ndarray]
    ids: list[str]


def batches(
    dataset: ClipDataset,
    batch_size: int,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    num_threads: int = 2,
    num_workers: int = 0,
    prefetch: int = 2,
) -> Iterator[Batch]:
    """An endless stream of batches from step `start_step` on; batch s holds clips s*batch_size ... of the dataset.

    Args:
      dataset: what is read.
      batch_size: clips in the global batch.
      start_step: the first batch; starting here gives what a run from 0 would give here.
      shard: (index, count): this process yields rows [index*batch_size/count, (index+1)*batch_size/count) of every
        global batch, so the shards' batches in order are the one-shard batch.
      num_threads: threads that decode, in each process; OpenCV decodes outside Python's lock.
      num_workers: processes that decode; 0: threads of this process alone. Arrays from processes are copied once more.
      prefetch: finished batches held ready.

    Raises:
      UserError: `batch_size` does not divide among the shards.
    """
    index, count = shard
    if batch_size < 1 or not 0 <= index < count or batch_size % count:
        raise UserError(f"batch_size={batch_size} must be a positive multiple of the {count} shards (this is {index})")
    rows = batch_size // count
    # Clips, not batches, are what threads and processes work on in parallel: the order of items is the order of
    # indices for any number of either, and memory holds `prefetch` batches, not one a thread.
    items = grain.MapDataset.range(start_step * rows, _ENDLESS).map(_ShardItem(dataset, batch_size, rows, index))
    stream = items.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(rows, 2)))
    if num_workers:
        if not flags.FLAGS.is_parsed():  # Grain's workers read flags, which outside a command nobody has parsed.
            flags.FLAGS.mark_as_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2))
    stream = stream.batch(rows, drop_remainder=True, batch_fn=_stack)
    stream = grain.experimental.ThreadPrefetchIterDataset(stream, prefetch_buffer_size=prefetch)
    iterator = iter(stream)
    with contextlib.closing(iterator):
        yield from iterator


@dataclasses.dataclass(frozen=True)
class _ShardItem:
    """A shard's own running number to the global clip (a class, because worker processes pickle it)."""

    dataset: ClipDataset
    batch_size: int
    rows: int
    shard: int

    def __call__(self, item: int) -> dict[str, Any]:
        step, row = divmod(int(item), self.rows)
        return self.dataset[step * self.batch_size + self.shard * self.rows + row]


def _stack(clips: list[dict[str, Any]]) -> Batch:
    arrays = {
        name: (np.stack if name in _OF_CLIPS else np.concatenate)([clip[name] for clip in clips])
        for name in clips[0]
        if name != "id"
    }
    return Batch(arrays, [clip["id"] for clip in clips])
