"""Record of the machine, versions and commit that every figure carries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "triton", "liger_kernel", "trl", "cut-cross-entropy")


def describe(device: torch.device) -> dict[str, Any]:
    """Device, versions and commit as plain values."""
    setting: dict[str, Any] = {
        "device": device_name(device),
        "device_type": device.type,
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "commit": commit(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return setting | {
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    # Other load when the run began: ratios of alternating steps tolerate it, times do not.
    load = {"load_at_start": round(os.getloadavg()[0], 2)} if hasattr(os, "getloadavg") else {}
    return setting | {"cores": os.cpu_count(), "threads": torch.get_num_threads()} | load


def device_name(device: torch.device) -> str:
    """Name of the GPU or the processor."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else processor()


def processor() -> str:
    """Name of the processor as the system reports it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def slug(device: torch.device) -> str:
    """Name of a device's results folder: `nvidia-h200`, `cpu-amd-epyc`."""
    name = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    return name if device.type == "cuda" else f"cpu-{name}"


def commit() -> str | None:
    """Short hash of HEAD, with `+` where files differ from it; None outside a repository."""
    head = _git("rev-parse", "--short", "HEAD")
    if not head:
        return None
    return head + ("+" if _git("status", "--porcelain", "--", ":!benchmarks/results") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
