"""Segments what a sentence points at in a video.

    python -m mqc_jax.predict --video clip.mp4 --text "the yacht at the bottom-right" --output out/

`--text` may be given several times, one target each. `--video` is a video file, a folder of frames, a pattern such as
`frames/*.png`, or a stream: a camera's number or an address with `://`, which Ctrl-C ends. Written under `--output`,
all of it or nothing:

    masks/<target:02d>/<frame:05d>.png   0 or 255, at the frame's size, one for every frame and target
    overlay.mp4                          the video with the masks drawn in, plays in a browser
    tracks.csv                           frame, target, presence, area, centroid and box, in pixels
    report.html                          one page with everything worth looking at
    result.json                          the same for programs
    memory.csv                           with DAMI's memory: every gate's numbers, by frame and target

and of frames with a georeference, in their own coordinate system:

    masks_geo/<target:02d>/<frame:05d>.tif
    tracks.geojson                       every mask as polygons

A frame's number is its place in the input, counted from 0, whichever part of the input is looked at.
"""

import collections
import contextlib
import csv
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags
from tqdm import tqdm

from mqc_jax import geo, history, moving, viz
from mqc_jax.config import CALIBRATIONS, MEMORIES
from mqc_jax.errors import UserError, run
from mqc_jax.files import staged
from mqc_jax.memory_log import DecisionTable, MemoryHistory, decides
from mqc_jax.reader import VideoReader
from mqc_jax.report import Facts, jpeg, write_report
from mqc_jax.stream import ended_by_signals, is_live
from mqc_jax.video import VideoWriter, open_video

TRACK_COLUMNS = ("frame", "target", "presence", "area", "centroid_x", "centroid_y", "x0", "y0", "x1", "y1")
"""Areas in pixels; centroids count from the centre of the top-left pixel; x1 and y1 are exclusive. Where the target is
not visible, centroid and box are empty."""

WARM_UP = 2
"""Frames whose tracking is mostly compilation: the first frame's program and the one of all later frames. Where frames
are held back, all that come out with the second one."""

MAX_HELD = 512
"""Frames a tracker may hold back; more would mean that it never answers, and memory would grow."""


def predict(
    video: str,
    texts: Sequence[str],
    output: str,
    make_tracker: Callable[[list[str]], Any],
    model_facts: dict[str, Any] | None = None,
    progress: bool = True,
    on_frame: Callable[[int, np.ndarray], bool | None] | None = None,
    start: int = 0,
    end: int | None = None,
    fps: float | None = None,
) -> Path:
    """Runs a tracker over a video and writes everything the module's docstring lists.

    Args:
      video: what `open_video` takes.
      texts: one sentence a target.
      output: folder to write; results of an earlier run in it are replaced.
      make_tracker: called with the sentences, returns an object with `Tracker`'s `push` and `finish`.
      model_facts: shown in the report and stored in result.json; `image_size` is also used for a warning.
      progress: show a progress bar on stderr.
      on_frame: called after each settled frame with its number and its picture as in the overlay video, uint8 RGB
        [h, w, 3]. If it returns False the run ends there: what was done so far is the result, and the report says so.
      start, end, fps: the part of the video to look at, as `open_video` takes them.

    Returns:
      The path of the report.

    Raises:
      UserError: a sentence is missing or empty, the video cannot be read, the output cannot be written.
    """
    texts = check_texts(texts)
    reader = open_video(video, start, end, fps)
    with contextlib.closing(reader), ended_by_signals(reader), staged(output) as staging:
        tracker = make_tracker(texts)
        session = _Session(reader, texts, staging, on_frame)
        session.follow(tracker, progress)
        facts = session.facts(model_facts or {})
        (staging / "result.json").write_text(json.dumps(facts.as_dict(), indent=2, ensure_ascii=False) + "\n")
        write_report(staging / "report.html", facts)
        # Merging would leave masks of frames that an earlier, longer video had, and files that this one has not.
        for stale in ("masks", "masks_geo"):
            shutil.rmtree(Path(output) / stale, ignore_errors=True)
        for stale in ("memory.csv", "tracks.geojson"):
            (Path(output) / stale).unlink(missing_ok=True)
    return Path(output) / "report.html"


def check_texts(texts: Sequence[str]) -> list[str]:
    """The sentences, stripped.

    Raises:
      UserError: there is none, or one of them is empty.
    """
    if not texts:
        raise UserError('no sentence given; say what to segment with --text "the yacht at the bottom-right"')
    stripped = [text.strip() for text in texts]
    for number, text in enumerate(stripped, 1):
        if not text:
            raise UserError(f"sentence {number} of {len(texts)} is empty; say what to segment, or leave it out")
    return stripped


class _Session:
    """One video on its way to disk: everything that is written or remembered frame by frame."""

    def __init__(
        self,
        reader: VideoReader,
        texts: list[str],
        folder: Path,
        on_frame: Callable[[int, np.ndarray], bool | None] | None,
    ) -> None:
        self.reader, self.texts, self.folder, self.on_frame = reader, texts, folder, on_frame
        self.stopped: int | None = None
        self.targets = [history.TargetHistory(text) for text in texts]
        self.gallery = history.Gallery()
        self.painter = viz.Painter(reader.size, texts)
        self.evidence: list[tuple[str, int | None, bytes]] = []
        self.static = np.zeros(len(texts), bool)
        self.decisions = DecisionTable(folder / "memory.csv")
        self.memory: list[MemoryHistory] = []
        self.geo_tracks = geo.GeoTracks(folder / "tracks.geojson", texts)
        self.unreferenced = 0
        self.held: collections.deque[tuple[int, np.ndarray]] = collections.deque()
        self.numbers: tuple[int, int] | None = None
        self.most_held = 0
        self.written = 0
        self.seconds = dict.fromkeys(("read", "track", "draw and write"), 0.0)
        self.warm_up: tuple[int, float] | None = None
        self.alike: list[str] = []

    def follow(self, tracker: Any, progress: bool) -> None:
        """Reads, tracks and writes the whole video."""
        for target in range(len(self.texts)):
            (self.folder / "masks" / f"{target:02d}").mkdir(parents=True)
        interval = 0.2 if sys.stderr.isatty() else 5.0
        total = self.reader.frame_count
        with (
            open(self.folder / "tracks.csv", "w", newline="") as table,
            contextlib.closing(self.decisions),
            contextlib.closing(self.geo_tracks),
            VideoWriter(self.folder / "overlay.mp4", min(max(self.reader.fps, 1.0), 60.0)) as self._overlay,
            tqdm(total=total, unit="frame", disable=not progress, mininterval=interval, desc="segmenting") as bar,
        ):
            self._rows = csv.writer(table)
            self._rows.writerow(TRACK_COLUMNS)
            frames = self.reader.numbered()
            while self.stopped is None and (numbered := self._timed("read", next, frames, None)) is not None:
                self.held.append(numbered)
                self.most_held = max(self.most_held, len(self.held))
                outputs = self._timed("track", tracker.push, numbered[1])
                if self.warm_up is None and self.written + len(outputs) >= WARM_UP:
                    self.warm_up = (self.written + len(outputs), self.seconds["track"])
                self._emit(outputs, bar)
                if len(self.held) > MAX_HELD:
                    raise RuntimeError(f"the tracker holds back more than {MAX_HELD} frames")
            if self.stopped is None:
                self._emit(self._timed("track", tracker.finish), bar)
        if self.held and self.stopped is None:
            raise RuntimeError(f"the tracker gave no mask for frame {self.written} and later ones")

    def _timed(self, stage: str, call: Callable, *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds[stage] += time.perf_counter() - started

    def _emit(self, outputs: Sequence[Any], bar: tqdm) -> None:
        for out in outputs:
            if out.frame_index != self.written or not self.held:
                raise RuntimeError(f"the tracker gave frame {out.frame_index} where {self.written} was due")
            number, frame = self.held.popleft()
            picture = self._timed("draw and write", self._write, number, frame, out)
            self.written += 1
            self.numbers = (number if self.numbers is None else self.numbers[0], number)
            bar.update()
            if self.on_frame is not None and self.on_frame(number, picture) is False:
                self.stopped = number
                return

    def _write(self, index: int, frame: np.ndarray, out: Any) -> np.ndarray:
        """Writes and remembers the frame of number `index`; returns its picture."""
        masks = np.asarray(out.masks, bool)
        if masks.shape != (len(self.texts), *frame.shape[:2]):
            raise RuntimeError(
                f"masks of frame {index} are {masks.shape}, due are {len(self.texts)} of {frame.shape[:2]}"
            )
        never = np.zeros(len(masks), bool)
        facts = {name: out.memory.get(name, never) for name in ("stood", "trimmed", "rechosen")}
        for target, mask in enumerate(masks):
            write_mask(self.folder / "masks" / f"{target:02d}" / f"{index:05d}.png", mask)
            area = int(np.count_nonzero(mask))
            told = {name: bool(values[target]) for name, values in facts.items()}
            self.targets[target].add(float(out.presence[target]), area, mask.size, index, **told)
            self._rows.writerow([index, target, f"{float(out.presence[target]):.4f}", area, *_place(mask, area)])
        self._write_geo(index, masks, out.presence)
        if decides(out.memory):
            self.memory = self.memory or [MemoryHistory() for _ in self.texts]
            for target, record in enumerate(self.memory):
                self.decisions.add(index, target, out.memory)
                record.add(out.memory, target)
        picture = self.painter.paint(frame, masks, [float(p) for p in out.presence], index)
        self._overlay.write(picture)
        plain = picture[: self.painter.height]  # without the caption: the page has its own
        if self.gallery.wants(out.frame_index):
            self.gallery.add(out.frame_index, jpeg(plain, 720), index)
        if out.frame_index == 0:
            self._keep_evidence(frame, out.evidence, plain)
            self.alike = history.same_thing(masks, self.texts)
            self.static = np.asarray(out.memory.get("is_static", np.zeros(len(self.texts))), bool)
        return picture

    def _write_geo(self, index: int, masks: np.ndarray, presence: np.ndarray) -> None:
        reference = self.reader.reference(index)
        if reference is None:
            self.unreferenced += 1
            return
        name = self.reader.names[index]
        for target, mask in enumerate(masks):
            place = self.folder / "masks_geo" / f"{target:02d}"
            place.mkdir(parents=True, exist_ok=True)
            geo.write_mask(place / f"{index:05d}.tif", mask, reference)
            self.geo_tracks.add(index, name, target, float(presence[target]), mask, reference)

    def _keep_evidence(self, frame: np.ndarray, evidence: dict[str, np.ndarray], picture: np.ndarray) -> None:
        self.evidence.append(("frame", None, jpeg(frame, 720)))
        for name, maps in evidence.items():
            for target, values in enumerate(maps):
                self.evidence.append((name, target, jpeg(viz.heat_map(frame, values), 720)))
        self.evidence.append(("mask", None, jpeg(picture, 720)))

    def facts(self, model: dict[str, Any]) -> Facts:
        """What the report and result.json tell."""
        notes = list(self.reader.notes)
        if self.stopped is not None:
            notes.append(f"The run was stopped after frame {self.stopped}; later frames were not looked at.")
        if self.geo_tracks.started:
            notes.append(
                f"Masks as GeoTIFF and tracks.geojson are in {geo.crs_text(self.geo_tracks.crs)}, as the frames."
            )
            if self.unreferenced:
                notes.append(
                    f"{self.unreferenced} of {self.written} frames have no georeference, and masks as PNG only."
                )
        height, width = self.reader.size
        size = None if "tile" in model else model.get("image_size")  # tiles are not shrunk
        for target, static in zip(self.targets, self.static, strict=True):
            if static:
                notes.append(
                    f"“{target.text}”: static target, motion could not verify the first mask: nothing in it moved."
                )
            if "tile" in model and model.get("calibration") == "none" and moving.find(target.text):
                notes.append(
                    f"“{target.text}”: no first frame shows what moves; with --calibration tmcc motion has a say in "
                    "which object is meant."
                )
            small = target.first_area_px * size * size / (height * width) if size else 0
            if 0 < small < 12:
                notes.append(
                    f"“{target.text}”: the target covers only {small:.1f} pixels once the frame is resized to the "
                    f"model's {size}x{size}; its outline is uncertain. Cropping the video around it would help."
                )
            share = target.first_area_px / (height * width)
            if share > 0.4:
                notes.append(f"“{target.text}”: the first mask covers {share:.0%} of the frame; is that what is meant?")
            notes += target.sentences()
        notes += self.alike
        return Facts(
            video={
                "path": self.reader.path,
                "width": width,
                "height": height,
                "fps": round(self.reader.fps, 3),
                "frames": self.written,
                "first_frame": self.numbers[0],
                "last_frame": self.numbers[1],
            },
            model=model,
            targets=self.targets,
            notes=notes,
            seconds=dict(self.seconds),
            warm_up=self.warm_up or (self.written, self.seconds["track"]),
            latency_frames=self.most_held - 1,
            evidence=self.evidence,
            pictures=self.gallery.spread(8),
            memory=self.memory,
            overlay=self.folder / "overlay.mp4",
        )


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Writes a bool mask as an 8-bit PNG of 0 and 255."""
    # Rows of equal pixels need no prediction filter; without one a frame of 2 megapixels takes 3 ms instead of 15.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    done, data = cv2.imencode(".png", mask.astype(np.uint8) * 255, options)
    if not done:
        raise RuntimeError(f"the mask {path.name} could not be encoded")
    # imwrite would swallow a full disk; this raises.
    path.write_bytes(data.tobytes())


def _place(mask: np.ndarray, area: int) -> list:
    if not area:
        return [""] * 6
    x0, y0, x1, y1 = viz.bounding_box(mask)
    part = mask[y0:y1, x0:x1]
    x = x0 + float(part.sum(0) @ np.arange(x1 - x0)) / area
    y = y0 + float(part.sum(1) @ np.arange(y1 - y0)) / area
    return [f"{x:.2f}", f"{y:.2f}", x0, y0, x1, y1]


def model_facts(model: Any) -> dict[str, Any]:
    """What the report says about a loaded `mqc_jax.Model`."""
    import jax

    return {
        "checkpoint": model.path,
        "image_size": model.config.image_size,
        **({"tile": model.config.tile} if model.config.tile else {}),
        "calibration": model.config.calibration,
        "memory": model.config.memory,
        "parameters": sum(int(leaf.size) for leaf in jax.tree.leaves(model.params)),
        "device": f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind})",
    }


def _define_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "Checkpoint or training run's folder; left out: the one that ships.")
    flags.DEFINE_string(
        "video", None, "Video file, folder of frames, a pattern such as frames/*.png, a camera's number or a stream."
    )
    flags.DEFINE_integer("start", 0, "Number of the first frame to look at, counted from 0.")
    flags.DEFINE_integer("end", None, "Number of the first frame not to look at any more; left out: all there are.")
    flags.DEFINE_float("fps", None, "Look at so many frames per second at most; of pictures: the overlay's speed.")
    flags.DEFINE_multi_string("text", None, "What to segment, as seen in the first frame; repeat for more targets.")
    flags.DEFINE_enum("calibration", None, CALIBRATIONS, "Overrides the checkpoint's model.calibration.")
    flags.DEFINE_enum("memory", None, MEMORIES, "Overrides the checkpoint's model.memory.")
    flags.DEFINE_integer(
        "tile",
        None,
        "Search and follow in windows of so many pixels; 0: the model's own number; -1: whole frames; left out: as the "
        "checkpoint was trained.",
    )
    flags.DEFINE_string("output", None, "Folder to write masks, overlay video, tables and report to.")


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    if len(argv) > 1:
        raise UserError(
            f'unexpected argument {argv[1]!r}; put quotes around a sentence: --text "the yacht at the left"'
        )
    for name in ("video", "output"):
        if not getattr(values, name):
            raise UserError(f"--{name} is missing; --help tells what it is")
    texts = check_texts(values.text or [])
    part = {"start": values.start, "end": values.end, "fps": values.fps}
    if not is_live(values.video):  # a camera may not be opened twice
        open_video(values.video, **part)  # a wrong path should not wait for the model

    import mqc_jax

    model = mqc_jax.load(values.checkpoint)
    switches = {name: getattr(values, name) for name in ("calibration", "memory") if getattr(values, name)}
    if switches:
        model = model.replace(**switches)
    model.require_text()
    from mqc_jax.tiled import with_tile

    model = with_tile(model, values.tile)
    report = predict(
        values.video, texts, values.output, functools.partial(mqc_jax.Tracker, model), model_facts(model), **part
    )
    print(f"report: {report}")


if __name__ == "__main__":
    _define_flags()
    run(main)
