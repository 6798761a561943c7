"""``vqdiff export``: a model as graphs for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from vqdiff.cli.options import Output


def export(
    model: str = "emoji",
    *,
    output: Output,
    to: Literal["onnx", "openvino", "torch-export"] = "onnx",
    batch: Annotated[int | Literal["free"], Parameter(negative="")] = "free",
    precision: Literal["float32", "float16", "int8"] = "float32",
    image_tokenizer: Path | None = None,
) -> None:
    """Write a model as graphs for ONNX Runtime, OpenVINO or PyTorch, with everything else needed to generate an image.

    Each graph is computed by its runtime and compared with PyTorch, on random and on real inputs, at every time t. If
    one differs, nothing is written.

    Parameters
    ----------
    model
        A bundled model's name, a model, run or diffusers folder, an original checkpoint (.pth), or a Hub id.
    output
        The folder to write.
    to
        The format of the graphs.
    batch
        Rows of a call: a number, or free for any. A guided image takes two rows.
    precision
        How weights are stored. All graphs compute in float32. int8: not with openvino.
    image_tokenizer
        The image codec's file, if a checkpoint does not contain it.
    """
    import sys

    from vqdiff.checkpoints import read_model
    from vqdiff.export import FORMATS, table
    from vqdiff.export import export as write
    from vqdiff.foundation.files import check_replaceable
    from vqdiff.model.finding import find

    FORMATS[to].check_installed()  # now, as reading a model takes a while
    check_replaceable(output)
    checks = write(
        read_model(find(model), {"image_tokenizer": image_tokenizer}),
        output,
        to=to,
        batch=None if batch == "free" else batch,
        storage=precision,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(table(checks))
    files = sorted(path for path in output.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.relative_to(output).as_posix()}: {path.stat().st_size / 1e6:.2f} MB")
    print(f"{output}: {sum(path.stat().st_size for path in files) / 1e6:.1f} MB written")
