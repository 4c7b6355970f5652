"""One self-contained HTML page about one segmented video: no scripts, nothing fetched, pictures inside."""

import base64
import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mqc_jax import __version__, viz
from mqc_jax.curves import plot, round_up
from mqc_jax.history import TargetHistory
from mqc_jax.memory_log import MemoryHistory
from mqc_jax.viz_memory import memory_strip

EMBED_BYTES = 20_000_000
"""Overlay videos up to this size go into the page; a larger one is linked and has to stay beside it."""

_CSS = Path(__file__).parent / "assets" / "report.css"

STAGE_COLOURS = {"read": "#86909b", "track": "#56b4e9", "draw and write": "#e69f00"}

EVIDENCE = {
    "frame": "The first frame",
    "coarse": "Where the sentence points",
    "first": "What the model takes for it (R₀)",
    "displacement": "How far pixels move (D)",
    "moving": "Its moving part",
    "expanded": "With what moves alike beside it",
    "refined": "Without what does not",
    "motion": "The part that fits the sentence best",
    "calibrated": "After calibration",
    "mask": "The first mask",
}


@dataclasses.dataclass
class Facts:
    """Everything the page shows.

    Attributes:
      video: path, width, height, fps, frames; first_frame and last_frame where they are not all there are.
      model: name -> value, as `predict.model_facts` gives it.
      targets: one history a sentence.
      notes: sentences a reader should know.
      seconds: time spent by stage.
      warm_up: how many of the first frames were compiled for, and the seconds their tracking took.
      latency_frames: how many frames the tracker held back at most.
      evidence: (kind, target or None, JPEG) of the first frame.
      pictures: (frame index, JPEG) along the video.
      overlay: the overlay video.
      memory: each target's decisions; empty where the memory takes every frame.
    """

    video: dict[str, Any]
    model: dict[str, Any]
    targets: list[TargetHistory]
    notes: list[str]
    seconds: dict[str, float]
    warm_up: tuple[int, float]
    latency_frames: int
    evidence: list[tuple[str, int | None, bytes]]
    pictures: list[tuple[int, bytes]]
    overlay: Path
    memory: list[MemoryHistory] = dataclasses.field(default_factory=list)

    def stage_seconds(self) -> dict[str, float]:
        """Seconds a frame by stage; tracking without the frames that were compiled for, where there are others."""
        frames = max(self.video["frames"], 1)
        spent = {stage: value / frames for stage, value in self.seconds.items()}
        count, compiling = self.warm_up
        if frames > count:
            spent["track"] = max(self.seconds["track"] - compiling, 0.0) / (frames - count)
        return spent

    @property
    def span(self) -> tuple[int, int]:
        """Numbers of the first and the last frame that were looked at."""
        return self.video.get("first_frame", 0), self.video.get("last_frame", self.video["frames"] - 1)

    @property
    def frames_per_second(self) -> float:
        """Of all stages together, one after the other."""
        return 1 / max(sum(self.stage_seconds().values()), 1e-9)

    def as_dict(self) -> dict[str, Any]:
        """What result.json holds."""
        return {
            "version": __version__,
            "video": self.video,
            "model": self.model,
            "targets": [
                {**target.summary(), **({"memory": self.memory[i].summary()} if self.memory else {})}
                for i, target in enumerate(self.targets)
            ],
            "notes": self.notes,
            "speed": {
                "frames_per_second": round(self.frames_per_second, 3),
                "warm_up_frames": self.warm_up[0],
                "warm_up_seconds": round(self.warm_up[1], 3),
                "seconds": {stage: round(value, 3) for stage, value in self.seconds.items()},
                "latency_frames": self.latency_frames,
            },
        }


def jpeg(picture: np.ndarray, longest: int) -> bytes:
    """A uint8 RGB picture as JPEG, shrunk so that its long side is at most `longest` pixels."""
    scale = longest / max(picture.shape[:2])
    if scale < 1:
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    if not done:
        raise RuntimeError("a picture could not be encoded")
    return data.tobytes()


def write_report(path: Path, facts: Facts) -> None:
    """Writes the page."""
    path.write_text(page(facts), encoding="utf-8")


def page(facts: Facts) -> str:
    """The whole page as HTML."""
    title = facts.targets[0].text if len(facts.targets) == 1 else f"{len(facts.targets)} targets"
    video = facts.video
    first, last = facts.span
    part = "" if (first, last) == (0, video["frames"] - 1) else f" ({first} to {last})"
    lead = (
        f"{_count(video['frames'], 'frame')}{part} of {video['width']} × {video['height']} pixels, "
        f"segmented at {facts.frames_per_second:.1f} frames/s"
    )
    body = [
        f"<header><h1>{_sentences(facts.targets)}</h1><p class='lead'>{html.escape(lead)}</p></header>",
        _notes(facts.notes),
        _section("Video", _video(facts)),
        _section("Along time", _pictures(facts.pictures)),
        _section("How the first mask came about", _evidence(facts)),
        _section("Visibility and size", _plots(facts)),
        _section("What was remembered, and why", _memory(facts)),
        _section("Targets", _targets(facts.targets)),
        _section("Speed, video and model", _tables(facts)),
    ]
    return _PAGE.format(
        title=html.escape(title),
        css=_CSS.read_text(encoding="utf-8"),
        body="\n".join(filter(None, body)),
        version=__version__,
    )


def _sentences(targets: Sequence[TargetHistory]) -> str:
    chips = (f"<span class='target'>{_chip(i)}{html.escape(target.text)}</span>" for i, target in enumerate(targets))
    return "".join(chips)


def _chip(target: int) -> str:
    return "<span class='chip' style='background:rgb({},{},{})'></span>".format(*viz.colour(target))


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f"<section class='notes'><h2>Worth knowing</h2><ul>{items}</ul></section>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>" if content else ""


def _video(facts: Facts) -> str:
    # The page shows the video it lies beside; embedding makes it survive being sent alone.
    if facts.overlay.stat().st_size <= EMBED_BYTES:
        source = "data:video/mp4;base64," + base64.b64encode(facts.overlay.read_bytes()).decode()
        aside = ""
    else:
        source = facts.overlay.name
        megabytes = facts.overlay.stat().st_size / 1e6
        aside = (
            f"<p class='quiet'>The video ({megabytes:.0f} MB) is not inside this page; keep "
            f"<a href='{source}'>{source}</a> beside it.</p>"
        )
    poster = _data(facts.pictures[0][1]) if facts.pictures else ""
    return (
        f"<video controls loop playsinline preload='metadata' poster='{poster}' "
        f"aria-label='The video with the masks drawn in'><source src='{source}' type='video/mp4'>"
        f"Your browser plays no mp4; the file is overlay.mp4.</video>{aside}"
    )


def _pictures(pictures: Sequence[tuple[int, bytes]]) -> str:
    if len(pictures) < 2:
        return ""
    return "<div class='grid4'>" + "".join(_figure(data, f"Frame {index}") for index, data in pictures) + "</div>"


def _evidence(facts: Facts) -> str:
    """The frame, each target's chain of maps, the mask; of several targets each has a row of its own."""

    def figures(target: int | None, kinds: Sequence[str] = ()) -> str:
        return "".join(
            _figure(data, EVIDENCE.get(kind, kind.replace("_", " ").capitalize()))
            for kind, whose, data in facts.evidence
            if whose == target and (not kinds or kind in kinds)
        )

    before, after = figures(None, ["frame"]), figures(None, ["mask"])
    if len(facts.targets) == 1:
        rows = [(None, before + figures(0) + after)]
    else:
        rows = [(None, before + after)] + [(i, figures(i)) for i in range(len(facts.targets))]
    return "".join(
        ("" if i is None else f"<h3>{_chip(i)}{html.escape(facts.targets[i].text)}</h3>")
        + f"<div class='evidence'>{pictures}</div>"
        for i, pictures in rows
        if pictures
    )


def _memory(facts: Facts) -> str:
    if not facts.memory and facts.model.get("memory") == "sam2":
        return (
            "<p class='quiet'>SAM2's memory keeps the first frame and the latest ones, whatever they show: it decides "
            "nothing. With <code>--memory dami</code> a frame has to earn its place, and this section shows how.</p>"
        )
    pictures = [(frame, _decoded(data)) for frame, data in facts.pictures]
    figures = []
    for target, record in zip(facts.targets, facts.memory, strict=False):
        short, prototypes = record.written()
        caption = (
            f"“{target.text}”: of {_count(record.frames, 'frame')}, {short} went into the short-term memory and "
            f"{prototypes} became prototypes; the first frame stays for ever. Every number is in memory.csv."
        )
        drawn = memory_strip(pictures, record, target.text, facts.span)
        figures.append(_figure(_png(drawn), caption, "png", "wide"))
    return f"<div class='stack'>{''.join(figures)}</div>" if figures else ""


def _decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _png(picture: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    if not done:
        raise RuntimeError("a picture could not be encoded")
    return data.tobytes()


def _figure(data: bytes, caption: str, kind: str = "jpeg", frame: str = "") -> str:
    """A picture and its caption; with `frame` "wide" it scrolls sideways where the page is narrow."""
    text = html.escape(caption, quote=True)
    picture = f"<img src='{_data(data, kind)}' alt='{text}'>"
    if frame:
        picture = f"<div class='{frame}' tabindex='0'>{picture}</div>"
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _plots(facts: Facts) -> str:
    top = max([target.area.largest for target in facts.targets] + [1e-6])
    names = [target.text for target in facts.targets]
    presence = [(name, i, target.presence) for i, (name, target) in enumerate(zip(names, facts.targets, strict=True))]
    area = [(name, i, target.area) for i, (name, target) in enumerate(zip(names, facts.targets, strict=True))]
    gaps = [(i, *gap) for i, target in enumerate(facts.targets) for gap in target.gaps]
    first = plot("Presence (probability that the target is visible)", presence, 1.0, False, facts.span, gaps)
    second = plot("Mask area (share of the frame)", area, round_up(top), True, facts.span)
    legend = ""
    if len(names) > 1:
        items = "".join(f"<li>{_chip(i)}{html.escape(name)}</li>" for i, name in enumerate(names))
        legend = f"<ul class='legend'>{items}</ul>"
    return f"<div class='grid2'>{first}{second}</div>{legend}"


def _targets(targets: Sequence[TargetHistory]) -> str:
    rows = []
    for i, target in enumerate(targets):
        numbers = target.summary()
        seen = f"{target.visible_frames} of {target.frames}"
        span = "never" if target.first_visible is None else f"{target.first_visible} to {target.last_visible}"
        rows.append(
            f"<tr><td>{_chip(i)}{html.escape(target.text)}</td><td>{seen}</td><td>{span}</td>"
            f"<td>{target.num_gaps}</td><td>{numbers['mean_area'] * 100:.3g} %</td></tr>"
        )
    return (
        "<div class='scroll'><table><thead><tr><th>Target</th><th>Frames visible</th><th>From, to</th>"
        f"<th>Gaps</th><th>Mean area</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _tables(facts: Facts) -> str:
    stages = facts.stage_seconds()
    speed = {stage: f"{value * 1000:.1f} ms a frame" for stage, value in stages.items()}
    speed["all of it"] = f"{facts.frames_per_second:.3g} frames a second"
    # Compilation would hide what tracking costs, so it stands in a row of its own.
    count, compiling = facts.warm_up
    speed[f"tracking the first {_count(count, 'frame')}, compilation included"] = f"{compiling:.2f} s"
    speed["held back at most"] = _count(facts.latency_frames, "frame")
    shares = "".join(
        f"<span style='flex:{value / max(sum(stages.values()), 1e-9):.4f};background:{STAGE_COLOURS[stage]}'></span>"
        for stage, value in stages.items()
    )
    bar = f"<div class='bar' role='img' aria-label='Shares of the time'>{shares}</div>"
    video = {**facts.video, "path": Path(facts.video["path"]).name}
    video["fps"] = f"{facts.video['fps']:g}"
    # Reports are sent around: whose folders these are is nobody's business.
    model = {k: Path(v).name if k == "checkpoint" else v for k, v in facts.model.items()}
    model = {k: f"{v:,}" if isinstance(v, int) and v > 99_999 else v for k, v in model.items()}
    tables = (_table("Speed", speed, bar, STAGE_COLOURS), _table("Video", video), _table("Model", model))
    return f"<div class='grid3'>{''.join(tables)}</div>"


def _table(title: str, rows: dict[str, Any], above: str = "", colours: dict[str, str] | None = None) -> str:
    def chip(key: str) -> str:
        colour = (colours or {}).get(key)
        return f"<span class='chip' style='background:{colour}'></span>" if colour else ""

    cells = "".join(
        f"<tr><th scope='row'>{chip(k)}{html.escape(str(k).replace('_', ' '))}</th><td>{html.escape(str(v))}</td></tr>"
        for k, v in rows.items()
    )
    return f"<div><h3>{title}</h3>{above}<table class='facts'>{cells}</table></div>" if rows else ""


def _data(picture: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
{body}
<footer>mqc_jax {version}</footer>
</main>
</body>
</html>
"""
