"""A folder as one archive in parts of limited size, and back: for ways that carry no large files.

python tools/gpu/parts.py split FOLDER TARGET [--limit 15]     # TARGET/<folder>.tar.000 …, and <folder>.json
python tools/gpu/parts.py join TARGET/<folder>.json INTO       # checks every part; INTO/<folder>
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

from modiff.errors import CheckpointError
from modiff.io.output import write_bytes, write_text
from modiff.methods.run_folder import read_json

LIMIT = 15  # MiB per part: below 16, with room for what a carrier wraps around it


def split(folder: Path, target: Path, *, limit: int = LIMIT, skip: Iterable[str] = ()) -> Path:
    """Writes the folder's archive in parts of `limit` MiB and returns the list of them with their SHA-256.

    skip: names of files and folders that are left out. Parts of an earlier split of the same name are replaced.
    """
    target.mkdir(parents=True, exist_ok=True)
    left_out, listed = set(skip), []

    def keep(item: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if left_out & set(Path(item.name).parts[1:]) else item

    for old in target.glob(f"{folder.name}.tar.[0-9][0-9][0-9]"):
        old.unlink()
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            archive.add(folder, arcname=folder.name, filter=keep)
        whole.seek(0)
        while piece := whole.read(limit << 20):
            path = target / f"{folder.name}.tar.{len(listed):03d}"
            write_bytes(path, piece)
            listed.append({"name": path.name, "bytes": len(piece), "sha256": hashlib.sha256(piece).hexdigest()})
    manifest = target / f"{folder.name}.json"
    write_text(manifest, json.dumps({"folder": folder.name, "parts": listed}, indent=1) + "\n")
    return manifest


def join(manifest: Path, into: Path) -> Path:
    """Unpacks a split folder into `into`; CheckpointError where a part is missing or is not what was written."""
    described, whole = read_json(manifest), io.BytesIO()
    for part in described["parts"]:
        path = manifest.parent / Path(part["name"]).name
        try:
            piece = path.read_bytes()
        except OSError as error:
            raise CheckpointError("a part is missing", path=path, found=error.strerror) from error
        found = hashlib.sha256(piece).hexdigest()
        if found != part["sha256"]:
            raise CheckpointError("a part has changed", path=path, found=found[:12], expected=part["sha256"][:12])
        whole.write(piece)
    whole.seek(0)
    with tarfile.open(fileobj=whole) as archive:
        for item in archive:
            _unpack(archive, item, into, manifest)
    return into / Path(described["folder"]).name


def _unpack(archive: tarfile.TarFile, item: tarfile.TarInfo, into: Path, manifest: Path) -> None:
    """Files and folders below `into` alone (`extractall` has a filter for that only since Python 3.11.4)."""
    name = Path(item.name)
    content = archive.extractfile(item) if item.isfile() else None
    if name.is_absolute() or ".." in name.parts or (content is None and not item.isdir()):
        raise CheckpointError("no plain file of a folder", path=manifest, found=item.name)
    if content is None:
        (into / name).mkdir(parents=True, exist_ok=True)
    else:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_bytes(content.read())


def main() -> None:
    """Splits or joins."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("split", "join"))
    parser.add_argument("source", type=Path, help="the folder, or the list of parts (.json)")
    parser.add_argument("target", type=Path, help="where to write")
    parser.add_argument("--limit", type=int, default=LIMIT, metavar="MIB", help=f"largest part ({LIMIT})")
    args = parser.parse_args()
    if args.limit < 1:
        parser.error("--limit: 1 or more")
    print(split(args.source, args.target, limit=args.limit) if args.what == "split" else join(args.source, args.target))


if __name__ == "__main__":
    main()
