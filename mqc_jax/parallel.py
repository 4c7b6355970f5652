"""Independent jobs in processes of their own, results in order."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import cv2

from mqc_jax.errors import UserError


def in_order(work: Callable[[Any], Any], jobs: list, workers: int) -> Iterator[Any]:
    """Yields `work(job)` for each job; with one worker in this process.

    Raises:
      UserError: a worker was ended from outside.
    """
    if workers == 1:
        yield from map(work, jobs)
        return
    # Spawned, since the caller may hold threads (JAX) that do not survive a fork.
    # The workers share the cores between them, so OpenCV in each keeps to one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError("a worker was ended from outside, as when memory runs out; try fewer --workers") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
