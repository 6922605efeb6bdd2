"""Finding things: the study that a name means, the folder its results go to."""

import difflib
import importlib.util
import os
from pathlib import Path
from typing import Any

from scaling.plan import Study
from scaling.record.files import folder_of, on_store
from scaling.spec import Refusal

EXPERIMENTS = Path(__file__).parents[2] / "experiments"  # of this checkout


def study_of(experiment: str, changes: list[str], size: str | None = None, *, texts: bool = True) -> tuple[Study, Path]:
    """The checked study that EXPERIMENT names, of the `size` given or its first, with `--set` applied, and its file;
    `Refusal` has every fault. Whether the `texts` can be read here is checked too, or not."""
    path = _file_of(experiment)
    study = _sized(studies_in(path), path, size)
    faults = study.ill_typed()
    bare = [change for change in changes if "=" not in change]
    faults += [f"--set {change}: must be FIELD=VALUE, e.g. optim.peak_lr=1e-3" for change in bare]
    pairs = {field: value for field, equals, value in (change.partition("=") for change in changes) if equals}
    if not study.ill_typed():
        try:
            study = study.overridden(pairs)
        except Refusal as refusal:
            faults += refusal.faults
        faults += study.faults(texts=texts)
    if faults:
        raise Refusal(f"{path.name}: {fault}" for fault in dict.fromkeys(faults))
    return study, path


def results_of(study: Study, path: Path, out: str | None) -> Path:
    """`--out`, else results/NAME beside the experiments folder that the file lies in, else under this folder."""
    if out:
        return folder_of(out)
    home = path.parent.parent if path.parent.name == "experiments" else Path.cwd()
    return home / "results" / study.name


def unwritable(folder: Path) -> str:
    """What keeps files from being written into a folder, which may be still to be made; empty where nothing does."""
    if on_store(folder):
        return ""  # the first object that is written tells (`Holder`)
    nearest = next(p for p in [folder, *folder.absolute().parents] if os.path.lexists(p))
    if not nearest.is_dir():
        return f"{nearest} is a {'link that leads to no' if nearest.is_symlink() else 'file, not a'} folder"
    return "" if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} cannot be written to"


def _file_of(experiment: str) -> Path:
    given = Path(experiment)
    if given.suffix or len(given.parts) > 1:
        if given.suffix == ".py" and given.is_file():
            return given.resolve()
        why = "is not a Python file" if given.exists() else "there is no such file"
        raise Refusal(f"{experiment}: {why}; EXPERIMENT is a .py file that defines STUDY, or a name in experiments/")
    folders = [Path.cwd() / "experiments", EXPERIMENTS]
    for folder in folders:
        if (folder / f"{experiment}.py").is_file():
            return (folder / f"{experiment}.py").resolve()
    known = sorted({p.stem for folder in folders for p in folder.glob("*.py") if not p.stem.startswith("_")})
    near = difflib.get_close_matches(experiment, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
    raise Refusal(f"{experiment}: no experiment of this name; {hint}; a path to a file will do, too")


def _sized(studies: dict[str, Study], path: Path, size: str | None) -> Study:
    if size is None:
        return next(iter(studies.values()))
    if size not in studies:
        sizes = ", ".join(filter(None, studies))
        raise Refusal(f"--size = {size}: {path.name} {f'has {sizes}' if sizes else 'defines one STUDY, of no size'}")
    return studies[size]


def studies_in(path: Path) -> dict[str, Study]:
    """The studies of a file by size: of `STUDIES`, or the one `STUDY` under no name."""
    described = importlib.util.spec_from_file_location(f"experiment_{path.stem}", path)
    assert described and described.loader
    module = importlib.util.module_from_spec(described)
    try:
        described.loader.exec_module(module)
    except Refusal as refusal:
        raise Refusal(f"{path.name}: {fault}" for fault in refusal.faults) from refusal
    except (Exception, SystemExit) as error:
        line = next((frame for frame in _frames(error) if frame[0] == str(path)), (str(path), 0))[1]
        said = f"{error}".splitlines() or [""]
        raise Refusal(f"{path.name}, line {line}: {type(error).__name__}: {said[0]}") from error
    studies: Any = getattr(module, "STUDIES", None) or {"": getattr(module, "STUDY", None)}
    if not isinstance(studies, dict) or not all(isinstance(study, Study) for study in studies.values()):
        raise Refusal(
            f"{path.name}: defines no STUDY = Study(...), nor STUDIES = {{size: Study(...), ...}}; see "
            "experiments/smoke.py for a small one"
        )
    names = [study.name for study in studies.values()]
    if len(set(names)) < len(names):
        raise Refusal(f"{path.name}: studies of two sizes have one name, which names their results folder: {names}")
    return studies


def _frames(error: BaseException) -> list[tuple[str, int]]:
    """(file, line) of each frame, innermost first; a syntax error names its own place."""
    if isinstance(error, SyntaxError) and error.filename:
        return [(error.filename, error.lineno or 0)]
    frames, trace = [], error.__traceback__
    while trace:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return frames[::-1]
