"""Nodes of ComfyUI for vqdiff; see README.md."""

from .nodes import Draw, Edit, Load, Settings, Why

NODE_CLASS_MAPPINGS = {
    "VQDiffLoad": Load,
    "VQDiffSettings": Settings,
    "VQDiffDraw": Draw,
    "VQDiffEdit": Edit,
    "VQDiffWhy": Why,
}
NODE_DISPLAY_NAME_MAPPINGS = {name: f"{name.removeprefix('VQDiff')} (vqdiff)" for name in NODE_CLASS_MAPPINGS}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
