"""From a seed and an index to a sequence's plan. The splits' make-up is decided here."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from mqc_jax.data.expressions import describe
from mqc_jax.data.synthetic.airport import plan_airport
from mqc_jax.data.synthetic.casting import Casting, Uncastable, Wishes
from mqc_jax.data.synthetic.degradations import Tone, illumination, jitter
from mqc_jax.data.synthetic.harbour import plan_harbour
from mqc_jax.data.synthetic.masks import Masks
from mqc_jax.data.synthetic.plan import Actor, Phrase, SequencePlan
from mqc_jax.data.synthetic.roads import plan_roads
from mqc_jax.data.synthetic.silhouettes import AIRCRAFT, CARS, LONGEST, SHIPS, SUPERCLASS, TRAINS
from mqc_jax.errors import UserError, nearest

SPLITS = ("train", "test")
SCENES = ("airport", "harbour", "roads")
"""What the scenes show. Harbours are open water, too, and railways are among the roads."""
RIVALS = ("all", "moving")
"""Whom a sentence must tell its object from."""
CLOUDS = ("one", "broken")
"""What passes over a target that clouds are to hide."""

_ATTEMPTS = 240
"""Layouts tried for a sequence. A short one whose target must vanish and come back may take a hundred."""

DIFFICULTIES = (
    "tiny",
    "weak_saliency",
    "look_alikes",
    "moving_distractors",
    "bridges",
    "clouds",
    "late_start",
    "static",
    "leaves_frame",
    "blur",
    "noise",
    "illumination",
    "jitter",
)
TINY = 0.003  # of the frame: the test split's median
HIDDEN = 0.25  # an object is tagged "occlusion" when at least this share of its pixels is hidden in some frame
LATE = 8  # frames at rest before an object counts as starting late

# (W, H) as the benchmark quotes them. Test: between 502x512 and 2160x1080.
_TEST_SIZES = (
    (502, 512), (512, 512), (640, 512), (720, 720), (800, 600),
    (1000, 800), (1024, 768), (1280, 720), (1600, 900), (2160, 1080),
)  # fmt: skip
_TRAIN_SIZES = ((512, 512), (448, 448), (512, 448), (576, 512), (640, 512), (512, 512), (640, 640), (800, 600))

# Silhouette areas in square metres, typical.
_AREA = {
    "wide_bodied_aircraft": 900, "narrow_bodied_aircraft": 340, "rear_engine_aircraft": 270,
    "four_engine_aircraft": 1150, "corporate_aircraft": 105, "speed_boat": 30, "yacht": 190,
    "cruise": 4600, "freighter": 3000, "naval_vessels": 1700, "other_ship": 450,
    "large car": 36, "small car": 10, "train": 430,
}  # fmt: skip
_PLANNERS = ((AIRCRAFT, plan_airport), (SHIPS, plan_harbour), ((*CARS, "small car", *TRAINS), plan_roads))


def _cycle(index: int, length: int, share: float, salt: int) -> bool:
    """True for `share` of every `length` consecutive indices, scattered, whatever the seed."""
    order = np.random.default_rng((salt, index // length)).permutation(length)
    return bool(order[index % length] < round(share * length))


def check_disabled(names: Iterable[str]) -> frozenset[str]:
    """The difficulties to leave out. "occlusion" stands for bridges and clouds.

    Raises:
      UserError: a name is unknown.
    """
    out = set()
    for name in names:
        if name == "occlusion":
            out |= {"bridges", "clouds"}
        elif name in DIFFICULTIES:
            out.add(name)
        else:
            known = (*DIFFICULTIES, "occlusion")
            raise UserError(f"unknown difficulty {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return frozenset(out)


def check_rivals(name: str) -> None:
    """Raises `UserError` where `name` is none of `RIVALS`."""
    if name not in RIVALS:
        raise UserError(f"unknown rivals {name!r}{nearest(name, RIVALS)}; known: {', '.join(RIVALS)}")


def check_clouds(name: str) -> None:
    """Raises `UserError` where `name` is none of `CLOUDS`."""
    if name not in CLOUDS:
        raise UserError(f"unknown clouds {name!r}{nearest(name, CLOUDS)}; known: {', '.join(CLOUDS)}")


def scene_of(index: int) -> str:
    """Which of `SCENES` sequence `index` shows, whatever its seed and split."""
    kinds = (0, 1, 2, 0, 1, 0, 2, 1, 0, 1)
    return SCENES[kinds[np.random.default_rng((22, index // 10)).permutation(10)[index % 10]]]


def plan_sequence(
    seed: int,
    index: int,
    split: str = "train",
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    disable: Iterable[str] = (),
    noise: float = 1.0,
    rivals: str = "all",
    motion_words: bool = False,
    clouds: str = "one",
) -> SequencePlan:
    """Plans sequence `index` of a split. It depends on these arguments alone, never on how many sequences there are.

    Args:
      seed: >= 0. The splits draw from streams of their own, so that one seed never gives both the same sequence.
      index: >= 0.
      split: "train" or "test".
      size: `(H, W)` in pixels, in place of the split's own sizes.
      frames: number of frames, in place of the split's own lengths.
      disable: names from `DIFFICULTIES` (and "occlusion") to leave out.
      noise: factor on the sensor noise that the sequence would have; everything else stays the same.
      rivals: "all": a sentence fits one object of the first frame alone. "moving": the pixels are the same, but what
        is the only one of its class in its cell that moves within the video is "the CLASS at the PLACE", although the
        sentence fits what stands there as well; only motion tells which is meant.
      clouds: "one" passes over a target that clouds are to hide, or several small ones one after another, "broken".
      motion_words: sentences say "the moving yacht" of what moves within the video, and "the stationary yacht" else.

    Raises:
      UserError: a value is out of range.
    """
    check_rivals(rivals)
    check_clouds(clouds)
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}{nearest(split, SPLITS)}; known: {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise UserError(f"seed={seed} and index={index} must not be negative")
    off = check_disabled(disable)
    for attempt in range(_ATTEMPTS):
        # The first word is the attempt's, so that a failed layout does not disturb the streams of other sequences.
        streams = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index, attempt)).spawn(8)
        plan = _attempt(streams, seed, index, split, size, frames, off, rivals, clouds, strict=attempt < 30)
        if plan is not None and motion_words:
            plan = replace(plan, phrases=tuple(_with_motion(plan, phrase) for phrase in plan.phrases))
        if plan is not None:
            return plan if noise == 1 else replace(plan, noise=plan.noise * noise)
    wanted = [f"size {size[0]}x{size[1]}"] if size else []
    wanted += [f"{frames} frames"] if frames else []
    raise UserError(
        f"sequence {index} of the {split} split cannot be planned with {' and '.join(wanted) or 'these settings'}; "
        "give a size between 128x128 and 4096x4096, more frames, or --disable late_start,leaves_frame,occlusion"
    )


def _wishes(rng, index: int, split: str, off: frozenset, category: str, scene: int) -> Wishes:
    test = split == "test"
    hidden = ""
    if _cycle(index, 10, 0.7 if test else 0.4, 11):
        bridged = (
            scene > 0 and category not in ("cruise", "freighter", "naval_vessels", "train") and "bridges" not in off
        )
        if bridged and (rng.random() < 0.65 or "clouds" in off):
            hidden = "bridge"
        elif "clouds" not in off:
            hidden = "cloud"
    start = ""
    if _cycle(index, 10, 0.5 if test else 0.3, 12):
        options = [o for o, name in (("late", "late_start"), ("never", "static")) if name not in off]
        options = [o for o in options if not (o == "never" and hidden == "bridge")]
        start = options[rng.integers(len(options))] if options else ""
    leaves = "leaves_frame" not in off and start != "never" and _cycle(index, 10, 0.3 if test else 0.15, 13)
    if leaves and test:
        hidden = ""  # one event at a time: what is hidden on its way out is hard to place
    leaves = leaves and not hidden
    look = "look_alikes" not in off and _cycle(index, 10, 0.8 if test else 0.55, 14)
    distract = "moving_distractors" not in off and _cycle(index, 10, 0.8 if test else 0.6, 15)
    return Wishes(category, hidden, start, leaves, look, distract)


def _class_and_scale(rng, off, split, size, kind: int) -> tuple[str, float]:
    """A fine class and a ground sample distance in m/px that give a target of the split's size."""
    classes = list(_PLANNERS[kind][0])
    pixels = size[0] * size[1]
    if "tiny" in off:
        low, high, scales = 0.004, 0.025, (0.22, 0.5)
    elif split == "test":
        low, high, scales = 8e-5, 0.0042, (0.5, 1.2)
    else:
        # Half of the training sequences are close views, from which a small model can learn the classes.
        close = rng.random() < 0.5
        low, high, scales = (1.5e-3, 0.018, (0.25, 0.6)) if close else (1.5e-4, 0.016, (0.32, 1.0))
    best = None
    for _ in range(60):
        category = classes[rng.integers(len(classes))]
        gsd = rng.uniform(*scales)
        share = _AREA[category] / gsd**2 / pixels
        length = LONGEST[category] / gsd
        if low <= share <= high and length < 0.42 * min(size) and _AREA[category] / gsd**2 >= 25:
            return category, gsd
        miss = max(low / share, share / high, length / (0.42 * min(size)))
        if best is None or miss < best[0]:
            best = (miss, category, gsd)
    return best[1], best[2]


def _attempt(streams, seed, index, split, size, frames, off, rivals, clouds, strict) -> SequencePlan | None:
    rngs = [np.random.default_rng(s) for s in streams]
    rng, layout, cast_rng, sky, platform, light, look, noise = rngs
    test = split == "test"
    sizes = _TEST_SIZES if test else _TRAIN_SIZES
    if size is None:
        w, h = sizes[np.random.default_rng((21, index // len(sizes))).permutation(len(sizes))[index % len(sizes)]]
        size = (h, w)
    if frames is None:
        frames = int(rng.integers(60, 151)) if test else int(rng.integers(24, 81))
    kind = SCENES.index(scene_of(index))
    category, gsd = _class_and_scale(rng, off, split, size, kind)
    wishes = _wishes(rng, index, split, off, category, kind)
    half = (size[1] * gsd / 2, size[0] * gsd / 2)
    azimuth, slant = layout.uniform(0, 2 * np.pi), layout.uniform(0.45, 1.1)
    sun = (float(slant * np.cos(azimuth)), float(slant * np.sin(azimuth)))
    extra = {}
    if kind:
        extra["bridge"] = True if wishes.hidden == "bridge" else (False if "bridges" in off else None)
    scene = _PLANNERS[kind][1](layout, half, sun, category, float(LONGEST[category]), **extra)
    casting = Casting(cast_rng, scene, wishes, frames, gsd)
    try:
        main = casting.main()
    except Uncastable:
        return None
    casting.fill_stands(cast_rng.uniform(0.25, 0.8))
    roads = kind == 2
    if wishes.distractors:
        density = np.prod(half) / (9000 if roads else 60000)
        casting.add_traffic(int(np.clip(density, 1, 28 if roads else 6)), "look_alikes" not in off)
    actors = [replace(a, object_id=i + 1) for i, a in enumerate(casting.actors)] + casting.clutter()
    thin = 0 if "clouds" in off else int(sky.choice([0, 0, 1, 2])) * (wishes.hidden == "cloud" or sky.random() < 0.2)
    plan = SequencePlan(
        name=f"{split}_{index:05d}",
        split=split,
        seed=seed,
        index=index,
        entropy=int(noise.integers(2**62)),
        size=size,
        frames=frames,
        gsd=gsd,
        scene=scene,
        actors=tuple(actors),
        camera=np.zeros((frames, 3)) if "jitter" in off else jitter(platform, frames),
        exposure=np.ones(frames) if "illumination" in off else illumination(light, frames),
        tone=_tone(look, weak := "weak_saliency" not in off and _cycle(index, 10, 0.4 if test else 0.25, 16)),
        clouds=casting.clouds(main, thin, clouds == "broken") if "clouds" not in off else (),
        blur=0.0 if "blur" in off else float(look.uniform(0.55, 1.0)),
        noise=0.0 if "noise" in off else float(look.uniform(1.2, 3.2)),
        saliency=float(look.uniform(0.45, 0.7)) if weak else 1.0,
        seconds_per_frame=casting.seconds_per_frame,
    )
    return _name_targets(plan, wishes, off, rivals, strict)


def _tone(rng: np.random.Generator, weak: bool) -> Tone:
    cast = np.array([0.97, 1.0, 1.03]) + rng.normal(0, 0.018, 3)
    contrast, lift = rng.uniform(0.82, 0.95), rng.uniform(10, 24)
    if weak:
        contrast, lift = contrast * rng.uniform(0.6, 0.75), lift + rng.uniform(22, 40)
    return Tone(float(contrast), float(lift), tuple(map(float, cast)), float(rng.uniform(0.85, 1.0)))


def _name_targets(plan: SequencePlan, wishes: Wishes, off: frozenset, rivals: str, strict: bool) -> SequencePlan | None:
    """Writes expressions and tags from the truth itself; None where the wished events did not come about."""
    masks = Masks(plan)
    first = masks.labels(0)
    colours = {a.object_id: a.colour for a in plan.actors if a.object_id and a.colour and plan.saliency == 1}
    named = {d.object_id: d.text for d in describe(first, plan.categories, colours)}
    if 1 not in named or np.count_nonzero(first == 1) < 6:
        return None
    main = _observe(plan, masks, 0, first)
    wished = {"occlusion": bool(wishes.hidden), "leaves_frame": wishes.leaves, "look_alikes": wishes.look_alikes}
    if strict and any(asked and tag not in main[1] for tag, asked in wished.items()):
        return None
    if any(tag in off for tag in main[1]) or (
        "tiny" not in off and plan.split == "test" and "tiny" not in main[1] and strict
    ):
        return None
    if {"bridges", "clouds"} <= off and "occlusion" in main[1]:
        return None
    if rivals == "moving":  # only now: which layout is taken must not depend on it
        movers = {a.object_id: a.category for a in plan.actors if a.object_id and not a.is_static}
        named |= {d.object_id: d.text for d in describe(first, movers) if not d.attribute}
    chosen = {1: main}
    budget = 3 if plan.split == "test" else 5
    moving = [a for a in plan.actors[1:] if a.object_id in named and not a.is_static]
    still = [a for a in plan.actors[1:] if a.object_id in named and a.is_static and a.category == wishes.category]
    for actor in [*moving[:6], *still[: 1 if plan.split == "test" else 3]]:
        if len(chosen) >= budget or np.count_nonzero(first == actor.object_id) < 8:
            continue
        seen = _observe(plan, masks, actor.object_id - 1, first)
        if any(tag in off for tag in seen[1]) or ({"bridges", "clouds"} <= off and "occlusion" in seen[1]):
            continue
        if plan.split == "test" and "occlusion" not in seen[1]:  # the others are too easy
            continue
        chosen[actor.object_id] = seen
    phrases = tuple(Phrase(named[i], i) for i in chosen)
    object_tags = {}
    for actor in plan.actors:
        if actor.object_id:
            object_tags[actor.object_id] = (
                chosen[actor.object_id][1] if actor.object_id in chosen else _motion_tags(actor)
            )
    tags = {tag for i in chosen for tag in object_tags[i]}
    for tag, present in (
        ("weak_saliency", plan.saliency < 1), ("clouds", bool(plan.clouds)), ("bridges", bool(plan.scene.decks)),
        ("blur", plan.blur > 0), ("noise", plan.noise > 0), ("illumination", bool(np.ptp(plan.exposure) > 0)),
        ("jitter", bool(plan.camera.any())),
    ):  # fmt: skip
        if present:
            tags.add(tag)
    areas = {i: seen[0] for i, seen in chosen.items()}
    return replace(plan, phrases=phrases, object_tags=object_tags, tags=tuple(sorted(tags)), areas=areas)


def _with_motion(plan: SequencePlan, phrase: Phrase) -> Phrase:
    still = "static" in plan.object_tags[phrase.object_id]
    return replace(phrase, text=phrase.text.replace("the ", "the stationary " if still else "the moving ", 1))


def _motion_tags(actor: Actor) -> tuple[str, ...]:
    if actor.is_static:
        return ("static",)
    return ("late_start",) if actor.track.start_frame >= LATE else ()


def _observe(plan: SequencePlan, masks: Masks, k: int, first: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Visible pixels of actor `k` in every frame, and its tags as the truth shows them."""
    actor = plan.actors[k]
    area = np.zeros(plan.frames, np.int64)
    tags = set(_motion_tags(actor))
    for t in range(plan.frames):
        parts = masks.visible(k, t)
        area[t] = sum(int(mask.sum()) for _, mask, _ in parts)
        whole = sum(n for _, _, n in parts)
        if whole >= 4 and area[t] <= (1 - HIDDEN) * whole:
            tags.add("occlusion")
        if whole == 0 and t:
            tags.add("leaves_frame")
    seen = area[area > 0]
    if np.median(seen) <= TINY * plan.size[0] * plan.size[1]:
        tags.add("tiny")
    shown = set(np.unique(first).tolist())
    kin = [a for a in plan.actors if a.object_id in shown and a.object_id != actor.object_id and a.object_id]
    if any(a.is_static and a.category == actor.category for a in kin):
        tags.add("look_alikes")
    if any(not a.is_static and SUPERCLASS[a.category] == SUPERCLASS[actor.category] for a in kin):
        tags.add("moving_distractors")
    return area, tuple(sorted(tags))
