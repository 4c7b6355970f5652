"""Synthetic satellite video: scenes, objects, difficulties and their truth, from a seed.

`plan_sequence` decides a sequence, `render` draws it, `write_split` puts a split on the disk.
"""

from mqc_jax.data.synthetic.plan import SequencePlan
from mqc_jax.data.synthetic.planning import DIFFICULTIES, plan_sequence
from mqc_jax.data.synthetic.render import Renderer, render, render_frame
from mqc_jax.data.synthetic.write import write_split

__all__ = ["DIFFICULTIES", "Renderer", "SequencePlan", "plan_sequence", "render", "render_frame", "write_split"]
