"""A model as graphs for other runtimes (ONNX, OpenVINO, torch.export), with all else that drawing an image needs."""

from __future__ import annotations

from vqdiff.export.checks import Check, table
from vqdiff.export.folder import export
from vqdiff.export.formats import FORMATS, Format
from vqdiff.export.storage import Storage

__all__ = ["FORMATS", "Check", "Format", "Storage", "export", "table"]
