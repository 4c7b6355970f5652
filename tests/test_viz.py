"""Overlays show the masks where they are, at any size; the report is one well-formed page; its memory is bounded."""

import html.parser
import re

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax import viz
from mqc_jax.curves import plot
from mqc_jax.history import MAX_BUCKETS, MAX_GAPS, Gallery, Series, TargetHistory, same_thing
from mqc_jax.memory_log import JUDGED, MemoryHistory
from mqc_jax.report import EMBED_BYTES, Facts, jpeg, page
from mqc_jax.viz_memory import memory_strip

SENTENCES = ["the yacht at the bottom-right", "the <b>train</b> & its shadow"]


def grey(height=120, width=160) -> np.ndarray:
    return np.full((height, width, 3), 100, np.uint8)


def box(size, top, left, height, width) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_overlay_changes_the_mask_and_its_rim_only():
    frame, mask = grey(), box((120, 160), 30, 40, 20, 30)
    picture = viz.overlay(frame, mask[None])
    changed = (picture != frame).any(-1)
    assert changed[mask].all()
    near = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))) > 0
    assert not changed[~near].any()
    middle = picture[40, 55].astype(int)
    assert np.abs(middle - (100 * 0.65 + np.array(viz.colour(0)) * 0.35)).max() <= 1


def test_targets_have_distinct_colours():
    assert len({viz.colour(i) for i in range(len(viz.COLOURS))}) == len(viz.COLOURS)
    assert viz.colour(len(viz.COLOURS)) == viz.colour(0)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(16, 300),
    st.integers(16, 300),
    st.integers(1, 7),
    st.randoms(use_true_random=False),
)
def test_a_painter_draws_anything_at_one_even_size(height, width, targets, random):
    painter = viz.Painter((height, width), ["the sentence " * random.randint(0, 12)] * targets, (64, 200))
    shapes = set()
    for index in range(3):
        corner = lambda: (random.randint(0, height), random.randint(0, width))  # noqa: E731
        extent = lambda: random.choices([0, 1, 9, 99], k=2)  # noqa: E731
        masks = np.stack([box((height, width), *corner(), *extent()) for _ in range(targets)])
        shapes.add(painter.paint(grey(height, width), masks, [0.5] * targets, index).shape)
    assert shapes == {painter.shape}
    assert painter.shape[0] % 2 == painter.shape[1] % 2 == 0


def test_a_tiny_target_gets_a_ring_and_an_inset_that_magnifies_it():
    size = (480, 640)
    frame = grey(*size)
    mask = box(size, 100, 120, 4, 5)
    frame[mask] = (255, 255, 255)
    painter = viz.Painter(size, ["the boat"])
    picture = painter.paint(frame, mask[None], [0.9], 0)[:480, :640]
    orange = (np.abs(picture.astype(int) - viz.colour(0)).max(-1) < 40).astype(np.uint8)
    assert orange[85:120, 100:145].sum() > 30, "no ring around the target"
    far = orange.copy()
    far[70:140, 80:180] = 0
    assert far.sum() > 300, "no inset elsewhere"
    x, y, width, height = cv2.boundingRect(far)
    inside = picture[y + 4 : y + height - 4, x + 4 : x + width - 4]
    assert (inside.min(-1) > 180).sum() > 20 * mask.sum(), "the inset does not magnify the bright target"


def test_the_inset_stays_in_its_corner_while_the_target_is_elsewhere():
    size = (480, 640)
    painter = viz.Painter(size, ["the boat"])
    corners = []
    for left in range(200, 400, 10):
        painter.paint(grey(*size), box(size, 200, left, 4, 5)[None], [0.9], 0)
        corners.append(painter._corner)
    assert len(set(corners)) == 1


def test_the_inset_never_covers_the_target():
    size = (480, 640)
    painter = viz.Painter(size, ["the boat"])
    for top, left in ((5, 5), (5, 630), (470, 5), (470, 630)):
        frame, mask = grey(*size), box(size, top, left, 4, 5)
        picture = painter.paint(frame, mask[None], [0.9], 0)
        patch = picture[max(top - 40, 0) : min(top + 40, 480), max(left - 40, 0) : min(left + 40, 640)]
        assert (patch == 100).all(-1).mean() > 0.4, "the neighbourhood of the target is not the frame's"


def test_large_and_scattered_masks_get_no_ring():
    size = (480, 640)
    scattered = box(size, 5, 5, 3, 3) | box(size, 470, 630, 3, 3)
    for mask in (scattered, box(size, 100, 100, 200, 200)):
        painter = viz.Painter(size, ["x"])
        painter.paint(grey(*size), mask[None], [0.9], 0)
        assert painter._lens == {}


def test_heat_map_is_brightest_where_the_value_is():
    values = np.zeros((30, 40), np.float32)
    values[10, 20] = 1
    picture = viz.heat_map(grey(), values).astype(int).sum(-1)
    y, x = np.unravel_index(picture.argmax(), picture.shape)
    assert abs(y - 42) <= 3
    assert abs(x - 82) <= 3


def test_strip_puts_times_side_by_side():
    columns = [[grey(), grey(60, 60)], [grey(), grey(60, 60)], [grey(), grey(60, 60)]]
    picture = viz.strip(columns, ["frame 0", "frame 7", "frame 14"], height=90)
    assert picture.shape[1] > 3 * 120
    assert picture.shape[0] > 2 * 90
    with pytest.raises(ValueError, match="one label a column"):
        viz.strip(columns, ["frame 0"])


# ---- what is remembered of a video -------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6 * MAX_BUCKETS), st.integers(0, 2**32 - 1))
def test_a_series_is_bounded_and_keeps_range_and_mean(count, seed):
    values = np.random.default_rng(seed).random(count)
    series = Series()
    for value in values:
        series.add(float(value))
    assert len(series.buckets) <= MAX_BUCKETS
    curve = series.curve()
    for first, low, mean, high in curve:
        part = values[int(first) : int(first) + series.stride]
        assert (low, high) == (part.min(), part.max())
        assert mean == pytest.approx(part.mean())
    assert len(curve) == -(-count // series.stride)


@given(st.integers(1, 500))
def test_a_gallery_is_bounded_and_even(count):
    gallery = Gallery(capacity=8)
    for index in range(count):
        if gallery.wants(index):
            gallery.add(index, b"")
    kept = [index for index, _ in gallery.pictures]
    assert len(kept) <= 8
    assert kept == list(range(0, count, gallery.stride))
    assert len(gallery.spread(4)) == min(4, len(kept))


@given(st.lists(st.booleans(), min_size=1, max_size=80))
def test_gaps_are_the_runs_without_the_target(visible):
    history = TargetHistory("it")
    for flag in visible:
        history.add(0.5, 3 if flag else 0, 100)
    text = "".join("x" if flag else "." for flag in visible)
    runs = [(m.start(1), m.end(1) if m.end(1) < len(text) else None) for m in re.finditer(r"(?<=x)(\.+)", text)]
    assert history.num_gaps == len(runs)
    assert history.gaps == runs[:MAX_GAPS]
    assert history.visible_frames == sum(visible)
    assert len(history.sentences()) == (text.strip("x") != "" or not any(visible))


def test_gaps_are_told_in_words():
    history = TargetHistory("the boat")
    for t in range(140):
        history.add(0.9, 0 if 120 <= t < 131 else 5, 100)
    assert history.sentences() == ["“the boat”: target lost at frame 120, found again at 131."]


def test_that_another_object_is_followed_is_told_in_words():
    history = TargetHistory("the boat")
    for t in range(40):
        history.add(0.9, 5, 100, 100 + t, rechosen=t in (24, 32))
    assert history.sentences() == [
        "“the boat”: from frame 124 and again from 132 on, another object is followed, which fits the sentence as well "
        "and set off then."
    ]
    assert history.summary()["changes"] == [124, 132]


def test_what_stood_there_before_is_told_in_words():
    history = TargetHistory("the boat")
    for t in range(40):
        history.add(0.9, 5, 100, 100 + t, stood=t in (30, 33))
    assert history.sentences() == [
        "“the boat”: in 2 frames, first in 130, the mask is of something that had stood there before, which was not "
        "followed."
    ]
    assert history.summary()["stood_frames"] == 2


def test_what_was_trimmed_is_told_in_words():
    history = TargetHistory("the boat")
    for t in range(40):
        history.add(0.9, 5, 100, trimmed=t == 30)
    assert history.sentences() == [
        "“the boat”: in one frame, first in 30, the mask had taken in something beside the target, and is shown no "
        "larger than it was."
    ]
    assert history.summary()["trimmed_frames"] == 1


# ---- the page ----------------------------------------------------------------------------------------------------


class Checker(html.parser.HTMLParser):
    VOID = ("meta", "img", "source", "br", "line", "polyline", "polygon", "circle")

    def __init__(self):
        super().__init__()
        self.open, self.images, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "img":
            self.images.append(values)
        self.links += [values[key] for key in ("src", "href") if key in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        pass


def facts(tmp_path, frames=30, video=b"0" * 100) -> Facts:
    targets = [TargetHistory(text) for text in SENTENCES]
    for _ in range(frames):
        targets[0].add(0.9, 7, 1000)
        targets[1].add(0.1, 0, 1000)
    overlay = tmp_path / "overlay.mp4"
    overlay.write_bytes(video)
    picture = jpeg(grey(), 100)
    return Facts(
        video={"path": "/x/clip.mp4", "width": 160, "height": 120, "fps": 10.0, "frames": frames},
        model={"image_size": 480, "parameters": 1234567},
        targets=targets,
        notes=["Frames are <odd>."],
        seconds={"read": 0.1, "track": 3.0, "draw and write": 0.2},
        warm_up=(2, 2.0),
        latency_frames=3,
        evidence=[("frame", None, picture), ("coarse", 0, picture), ("coarse", 1, picture), ("mask", None, picture)],
        pictures=[(0, picture), (20, picture)],
        overlay=overlay,
    )


def test_the_page_is_well_formed_self_contained_and_escaped(tmp_path):
    text = page(facts(tmp_path))
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert all(link.startswith("data:") for link in checker.links)
    assert all(image.get("alt") for image in checker.images)
    assert len(checker.images) == 6
    assert "<script" not in text
    assert "<b>train</b>" not in text
    assert "&lt;b&gt;train&lt;/b&gt; &amp; its shadow" in text
    assert "Frames are &lt;odd&gt;." in text
    assert "1,234,567" in text


def test_a_large_video_is_linked_instead(tmp_path):
    text = page(facts(tmp_path, video=b"0" * (EMBED_BYTES + 1)))
    assert "src='overlay.mp4'" in text
    assert len(text) < 1_000_000


@pytest.mark.parametrize("frames", [1, 2, 5000])
def test_pages_of_any_length_are_drawn(tmp_path, frames):
    text = page(facts(tmp_path, frames))
    assert "nan" not in text.lower().replace("nanjing", "")
    assert len(text) < 400_000


def test_a_plot_puts_values_where_they_belong():
    series = Series()
    for value in (0.0, 1.0, 0.5):
        series.add(value)
    drawn = plot("Presence", [("it", 0, series)], 1.0, percent=False)
    points = re.search(r"<polyline points='([^']*)'", drawn).group(1).split()
    ys = [float(point.split(",")[1]) for point in points]
    xs = [float(point.split(",")[0]) for point in points]
    assert ys[1] < ys[2] < ys[0]
    assert ys[2] == pytest.approx((ys[0] + ys[1]) / 2, abs=0.11)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.11)


def test_plots_and_strips_tell_the_frames_numbers(tmp_path):
    series = Series()
    for value in np.linspace(0, 1, 51):
        series.add(float(value))
    drawn = plot("Presence", [("it", 0, series)], 1.0, False, span=(100, 200), gaps=[(0, 120, 140), (0, 180, None)])
    ticks = dict(re.findall(r"<text x='([\d.]+)' y='\d+' class='tick mid'>(\d+)</text>", drawn))
    ticks = {int(number): float(x) for x, number in ticks.items()}
    points = [float(p.split(",")[0]) for p in re.search(r"<polyline points='([^']*)'", drawn).group(1).split()]
    assert ticks == {number: pytest.approx(points[(number - 100) // 2]) for number in range(100, 201, 20)}
    bands = [tuple(map(float, band)) for band in re.findall(r"<rect x='([\d.]+)' y='\d+' width='([\d.]+)'", drawn)]
    assert bands[0] == pytest.approx((ticks[120], ticks[140] - ticks[120]), abs=0.11)
    assert bands[1] == pytest.approx((ticks[180], ticks[200] - ticks[180]), abs=0.11)

    record = MemoryHistory()
    decision = {name: np.zeros(1) for name in ("confidence", "short_slot", "prototype_slot")}
    decision |= {name + end: np.zeros(1) for name in JUDGED for end in ("", "_threshold")}
    for _ in range(51):
        record.add({**decision, "mass": np.full((1, 3), 0.3)}, 0)
    pictures = [(0, grey()), (50, grey())]
    moved = [(number + 300, picture) for number, picture in pictures]
    told = memory_strip(pictures, record, "it")
    assert np.array_equal(told, memory_strip(pictures, record, "it", (0, 50)))
    shifted = memory_strip(moved, record, "it", (300, 350))
    assert np.array_equal(told[:-26], shifted[:-26]), "only the numbers below differ"
    assert not np.array_equal(told, shifted)


def test_the_evidence_is_in_rows_by_target_and_paths_stay_at_home(tmp_path):
    known = facts(tmp_path)
    known.model["checkpoint"] = "/home/anna/secret/best"
    text = page(known)
    assert "/home/anna" not in text
    assert "/x/" not in text
    section = text[text.index("How the first mask came about") : text.index("Visibility and size")]
    rows = section.split("<h3>")
    assert [row.count("<img") for row in rows] == [2, 1, 1]
    assert SENTENCES[0] in rows[1]


def test_two_sentences_for_one_thing_are_told():
    size = (120, 160)
    masks = np.stack([box(size, 10, 10, 20, 20), box(size, 10, 10, 20, 19), box(size, 60, 10, 20, 20)])
    (sentence,) = same_thing(masks, ["the car", "the van", "the bus"])
    assert sentence.startswith("“the car” and “the van” were taken for the same thing")
    assert "95%" in sentence
    assert same_thing(np.zeros((2, *size), bool), ["a", "b"]) == []


def test_speed_leaves_compilation_out(tmp_path):
    known = facts(tmp_path)
    assert known.frames_per_second == pytest.approx(1 / (0.1 / 30 + (3.0 - 2.0) / 28 + 0.2 / 30))
    assert "35.7 ms a frame" in page(known)
    short = facts(tmp_path, frames=2)
    assert short.frames_per_second == pytest.approx(1 / (0.05 + 1.5 + 0.1))
