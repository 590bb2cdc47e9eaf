"""The GGUF job: a model folder becomes a .gguf file of each type asked for; each gets its name when it is proven."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from engine.catalog.gguf_sizes import expected_sizes
from engine.errors import UserError
from engine.options.jobs import GgufJob
from engine.runs.record import Recorder, write_text
from engine.work.imports import lean_imports
from engine.work.unfinished import unfinished


def run(job: GgufJob, recorder: Recorder) -> dict[str, Any]:
    """Convert once, quantise where need be, prove each file, and only then give it its name.

    Returns:
        ``files``: for each type ``outtype``, ``outfile``, ``size_bytes``, ``expected_bytes``, ``modelfile`` (None for
        an adapter), ``verified`` (what was proven) and ``failed`` (None, or what is wrong with it). What the first good
        one holds stands beside them, too, and ``adapter``, the folder if it is one that was converted.

    Raises:
        UserError: anything that stands in the way; then the file that lay under the name before, if any, still does.
            ``gguf.parity_failed`` once all types are made, if one differs more from the model than is usual for it:
            that one is kept as ``<name>.failed``, and the others have their names.
    """
    with lean_imports():
        from engine.work.gguf.material import gather

    material = gather(job, recorder)
    targets = targets_of(job, material.named_after)
    files = _make(material, targets, recorder)
    if material.adapter is None:
        _write_modelfiles(job, material, files, recorder)
    for each in files:
        report = {"model": str(material.folder), "adapter": material.adapter and str(material.adapter), **each}
        _write_report(Path(each["outfile"]), report)
    failed = [each for each in files if each["failed"]]
    good = [each for each in files if not each["failed"]]
    result = {**(good or files)[0], "adapter": material.adapter and str(material.adapter), "files": files}
    if failed:
        recorder.state(result=result)
        exact = all(each["outtype"] in ("f32", "f16", "bf16") for each in failed)
        raise UserError(
            "gguf.computed_otherwise" if exact else "gguf.parity_failed",
            outtype=", ".join(each["outtype"] for each in failed),
            detail=" | ".join(each["failed"] for each in failed),
            path=", ".join(each["outfile"] for each in failed),
        )
    return result


def targets_of(job: GgufJob, folder: Path) -> dict[str, Path]:
    """Where the file of each type goes: as asked, or ``<folder>/<folder's name>-<TYPE>.gguf``.

    With several types, ``outfile`` is the beginning of their names: m.gguf becomes m-Q8_0.gguf and so on.

    Raises:
        UserError: the name does not end in .gguf, or is a folder's.
    """
    types = tuple(dict.fromkeys(job.outtype))
    folder = folder.resolve()
    path = Path(job.outfile).expanduser() if job.outfile else folder / f"{folder.name}.gguf"
    if path.suffix != ".gguf" or path.is_dir():
        raise UserError("gguf.outfile_name", path=path)
    if job.outfile and len(types) == 1:
        return {types[0]: path}
    return {outtype: path.with_name(f"{path.stem}-{outtype.upper()}.gguf") for outtype in types}


def _make(material, targets: dict[str, Path], recorder: Recorder) -> list[dict[str, Any]]:
    """Write all files under temporary names, then prove and name one after the other.

    Where proof stops the job (a damaged file, tokens that are cut otherwise), nothing that is not proven stays.
    """
    from engine.work.gguf import making, proving

    expected = expected_sizes(material.folder) if material.adapter is None else {}
    with ExitStack() as all_of_them:
        held = {}
        for outtype, target in targets.items():
            own = all_of_them.enter_context(ExitStack())
            held[outtype] = (own.enter_context(unfinished(target)), own)
        making.make(material, {outtype: path for outtype, (path, _) in held.items()}, recorder)
        proof = all_of_them.enter_context(proving.Proof(material, recorder))
        files = []
        for outtype, (temporary, own) in held.items():
            target = targets[outtype]
            verified, failed = proof.of(temporary, outtype)
            if failed:
                target = target.with_name(f"{target.name}.failed")
                recorder.warn("gguf.type_failed", outtype=outtype, detail=failed, path=target)
                _keep_aside(temporary, target, own)
            else:
                own.close()
            files.append(
                {"outtype": outtype, "outfile": str(target), "size_bytes": target.stat().st_size,
                 "expected_bytes": expected.get(outtype), "modelfile": None, "verified": verified, "failed": failed}
            )  # fmt: skip
            recorder.event(gguf=files[-1])
    return files


class _Failed(Exception):
    """Takes a temporary file's rights to its name."""


def _keep_aside(temporary: Path, target: Path, own: ExitStack) -> None:
    temporary.replace(target)
    try:
        with own:
            raise _Failed
    except _Failed:
        pass


def _write_modelfiles(job: GgufJob, material, files: list[dict[str, Any]], recorder: Recorder) -> None:
    from engine.work.modelfile import write_modelfile

    for each in files:
        if not each["failed"]:
            path = write_modelfile(
                Path(each["outfile"]), material.tokenizer, material.folder, job.default_system, recorder
            )
            each["modelfile"] = str(path)


def _write_report(outfile: Path, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    write_text(outfile.with_name(f"{outfile.name}.report.json"), text)
