"""One self-contained HTML page about one segmented video: no scripts, nothing fetched, pictures inside."""

import base64
import dataclasses
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mqc_jax import __version__, viz
from mqc_jax.history import Series, TargetHistory
from mqc_jax.memory_log import MemoryHistory
from mqc_jax.viz_memory import memory_strip

EMBED_BYTES = 20_000_000
"""Overlay videos up to this size go into the page; a larger one is linked and has to stay beside it."""

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
        _section("Visibility and size", _plots(facts)),
        _section("What was remembered, and why", _memory(facts)),
        _section("The first frame", _evidence(facts)),
        _section("Targets", _targets(facts.targets)),
        _section("Speed, video and model", _tables(facts)),
    ]
    return _PAGE.format(title=html.escape(title), css=_CSS, body="\n".join(filter(None, body)), version=__version__)


def plot(title: str, curves: Sequence[tuple[str, int, Series]], top: float, percent: bool) -> str:
    """Curves along frames as an inline SVG: the mean as a line and, where buckets span frames, the range as a band.

    Args:
      title: what the vertical axis is.
      curves: (name, target, series) each.
      top: value at the upper edge; the lower edge is 0.
      percent: label values as percentages.
    """
    width, height, left, right, upper, lower = 480, 210, 64, 12, 12, 30
    frames = max((series.count for _, _, series in curves), default=1)
    across = (width - left - right) / max(frames - 1, 1)
    up = (height - upper - lower) / top

    def x(frame: float) -> str:
        return f"{left + frame * across:.1f}"

    def y(value: float) -> str:
        return f"{height - lower - min(value, top) * up:.1f}"

    parts = []
    for step in range(3):
        value = top * step / 2
        text = f"{value * 100:.3g} %" if percent else f"{value:.1f}"
        parts.append(f"<line x1='{left}' x2='{width - right}' y1='{y(value)}' y2='{y(value)}' class='grid'/>")
        parts.append(f"<text x='{left - 6}' y='{float(y(value)) + 4:.1f}' class='tick end'>{text}</text>")
    for frame in _ticks(frames - 1):
        parts.append(f"<text x='{x(frame)}' y='{height - 10}' class='tick mid'>{frame}</text>")
    for order, (_, target, series) in enumerate(curves):
        tint = "rgb({},{},{})".format(*viz.colour(target))
        curve = series.curve()
        middle = curve[:, 0] + (series.stride - 1) / 2
        if series.stride > 1:
            edge = [f"{x(f)},{y(v)}" for f, v in zip(middle, curve[:, 3], strict=True)]
            edge += [f"{x(f)},{y(v)}" for f, v in zip(middle[::-1], curve[::-1, 1], strict=True)]
            parts.append(f"<polygon points='{' '.join(edge)}' fill='{tint}' opacity='0.3'/>")
        points = " ".join(f"{x(f)},{y(v)}" for f, v in zip(middle, curve[:, 2], strict=True))
        dash = ("", "7 3", "2 3", "9 3 2 3")[order % 4]
        style = f"stroke='{tint}' stroke-dasharray='{dash}'"
        if len(curve) == 1:
            parts.append(f"<circle cx='{x(middle[0])}' cy='{y(curve[0, 2])}' r='3' fill='{tint}'/>")
        parts.append(f"<polyline points='{points}' class='curve' {style}/>")
    label = html.escape(f"{title} along {frames} frames for {', '.join(name for name, _, _ in curves)}", quote=True)
    return (
        f"<figure class='plot'><svg viewBox='0 0 {width} {height}' role='img' aria-label='{label}'>"
        f"{''.join(parts)}</svg><figcaption>{html.escape(title)}, by frame</figcaption></figure>"
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
    figures = []
    for kind, target, data in facts.evidence:
        caption = EVIDENCE.get(kind, kind.replace("_", " ").capitalize())
        if target is not None and len(facts.targets) > 1:
            caption += f": {facts.targets[target].text}"
        figures.append(_figure(data, caption))
    return f"<div class='evidence'>{''.join(figures)}</div>" if figures else ""


def _memory(facts: Facts) -> str:
    pictures = [(frame, _decoded(data)) for frame, data in facts.pictures]
    figures = []
    for target, record in zip(facts.targets, facts.memory, strict=False):
        short, prototypes = record.written()
        caption = (
            f"“{target.text}”: of {_count(record.frames, 'frame')}, {short} went into the short-term memory and "
            f"{prototypes} became prototypes; the first frame stays for ever. Every number is in memory.csv."
        )
        figures.append(_figure(_png(memory_strip(pictures, record, target.text)), caption, "png"))
    return f"<div class='stack'>{''.join(figures)}</div>" if figures else ""


def _decoded(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def _png(picture: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    if not done:
        raise RuntimeError("a picture could not be encoded")
    return data.tobytes()


def _figure(data: bytes, caption: str, kind: str = "jpeg") -> str:
    text = html.escape(caption, quote=True)
    return f"<figure><img src='{_data(data, kind)}' alt='{text}'><figcaption>{text}</figcaption></figure>"


def _plots(facts: Facts) -> str:
    top = max([target.area.largest for target in facts.targets] + [1e-6])
    names = [target.text for target in facts.targets]
    presence = [(name, i, target.presence) for i, (name, target) in enumerate(zip(names, facts.targets, strict=True))]
    area = [(name, i, target.area) for i, (name, target) in enumerate(zip(names, facts.targets, strict=True))]
    first = plot("Presence (probability that the target is visible)", presence, 1.0, percent=False)
    return (
        f"<div class='grid2'>{first}{plot('Mask area (share of the frame)', area, _round_up(top), percent=True)}</div>"
    )


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
    speed = {stage: f"{value * 1000:.1f} ms a frame" for stage, value in facts.stage_seconds().items()}
    # Compilation would hide what tracking costs, so it stands in a row of its own.
    count, compiling = facts.warm_up
    speed[f"first {_count(count, 'frame')}, compilation included"] = f"{compiling:.2f} s"
    speed["held back at most"] = _count(facts.latency_frames, "frame")
    video = {**facts.video, "path": Path(facts.video["path"]).name}
    video["fps"] = f"{facts.video['fps']:g}"
    model = {k: f"{v:,}" if isinstance(v, int) and v > 99_999 else v for k, v in facts.model.items()}
    return f"<div class='grid3'>{_table('Speed', speed)}{_table('Video', video)}{_table('Model', model)}</div>"


def _table(title: str, rows: dict[str, Any]) -> str:
    cells = "".join(
        f"<tr><th scope='row'>{html.escape(str(k).replace('_', ' '))}</th><td>{html.escape(str(v))}</td></tr>"
        for k, v in rows.items()
    )
    return f"<div><h3>{title}</h3><table class='facts'>{cells}</table></div>" if rows else ""


def _data(picture: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64," + base64.b64encode(picture).decode()


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _ticks(last: int) -> list[int]:
    if last < 1:
        return [0]
    step = max(1, int(_round_up(last / 5)))
    return list(range(0, last + 1, step))


def _round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= value * (1 - 1e-9))


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

_CSS = """
:root{color-scheme:light;--ink:#1b2128;--quiet:#5c6874;--line:#dde2e7;--panel:#181c22}
*{box-sizing:border-box}
body{margin:0;background:#f6f7f8;color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 40px}
h1{font-size:clamp(1.35rem,4vw,2rem);line-height:1.25;margin:0 0 6px;letter-spacing:-.01em;overflow-wrap:anywhere}
h1 .target{display:block}
h2{font-size:1.12rem;margin:0 0 12px}
h3{font-size:.95rem;margin:0 0 6px;color:var(--quiet);font-weight:600}
section{margin-top:34px}
.lead,.quiet{color:var(--quiet);margin:0}
.chip{display:inline-block;width:.72em;height:.72em;border-radius:3px;margin-right:.5em;border:1px solid #0003}
.notes{background:#fff6dd;border:1px solid #ecd9a0;border-radius:10px;padding:16px 20px}
.notes h2{margin-bottom:6px}
.notes ul{margin:0;padding-left:1.2em}
.notes li{overflow-wrap:anywhere}
video{display:block;width:100%;max-height:82vh;background:var(--panel);border-radius:10px}
figure{margin:0;min-width:0}
img{display:block;width:100%;height:auto;border-radius:6px}
figcaption{font-size:.86rem;color:var(--quiet);margin-top:5px}
.grid2,.grid3,.grid4,.evidence,.stack{display:grid;gap:16px}
.grid2{grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr))}
.grid3{grid-template-columns:repeat(auto-fit,minmax(min(280px,100%),1fr))}
.grid4{grid-template-columns:repeat(auto-fill,minmax(min(240px,46%),1fr))}
.evidence{grid-template-columns:repeat(auto-fit,minmax(min(240px,100%),1fr))}
.plot svg{display:block;width:100%;background:var(--panel);border-radius:8px}
.plot .grid{stroke:#3a424d;stroke-width:1}
.plot .tick{fill:#b4bec9;font-size:12px}
.plot .end{text-anchor:end}
.plot .mid{text-anchor:middle}
.plot .curve{fill:none;stroke-width:2;stroke-linejoin:round}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid var(--line);font-size:.93rem}
th,td{text-align:left;padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:top}
thead th,.facts th{font-weight:500;color:var(--quiet)}
.facts{table-layout:fixed}
.facts td{overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
footer{margin-top:36px;color:var(--quiet);font-size:.86rem}
"""
