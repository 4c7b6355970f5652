"""The dataset card: what a split holds, counted from its truth."""

from collections import Counter

import numpy as np

VERSION = "1.0.0"  # raised when equal seeds no longer give equal bytes
_OBJECT_TAGS = ("tiny", "look_alikes", "moving_distractors", "occlusion", "late_start", "static", "leaves_frame")
_MEANING = {
    "tiny": "median visible area at most 0.3 % of the frame",
    "look_alikes": "an object of the same fine class that never moves is in view in the first frame",
    "moving_distractors": "another moving object of the same superclass is in view in the first frame",
    "occlusion": "at least a quarter of it is hidden by a bridge or a cloud in some frame",
    "late_start": "it rests for at least 8 frames, then moves",
    "static": "it never moves",
    "leaves_frame": "it is wholly outside the frame in some later frame",
    "weak_saliency": "haze, low contrast, and objects that keep 45 to 70 % of their contrast with their ground",
    "clouds": "clouds drift through the sequence",
    "bridges": "a bridge or an overpass is in the scene",
    "blur": "point-spread blur",
    "noise": "sensor noise",
    "illumination": "the exposure drifts",
    "jitter": "the platform drifts and vibrates",
}

_NAMED = {
    "all": "Every expression names exactly one object of the first frame.",
    "moving": "Of what moves, every expression names one object of the first frame alone; what stands may fit as well.",
}


def make_card(sequences: list[dict], split: str, seed: int, options: dict) -> dict:
    """Counts a split. `sequences` are summaries (see `layouts.summary`)."""
    targets = [t for s in sequences for t in s["targets"].values()]
    areas = np.array([t["area"] for t in targets])
    share = lambda names, items: round(sum(bool(set(names) & set(i["tags"])) for i in items) / len(items), 4)  # noqa: E731
    tags = sorted({t for s in sequences for t in s["tags"]})
    return {
        "generator": "mqc_jax.data.synthetic",
        "version": VERSION,
        "seed": seed,
        "split": split,
        "options": options,
        "sequences": len(sequences),
        "frames": sum(s["frames"] for s in sequences),
        "frames_per_sequence": [min(s["frames"] for s in sequences), max(s["frames"] for s in sequences)],
        "objects": sum(len(s["objects"]) for s in sequences),
        "targets": len(targets),
        "expressions": sum(len(s["expressions"]) for s in sequences),
        "sizes_wh": dict(sorted(Counter(f"{s['size'][1]}x{s['size'][0]}" for s in sequences).items())),
        "scenes": dict(sorted(Counter(s["scene"] for s in sequences).items())),
        "target_classes": dict(sorted(Counter(t["category"] for t in targets).items())),
        "target_area_percentiles": {str(q): round(float(np.percentile(areas, q)), 6) for q in (5, 25, 50, 75, 95)},
        "share_of_targets": {tag: share([tag], targets) for tag in _OBJECT_TAGS}
        | {"late_start_or_static": share(["late_start", "static"], targets)},
        "share_of_sequences": {tag: share([tag], sequences) for tag in tags},
        "per_sequence": [{k: s[k] for k in s if k != "objects"} | {"objects": len(s["objects"])} for s in sequences],
    }


def card_text(card: dict) -> str:
    """The card as Markdown."""
    percent = lambda x: f"{100 * x:.3g} %"  # noqa: E731
    table = lambda d: "\n".join(f"| {k} | {v} |" for k, v in d.items())  # noqa: E731
    shares = {k: percent(v) for k, v in card["share_of_targets"].items()}
    sequence_shares = {k: percent(v) for k, v in card["share_of_sequences"].items()}
    low, high = card["frames_per_sequence"]
    return f"""# Synthetic satellite video, split `{card["split"]}`

Made by `{card["generator"]}` version {card["version"]} with seed {card["seed"]}. Options: {card["options"] or "none"}.
The same seed gives the same bytes, and sequence i is the same whatever the number of sequences.

| what | how many |
|---|---|
| sequences | {card["sequences"]} |
| frames | {card["frames"]} ({low} to {high} a sequence) |
| annotated objects | {card["objects"]} |
| targets (objects that an expression names) | {card["targets"]} |
| expressions | {card["expressions"]} |

Truth is the visible mask of each object in each frame. {_NAMED[card["options"].get("rivals", "all")]}

## Area of a target (median over its visible frames, share of the frame)
| percentile | area |
|---|---|
{table({k: percent(v) for k, v in card["target_area_percentiles"].items()})}

## Share of targets
| tag | share |
|---|---|
{table(shares)}

## Share of sequences
| tag | share |
|---|---|
{table(sequence_shares)}

## What the tags mean
| tag | meaning |
|---|---|
{table(_MEANING)}

## Sizes (W x H), scenes, classes of the targets
| what | how many |
|---|---|
{table(card["sizes_wh"])}
{table(card["scenes"])}
{table(card["target_classes"])}
"""
