"""Serves the page.

python -m mqc_jax.app [--checkpoint DIR] [--port N] [--host ADDRESS]
"""

import contextlib
import os
import sys

from absl import flags

from mqc_jax.errors import UserError, run

flags.DEFINE_string("checkpoint", None, "Checkpoint or training run's folder; left out: the one that ships.")
flags.DEFINE_integer("port", 7860, "Port to listen at.", lower_bound=1, upper_bound=65535)
flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines in.")
flags.DEFINE_string("root_path", "", "Path under which a reverse proxy shows the page, as /segment.")
flags.DEFINE_string("work_dir", None, "Folder for uploads and results; left out: a fresh temporary one.")
flags.DEFINE_float("keep_minutes", 30.0, "How long results are kept.", lower_bound=0.1)
flags.DEFINE_integer("max_megabytes", 200, "Largest upload, in millions of bytes.", lower_bound=1)
flags.DEFINE_integer("max_frames", 1000, "Frames that are segmented of one video.", lower_bound=1)
flags.DEFINE_integer("max_pixels", 4_200_000, "Most pixels of one frame.", lower_bound=256)
flags.DEFINE_integer("max_targets", 8, "Most sentences of one job.", lower_bound=1, upper_bound=64)
flags.DEFINE_integer("jobs", 1, "Jobs that run at the same time; others wait.", lower_bound=1)


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --")
    from mqc_jax.app.serve import listen, serve

    door = listen(values.host, values.port)  # a taken port should not wait for the model
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise UserError(f"the page needs Gradio ({error}); install it with: pip install 'mqc_jax[app]'") from error

    import mqc_jax
    from mqc_jax.app.engine import ModelEngine
    from mqc_jax.app.limits import Limits
    from mqc_jax.app.work import WorkFolder

    engine = ModelEngine(mqc_jax.load(values.checkpoint))
    limits = Limits(
        megabytes=values.max_megabytes,
        frames=values.max_frames,
        pixels=values.max_pixels,
        targets=values.max_targets,
        jobs=values.jobs,
    )
    work = WorkFolder(values.work_dir, values.keep_minutes * 60)
    with contextlib.suppress(KeyboardInterrupt):
        serve(engine, work, limits, door, values.root_path)
    # Everything is closed and deleted. An orderly end of the interpreter aborts while the model is being compiled.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    run(main)
