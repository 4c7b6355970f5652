"""The Gradio page: what is on it, and what happens when somebody touches it."""

import asyncio
import html
import json
from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr

from mqc_jax.app import pieces
from mqc_jax.app.engine import Settings
from mqc_jax.app.examples import EXAMPLES, example
from mqc_jax.app.jobs import DONE, ENDED, WRITING, Job, Queue, check_request
from mqc_jax.app.limits import Clip, open_clip
from mqc_jax.app.routes import Uploads, sentence
from mqc_jax.errors import UserError

ASSETS = Path(__file__).parents[1] / "assets" / "app"
_LOOK_SECONDS = 0.15
_CALIBRATIONS = {"none": "Off", "tmcc": "Motion checks the first mask (TMCC)"}
_MEMORIES = {"sam2": "The last frames (SAM2)", "dami": "Chosen frames, with reasons (DAMI)"}

_RECEIVING = f"""() => ["", {json.dumps(pieces.status("Receiving the video …", "busy", done=0))}, "", null,
  {{ __type__: "update", interactive: false }}]"""


class Page:
    """The page of one app.

    Args:
      queue: where jobs go.
      uploads: where videos that were sent are.

    Attributes:
      blocks: the Gradio page, to be mounted.
    """

    def __init__(self, queue: Queue, uploads: Uploads) -> None:
        self._queue, self._uploads = queue, uploads
        self._limits, self._work, self._engine = queue.limits, queue.work, queue.engine
        with gr.Blocks(title="mqc_jax", analytics_enabled=False) as self.blocks:
            self._build()
            self._connect()

    def _build(self) -> None:
        default = self._engine.default
        fragment = {"apply_default_css": False, "js_on_load": None}
        gr.HTML(pieces.TITLE, **fragment)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300):
                self._example = gr.Radio(
                    [(choice.label, key) for key, choice in EXAMPLES.items()], value=None, label="Choose a clip"
                )
                self._box = gr.HTML(
                    self._allowed(),
                    html_template=pieces.UPLOAD,
                    js_on_load=(ASSETS / "upload.js").read_text(),
                    apply_default_css=False,
                    elem_id="upload",
                    megabytes=self._limits.megabytes,
                )
                self._text = gr.Textbox(
                    label="What to follow",
                    info="A sentence about the first frame. Several lines are several targets.",
                    lines=2,
                    max_lines=self._limits.targets,
                    max_length=2000,
                    elem_id="sentence",
                )
                with gr.Accordion("More settings", open=False):
                    self._calibration = gr.Radio(
                        [(_CALIBRATIONS[name], name) for name in self._engine.calibrations],
                        value=default.calibration,
                        label="Calibration",
                    )
                    self._memory = gr.Radio(
                        [(_MEMORIES[name], name) for name in self._engine.memories],
                        value=default.memory,
                        label="Memory",
                    )
                with gr.Row():
                    self._start = gr.Button("Start", variant="primary", elem_id="start", min_width=120)
                    self._stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=120)
            with gr.Column(scale=7, min_width=300):
                self._status = gr.HTML(pieces.status("Loading …"), elem_id="status", **fragment)
                self._stage = gr.HTML("", elem_id="stage", **fragment)
                self._results = gr.HTML("", elem_id="results", **fragment)
        self._clip = gr.State(None)

    def _connect(self) -> None:
        options = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        shown = [self._clip, self._stage, self._status, self._results, self._box]
        first = next(iter(EXAMPLES))
        self.blocks.load(lambda: first, outputs=self._example, **options).then(
            self.choose, [self._example, self._text], [*shown, self._text], **options
        )
        self._example.input(self.choose, [self._example, self._text], [*shown, self._text], **options)
        # In the browser: an answer of the server's could come after the one to `sent`, and undo it.
        self._box.sending(
            None, None, [self._stage, self._status, self._results, self._example, self._start], js=_RECEIVING
        )
        self._box.sent(self.sent, None, [*shown, self._start], **options)
        self._start.click(
            self.run,
            [self._clip, self._text, self._calibration, self._memory],
            [*shown, self._example, self._start, self._stop],
            **options,
        )
        self._stop.click(self.stop, None, None, **options)
        self.blocks.unload(self.leave)

    def _allowed(self) -> str:
        return f"mp4, mov, webm, mkv, avi up to {self._limits.megabytes} MB; {self._limits.frames:,} frames are used"

    # ---- what is shown: clip, stage, status, results, upload box --------------------------------------------------

    async def choose(self, key: str | None, text: str) -> tuple:
        """An example was chosen."""
        if key is None:
            return (gr.skip(),) * 6
        try:
            frames, about = await asyncio.to_thread(example, key, self._work.examples)
            name = f"{EXAMPLES[key].label}, a synthetic clip"
            clip, _ = await asyncio.to_thread(open_clip, frames, name, self._limits)
        except UserError as error:
            return None, "", pieces.status(sentence(error), "bad"), "", self._allowed(), gr.skip()
        caption = f"{name}, {clip.sentence(self._limits)}"
        ready = pieces.status("Ready. Press Start, or say what else to follow.")
        stage = pieces.first_frame(f"examples/{key}/first.jpg", caption)
        return clip, stage, ready, "", self._allowed(), about

    async def sent(self, answer: gr.EventData) -> tuple:
        """A video has arrived, or not: `answer` holds a token or an error."""
        start = gr.update(interactive=True)
        data = answer._data or {}
        try:
            if data.get("error"):
                raise UserError(str(data["error"]))
            clip = self._uploads.get(str(data.get("token", "")))
        except UserError as error:
            return None, "", pieces.status(sentence(error), "bad"), "", self._allowed(), start
        caption = f"{clip.name}, {clip.sentence(self._limits)}"
        stage = pieces.first_frame(f"uploads/{clip.token}/first.jpg", caption)
        ready = pieces.status("The video is here. Say what to follow in it, and press Start.")
        return clip, stage, ready, "", html.escape(caption), start

    # ---- a job ----------------------------------------------------------------------------------------------------

    async def run(
        self, clip: Clip | None, text: str, calibration: str, memory: str, request: gr.Request
    ) -> AsyncIterator[tuple]:
        """Start was pressed: the job from its place in line to its results."""
        same, owner = gr.skip(), request.session_hash or ""
        on, off = gr.update(interactive=True), gr.update(interactive=False)
        busy, again = (off, off, on), (on, on, off)  # the clips, Start, Stop
        try:
            if clip is None:
                raise UserError("choose a clip, or send a video of your own")
            texts = check_request(text or "", self._limits)
            job = Job(clip, texts, Settings(calibration, memory), self._limits, owner)
            self._queue.submit(job)
        except UserError as error:
            yield (same, same, pieces.status(sentence(error), "bad"), same, same, *again)
            return
        try:
            seen, before = -1, None
            while job.state not in ENDED:
                # The picture is asked for by the browser, and only when there is a new one.
                stage = pieces.live(job) if job.frames > max(seen, 0) and job.state != WRITING else same
                line = pieces.progress(job, self._queue.ahead(job))
                if stage is not same or line != before:
                    results = "" if before is None else same
                    yield (same, stage, line, results, same, *busy)
                seen, before = job.frames, line
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            # Also when the browser is gone: nobody waits for the rest.
            if job.state not in ENDED:
                self._queue.stop(job)
        # A video of one's own was deleted with the job; an example is still there.
        used = (None, self._allowed()) if clip.token else (same, same)
        if job.state == DONE:
            line, stage, results = (
                pieces.ended(job, self._work.keep_seconds / 60),
                pieces.film(job),
                pieces.results(job),
            )
            yield (used[0], stage, line, results, used[1], *again)
        else:
            yield (used[0], same, pieces.status(sentence(UserError(job.error)), "bad"), "", used[1], *again)

    def stop(self, request: gr.Request) -> None:
        """Stop was pressed; what comes of it is told by `run`."""
        # Not by the job's token in a gr.State: what a running generator puts there is not seen before it ends.
        self._queue.stop_of(request.session_hash or "")

    def leave(self, request: gr.Request) -> None:
        """The browser is gone."""
        if request.session_hash:
            self._queue.stop_of(request.session_hash)


def style() -> dict:
    """What `gr.mount_gradio_app` takes for the looks: fonts of the reader's own system, one accent colour."""
    system = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="teal", neutral_hue="slate", font=system, font_mono=["ui-monospace", "Consolas", "monospace"]
    )
    # Gradio's own grey is too pale to be read by everybody (2.6 to 1 on white).
    quiet = {"body_text_color_subdued": "*neutral_500", "block_info_text_color": "*neutral_500"}
    quiet |= {f"{name}_dark": "*neutral_300" for name in quiet}
    theme.set(**quiet, block_title_text_weight="600", block_label_text_weight="600")
    script = f"<script>{(ASSETS / 'scrub.js').read_text()}</script>"
    return {"theme": theme, "css": (ASSETS / "style.css").read_text(), "head": script}
