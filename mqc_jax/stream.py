"""Cameras and streams: endless videos that OpenCV opens.

A thread reads ahead, so that whoever asks for the next frame can be interrupted while none comes. What is pushed, by a
camera or a protocol such as RTSP, must not queue up: where tracking is slower than the stream, frames are left out.
What is fetched (http, https) waits until it is asked for, and nothing is left out.
"""

import contextlib
import os
import queue
import re
import signal
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mqc_jax.errors import UserError
from mqc_jax.reader import VideoReader, size_text

PUSHED = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt")
"""Protocols whose sender does not wait."""

OPEN_SECONDS, READ_SECONDS = 15, 30
"""How long a stream may take to open, and how long it may be silent."""

CLOSE_SECONDS = 3
"""How long `close` waits for a frame that is being read. One of a silent stream may not come at all."""


def is_live(text: str) -> bool:
    """Whether a `--video` names a camera (`0`, `/dev/video0`) or a stream's address, rather than something on disk."""
    place = Path(text)
    if re.fullmatch(r"\d+", text):
        return not place.exists()
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None or place.is_char_device()


class LiveStream(VideoReader):
    """Frames of a camera or a stream, numbered from the first one that is given.

    It is read once: iterating again goes on where it was left. Frames end when the stream does, when it is silent for
    `READ_SECONDS`, when its frames change their size, or with `end`.

    Args:
      path: a camera's number, its device, or an address with `://` in it.

    Raises:
      UserError: it cannot be opened, or gives no frame.
    """

    endless = True

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = _without_password(path)
        self.frame_count = None
        scheme = path.partition("://")[0].lower() if "://" in path else ""
        self._waits = scheme != "" and scheme not in PUSHED
        self._capture = _opened(path, scheme)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0.1 <= rate <= 240 else 25.0
        self._ended = threading.Event()
        self._frames: queue.Queue[tuple[int, np.ndarray] | None] = queue.Queue(1)
        self._first: int | None = None
        self._left_out = 0
        done, frame = self._capture.read()
        if not done:
            self._capture.release()
            raise UserError(f"{self.path} opens but gives no frame; is the camera or the sender running?")
        self.size = frame.shape[:2]
        self._frames.put((0, _rgb(frame)))
        self._reader = threading.Thread(target=self._read_ahead, name="stream reader", daemon=True)
        self._reader.start()

    def _read_ahead(self) -> None:
        count = 1
        with contextlib.suppress(cv2.error):
            while not self._ended.is_set():
                done, frame = self._capture.read()
                if not done:
                    break
                if frame.shape[:2] != self.size:
                    self.note(
                        f"Frames changed from {size_text(self.size)} to {size_text(frame.shape)} pixels; the stream "
                        "was followed up to there."
                    )
                    break
                self._offer((count, _rgb(frame)))
                count += 1
        self._offer(None)
        self._capture.release()

    def _offer(self, item: tuple[int, np.ndarray] | None) -> None:
        """Hands over what was read; a live stream's frame takes the place of one that nobody has asked for."""
        replaces = item is not None and not self._waits
        while not self._ended.is_set():
            try:
                self._frames.put(item, timeout=None if replaces else 0.1, block=not replaces)
                return
            except queue.Full:
                if replaces:
                    with contextlib.suppress(queue.Empty):
                        self._frames.get_nowait()

    def numbered(self, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        due = start
        while (item := self._next()) is not None:
            self._first = item[0] if self._first is None else self._first
            number = item[0] - self._first
            if number < start:
                continue
            self._left_out += max(number - due, 0)
            due = number + 1
            if self._left_out:
                self.notes[:] = [note for note in self.notes if not note.startswith("Tracking is slower")]
                self.note(
                    f"Tracking is slower than the stream: {self._left_out} of {due - start} frames were left out to "
                    "keep up with it, and the overlay plays faster by as much."
                )
            yield number, item[1]

    def _next(self) -> tuple[int, np.ndarray] | None:
        """The next frame, or None at the end. Waits in short steps, between which signals get their turn."""
        for _ in range(round(READ_SECONDS / 0.1)):
            if self._ended.is_set():
                return None
            try:
                item = self._frames.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                self._ended.set()
                self.note("The stream ended by itself.")
            return item
        self._ended.set()
        self.note(f"The stream was silent for {READ_SECONDS} s, which was taken for its end.")
        return None

    def end(self) -> None:
        self._ended.set()

    def close(self) -> None:
        # A thread that comes back from OpenCV while the interpreter shuts down aborts the process.
        self._ended.set()
        self._reader.join(CLOSE_SECONDS)


@contextlib.contextmanager
def ended_by_signals(reader: VideoReader) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends an endless input, and what was seen of it becomes the result; a second one aborts.

    Anything else has an end of its own: there a signal aborts, and nothing is written.
    """
    if not reader.endless or threading.current_thread() is not threading.main_thread():
        yield
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def end(number: int, _frame: Any) -> None:
        for kind in kinds:
            signal.signal(kind, before[kind])
        reader.note(f"The stream was ended by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}.")
        reader.end()

    for kind in kinds:
        signal.signal(kind, end)
    try:
        yield
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])


def _opened(path: str, scheme: str) -> cv2.VideoCapture:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # OpenCV's lines would bury the sentence below
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # and so would those of its FFmpeg; -8 is its "quiet"
    try:
        if scheme:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_SECONDS * 1000]
            limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_SECONDS * 1000]
            capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, limits)
        else:
            capture = cv2.VideoCapture(int(path) if path.isdigit() else path)
    finally:
        cv2.utils.logging.setLogLevel(level)
    if capture.isOpened():
        return capture
    capture.release()
    if scheme:
        raise UserError(
            f"the stream {_without_password(path)} cannot be opened within {OPEN_SECONDS} s; check the address, the "
            "user and the password, and that a player such as ffplay shows it"
        )
    raise UserError(f"there is no camera {path} that can be opened; the first one is 0, and a file needs its full name")


def _without_password(path: str) -> str:
    """An address as it may be shown: reports are sent around."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(path)
        if parts.password is not None:
            return path.replace(f":{parts.password}@", ":***@", 1)
    return path


def _rgb(frame: np.ndarray) -> np.ndarray:
    if frame.ndim == 2:
        return np.stack([frame] * 3, -1)
    return np.ascontiguousarray(frame[..., 2::-1])
