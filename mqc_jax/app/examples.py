"""The clips that the page offers: synthetic, rendered when somebody first asks for one, then kept."""

import threading
from pathlib import Path
from typing import NamedTuple

import cv2

from mqc_jax.errors import UserError
from mqc_jax.files import staged

FRAMES, SIZE = 40, (448, 448)
_EASY = ("tiny", "weak_saliency", "late_start", "leaves_frame")


class Example(NamedTuple):
    """A clip: what the page calls it, and the seed and number of its `data.synthetic.plan_sequence`."""

    label: str
    seed: int
    index: int


EXAMPLES = {
    "airport": Example("Airport", 14, 0),
    "harbour": Example("Harbour", 0, 3),
    "runway": Example("Runway", 29, 0),
}
_GUARD = threading.Lock()


def example(key: str, folder: Path) -> tuple[Path, str]:
    """The frames' folder and the sentence of an example; renders it under `folder` if it is not there.

    Raises:
      UserError: there is no such example.
    """
    if key not in EXAMPLES:
        raise UserError(f"there is no example {key!r}; choose one of {', '.join(EXAMPLES)}")
    place = folder / key
    with _GUARD:
        if not place.is_dir():
            _render(EXAMPLES[key], folder, key)
    return place / "frames", (place / "sentence.txt").read_text().strip()


def _render(choice: Example, folder: Path, key: str) -> None:
    # The generator draws in pure NumPy and OpenCV; importing it is slow, and not every user wants an example.
    from mqc_jax.data.synthetic import plan_sequence, render

    plan = plan_sequence(choice.seed, choice.index, size=SIZE, frames=FRAMES, disable=_EASY)
    with staged(folder) as staging:
        frames = staging / key / "frames"
        frames.mkdir(parents=True)
        for t, (picture, _) in enumerate(render(plan)):
            done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            if not done:
                raise RuntimeError("a frame could not be encoded")
            (frames / f"{t:05d}.jpg").write_bytes(data.tobytes())
        (staging / key / "sentence.txt").write_text(plan.phrases[0].text + "\n")
