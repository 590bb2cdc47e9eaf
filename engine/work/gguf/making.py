"""Writes the files of all types asked for: one pass over the weights, then llama.cpp's types from a lossless one."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path

from engine.catalog.gguf_sizes import expected_size, expected_sizes
from engine.errors import UserError
from engine.work.gguf import checkout, convert, quantize, tensors
from engine.work.gguf.growing import watched
from engine.work.gguf.material import Material


def make(material: Material, paths: dict[str, Path], recorder) -> None:
    """Write every file.

    Args:
        paths: by type.

    Raises:
        UserError: llama-cpp-python is missing for a type that needs it, the disk is too small, or what
            ``convert.write`` and ``quantize.quantize`` raise.
        StopRequested: somebody asked the run to stop.
    """
    ours = checkout.TYPES if material.checkout else tuple(tensors.TYPES)
    direct = {outtype: path for outtype, path in paths.items() if outtype in ours}
    others = {outtype: path for outtype, path in paths.items() if outtype not in ours}
    if not others:
        _write_whole(material, direct, paths, recorder)
        return
    quantize.import_llama_cpp()  # rather now than after a long conversion
    first = next(iter(paths.values()))
    between = first.with_name(f"{first.name}.{material.whole}")
    whole = direct.get(material.whole, between)
    try:
        _write_whole(material, {**direct, material.whole: whole}, paths, recorder)
        sizes = {} if material.adapter else expected_sizes(material.folder)
        total, before = sum(sizes.get(outtype, 0) for outtype in others), 0
        for done, (outtype, path) in enumerate(others.items()):
            recorder.check_stop()
            if total:
                recorder.phase("quantizing", before, total, "bytes")
            else:  # the weights lie in no file whose sizes can be read
                recorder.phase("quantizing", done, len(others), "files")
            with watched(path, before, total, recorder) if total else nullcontext():
                quantize.quantize(whole, path, outtype, material.importance)
            before += sizes.get(outtype, 0)
    finally:
        between.unlink(missing_ok=True)
    recorder.check_stop()


def _write_whole(material: Material, direct: dict[str, Path], asked: dict[str, Path], recorder) -> None:
    if material.planned is None or material.describe is None:
        assert material.checkout is not None
        for outtype, path in direct.items():
            checkout.convert_by_checkout(material.checkout, material.folder, path, outtype, recorder)
        return
    need_space(material.planned, direct, asked)
    convert.write(direct, material.planned, material.architecture, material.describe, recorder)


def need_space(planned: list[tensors.Planned], direct: dict[str, Path], asked: dict[str, Path]) -> None:
    """Raises: UserError, if the disk cannot hold what will be written."""
    needed = sum(tensor.size_bytes(outtype) for outtype in direct for tensor in planned)
    shapes = {tensor.name: tensor.shape for tensor in planned}
    needed += sum(expected_size(shapes, outtype) for outtype in asked if outtype not in direct)
    folder = next(iter(asked.values())).parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError("gguf.disk_too_small", path=folder, needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}")
