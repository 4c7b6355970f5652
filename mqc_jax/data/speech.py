"""What is said of a training clip: which objects of a window are asked for, and in which words.

Sentences are made from what the clip's first frame shows, as eq. 4 makes them, said in other words, or about what is
not there, so that a model learns what a sentence means rather than how it is usually put.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from mqc_jax import places
from mqc_jax.data import expressions, paraphrases
from mqc_jax.data.source import Expression

_NO_OBJECT = -1  # an object id that no label map holds


@dataclasses.dataclass(frozen=True)
class Speech:
    """How targets are asked for; `ClipDataset` says what each number means."""

    targets: int
    reword: float
    unheard: bool
    placeless: float
    absent: float
    every: float

    def anywhere(
        self, rng: np.random.Generator, part: np.ndarray, labels: np.ndarray, categories: Mapping[int, str]
    ) -> tuple[Expression, str]:
        """A sentence for a class that a frame with `labels` shows, and what `part` of the frame shows of it."""
        name = str(rng.choice(sorted({categories[i] for i in np.unique(labels).tolist() if i in categories})))
        ids = tuple(i for i in np.unique(part).tolist() if categories.get(i) == name)
        phrase = expressions.class_phrase(name)
        one = expressions.Description(_NO_OBJECT, f"the {phrase}", "", phrase, "")
        said = paraphrases.reword(one, rng, self.unheard) if rng.random() < self.reword else one.text
        if len(ids) > 1 or rng.random() < self.every:
            said = places.every(said)
        return Expression("anywhere", said, ids or (_NO_OBJECT,)), said

    def asked(
        self,
        rng: np.random.Generator,
        part: np.ndarray,
        expression: Expression,
        categories: Mapping[int, str],
        text: str,
    ) -> list[tuple[Expression, str]]:
        """`targets` pairs of a target and a sentence that is true of it in `part`, the first frame's window."""
        if not self.targets:
            return []
        if self.targets == 1 and not self.reword and not self.placeless:
            return [(expression, text)]
        plain = expressions.describe(part, categories)
        positional = is_positional(expression, categories)
        first = text
        if positional:
            own = [d for d in plain if (d.object_id,) == expression.object_ids]
            first = self._said(rng, part, categories, own[0]) if own else text
        chosen = [(expression, first)]
        others: list[expressions.Description] = []
        while len(chosen) < self.targets:
            if rng.random() < self.absent:
                nothing = _nothing_there(part, categories, rng, anywhere=rng.random() < self.placeless)
                said = paraphrases.reword(nothing, rng, self.unheard) if rng.random() < self.reword else nothing.text
                chosen.append((Expression("nothing", said, (_NO_OBJECT,)), said))
                continue
            if self.every and rng.random() < self.every:
                free = rng.random() < self.reword
                said, ids = paraphrases.every(part, categories, rng, free, self.unheard)
                chosen.append((Expression("every", said, ids or (_NO_OBJECT,)), said))
                continue
            if not others:
                found = [d for d in plain if (d.object_id,) != expression.object_ids]
                others = [found[i] for i in rng.permutation(len(found))]
            if not others:
                chosen.append(chosen[0])
                continue
            one = others.pop()
            said = self._said(rng, part, categories, one)
            chosen.append((Expression(str(one.object_id), said, (one.object_id,)), said))
        return chosen

    def _said(
        self, rng: np.random.Generator, part: np.ndarray, categories: Mapping[int, str], plain: expressions.Description
    ) -> str:
        """A sentence for one object: the template's, or in other words, or without a place."""
        one, reworded = plain, rng.random() < self.reword
        if reworded:
            free = paraphrases.describe_freely(part, categories, rng)
            one = next((d for d in free if d.object_id == plain.object_id), plain)
        if rng.random() < self.placeless and not one.attribute and paraphrases.is_only(one, part, categories):
            one = expressions.Description(one.object_id, f"the {one.phrase}", "", one.phrase, "")
        return paraphrases.reword(one, rng, self.unheard) if reworded else one.text


def text_at(labels: np.ndarray, expression: Expression, categories: Mapping[int, str]) -> str | None:
    """The sentence for a clip that starts at another frame; None where it would not single out the target there."""
    if not is_positional(expression, categories):
        return expression.text
    for description in expressions.describe(labels, categories):
        if description.object_id == expression.object_ids[0]:
            return description.text
    return None


def _nothing_there(
    labels: np.ndarray, categories: Mapping[int, str], rng: np.random.Generator, anywhere: bool
) -> expressions.Description:
    """A class and a place that do not go together in the first frame, half the time of a class that is elsewhere in it.

    With `anywhere` a class that it does not show at all, without a place.
    """
    there = {
        (expressions.class_phrase(categories[i]), expressions.location(expressions.grid_cell(x, y, labels.shape)))
        for i, (x, y, _) in expressions.centroids(labels).items()
        if i in categories
    }
    shown = sorted({phrase for phrase, _ in there})
    known = [expressions.class_phrase(name) for name in paraphrases.CLASSES]
    missing = [phrase for phrase in known if phrase not in shown]
    if anywhere and missing:
        phrase = missing[rng.integers(len(missing))]
        return expressions.Description(_NO_OBJECT, f"the {phrase}", "", phrase, "")
    while True:
        phrases = shown if shown and rng.random() < 0.5 else known
        phrase = phrases[rng.integers(len(phrases))]
        place = expressions.location((int(rng.integers(3)), int(rng.integers(3))))
        if (phrase, place) not in there:
            return expressions.Description(_NO_OBJECT, f"the {phrase} at the {place}", "", phrase, place)


def is_positional(expression: Expression, categories: Mapping[int, str]) -> bool:
    """Whether a sentence is eq. 4's "the [attribute] CLASS at the CELL" for its one object."""
    if len(expression.object_ids) != 1 or expression.object_ids[0] not in categories:
        return False
    phrase = expressions.class_phrase(categories[expression.object_ids[0]])
    head, _, cell = expression.text.rpartition(" at the ")
    cells = {expressions.location((row, column)) for row in range(3) for column in range(3)}
    return cell in cells and head.startswith("the ") and head.endswith(phrase)
