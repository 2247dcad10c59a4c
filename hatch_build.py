"""Compiles the library that calls oneDNN (`jaxcnn/ops/cpu`) into the wheel, where that is possible."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Engine(BuildHookInterface):
    """Without a compiler the wheel is one for every platform, and convolutions on a CPU are XLA's own."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        spec = importlib.util.spec_from_file_location("engine", Path(self.root, "jaxcnn/ops/cpu/build.py"))
        assert spec is not None
        assert spec.loader is not None
        engine = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(engine)
        try:
            library = engine.build()
        except engine.CannotBuild as reason:
            self.app.display_warning(f"jaxcnn is built without its library for convolutions on a CPU: {reason}")
            return
        build_data["artifacts"].append(f"/{library.relative_to(Path(self.root).resolve()).as_posix()}")
        build_data["pure_python"] = False
        build_data["tag"] = engine.wheel_tag()
