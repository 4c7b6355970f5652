"""Makes a checkpoint folder to hand on out of a training run's newest checkpoint.

python tools/export_checkpoint.py --checkpoint runs/small --output model --params_dtype bfloat16
"""

import json
from pathlib import Path

from absl import flags

from mqc_jax.errors import UserError, run

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A training run's folder, or a checkpoint.")
_OUTPUT = flags.DEFINE_string("output", None, "The folder to write.")
_PARAMS_DTYPE = flags.DEFINE_enum("params_dtype", "float32", ["float32", "bfloat16"], "bfloat16 halves the folder.")


def main(argv: list[str]) -> None:
    if not _CHECKPOINT.value or not _OUTPUT.value:
        raise UserError("--checkpoint and --output are both needed; see --help")
    from mqc_jax import checkpoint

    model = checkpoint.load(_CHECKPOINT.value)
    model.require_text()
    step = checkpoint.params_folder(Path(_CHECKPOINT.value)).parent.name
    facts = checkpoint.read_config(Path(_CHECKPOINT.value))
    trained = {"steps": int(step)} if step.isdigit() else facts.get("trained", {})
    if isinstance(facts.get("run"), dict):
        # Where the data lay is this machine's business.
        trained["loss"], trained["optim"] = facts["run"]["loss"], facts["run"]["optim"]
        trained |= {name: facts["run"][name] for name in ("batch_size", "seed")}
    checkpoint.save(
        _OUTPUT.value,
        model.config,
        model.params,
        model.tokenizer,
        dtype=facts.get("dtype", "float32"),
        params_dtype=_PARAMS_DTYPE.value,
        trained=trained,
    )
    size = sum(path.stat().st_size for path in Path(_OUTPUT.value).rglob("*") if path.is_file())
    print(json.dumps({"output": _OUTPUT.value, "bytes": size, "trained": trained}, indent=2))


if __name__ == "__main__":
    run(main)
