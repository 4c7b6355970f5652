"""Putting the app together and serving it until somebody ends it."""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator

from mqc_jax.app.engine import Engine
from mqc_jax.app.limits import Limits
from mqc_jax.app.work import WorkFolder
from mqc_jax.errors import UserError

_EXPIRE_SECONDS = 5.0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
      UserError: the port is taken, or the address is not this machine's.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"cannot listen at {host}:{port} ({error.strerror or error}); give another --port") from error


def build(engine: Engine, work: WorkFolder, limits: Limits, root_path: str = ""):
    """The app, a FastAPI application whose end stops all jobs and deletes what is to be deleted.

    Args:
      engine: the models.
      work: where everything lies.
      limits: what one user may ask for.
      root_path: where a reverse proxy shows it.
    """
    # Gradio reads these when it is imported or when an app is made; its cache has to lie in the app's own folder.
    os.environ["GRADIO_TEMP_DIR"] = str(work.gradio)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    import gradio as gr
    from fastapi import FastAPI

    from mqc_jax.app.jobs import Queue
    from mqc_jax.app.page import Page, style
    from mqc_jax.app.routes import Uploads, add_routes

    queue = Queue(engine, work, limits)
    uploads = Uploads(queue)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        over = threading.Event()
        threading.Thread(target=_expire, args=(work, over), name="expire", daemon=True).start()
        # The first visitor should not wait for the compiler if it can be avoided.
        threading.Thread(target=engine.warm, args=(1, engine.default), name="warm", daemon=True).start()
        yield
        over.set()
        queue.close()
        work.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    add_routes(app, queue, uploads)
    return gr.mount_gradio_app(
        app,
        Page(queue, uploads).blocks,
        path="/",
        root_path=root_path or None,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        mcp_server=False,
        allowed_paths=[],
        max_file_size=1,  # Gradio's own upload is closed; see routes
        show_error=False,
        **style(),
    )


def _expire(work: WorkFolder, over: threading.Event) -> None:
    while not over.wait(_EXPIRE_SECONDS):
        work.expire()


def serve(engine: Engine, work: WorkFolder, limits: Limits, door: socket.socket, root_path: str = "") -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
      engine, work, limits, root_path: what `build` takes.
      door: a listening socket.
    """
    import uvicorn

    app = build(engine, work, limits, root_path)
    host, port = door.getsockname()[:2]
    print(f"open http://{f'[{host}]' if ':' in host else host}:{port}/ (Ctrl-C ends it)", flush=True)
    # Browsers hold a connection open for as long as the page is; waiting for them would be waiting for ever.
    config = uvicorn.Config(app, log_level="warning", root_path=root_path, timeout_graceful_shutdown=1)
    logging.getLogger("uvicorn.error").addFilter(_tells_something)
    uvicorn.Server(config).run(sockets=[door])


def _tells_something(record: logging.LogRecord) -> bool:
    """False for the traceback of a connection that was cut off because the server ends."""
    return not (record.exc_info and record.exc_info[0] is asyncio.CancelledError)
