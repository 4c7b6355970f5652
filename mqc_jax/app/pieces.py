"""Pieces of the page as HTML. Whatever a user or a file says is escaped here and nowhere else."""

import html
from collections.abc import Sequence
from pathlib import Path

from mqc_jax.app.jobs import COMPILING, WAITING, WRITING, Job

TITLE = """<div class='title'><h1>Point at a thing in satellite video with a sentence</h1>
<p>Its mask is drawn in every frame, while you watch.</p></div>"""

UPLOAD = """<label class='drop'><input type='file' aria-label='Send a video of your own'>
<strong>Send a video of your own</strong><span class='info'>${value}</span>
<span class='sending' aria-live='polite'></span></label>"""

_RESULT_FILES = (("report.html", "Download the report"), ("everything.zip", "Download everything (zip)"))


def status(text: str, kind: str = "", count: str = "", done: int | None = None, total: int | None = None) -> str:
    """The status line.

    Args:
      text: a sentence; screen readers announce it.
      kind: "", "busy", "good" or "bad".
      count: numbers that change often; not announced.
      done, total: a bar, where both are known; where only `done` is, a bar of unknown length.
    """
    bar = ""
    if done is not None:
        ends = f" max='{total}' value='{min(done, total)}'" if total else ""
        bar = f"<progress{ends} aria-label='Progress'></progress>"
    numbers = f"<p class='count'>{html.escape(count)}</p>" if count else ""
    role = "alert" if kind == "bad" else "status"
    return f"<div class='status {kind}'><p role='{role}'>{html.escape(text)}</p>{numbers}{bar}</div>"


def progress(job: Job, ahead: int) -> str:
    """The status line of a job that has not ended."""
    if job.stopped.is_set():
        return status("Stopping after this frame …", "busy")
    if job.state == WAITING:
        text = "one job is" if ahead == 1 else f"{ahead} jobs are"
        return status(f"Waiting: {text} before yours. It starts by itself." if ahead else "Starting …", "busy")
    if job.state == COMPILING:
        text = (
            f"Compiling the model for {_count(len(job.texts), 'sentence')} and these settings. This happens once and "
            "takes from some seconds to some minutes; after that frames come fast."
        )
        return status(text, "busy", done=0)
    if job.state == WRITING:
        return status("Writing the report …", "busy", done=job.frames, total=job.frames)
    seen = f"{job.frames:,} of {job.total:,} frames" if job.total else _count(job.frames, "frame")
    speed = f", {job.fps:.1f} frames/s" if job.fps else ""
    text = "Following it through the video." if len(job.texts) == 1 else "Following them through the video."
    if not job.frames and job.settings.calibration == "tmcc":
        text = "Watching the first frames for motion before the first mask is settled."
    return status(text, "busy", f"{seen}{speed}", job.frames, job.total)


def ended(job: Job, keep_minutes: float) -> str:
    """The status line of a job that ended well."""
    frames = _count(job.frames, "frame")
    if job.stopped.is_set():
        text = f"Stopped after {frames}; what was done until then is complete."
    elif job.clip.frames is not None and job.frames >= job.clip.frames:
        text = f"Done: {frames}."
    elif job.frames == job.limit:
        text = f"Stopped after {frames}, the limit here; what was done until then is complete."
    else:
        text = f"Done: {frames}."
    gone = " Your video was deleted." if job.clip.token else ""
    return status(f"{text}{gone} The results stay here for {keep_minutes:g} minutes.", "good")


def first_frame(address: str, caption: str) -> str:
    """The stage before a job: the frame that a sentence has to speak of."""
    text = html.escape(caption)
    return _stage(f"<img src='{address}' alt='The first frame'>", f"The first frame: {text}")


def live(job: Job) -> str:
    """The stage while a job runs."""
    address = f"jobs/{job.token}/live.jpg?frame={job.frames}"
    return _stage(f"<img src='{address}' alt='Frame {job.frames - 1} with the masks drawn in'>", "")


def film(job: Job) -> str:
    """The stage after a job: the overlay video, and a slider that goes to any frame."""
    base, last = f"jobs/{job.token}", job.frames - 1
    return (
        f"<div class='stage result'><video loop muted playsinline preload='auto' poster='{base}/poster.jpg' "
        f"src='{base}/overlay.mp4' aria-label='The video with the masks drawn in'></video>"
        # Native controls would lie over the picture's lower part, caption and small targets included.
        f"<div class='scrub'><button type='button'>Play</button><label><span>Frame <output>0</output> / {last}</span>"
        f"<input type='range' min='0' max='{last}' step='1' value='0' data-fps='{job.shown_fps}'></label></div></div>"
    )


def results(job: Job) -> str:
    """What is under the video: downloads, what is worth knowing, the gates."""
    base = f"jobs/{job.token}"
    links = "".join(f"<a href='{base}/{name}' download='{_download(name)}'>{text}</a>" for name, text in _RESULT_FILES)
    links += f"<a href='{base}/report.html' target='_blank' rel='noopener'>Open the report</a>"
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in job.notes)
    worth = f"<section class='worth'><h2>Worth knowing</h2><ul>{notes}</ul></section>" if notes else ""
    return f"<nav class='take' aria-label='Results'>{links}</nav>{worth}{_gates(base, job.texts[: job.gates])}"


def _gates(base: str, texts: Sequence[str]) -> str:
    if not texts:
        return ""
    pictures = "".join(
        f"<div class='wide' tabindex='0' role='region' aria-label='{(name := html.escape(text, quote=True))}'>"
        f"<img src='{base}/memory-{target:02d}.png' alt='What the memory’s gates saw and decided: {name}'></div>"
        for target, text in enumerate(texts)
    )
    return (
        f"<section class='gates'><h2>What was remembered, and why</h2>{pictures}"
        "<p>By frame, from left to right. The numbers are in memory.csv of the zip.</p></section>"
    )


def _stage(picture: str, caption: str) -> str:
    line = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<div class='stage'><figure>{picture}{line}</figure></div>"


def _download(name: str) -> str:
    return "mqc_jax.zip" if name.endswith(".zip") else f"mqc_jax-{Path(name).name}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
