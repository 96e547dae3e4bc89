"""A stand-in for nvidia-smi: it lists one GPU, whatever it is asked."""

from __future__ import annotations

from pathlib import Path

T4 = "Tesla T4, 7.5, 15360, 535.161.08"
XAVIER = "NVIDIA Jetson AGX Xavier, 7.2, 32768, 35.4.1"


def install(folder: Path, gpu: str) -> Path:
    """Write an executable ``nvidia-smi`` that lists ``gpu``: name, SM, MiB, driver."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncase $* in *query-gpu*) echo '{gpu}' ;; esac\n")
    program.chmod(0o755)
    return program
