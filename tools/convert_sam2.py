"""Converts PyTorch weights, once, to a checkpoint folder.

    python tools/convert_sam2.py --bert DIR --output DIR

`--bert` is a Hugging Face folder of a BERT-family encoder: config.json, model.safetensors (or pytorch_model.bin, which
needs PyTorch) and its tokenizer. What is written is described in `mqc_jax/converted.py`.
"""

from absl import flags, logging

from mqc_jax import converted
from mqc_jax.convert_bert import convert_bert
from mqc_jax.errors import UserError, run

_BERT = flags.DEFINE_string("bert", None, "Hugging Face folder with a BERT-family encoder.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write the checkpoint to.")


def bert_part(folder: str) -> converted.Part:
    """The text encoder of a Hugging Face folder."""
    bert = convert_bert(folder)
    source = {"folder": folder, "left_out": list(bert.left_out)}
    return converted.Part("text_encoder", {"bert": bert.config}, bert.params, source, bert.tokenizer)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; weights are given by --bert DIR")
    if not _OUTPUT.value:
        raise UserError("no output folder was given; add --output DIR")
    if not _BERT.value:
        raise UserError("no weights were given; add --bert DIR")
    logging.set_verbosity(logging.WARNING)  # absl's commands start at INFO, where Orbax writes 40 lines
    converted.check_output(_OUTPUT.value)
    parts = [bert_part(_BERT.value)]
    converted.write(_OUTPUT.value, parts)
    for part in parts:
        left_out = ", ".join(part.source["left_out"]) or "nothing"
        print(f"{part.name}: converted from {part.source['folder']}; not part of the model and left out: {left_out}")
    print(f"checkpoint written to {_OUTPUT.value}")


if __name__ == "__main__":
    run(main)
