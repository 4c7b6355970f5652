"""The dataset card: one HTML page about a build, with no scripts and nothing fetched (the paper's Figure 2 for it)."""

import base64
import collections
import html
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import cv2
import numpy as np

from mqc_jax import __version__
from mqc_jax.data import sat_mtb
from mqc_jax.data.expressions import class_phrase
from mqc_jax.data.images import decode_frame
from mqc_jax.errors import UserError

PICTURE_WIDTH = 420
EXTREMES = 3  # pictures a row
_CELLS = (("top-left", "top", "top-right"), ("left", "center", "right"), ("bottom-left", "bottom", "bottom-right"))
_SIZES = (0.0, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 1.0)  # shares of the frame
_STYLE = """
:root { --ink: #1d2730; --soft: #5d6b78; --line: #d9e0e6; --bar: #2f6f9f; --test: #d9822b; --paper: #fff }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1180px; padding: 32px 24px 64px; color: var(--ink); background: var(--paper);
  font: 15px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 28px } h2 { margin: 40px 0 12px; font-size: 19px } h3 { margin: 20px 0 8px; font-size: 15px }
p { margin: 6px 0; max-width: 78ch } .soft { color: var(--soft) }
.facts { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 }
.fact { border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; min-width: 130px }
.fact b { display: block; font-size: 24px; line-height: 1.2 } .fact span { color: var(--soft); font-size: 13px }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 8px 40px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 3px 8px 3px 0; border-bottom: 1px solid var(--line); font-weight: normal }
th { color: var(--soft); font-size: 13px } td.n, th.n { text-align: right }
.bars td { border: 0; padding: 2px 8px 2px 0; white-space: nowrap } .bars td.track { width: 60% }
.bar { display: flex; height: 14px } .bar i { background: var(--bar) } .bar i.test { background: var(--test) }
.key i { display: inline-block; width: 11px; height: 11px; margin: 0 4px 0 12px; background: var(--bar) }
.key i.test { background: var(--test) }
.grid { display: grid; grid-template-columns: repeat(3, 1fr); gap: 4px; max-width: 330px }
.grid div { padding: 16px 4px; text-align: center; border-radius: 4px; border: 1px solid var(--line) }
.grid b { display: block; font-size: 18px } .grid span { font-size: 12px }
.pictures { display: grid; grid-template-columns: repeat(3, 1fr); gap: 16px } figure { margin: 0 }
figure img { width: 100%; border-radius: 6px; display: block }
figcaption { margin-top: 4px; font-size: 13px; color: var(--soft) }
.words span { display: inline-block; margin: 0 12px 4px 0; white-space: nowrap }
.wide { max-height: 480px; overflow: auto; border: 1px solid var(--line); border-radius: 6px; padding: 0 12px }
"""


def card_html(record: dict[str, Any], raw: Mapping[str, sat_mtb.RawSequence]) -> str:
    """The page about a build.

    Args:
      record: what build.json holds.
      raw: SAT-MTB's sequences by name; the first frames of the extremes are read from them.
    """
    sequences = record["sequences"]
    kept = [s for s in sequences if s["kept"]]
    targets = [t | {"split": s["split"], "frame": s["size"]} for s in kept for t in s["targets"]]
    both = ("train", "test")
    of = {split: [s for s in kept if s["split"] == split] for split in both}
    facts = (
        (len(kept), f"sequences: {len(of['train'])} train, {len(of['test'])} test"),
        (sum(s["n_frames"] for s in kept), "frames"),
        (len(targets), "expressions"),
        (sum(t["n_frames"] for t in targets), "masks of named targets"),
        (sum(s["n_masks"] for s in kept), "masks of all objects"),
        (len({t["category"] for t in targets}), "fine classes named"),
    )
    key = '<p class="key soft"><i></i>train<i class="test"></i>test</p>'
    weights = record["options"]["weights"]
    parts = [
        "<h1>RS-RVOS Bench</h1>",
        f'<p class="soft">Built from SAT-MTB by mqc_jax {_text(__version__)}. Every sentence is about the first frame '
        "alone: a cell of a 3x3 grid and a fine class.</p>",
        f'<div class="facts">{"".join(f"<div class=fact><b>{n:,}</b><span>{_text(w)}</span></div>" for n, w in facts)}'
        "</div>",
        key,
        '<div class="columns"><div><h2>Classes of the targets</h2>',
        _bars(_count((class_phrase(t["category"]), t["split"]) for t in targets)),
        "</div><div><h2>Resolutions (width x height)</h2>",
        _bars(_count((f"{s['size'][1]}x{s['size'][0]}", s["split"]) for s in kept)),
        "</div><div><h2>Where targets are in the first frame</h2>",
        _grid(collections.Counter(t["cell"] for t in targets)),
        "</div><div><h2>Target sizes (median area, share of the frame)</h2>",
        _bars(_sizes(targets), ordered=True),
        "</div></div>",
        "<h2>Visual Discriminability Score</h2>",
        f"<p>VDS = {weights['contrast']:g} contrast - {weights['density']:g} density - {weights['blur']:g} blur, each "
        f"term normalised over the {sum(s['vds'] is not None for s in sequences)} candidates.</p>",
        _histogram(sequences),
        *_extremes(sequences, raw),
        "<h2>Words used</h2>",
        _words(t["text"] for t in targets),
        "<h2>Candidates</h2>",
        _table(sequences),
    ]
    if record["problems"]:
        rows = "".join(f"<li>{_text(problem)}</li>" for problem in record["problems"])
        parts.append(f"<h2>Left out ({len(record['problems'])})</h2><ul>{rows}</ul>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>RS-RVOS Bench: dataset card</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _count(pairs: Iterable[tuple[str, str]]) -> dict[str, collections.Counter]:
    counts: dict[str, collections.Counter] = {}
    for name, split in pairs:
        counts.setdefault(name, collections.Counter())[split] += 1
    return counts


def _sizes(targets: list[dict]) -> dict[str, collections.Counter]:
    names = [f"{_percent(low)} to {_percent(high)}" for low, high in itertools.pairwise(_SIZES)]
    names[0], names[-1] = f"below {_percent(_SIZES[1])}", f"above {_percent(_SIZES[-2])}"
    counts = {name: collections.Counter() for name in names}
    for target in targets:
        counts[names[int(np.searchsorted(_SIZES[1:-1], target["area"], side="right"))]][target["split"]] += 1
    return counts


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _bars(counts: dict[str, collections.Counter], ordered: bool = False) -> str:
    names = list(counts) if ordered else sorted(counts, key=lambda name: (-sum(counts[name].values()), name))
    most = max((sum(c.values()) for c in counts.values()), default=0) or 1
    rows = []
    for name in names:
        train, test = counts[name]["train"], counts[name]["test"]
        widths = "".join(
            f'<i class="{split}" style="width:{100 * n / most:.2f}%"></i>'
            for split, n in (("train", train), ("test", test))
        )
        rows.append(
            f'<tr><td>{_text(name)}</td><td class="track"><div class="bar">{widths}</div></td>'
            f'<td class="n">{train + test}</td></tr>'
        )
    return f'<table class="bars">{"".join(rows)}</table>'


def _grid(cells: collections.Counter) -> str:
    most = max(cells.values(), default=0) or 1
    boxes = []
    for name in (name for row in _CELLS for name in row):
        share = cells[name] / most
        ink = "#fff" if share > 0.55 else "var(--ink)"
        boxes.append(
            f'<div style="background:rgba(47,111,159,{share:.2f});color:{ink}"><b>{cells[name]}</b>'
            f"<span>{name}</span></div>"
        )
    return f'<div class="grid">{"".join(boxes)}</div>'


def _histogram(sequences: list[dict]) -> str:
    """Every candidate as a tick on the axis of its score, kept ones above the line and dropped ones below."""
    scored = [s for s in sequences if s["vds"] is not None]
    low, high = min(s["vds"] for s in scored), max(s["vds"] for s in scored)
    spread = (high - low) or 1.0
    marks = []
    for s in scored:
        x = 20 + 960 * (s["vds"] - low) / spread
        y, colour = (12, "#d9822b" if s["split"] == "test" else "#2f6f9f") if s["kept"] else (44, "#9aa5af")
        name = _text(f"{s['name']}: {s['vds']:.3f}")
        marks.append(
            f'<rect x="{x - 1.5:.1f}" y="{y}" width="3" height="24" rx="1.5" fill="{colour}">'
            f"<title>{name}</title></rect>"
        )
    labels = "".join(
        f'<text x="{20 + 960 * share:.0f}" y="90" text-anchor="{anchor}" font-size="13" fill="#5d6b78">'
        f"{low + spread * share:.2f}</text>"
        for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end"))
    )
    return (
        '<svg viewBox="0 0 1000 96" width="100%" role="img" aria-label="scores"><line x1="20" x2="980" y1="40" y2="40" '
        f'stroke="#d9e0e6"/>{"".join(marks)}{labels}</svg><p class="soft">One tick a candidate: above the line what is '
        "kept (blue train, orange test), below it what is not.</p>"
    )


def _extremes(sequences: list[dict], raw: Mapping[str, sat_mtb.RawSequence]) -> list[str]:
    ranked = sorted((s for s in sequences if s["vds"] is not None), key=lambda s: (-s["vds"], s["name"]))
    kept, dropped = [s for s in ranked if s["kept"]], [s for s in ranked if not s["kept"]]
    rows = [("Highest scores", kept[:EXTREMES])]
    low = [s for s in kept[-EXTREMES:] if s not in kept[:EXTREMES]]
    rows += [("Lowest scores that are kept", low), ("Lowest scores of all, not kept", dropped[-EXTREMES:])]
    parts = []
    for title, members in rows:
        if members:
            figures = "".join(_figure(s, raw[s["name"]]) for s in members)
            parts.append(f'<h3>{title}</h3><div class="pictures">{figures}</div>')
    return parts


def _figure(entry: dict, raw: sat_mtb.RawSequence) -> str:
    number, ids = entry["first"]
    caption = (
        f"<b>{_text(entry['name'])}</b> {entry['vds']:.3f}: contrast {entry['contrast']:.3f}, density "
        f"{entry['density']:.1f}, sharpness {entry['sharpness']:.0f}"
    )
    try:
        path = raw.images[number]
        image = decode_frame(path.read_bytes(), str(path))
        outlines = sat_mtb.read_segmentation(raw.segmentations[number]).outlines
    except (OSError, UserError) as error:
        return f"<figure><figcaption>{caption}<br>{_text(error)}</figcaption></figure>"
    scale = min(1.0, PICTURE_WIDTH / image.shape[1])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for outline, _ in zip(outlines, ids, strict=True):
        for polygon in outline.polygons:
            points = np.rint(polygon * scale).astype(np.int32)
            cv2.polylines(small, [points], True, (255, 210, 0), 1, cv2.LINE_AA)
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 85))[1]
    picture = base64.b64encode(data.tobytes()).decode()
    alt = _text(f"first frame of {entry['name']}")
    return (
        f'<figure><img alt="{alt}" src="data:image/jpeg;base64,{picture}"><figcaption>{caption}</figcaption></figure>'
    )


def _words(texts: Iterable[str]) -> str:
    counts = collections.Counter(word for text in texts for word in re.findall(r"[\w-]+", text.lower()))
    spans = "".join(f"<span>{_text(word)} <b>{n}</b></span>" for word, n in sorted(counts.items(), key=lambda x: -x[1]))
    return f'<p class="words" style="max-width:none">{spans}</p>'


def _table(sequences: list[dict]) -> str:
    head = ("sequence", "split", "VDS", "contrast", "density", "sharpness", "size", "frames", "objects", "expressions")
    rows = []
    for s in sorted(sequences, key=lambda s: (s["vds"] is None, -(s["vds"] or 0), s["name"])):
        split = s["split"] or ("unreadable" if s["vds"] is None else "not kept")
        size = f"{s['size'][1]}x{s['size'][0]}" if s["size"] else ""
        cells = (s["name"], split, "" if s["vds"] is None else f"{s['vds']:.3f}", f"{s['contrast']:.3f}",
                 f"{s['density']:.1f}", f"{s['sharpness']:.0f}", size, s["n_frames"], s["n_objects"],
                 len(s["targets"]))  # fmt: skip
        rows.append("<tr>" + "".join(_cell("td", k, cell) for k, cell in enumerate(cells)) + "</tr>")
    top = "".join(_cell("th", k, name) for k, name in enumerate(head))
    return f'<div class="wide"><table><tr>{top}</tr>{"".join(rows)}</table></div>'


def _cell(tag: str, column: int, value: Any) -> str:
    return f"<{tag}{' class=n' if column > 1 else ''}>{_text(value)}</{tag}>"
