"""Are targets found again after they were hidden? SAM2's memory, DAMI's, and DAMI's choices, on one set of videos.

    python benchmarks/occlusion.py --data_dir DATA --sam2 RUN_OR_CHECKPOINT --dami RUN_OR_CHECKPOINT

Every target starts from its true mask in the first frame that shows it, so that memory alone is compared, or with
`--start text` from its sentence. `recovered` is the share of gaps after which J reaches 0.5 within 5 frames; intervals
are a bootstrap over sequences (95 %). Rows other than the first two change one field of `DamiConfig` in the DAMI model,
without training again.
"""

import dataclasses

import numpy as np
from absl import flags

import mqc_jax
from mqc_jax.checkpoint import Model
from mqc_jax.data.source import Sequence, VideoSource, open_source
from mqc_jax.errors import UserError, run
from mqc_jax.metrics import RECALL_THRESHOLD, Reacquisition

_DATA_DIR = flags.DEFINE_string("data_dir", None, "The dataset's folder.")
_DATASET = flags.DEFINE_string("dataset", "ref_youtube_vos", "A TFDS name or a layout.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the dataset.")
_SAM2 = flags.DEFINE_string("sam2", None, "Checkpoint with SAM2's memory.")
_DAMI = flags.DEFINE_string("dami", None, "Checkpoint with DAMI's memory.")
_START = flags.DEFINE_enum("start", "mask", ["mask", "text"], "What a target starts from.")
_SEQUENCES = flags.DEFINE_integer("sequences", 0, "At most so many; 0: all.")

ABLATION = (
    {"ambiguity": "elsewhere"},
    {"ambiguity": "dam4sam"},
    {"confidence": "probability"},
    {"confidence": "none"},
    {"gain_percentile": 0.0},
    {"gain_percentile": 25.0},
    {"gain_percentile": 75.0},
    {"ambiguity_percentile": 5.0},
    {"ambiguity_percentile": 25.0},
    {"reliability": 1.0},
    {"gain_percentile": 0.0, "reliability": 1.0},
)


def follow(model: Model, source: VideoSource, index: int, sequence: Sequence) -> tuple[list[float], list[bool]]:
    """J of every frame that shows a target, and whether each gap was recovered, over a sequence's targets."""
    scores, recovered = [], []
    for expression in sequence.expressions:
        truths = [source.labels(index, t) for t in range(len(sequence.frame_names))]
        truths = [None if labels is None else expression.mask(labels) for labels in truths]
        first = next((t for t, truth in enumerate(truths) if truth is not None and truth.any()), None)
        if first is None:
            continue
        begin = {"masks": truths[first][None]} if _START.value == "mask" else {"texts": [expression.text]}
        tracker, gaps = mqc_jax.Tracker(model, **begin), Reacquisition()
        results = []
        for t in range(first, len(truths)):
            results += tracker.push(source.frame(index, t))
        results += tracker.finish()
        for truth, result in zip(truths[first:], results, strict=True):
            if truth is None:
                continue
            mask = result.masks[0]
            j = (mask & truth).sum() / (mask | truth).sum() if truth.any() else None
            gaps.add("target", j)
            if j is not None and result.frame_index:
                scores.append(float(j))
        summary = gaps.summary()
        hits = round((summary["share"] or 0) * summary["gaps"])
        recovered += [True] * hits + [False] * (summary["gaps"] - hits)
    return scores, recovered


def interval(groups: list[list[float]], paired: list[list[float]] | None = None) -> tuple[float, float, float]:
    """Mean over everything, or the difference of two means, and its bootstrap over sequences."""
    rng = np.random.default_rng(0)

    def mean(sets: list[list[float]], picked: np.ndarray) -> float:
        values = [v for k in picked for v in sets[k]]
        return float(np.mean(values)) if values else np.nan

    def value(picked: np.ndarray) -> float:
        return mean(groups, picked) - (mean(paired, picked) if paired else 0.0)

    draws = [value(rng.integers(0, len(groups), len(groups))) for _ in range(2000)]
    return value(np.arange(len(groups))), *np.nanquantile(draws, [0.025, 0.975])


def main(argv: list[str]) -> None:
    for name in ("data_dir", "sam2", "dami"):
        if not flags.FLAGS[name].value:
            raise UserError(f"--{name} is missing; see --help")
    source = open_source(_DATASET.value, _DATA_DIR.value, _SPLIT.value)
    sequences = list(enumerate(source.sequences))[: _SEQUENCES.value or None]
    sam2, dami = mqc_jax.load(_SAM2.value), mqc_jax.load(_DAMI.value)
    for model, memory in ((sam2, "sam2"), (dami, "dami")):
        if model.config.memory != memory:
            raise UserError(f"{model.path} has memory={model.config.memory!r}; give a checkpoint with {memory!r}")
    rows: list[tuple[str, Model]] = [
        ("sam2", sam2),
        ("dami", dami),
        ("dami's gates on the sam2 checkpoint", sam2.replace(memory="dami")),
    ]
    for change in ABLATION:
        config = dataclasses.asdict(dataclasses.replace(dami.config.dami, **change))
        rows.append((", ".join(f"{k}={v}" for k, v in change.items()), dami.replace(dami=config)))
    print(
        f"{len(sequences)} sequences, start from the {_START.value}; recovered: J >= {RECALL_THRESHOLD} within 5 frames"
    )
    base = None
    for name, model in rows:
        found = [follow(model, source, index, sequence) for index, sequence in sequences]
        scores, recovered = ([part[k] for part in found] for k in range(2))
        base = base or (scores, recovered)
        j, gaps = interval(scores), interval(recovered)
        more = interval(recovered, base[1]), interval(scores, base[0])
        print(
            f"{name:<40} J {j[0]:.3f} [{j[1]:.3f}, {j[2]:.3f}]  recovered {gaps[0]:.3f} [{gaps[1]:.3f}, {gaps[2]:.3f}]"
            f" of {sum(map(len, recovered))}; less sam2: J {more[1][0]:+.3f} [{more[1][1]:+.3f}, {more[1][2]:+.3f}],"
            f" recovered {more[0][0]:+.3f} [{more[0][1]:+.3f}, {more[0][2]:+.3f}]",
            flush=True,
        )


if __name__ == "__main__":
    run(main)
