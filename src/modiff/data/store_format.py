"""What a store looks like inside: names, attributes, and the checks that come before a byte of content is read.

A store may come from anyone. Nothing of it is trusted: links, references and foreign filters are refused, declared
sizes are compared with the file's size before memory is taken, and chunks are inflated by a bounded zlib rather than by
HDF5, whose own filter grows its buffer for as long as the stream lasts.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np

from modiff.config.data import MOST_CONTEXT
from modiff.data.context import named, own_slice
from modiff.errors import DataError, printable

FORMAT = "modiff-store"
SCHEMA = 1
PROMPTS = ("centre", "none")
FITS = ("none", "crop", "resize")
NAMES = ("case", "patient", "split")  # tables of text
CHECKSUM, ADLER = "checksum", "adler32"  # an attribute and a table that stores of 0.1 lack

# gzip 4: measured on LIDC crops, 1 % larger than gzip 9 at half the time; lzf is 29 % larger.
LEVEL = 4
MAX_ITEM_BYTES = {"i": 4, "u": 4, "f": 8}
MAX_SLICE_BYTES = 1 << 30
MAX_ATTRIBUTE_BYTES = 1 << 16
MAX_NAME_BYTES = 1024
_MAX_NOTE = 4096  # bytes of a note
MAX_PARTS = 64  # tables, and attributes

# Tables of where each case lies, and what they hold for a case of which it is not known: NaN or below 0.
GEOMETRY = {
    "affine": np.full((4, 4), np.nan),
    "slice_index": np.array(-1, np.int64),
    "valid": np.full(4, -1, np.int32),
    "item_spacing": np.full(2, np.nan),
}


def check_name(name: str, what: str) -> None:
    """A name must be safe to store, print and use in a table: not empty, no control characters, at most 1024 bytes."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise DataError("names must be printable and not empty", field=what, found=repr(name))
    if len(name.encode()) > MAX_NAME_BYTES:
        raise DataError("name too long", field=what, found=f"{len(name.encode())} bytes", expected="at most 1024")


def check_case(name: str) -> str:
    """A case's name: as above, and also a valid relative path, so that one file per case can be written."""
    check_name(name, "case")
    if "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise DataError(
            "is not a valid name for a case", field="case", found=repr(name), expected="such as patient/nodule/slice"
        )
    return name


@dataclass(frozen=True)
class StoreInfo:
    """What a store says of itself.

    channels: C names. classes: K names of the foreground classes; a mask's value is 0 or 1 + the class's place here.
    raters: R names. exchangeable_raters: the rater slots are not persons (slot 1 of two cases may be two people).
    intensity: what was done to the values, as an `IntensityRule`, so that prediction can do the same or say that it
    cannot.
    prompt: `centre` where an image's centre says which lesion is meant, else `none`.
    spacing: mm per pixel (row, column) of every image, or None where unknown or different from item to item.
    fit: how images came to their size: `none`, `crop` (or padding) or `resize`. modality: DICOM's word, such as CT.
    region: its word for the part of the body, such as LUNG. All three are None where they are not known.
    context: K, where channels are slices with K neighbours on either side, in the order of `context.named`; 0 in stores
    that do not say.
    provenance: name of what was read -> its SHA-256. importer: name and version. notes: what was decided in reading.
    """

    channels: tuple[str, ...]
    classes: tuple[str, ...]
    raters: tuple[str, ...]
    exchangeable_raters: bool
    intensity: str
    prompt: str
    spacing: tuple[float, float] | None = None
    source: str = "unknown"
    licence: str = "unknown"
    importer: str = "unknown"
    provenance: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA
    fit: str | None = None
    modality: str | None = None
    region: str | None = None
    context: int = 0

    def __post_init__(self) -> None:
        for what in ("channels", "classes", "raters"):
            names = tuple(getattr(self, what))
            object.__setattr__(self, what, names)
            if not names or len(set(names)) != len(names):
                raise DataError("names must be given and differ", field=what, found=names)
            for name in names:
                check_name(name, what)
        for what in ("intensity", "source", "licence", "importer"):
            check_name(getattr(self, what), what)
        if self.prompt not in PROMPTS:
            raise DataError("no such prompt", field="prompt", found=self.prompt, expected=" or ".join(PROMPTS))
        if self.fit not in (None, *FITS):
            raise DataError("no such fit", field="fit", found=self.fit, expected=", ".join(FITS))
        for what in ("modality", "region"):
            if (word := getattr(self, what)) is not None:
                check_name(word, what)
        known = own_slice(self.channels, self.context) if 0 <= self.context <= MOST_CONTEXT else ()
        if named(known, self.context) != self.channels:
            found = f"context {self.context}, {', '.join(self.channels)}"
            raise DataError("are not slices with their neighbours", field="channels", found=found)
        if len(self.classes) > 255:
            raise DataError("too many classes", field="classes", found=len(self.classes), expected="at most 255")
        object.__setattr__(self, "provenance", {printable(name): sha for name, sha in self.provenance.items()})
        object.__setattr__(self, "notes", tuple(map(printable, self.notes)))
        if self.spacing is not None:
            spacing = tuple(map(float, self.spacing))
            if len(spacing) != 2 or not all(0 < value < float("inf") for value in spacing):
                raise DataError("must be positive", field="spacing", found=spacing, expected="two numbers")
            object.__setattr__(self, "spacing", spacing)


_TEXTS = ("intensity", "prompt", "source", "licence", "importer")
_OPTIONAL = ("fit", "modality", "region")
_LISTS = ("channels", "classes", "raters")


def text_array(texts: list[str] | tuple[str, ...]) -> np.ndarray:
    """Fixed-length UTF-8: unlike HDF5's variable-length strings it has no pointers that a forged file could bend."""
    return np.array([text.encode() for text in texts], dtype="S" if texts else "S1")


def write_info(file: h5py.File, info: StoreInfo) -> None:
    """Puts `info` into the file's attributes and, as it may be long, provenance into a table."""
    file.attrs["format"] = np.bytes_(FORMAT)
    file.attrs["schema"] = np.int64(info.schema)
    for name in (*_TEXTS, *(name for name in _OPTIONAL if getattr(info, name) is not None)):
        file.attrs[name] = np.bytes_(getattr(info, name).encode())
    for name in _LISTS:
        file.attrs[name] = text_array(getattr(info, name))
    file.attrs["exchangeable_raters"] = np.uint8(info.exchangeable_raters)
    if info.context:
        file.attrs["context"] = np.uint8(info.context)
    if info.spacing is not None:
        file.attrs["spacing"] = np.array(info.spacing, dtype=np.float64)
    if info.notes:
        file.attrs["notes"] = text_array(_as_fit(info.notes))
    if info.provenance:
        pairs = [part for pair in info.provenance.items() for part in pair]
        file.create_dataset("provenance", data=text_array(pairs).reshape(-1, 2))


def _as_fit(notes: tuple[str, ...]) -> list[str]:
    """Notes as an attribute holds them: the first of more."""
    made = [note.encode()[:_MAX_NOTE].decode(errors="ignore") for note in notes]
    most = MAX_ATTRIBUTE_BYTES // max(len(note.encode()) for note in made)
    return made if len(made) <= most else [*made[: most - 1], f"and {len(made) - most + 1} more notes"]


def attribute(file: h5py.File, name: str, kinds: str, ndim: int | None) -> Any:
    """One attribute whose type and size are checked before it is read. kinds: NumPy kinds such as "S" or "iu".

    ndim: None for any.
    """
    if name not in file.attrs:
        raise DataError("attribute missing", field=name, expected="a store written by `modiff import`")
    handle = file.attrs.get_id(name)
    shape, dtype = handle.shape, handle.dtype
    if shape is None or ndim not in (None, len(shape)) or dtype.kind not in kinds:
        raise DataError("unexpected type of attribute", field=name, found=f"{dtype} {shape}")
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > MAX_ATTRIBUTE_BYTES:
        raise DataError("attribute too large", field=name, found=shape)
    return file.attrs[name]


def read_info(file: h5py.File) -> StoreInfo:
    """The reverse of `write_info`; raises DataError for a file that is not a store or of another schema."""
    if "format" not in file.attrs or bytes(attribute(file, "format", "S", 0)).decode() != FORMAT:
        raise DataError("an HDF5 file, but not a store", expected="a store written by `modiff import`")
    schema = int(attribute(file, "schema", "iu", 0))
    if schema != SCHEMA:
        hint = "It was written by a newer modiff." if schema > SCHEMA else "Import the data again."
        raise DataError("unknown schema of store", field="schema", found=schema, expected=SCHEMA, hint=hint)
    names = (*_TEXTS, *(name for name in _OPTIONAL if name in file.attrs))
    said: dict[str, Any] = {name: bytes(attribute(file, name, "S", 0)).decode() for name in names}
    said |= {name: tuple(bytes(item).decode() for item in attribute(file, name, "S", 1)) for name in _LISTS}
    if "notes" in file.attrs:
        said["notes"] = tuple(bytes(item).decode() for item in attribute(file, "notes", "S", 1))
    said["spacing"] = tuple(map(float, attribute(file, "spacing", "f", 1))) if "spacing" in file.attrs else None
    table = table_of(file, "provenance", "S", (None, 2)) if "provenance" in file else np.empty((0, 2))
    provenance = {name.decode(): digest.decode() for name, digest in table}
    exchangeable = bool(attribute(file, "exchangeable_raters", "u", 0))
    said["context"] = int(attribute(file, "context", "u", 0)) if "context" in file.attrs else 0
    return StoreInfo(**said, exchangeable_raters=exchangeable, provenance=provenance)


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies in this very file: no soft or external link, no external or virtual storage."""
    link = file.get(name, getlink=True)
    if link is None:
        raise DataError("missing", field=name, expected="a store written by `modiff import`")
    if not isinstance(link, h5py.HardLink):
        raise DataError("links are not followed", field=name, found=type(link).__name__)
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise DataError("not a dataset", field=name, found=type(found).__name__)
    if found.external or found.is_virtual:
        raise DataError("data stored in other files is not followed", field=name)
    if found.shape is None or found.dtype.kind not in "Siuf":
        raise DataError("type not allowed in a store", field=name, found=found.dtype)
    if found.id.get_storage_size() > os.path.getsize(file.filename):
        raise DataError("declares more bytes than the file has", field=name, found=found.id.get_storage_size())
    return found


def filters(data: h5py.Dataset) -> list[int]:
    """The numbers of the filters that a dataset is stored through."""
    plist = data.id.get_create_plist()
    return [plist.get_filter(index)[0] for index in range(plist.get_nfilters())]


def _declared(file: h5py.File, name: str, kinds: str, shape: tuple[int | None, ...] | None) -> h5py.Dataset:
    """A dataset that is not empty, of one of NumPy's `kinds` and of a `shape` whose None is any number; None: any."""
    found = dataset(file, name)
    shape = found.shape if shape is None else shape
    fits = len(found.shape) == len(shape) and all(map(lambda want, have: want in (None, have), shape, found.shape))
    if found.dtype.kind not in kinds or not fits or not found.size:
        expected = tuple("any" if want is None else want for want in shape)
        raise DataError("unexpected shape or type", field=name, found=f"{found.dtype} {found.shape}", expected=expected)
    return found


def table_of(file: h5py.File, name: str, kinds: str, shape: tuple[int | None, ...] | None) -> np.ndarray:
    """A small uncompressed table, read whole once its declared size is known to lie in the file."""
    found = _declared(file, name, kinds, shape)
    if found.chunks is not None or found.id.get_storage_size() != found.size * found.dtype.itemsize:
        raise DataError("declares more than it holds", field=name, found=found.shape)
    return found[...]


def checked_slices(file: h5py.File, name: str, kinds: str, expected: tuple[int | None, ...]) -> h5py.Dataset:
    """`image` or `masks`: (n, ·, H, W), one chunk per slice, all present, deflated (and shuffled) and nothing else."""
    found = _declared(file, name, kinds, expected)
    (count, *shape), itemsize = found.shape, found.dtype.itemsize
    if itemsize > MAX_ITEM_BYTES[found.dtype.kind]:
        raise DataError("unexpected type", field=name, found=found.dtype, expected="at most 32-bit integers or floats")
    if found.dtype != found.dtype.newbyteorder("<"):
        raise DataError("unexpected byte order", field=name, found=found.dtype, expected="little-endian")
    wanted = [h5py.h5z.FILTER_DEFLATE] if itemsize == 1 else [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE]
    if filters(found) != wanted or found.chunks != (1, *shape):
        kept = f"filters {filters(found)}, {found.chunks}"
        raise DataError("is not stored slice by slice", field=name, found=kept)
    if int(np.prod(shape, dtype=object)) * itemsize > MAX_SLICE_BYTES:
        raise DataError("slices too large", field=name, found=found.shape)
    if found.id.get_num_chunks() != count:
        kept = found.id.get_num_chunks()
        raise DataError("declares more slices than it holds", field=name, found=kept, expected=count)
    return found


def deflate(array: np.ndarray) -> bytes:
    """One slice as HDF5's filters store it: bytes shuffled by significance where an element has several, then zlib."""
    data = np.ascontiguousarray(array)
    if data.itemsize > 1:
        data = np.ascontiguousarray(data.reshape(-1, 1).view(np.uint8).T)
    return zlib.compress(data.tobytes(), LEVEL)


def check_floats(image: np.ndarray) -> None:
    """Raises DataError unless a float image lies in [0,1]; integers have their type's range."""
    if image.dtype.kind == "f" and not (image.min() >= 0 and image.max() <= 1):  # NaN fails both
        found, hint = f"{image.min()} to {image.max()}", "Apply an intensity rule first."
        raise DataError("float image values are outside [0,1]", found=found, hint=hint)


def inflate(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The reverse of `deflate`; never takes more memory than the slice has, raises DataError on anything else."""
    size = int(np.prod(shape)) * dtype.itemsize
    stream = zlib.decompressobj()
    try:
        raw = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise DataError("damaged slice", found=error) from error
    if len(raw) != size or not stream.eof:
        raise DataError("damaged slice", found=f"{len(raw)} bytes", expected=size)
    flat = np.frombuffer(raw, np.uint8)
    if dtype.itemsize > 1:
        flat = np.ascontiguousarray(flat.reshape(dtype.itemsize, -1).T)
    return flat.reshape(-1).view(dtype).reshape(shape)


def packed(masks: np.ndarray, classes: int) -> np.ndarray:
    """(n,R,H,W) class index -> (n,R,K,⌈HW/8⌉): each foreground class as one bit per pixel."""
    onehot = masks[:, :, None] == np.arange(1, classes + 1, dtype=np.uint8)[:, None, None]
    return np.packbits(onehot.reshape(*onehot.shape[:3], -1), axis=-1)


def checksum(file: h5py.File) -> str:
    """SHA-256 of all attributes and tables, whatever they are; slices have theirs in the table `adler32`.

    HDF5 checks its own structure and zlib each slice, but nothing the tables; the fingerprint needs every slice.
    """
    sha = hashlib.sha256()
    if max(len(file), len(file.attrs)) > MAX_PARTS:
        raise DataError("more tables or attributes than a store has", found=max(len(file), len(file.attrs)))
    parts = {name: attribute(file, name, "Siuf", None) for name in sorted(file.attrs.keys() - {CHECKSUM})}
    tables = sorted(file.keys() - {"image", "masks"})
    for name, part in (*parts.items(), *((name, table_of(file, name, "Siuf", None)) for name in tables)):
        value = np.ascontiguousarray(part)
        sha.update(f"{name}\0{value.dtype.str}\0{np.shape(part)}\0".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()


def fingerprint(info: StoreInfo, folds: Mapping[str, int]) -> hashlib._Hash:
    """SHA-256 of a store's content, to be updated with the `item_digest` of each case in order.

    It is of what the store means and holds; not of where, when, by whom or how compressed.
    """
    what = {name: getattr(info, name) for name in (*_LISTS, "intensity", "prompt", "spacing")}
    what |= {"exchangeable_raters": info.exchangeable_raters, "folds": dict(folds)}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode())


def item_digest(image: np.ndarray, masks: np.ndarray, described: list[Any]) -> bytes:
    """Digest of one case: arrays with their type and shape, and its names and geometry as JSON."""
    head = [str(image.dtype.newbyteorder("<")), image.shape, masks.shape, described]
    sha = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    sha.update(image.tobytes())
    sha.update(masks.tobytes())
    return sha.digest()
