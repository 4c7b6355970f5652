"""Makes a checkpoint folder to hand on out of a training run's newest checkpoint.

python tools/export_checkpoint.py --checkpoint runs/small --output model --params_dtype bfloat16
"""

import dataclasses
import json
from pathlib import Path

from absl import flags

from mqc_jax.errors import UserError, run

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A training run's folder, or a checkpoint.")
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.")
_PARAMS_DTYPE = flags.DEFINE_enum("params_dtype", "float32", ["float32", "bfloat16"], "bfloat16 halves the folder.")
_TILE = flags.DEFINE_integer("tile", None, "Side of the windows to search and follow in; left out: as trained.")
_SIZE = flags.DEFINE_integer("image_size", None, "Side that frames are to be resized to; left out: as trained.")
_ONE_OBJECT = flags.DEFINE_bool("one_object", None, "Keep one object in each mask; left out: as trained.")
_SHOWN = flags.DEFINE_float("shown_presence", None, "Show later masks from such a presence on; left out: as trained.")


def main(argv: list[str]) -> None:
    if not _CHECKPOINT.value or not _OUTPUT.value:
        raise UserError("--checkpoint and --output are both needed; see --help")
    from mqc_jax import checkpoint
    from mqc_jax.config import check_model

    model = checkpoint.load(_CHECKPOINT.value)
    model.require_text()
    step = checkpoint.params_folder(Path(_CHECKPOINT.value)).parent.name
    facts = checkpoint.read_config(Path(_CHECKPOINT.value))
    trained = {"steps": int(step)} if step.isdigit() else facts.get("trained", {})
    if isinstance(facts.get("run"), dict):
        # Where the data lay is this machine's business.
        trained["loss"], trained["optim"] = facts["run"]["loss"], facts["run"]["optim"]
        trained |= {name: facts["run"][name] for name in ("batch_size", "seed")}
    # Naming classes was for the training alone.
    tile = model.config.tile if _TILE.value is None else _TILE.value
    size = _SIZE.value or model.config.image_size
    single = model.config.one_object if _ONE_OBJECT.value is None else _ONE_OBJECT.value
    shown = model.config.shown_presence if _SHOWN.value is None else _SHOWN.value
    config = dataclasses.replace(
        model.config, classes=0, image_size=size, tile=tile, one_object=single, shown_presence=shown
    )
    check_model(config)
    checkpoint.save(
        _OUTPUT.value,
        config,
        {name: values for name, values in model.params.items() if name != "class_head"},
        model.tokenizer,
        dtype=facts.get("dtype", "float32"),
        params_dtype=_PARAMS_DTYPE.value,
        trained=trained,
    )
    size = sum(path.stat().st_size for path in Path(_OUTPUT.value).rglob("*") if path.is_file())
    print(json.dumps({"output": _OUTPUT.value, "bytes": size, "trained": trained}, indent=2))


if __name__ == "__main__":
    run(main)
