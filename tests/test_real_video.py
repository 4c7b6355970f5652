"""`predict` on real video, which is not part of the repository: MQC_JAX_TEST_DATA names the folder that holds it."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

import mqc_jax
from mqc_jax.predict import predict
from mqc_jax.video import open_video

DATA = Path(os.environ.get("MQC_JAX_TEST_DATA", ""))
pytestmark = pytest.mark.skipif(
    not (DATA / "aerial_aphill").is_dir(),
    reason="real test video is not here; set MQC_JAX_TEST_DATA to the folder with aerial_aphill/ and vos_bike/",
)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Watched:
    """A tracker that notes the process's resident memory after each frame."""

    def __init__(self, tracker: mqc_jax.Tracker):
        self.tracker, self.resident = tracker, []

    def push(self, frame):
        outputs = self.tracker.push(frame)
        self.resident.append(resident_bytes())
        return outputs

    def finish(self):
        return self.tracker.finish()


def resident_along(video: Path, texts: list[str], checkpoint: Path, output: Path) -> list[int]:
    """Resident bytes after each frame of a `predict` run."""
    watched = []

    def make_tracker(texts):
        watched.append(Watched(mqc_jax.Tracker(mqc_jax.load(checkpoint), texts)))
        return watched[0]

    predict(str(video), texts, str(output), make_tracker, progress=False)
    return watched[0].resident


@pytest.mark.parametrize(
    ("video", "frames"),
    [
        pytest.param("aerial_aphill/aphill_240_1fps_crf32.mp4", 310, marks=pytest.mark.slow),
        ("vos_bike/JPEGImages/bike", 4),
    ],
)
def test_one_mask_a_frame_at_the_frame_s_size_in_constant_memory(tiny_checkpoint, tmp_path, video, frames):
    texts = ["the vehicle at the center", "the tree at the left"]
    # In a process of its own, as a user's run is: what a worker of many tests lets go, and when, would be counted too.
    asked = resident_along, DATA / video, texts, tiny_checkpoint, tmp_path / "out"
    resident = tiny.alone(*asked, as_users=False)  # how fast its program is does not matter here
    height, width = open_video(DATA / video).size
    for target in range(len(texts)):
        masks = sorted((tmp_path / "out" / "masks" / f"{target:02d}").iterdir())
        assert [path.name for path in masks] == [f"{t:05d}.png" for t in range(frames)]
        for path in masks[:: max(1, frames // 4)]:
            mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert mask.shape == (height, width)
            assert np.isin(mask, (0, 255)).all()
    assert len(resident) == frames
    if frames > 100:
        early, late = np.median(resident[60:100]), np.median(resident[-40:])
        # 200 frames held back by mistake would be 50 MB.
        assert late - early < 10e6, f"resident memory grew by {(late - early) / 1e6:.0f} MB over {frames} frames"
