"""Converts PyTorch weights, once, to a checkpoint folder.

    python tools/convert_sam2.py --sam2 FILE_OR_DIR [--bert DIR] --output DIR [--dtype bfloat16] [--verify]

`--sam2` is an official SAM 2.0 or 2.1 file (sam2.1_hiera_large.pt) or Hugging Face's `Sam2VideoModel` (folder or
model.safetensors), `--bert` a Hugging Face folder of a BERT-family encoder: config.json, model.safetensors (or
pytorch_model.bin) and its tokenizer. At least one is needed. Reading .pt and .bin files needs PyTorch, and so does
`--verify`. What is written is described in `mqc_jax/converted.py`, how to use it in `docs/convert.md`.
"""

from absl import flags

from mqc_jax import converted
from mqc_jax.convert_bert import convert_bert
from mqc_jax.convert_sam2 import ConvertedSam2, convert_sam2
from mqc_jax.errors import UserError, run
from mqc_jax.verify_sam2 import VERIFY_LIMIT, verify

_SAM2 = flags.DEFINE_string("sam2", None, "Official .pt file, or Hugging Face's folder or .safetensors file.")
_BERT = flags.DEFINE_string("bert", None, "Hugging Face folder with a BERT-family encoder.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write the checkpoint to.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the stored matrices; bfloat16 halves them.")
_VERIFY = flags.DEFINE_bool("verify", False, "Compare with PyTorch on one image before anything is written.")


def sam2_part(source: str, sam2: ConvertedSam2) -> converted.Part:
    """All of the model but the text encoder and the bridge."""
    facts = {"file": source, "form": sam2.form, "version": sam2.version, "size": sam2.size}
    return converted.Part("sam2", sam2.config, sam2.params, {**facts, "left_out": list(sam2.left_out)})


def bert_part(folder: str) -> converted.Part:
    """The text encoder of a Hugging Face folder."""
    bert = convert_bert(folder)
    source = {"file": folder, "left_out": list(bert.left_out)}
    return converted.Part("text_encoder", {"bert": bert.config}, {"text_encoder": bert.params}, source, bert.tokenizer)


def compare(sam2: ConvertedSam2) -> None:
    """Prints the largest differences from PyTorch.

    Raises:
      UserError: one of them is above the limit.
    """
    differences = verify(sam2.config, sam2.params)
    for name, difference in differences.items():
        print(f"{name}: largest difference from PyTorch {difference:.1e} of the largest value")
    worst = max(differences, key=differences.get)
    # Written so that a difference that is no number fails too.
    if not all(difference <= VERIFY_LIMIT for difference in differences.values()):
        raise UserError(
            f"{worst} differs from PyTorch by {differences[worst]:.1e}, the limit is {VERIFY_LIMIT:.0e}; nothing was"
            " written; please report this with the file's name"
        )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; weights are given by --sam2 FILE_OR_DIR and --bert DIR")
    if not _OUTPUT.value:
        raise UserError("no output folder was given; add --output DIR")
    if not _SAM2.value and not _BERT.value:
        raise UserError("no weights were given; add --sam2 FILE_OR_DIR, --bert DIR or both")
    if _VERIFY.value and not _SAM2.value:
        raise UserError("--verify compares SAM2, and none was given; add --sam2 FILE_OR_DIR")
    converted.check_output(_OUTPUT.value)
    parts = []
    if _SAM2.value:
        sam2 = convert_sam2(_SAM2.value)
        print(f"SAM {sam2.version}, size {sam2.size}, {sam2.form} naming")
        parts.append(sam2_part(_SAM2.value, sam2))
    if _BERT.value:
        parts.append(bert_part(_BERT.value))
    if _VERIFY.value:
        compare(sam2)
    converted.write(_OUTPUT.value, parts, _DTYPE.value)
    for part in parts:
        left_out = ", ".join(part.source["left_out"]) or "nothing"
        print(f"{part.name}: converted from {part.source['file']}; not part of the model and left out: {left_out}")
    print(f"checkpoint written to {_OUTPUT.value}")


if __name__ == "__main__":
    run(main)
