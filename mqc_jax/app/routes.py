"""What the browser fetches beside Gradio's page: it sends videos here, and takes live pictures and results from here.

Gradio's own upload is closed. It files what it gets under the hash of the content and the user's file name, so that two
people who send the same video would share one file; here every upload has a folder of its own under a random token.
"""

import asyncio
import html
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mqc_jax.app.examples import example
from mqc_jax.app.jobs import Queue
from mqc_jax.app.limits import Clip, open_clip
from mqc_jax.app.work import new_token
from mqc_jax.errors import UserError

_RESULTS = re.compile(r"report\.html|overlay\.mp4|result\.json|tracks\.csv|memory\.csv|memory-\d{2}\.png")
_GRADIO = re.compile(r"/gradio_api/(queue/(join|data)|heartbeat/.*|cancel|reset|startup-events)/?")
"""The part of Gradio's programming interface that the page itself uses."""

_PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; frame-ancestors 'self'"
)
"""Nothing is fetched from anywhere else, whatever a later Gradio would like; its front end compiles templates."""

_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src 'self' data:; frame-ancestors 'self'"
)


class Uploads:
    """Videos that were sent and checked, by token."""

    def __init__(self, queue: Queue) -> None:
        self._work, self._limits = queue.work, queue.limits
        self._clips: dict[str, Clip] = {}

    def get(self, token: str) -> Clip:
        """The clip of an upload.

        Raises:
          UserError: it is gone, or never was.
        """
        clip = self._clips.get(token)
        if clip is None or self._work.place("uploads", token) is None:
            raise UserError("the file is not here any more; choose it again")
        return clip

    async def take(self, request: Request) -> Clip:
        """Stores and checks the body of a request.

        Raises:
          UserError: too large, too many, or not a video.
        """
        megabytes = self._limits.megabytes
        # Percent-encoded by the page, since a header holds no other letters; shown to people, never used as a path.
        name = Path(unquote(request.headers.get("x-file-name", "")).replace("\\", "/")).name[:80] or "the file"
        too_large = f"“{name}” is larger than {megabytes} MB, the limit here; cut it shorter or make its frames smaller"
        if int(request.headers.get("content-length") or 0) > megabytes * 1_000_000:
            raise UserError(too_large)
        self._forget()
        if len(self._clips) >= self._limits.waiting:
            raise UserError("too many videos are waiting to be used, so no more are taken; try again in a while")
        token = new_token()
        folder = self._work.uploads / token
        folder.mkdir(mode=0o700)
        try:
            size = 0
            with open(folder / "video", "wb") as file:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > megabytes * 1_000_000:
                        raise UserError(too_large)
                    await asyncio.to_thread(file.write, chunk)
            if not size:
                raise UserError(f"“{name}” is empty; choose another file")
            clip, picture = await asyncio.to_thread(open_clip, folder / "video", name, self._limits, token)
            (folder / "first.jpg").write_bytes(picture)
        except BaseException:  # the browser going away in the middle too
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._clips[token] = clip
        return clip

    def _forget(self) -> None:
        for token in [token for token in self._clips if self._work.place("uploads", token) is None]:
            del self._clips[token]


def add_routes(app: FastAPI, queue: Queue, uploads: Uploads) -> None:
    """Adds the routes; they have to be there before Gradio is mounted at the root."""
    work = queue.work

    app.add_middleware(_Guard)

    @app.post("/uploads")
    async def upload(request: Request) -> JSONResponse:
        # Another site's page cannot set this header without asking first, and is then refused.
        if "x-file-name" not in request.headers:
            return JSONResponse({"error": "The file's name is missing."}, 400)
        try:
            return JSONResponse({"token": (await uploads.take(request)).token})
        except UserError as error:
            return JSONResponse({"error": sentence(error)})

    @app.get("/uploads/{token}/first.jpg")
    def first(token: str) -> Response:
        folder = work.place("uploads", token)
        return _file(folder and folder / "first.jpg")

    @app.get("/examples/{key}/first.jpg")
    def first_of_example(key: str) -> Response:
        try:
            frames, _ = example(key, work.examples)
        except UserError as error:
            return JSONResponse({"detail": str(error)}, 404)
        return _file(frames / "00000.jpg")

    @app.get("/jobs/{token}/live.jpg")
    def live(token: str) -> Response:
        job = queue.find(token)
        picture = job and job.live()
        if picture:
            return Response(picture, media_type="image/jpeg", headers=_FRESH)
        # The browser may ask for the last picture just after the job's end.
        folder = work.place("jobs", token)
        return _file(folder and folder / "poster.jpg")

    @app.get("/jobs/{token}/poster.jpg")
    def poster(token: str) -> Response:
        folder = work.place("jobs", token)
        return _file(folder and folder / "poster.jpg")

    @app.get("/jobs/{token}/everything.zip")
    def everything(token: str) -> Response:
        folder = work.place("jobs", token)
        if folder is None:
            return _gone()
        name = {"Content-Disposition": 'attachment; filename="mqc_jax.zip"', **_FRESH}
        return StreamingResponse(_zipped(folder / "result"), media_type="application/zip", headers=name)

    @app.get("/jobs/{token}/{name}")
    def result(token: str, name: str) -> Response:
        folder = work.place("jobs", token)
        if folder is None or not _RESULTS.fullmatch(name):
            return _gone()
        response = _file(folder / "result" / name)
        if name == "report.html":
            response.headers["Content-Security-Policy"] = _REPORT_POLICY
        return response


class _Guard:
    """Closes what the page does not use of Gradio's interface, and sets the headers of everything that is sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/"))
        if path.startswith("/gradio_api/") and not _GRADIO.fullmatch(path):
            await JSONResponse({"detail": "not offered here"}, 404)(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, answer)


_FRESH = {"Cache-Control": "private, no-store"}


def _file(path: Path | None) -> Response:
    return FileResponse(path, headers=_FRESH) if path and path.is_file() else _gone()


def _gone() -> Response:
    text = "This is not here any more. Results are deleted after a while; start again from the first page."
    return Response(f"<!doctype html><meta charset=utf-8><p>{html.escape(text)}", 404, media_type="text/html")


class _Pipe:
    """What a zip is written into while it is sent: it can be told where it is, not be rewound."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        parts, self.parts = self.parts, []
        return b"".join(parts)


def _zipped(folder: Path) -> Iterator[bytes]:
    """A folder as a zip, made while it is read; stored, for pictures and video are compressed already."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder))
            yield pipe.take()
    yield pipe.take()


def sentence(error: BaseException) -> str:
    """An error as the page shows it: a capital letter first, a full stop last."""
    text = str(error).strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
