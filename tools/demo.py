"""One synthetic satellite clip and a sentence, segmented end to end with the checkpoint that ships.

python tools/demo.py --output demo
"""

import json
import subprocess
import sys
from pathlib import Path

from absl import flags

from mqc_jax.errors import UserError, run

_OUTPUT = flags.DEFINE_string("output", "demo", "Folder for the clip (clip/) and the results (result/).")
_SEED = flags.DEFINE_integer("seed", 25, "Seed of the clip; any whole number gives another one.")
_FIRST = flags.DEFINE_integer("first", 5, "Number of the seed's sequence; the default's target passes under a cloud.")
_FRAMES = flags.DEFINE_integer("frames", 40, "Length of the clip.", lower_bound=1)


def _python(*arguments: str) -> None:
    command = [sys.executable, "-m", *arguments]
    print("$ python", " ".join(command[1:]), flush=True)
    if subprocess.run(command).returncode:
        raise UserError(f"the command above failed; run it by itself: python -m {' '.join(arguments)}")


def main(argv: list[str]) -> None:
    clip, result = Path(_OUTPUT.value) / "clip", Path(_OUTPUT.value) / "result"
    _python(
        *("mqc_jax.data.synthetic", "--output", str(clip), "--sequences", "1", "--seed", str(_SEED.value)),
        *("--first", str(_FIRST.value), "--size", "448x448", "--frames", str(_FRAMES.value)),
        # The sentence is about the first frame, and the demo's target stays to be seen.
        *("--disable", "late_start,leaves_frame"),
    )
    listing = json.loads((clip / "meta_expressions" / "train" / "meta_expressions.json").read_text())
    name, video = next(iter(listing["videos"].items()))
    sentence = next(iter(video["expressions"].values()))["exp"]
    frames = clip / "train" / "JPEGImages" / name
    _python("mqc_jax.predict", "--video", str(frames), "--text", sentence, "--output", str(result))


if __name__ == "__main__":
    run(main)
