"""Who is in a scene and what happens to them: targets with the wished events, look-alikes, distractors, traffic."""

from dataclasses import dataclass, replace

import numpy as np

from mqc_jax.data.synthetic.degradations import Cloud
from mqc_jax.data.synthetic.motion import Track, parked
from mqc_jax.data.synthetic.plan import Actor
from mqc_jax.data.synthetic.scene import Lane, Scene
from mqc_jax.data.synthetic.silhouettes import LONGEST, SPEED, SUPERCLASS, draw
from mqc_jax.data.synthetic.vehicles import TRAIN_CAR

_MAX_OBJECTS = 200
_BROKEN = 4, 8  # clouds, the latter exclusive


@dataclass(frozen=True)
class Wishes:
    """The events that a sequence is to contain: `hidden` is "bridge", "cloud" or "", `start` "", "late" or "never"."""

    category: str
    hidden: str = ""
    start: str = ""
    leaves: bool = False
    look_alikes: bool = False
    distractors: bool = False


class Uncastable(Exception):
    """The scene has no place where the wishes can come true; the caller lays out another."""


def make_actor(rng: np.random.Generator, category: str, track: Track, level: int = 0, cars: int = 1) -> Actor:
    """An actor with a drawing of its own; its id is given when the cast is complete."""
    seed = int(rng.integers(2**31))
    drawing = draw(category, np.random.default_rng(seed))
    return Actor(0, category, seed, track, drawing.length, cars, level, drawing.colour)


def whole(actor: Actor) -> float:
    """Length in metres from the first part's nose to the last part's tail."""
    return actor.length + (actor.cars - 1) * TRAIN_CAR


class Casting:
    """Fills a scene for `frames` frames.

    Attributes:
      seconds_per_frame: chosen with the main target, so that it covers a visible stretch of the view.
    """

    def __init__(self, rng: np.random.Generator, scene: Scene, wishes: Wishes, frames: int, gsd: float):
        self.rng, self.scene, self.wishes, self.frames, self.gsd = rng, scene, wishes, frames, gsd
        self.half = np.asarray(scene.half)
        self.seconds_per_frame = 0.2
        self.actors: list[Actor] = []
        self._courses: list[np.ndarray] = []
        self._times = np.arange(0, frames + 4, 5)

    def inside(self, xy, margin: float = 0.0):
        """Whether points `[..., 2]` are in the view, at least `margin` metres from its edge."""
        return np.all(np.abs(xy) <= self.half - margin, axis=-1)

    def main(self) -> Actor:
        """The target that the wishes are about."""
        w, rng = self.wishes, self.rng
        cars = int(rng.integers(3, 9)) if w.category == "train" else 1
        if w.start == "never" and w.hidden != "bridge":
            spots = [s for s in self.scene.stands if w.category in s.classes and s.room >= 0.8 * LONGEST[w.category]]
            spots = [s for s in spots if self.inside((s.x, s.y), 0.6 * s.room + 12 * self.gsd)]
            if spots:
                s = spots[rng.integers(len(spots))]
                self.seconds_per_frame = rng.uniform(0.1, 0.25)
                actor = make_actor(rng, w.category, parked(s.x, s.y, s.heading), 0, min(cars, 3))
                self._add(actor)
                return actor
        lanes = [lane for lane in self.scene.lanes if w.category in lane.classes]
        if w.hidden == "bridge":
            lanes = [lane for lane in lanes if lane.crossings and lane.level == 0]
        for k in rng.permutation(len(lanes)):
            actor = self._on_lane(lanes[k], cars)
            if actor is not None:
                self._add(actor)
                return actor
        raise Uncastable(w)

    def _on_lane(self, lane: Lane, cars: int) -> Actor | None:
        w, rng, frames = self.wishes, self.rng, self.frames
        actor = make_actor(rng, w.category, parked(0, 0, 0), lane.level, cars)
        margin = 0.35 * actor.length + 14 * self.gsd
        s = np.arange(0, lane.path.length, 3.0)
        seen = np.flatnonzero(self.inside(lane.path.at(s), margin))
        if len(seen) < 4:
            return None
        runs = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)
        run = max(runs, key=len)
        low, high = s[run[0]], s[run[-1]]
        low = min(low + 0.5 * (cars - 1) * TRAIN_CAR, high)
        room = high - low
        if room < max(1.2 * actor.length, 0.25 * min(self.half)):
            return None
        start = int(frames * rng.uniform(0.22, 0.5)) if w.start == "late" else 0
        under_way = frames - start
        if w.start == "never":
            speed = 0.0
        else:
            pace = rng.uniform(*SPEED[w.category]) * lane.pace
            share = rng.uniform(0.35, 0.8) * (under_way / frames) ** 0.5
            self.seconds_per_frame = float(np.clip(share * room / (pace * under_way), 0.04, 0.5))
            speed = pace * self.seconds_per_frame
        track = Track(lane.path, 0.0, speed, start, int(min(12, 0.15 * frames)) if start else 0)
        travel = float(track.arc_at(frames - 1))
        if w.leaves:
            gone = int(start + under_way * rng.uniform(0.6, 0.85))
            beyond = self._exit(lane, high) + 0.6 * actor.length + (actor.cars - 1) * TRAIN_CAR + 12 * self.gsd
            origin = beyond - float(track.arc_at(gone))
        elif w.hidden == "bridge":
            crossing = [c for c in lane.crossings if low < c < high]
            if not crossing:
                return None
            at = int(start + under_way * rng.uniform(0.35, 0.7)) if speed else 0
            origin = crossing[rng.integers(len(crossing))] - float(track.arc_at(at)) + 0.5 * (cars - 1) * TRAIN_CAR
            if not speed:
                return None
        else:
            slack = max(0.0, room - travel)
            origin = low + rng.uniform(0, 1) * slack
        if not low <= origin <= high:
            return None
        return replace(actor, track=replace(track, origin=float(origin)))

    def _exit(self, lane: Lane, start: float) -> float:
        """The arc length at which a lane leaves the view after `start`."""
        s = np.arange(start, lane.path.length + 200, 2.0)
        outside = np.flatnonzero(~self.inside(lane.path.at(s)))
        return float(s[outside[0]]) if len(outside) else float(s[-1])

    def _add(self, actor: Actor) -> None:
        self.actors.append(actor)
        self._courses.append(_course(actor, self._times))

    def _clear(self, actor: Actor, gap: float) -> bool:
        """Whether an actor keeps away from the rest of the cast at all times, by a share `gap` of their lengths."""
        if not self.actors:
            return True
        need = gap * 0.5 * (whole(actor) + np.array([whole(other) for other in self.actors]))
        need[[other.level != actor.level for other in self.actors]] = 0
        apart = np.hypot(*np.moveaxis(np.stack(self._courses) - _course(actor, self._times), -1, 0))
        return bool((apart.min(1) >= need).all())

    def fill_stands(self, share: float) -> None:
        """Parks objects: at least three of the main target's class where look-alikes are wished, else none of it."""
        w, rng = self.wishes, self.rng
        order = rng.permutation(len(self.scene.stands))
        centre = [
            s
            for s in order
            if self.inside((self.scene.stands[s].x, self.scene.stands[s].y), 0.3 * self.scene.stands[s].room)
        ]
        quota = int(rng.integers(3, 7)) if w.look_alikes else 0
        placed = 0
        for k in centre:
            stand = self.scene.stands[k]
            if len(self.actors) >= _MAX_OBJECTS - 40:
                break
            fits = [
                c
                for c in stand.classes
                if LONGEST[c] <= 1.02 * stand.room or (c == w.category and stand.room >= 0.75 * LONGEST[c])
            ]
            others = [c for c in fits if c != w.category]
            if placed < quota and w.category in fits:
                category = w.category
            elif not others or rng.random() > share:
                continue
            elif w.look_alikes and w.category in fits and rng.random() < 0.35:
                category = w.category
            else:
                weights = np.array(
                    [1.0 if SUPERCLASS[c] != "car" else (9.0 if c == "small car" else 1.0) for c in others]
                )
                category = others[rng.choice(len(others), p=weights / weights.sum())]
            cars = int(rng.integers(2, 6)) if category == "train" else 1
            actor = make_actor(rng, category, parked(stand.x, stand.y, stand.heading), 0, cars)
            if self._clear(actor, 0.62 if SUPERCLASS[category] == "ship" else 0.8):
                self._add(actor)
                placed += category == w.category

    def add_traffic(self, count: int, same_class: bool) -> None:
        """Adds up to `count` moving objects on the lanes, in view at some time."""
        w, rng = self.wishes, self.rng
        lanes = self.scene.lanes
        for _ in range(4 * count):
            if count <= 0 or not lanes or len(self.actors) >= _MAX_OBJECTS:
                return
            lane = lanes[rng.integers(len(lanes))]
            kinds = [
                c for c in lane.classes if LONGEST[c] <= 1.3 * LONGEST[w.category] or SUPERCLASS[c] in ("car", "train")
            ]
            kinds = [c for c in kinds if same_class or c != w.category]
            if not kinds:
                continue
            weights = np.array([4.0 if c == "small car" else 1.0 for c in kinds])
            category = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
            cars = int(rng.integers(3, 9)) if category == "train" else 1
            speed = rng.uniform(*SPEED[category]) * lane.pace * self.seconds_per_frame
            s = rng.uniform(0, lane.path.length)
            middle = s + 0.5 * speed * self.frames
            if not (self.inside(lane.path.at(s)) or self.inside(lane.path.at(middle))):
                continue
            actor = make_actor(rng, category, Track(lane.path, float(s), float(speed)), lane.level, cars)
            if self._clear(actor, 1.0):
                self._add(actor)
                count -= 1

    def clutter(self) -> list[Actor]:
        """Vehicles that are painted but not annotated: service traffic, cars on a harbour's bridge."""
        rng, out = self.rng, []
        for lane in self.scene.clutter:
            for s in np.arange(rng.uniform(0, 60), lane.path.length, 60):
                if rng.random() < 0.4 and self.inside(lane.path.at(s), -40):
                    category = lane.classes[rng.integers(len(lane.classes))]
                    speed = rng.uniform(8, 14) * self.seconds_per_frame
                    out.append(
                        make_actor(rng, category, Track(lane.path, float(s + rng.uniform(0, 25)), speed), lane.level)
                    )
        return out

    def clouds(self, target: Actor, extra: int, broken: bool = False) -> tuple[Cloud, ...]:
        """With the wish, a cloud that passes over the target midway, or several small ones; and `extra` others."""
        rng, frames, short = self.rng, self.frames, float(min(self.half))
        out = []
        for k in range(extra + 1):
            aimed = k == 0
            if aimed and self.wishes.hidden != "cloud":
                continue
            if aimed and broken:
                out.extend(self._broken_clouds(target))
                continue
            long = whole(target)
            radius = max(1.2 * long, short * rng.uniform(0.3, 0.5)) if aimed else short * rng.uniform(0.2, 0.5)
            heading = rng.uniform(0, 2 * np.pi)
            # It must not cover the target in the first frame, which is all that the expression may use.
            pace = (1.35 * radius + 0.6 * long) / (0.4 * frames) * rng.uniform(1.0, 1.5)
            velocity = pace * np.array([np.cos(heading), np.sin(heading)])
            when = frames * rng.uniform(0.42, 0.75)
            x, y = target.track.pose(when, target.length, 0.5 * (target.cars - 1) * TRAIN_CAR)[:2]
            if aimed:
                mine = (np.array(_course(target, np.array([when]))[0]) - _course(target, np.array([0.0]))[0]) / when
                velocity = velocity + mine  # relative to the target it moves at `pace`
            where = np.array([x, y]) - velocity * when
            if not aimed:
                where = rng.uniform(-1.2, 1.2, 2) * self.half
            opacity = 0.97 if aimed else rng.uniform(0.35, 0.97)
            stretch, angle = rng.uniform(0.95, 1.3), rng.uniform(0, np.pi)
            cloud = Cloud(*map(float, (*where, *velocity, radius, opacity, stretch, angle)), int(rng.integers(2**31)))
            if aimed or self._begins_clear(cloud, target):
                out.append(cloud)
        return tuple(out)

    def _broken_clouds(self, target: Actor) -> list[Cloud]:
        """Fair-weather clouds about as large as the target, one wind carrying them over it one after another."""
        rng, frames, long = self.rng, self.frames, whole(target)
        count = int(rng.integers(*_BROKEN))
        size = max(0.5 * long, 14 * self.gsd)
        heading = rng.uniform(0, 2 * np.pi)
        # Relative to the target: each covers it for a part of the time until the next one comes.
        pace = (2 * size + 0.6 * long) / (0.5 * frames / count) * rng.uniform(0.7, 1.3)
        start, end = _course(target, np.array([0.0, frames - 1.0]))
        velocity = pace * np.array([np.cos(heading), np.sin(heading)]) + (end - start) / (frames - 1)
        out = []
        for k in range(count):
            when = frames * (0.12 + 0.85 * (k + rng.uniform(0.3, 0.7)) / count)
            where = _course(target, np.array([when]))[0] - velocity * when
            radius, opacity = size * rng.uniform(0.9, 1.8), rng.uniform(0.7, 0.97)
            shape = rng.uniform(0.95, 1.3), rng.uniform(0, np.pi)
            cloud = Cloud(*map(float, (*where, *velocity, radius, opacity, *shape)), int(rng.integers(2**31)))
            if self._begins_clear(cloud, target):
                out.append(cloud)
        return out

    def _begins_clear(self, cloud: Cloud, target: Actor) -> bool:
        """Whether a cloud leaves the target alone in the first frame, which is all that the expression may use."""
        start = _course(target, np.array([0.0]))[0]
        return bool(np.hypot(cloud.x - start[0], cloud.y - start[1]) > 1.4 * cloud.radius + whole(target))


def _course(actor: Actor, times: np.ndarray) -> np.ndarray:
    """Positions in metres `[T, 2]` of an actor's middle."""
    behind = 0.5 * (actor.cars - 1) * TRAIN_CAR
    return actor.track.path.at(actor.track.arc_at(times) - behind)
