"""Writes synthetic satellite video.

python -m mqc_jax.data.synthetic --output DIR --sequences N --seed S [--layout ref_youtube_vos|sat_mtb]
    [--split train|test] [--size HxW] [--frames N] [--disable clouds,noise] [--noise X] [--first N] [--workers N]
    [--scenes airport,harbour,roads] [--rivals all|moving] [--motion_words]
    [--clouds one|broken]
"""

from absl import flags

from mqc_jax.data.synthetic.planning import CLOUDS, DIFFICULTIES, RIVALS, SCENES
from mqc_jax.data.synthetic.write import parse_size, write_split
from mqc_jax.errors import UserError, run

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "folder to write the dataset under")
flags.DEFINE_integer("sequences", None, "number of sequences")
flags.DEFINE_integer("seed", 0, "the same seed gives the same bytes")
flags.DEFINE_string("layout", "ref_youtube_vos", "ref_youtube_vos or sat_mtb")
flags.DEFINE_string("split", "train", "train or test (hard on purpose)")
flags.DEFINE_string("size", None, "HxW in pixels for every sequence, as 512x640; by default each split's own sizes")
flags.DEFINE_integer("frames", None, "frames in every sequence; by default each split's own lengths")
flags.DEFINE_list("disable", [], f"difficulties to leave out, of: {', '.join(DIFFICULTIES)}, occlusion")
flags.DEFINE_float("noise", 1.0, "factor on the sensor noise that each sequence would have")
flags.DEFINE_integer("first", 0, "number of the first sequence; each is the same whatever else is written")
flags.DEFINE_list("scenes", list(SCENES), "scenes to write; sequences that show another are passed over")
flags.DEFINE_string(
    "rivals", "all", f"whom a sentence tells its object from, of: {', '.join(RIVALS)}; moving: it may fit what stands"
)
flags.DEFINE_bool("motion_words", False, "sentences say whether their object moves: the moving car, the stationary car")
flags.DEFINE_string("clouds", "one", f"what passes over a target that clouds are to hide, of: {', '.join(CLOUDS)}")
flags.DEFINE_integer("workers", None, "processes; all cores by default")


def main(argv: list[str]) -> int | None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --")
    if not FLAGS.output:
        raise UserError("--output is missing; give the folder to write the dataset under")
    if FLAGS.sequences is None:
        raise UserError("--sequences is missing; give the number of sequences to write")
    if FLAGS.workers is not None and FLAGS.workers < 1:
        raise UserError(f"workers={FLAGS.workers} must be at least 1")
    card = write_split(
        FLAGS.output,
        FLAGS.sequences,
        FLAGS.seed,
        FLAGS.split,
        FLAGS.layout,
        parse_size(FLAGS.size) if FLAGS.size is not None else None,
        FLAGS.frames,
        [name.strip() for name in FLAGS.disable if name.strip()],
        FLAGS.workers,
        noise=FLAGS.noise,
        first=FLAGS.first,
        scenes=[name.strip() for name in FLAGS.scenes if name.strip()],
        rivals=FLAGS.rivals,
        motion_words=FLAGS.motion_words,
        clouds=FLAGS.clouds,
    )
    print(
        f"{card['sequences']} sequences, {card['frames']} frames, {card['expressions']} expressions in {FLAGS.output}"
    )
    return None


if __name__ == "__main__":
    run(main)
