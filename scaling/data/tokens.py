"""Files of token ids that another tool made: `tokens:PATH`, `tokens:uint16:PATH`, `tokens:uint32:PATH`."""

import functools
import os
from pathlib import Path

import numpy as np

from scaling.data.corpus import Corpus, in_memory, read_at_random
from scaling.data.text import split_end
from scaling.spec import Refusal

_SUFFIXES = (".bin", ".npy")


def open_tokens(name: str, argument: str, vocab_size: int) -> Corpus:
    """A .npy of integers or a raw little-endian .bin, memory-mapped; the last twentieth is held out.

    A folder with train.bin and val.bin, or train.npy and val.npy, brings its own split. The ids of a .bin are as
    wide as the source says, else two bytes where `vocab_size` fits in them, else four.
    """
    where = f"data.source = {name!r}"
    head, _, rest = argument.partition(":")
    width, argument = (head, rest) if head in ("uint16", "uint32") else ("", argument)
    bin_dtype = np.dtype(width or ("uint16" if vocab_size <= 1 << 16 else "uint32")).newbyteorder("<")
    path = Path(argument).expanduser().absolute()
    if not path.exists():
        raise Refusal(f"{where}: there is no file or folder {path}")
    files = [path]
    if path.is_dir():
        pairs = [[path / f"train{suffix}", path / f"val{suffix}"] for suffix in _SUFFIXES]
        whole = [pair for pair in pairs if pair[0].exists() and pair[1].exists()]
        if len(whole) != 1:
            found = "both pairs" if whole else "neither pair"
            raise Refusal(f"{where}: {path} must hold train.bin and val.bin, or train.npy and val.npy; it has {found}")
        files = whole[0]
    faults = [fault for file in files for fault in _file_faults(where, file, bin_dtype)]
    if faults:
        raise Refusal(faults)
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _corpus(name, stamps, bin_dtype, np.min_scalar_type(vocab_size - 1))


def _file_faults(where: str, file: Path, bin_dtype: np.dtype) -> list[str]:
    if file.suffix not in _SUFFIXES:
        return [f"{where}: {file.name} must end in .bin or .npy"]
    if not os.access(file, os.R_OK):
        return [f"{where}: cannot read {file}: no permission"]
    size = file.stat().st_size
    if not size:
        return [f"{where}: {file} is empty"]
    if file.suffix == ".bin":
        if size % bin_dtype.itemsize:
            return [f"{where}: {file} has {size} B, which is no whole number of {bin_dtype.name} ids"]
        return []
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        return [f"{where}: {file} is no .npy array of integers: {str(error).splitlines()[0]}"]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        shape = "x".join(map(str, array.shape)) or "one value"
        return [f"{where}: {file} must hold one row of integers; it holds {array.dtype} of shape {shape}"]
    return [] if len(array) else [f"{where}: {file} is empty"]


@functools.lru_cache(maxsize=8)
def _corpus(name: str, stamps: tuple[tuple[str, int, int], ...], bin_dtype: np.dtype, dtype: np.dtype) -> Corpus:
    arrays = [_mapped(path, bin_dtype) for path, _, _ in stamps]
    if len(arrays) == 1:
        split = split_end(len(arrays[0]))
        train, held_out = arrays[0][:split], arrays[0][split:]
    else:
        train, held_out = arrays
    return Corpus(
        name=name,
        kind="tokens",
        dtype=dtype,
        whole=in_memory(arrays),
        train=in_memory([train]),
        held_out=in_memory([held_out]),
        facts=(("stored_as", arrays[0].dtype.name),),
    )


def _mapped(path: str, bin_dtype: np.dtype) -> np.ndarray:
    is_raw = path.endswith(".bin")
    array = np.memmap(path, bin_dtype, "r") if is_raw else np.load(path, mmap_mode="r", allow_pickle=False)
    return read_at_random(np.asarray(array))
