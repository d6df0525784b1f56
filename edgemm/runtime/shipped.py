"""What ships for one target, and how large it is: graphs or plans, tokenizers, labels, placeholders, the gallery."""

from __future__ import annotations

from edgemm.runtime.archive import Archive
from edgemm.runtime.manifest import Manifest, TargetEntry


def files_run(manifest: Manifest, target: TargetEntry) -> dict[str, str]:
    """Return what a target runs -> its path: graphs or plans, tokenizers, placeholders, labels."""
    files = {f"part:{part}": path for part, path in target.files.items()}
    files |= {f"{key}:{m}": path for m, raw in manifest.inputs.items() for key, path in raw.files.items()}
    files |= {f"placeholder:{value}": path for value, path in manifest.placeholders.items()}
    return files | {f"labels:{name}": path for name, path in manifest.labels.items()}


def target_bytes(manifest: Manifest, target: TargetEntry) -> int:
    """Return bytes of what a target runs, each file once, no gallery."""
    return sum(manifest.files[path].bytes for path in set(files_run(manifest, target).values()))


def gallery_bytes(manifest: Manifest) -> int:
    """Return bytes of the galleries that a bundle's embeddings search in, and of their labels; 0 without them."""
    paths = {path for gallery in manifest.galleries.values() for path in (gallery.embeddings, gallery.labels)}
    return sum(manifest.files[path].bytes for path in paths)


def bundle_bytes(archive: Archive) -> int:
    """Return bytes of a whole bundle, unpacked: all that its manifest lists, and the manifest itself."""
    return archive.manifest_bytes + sum(entry.bytes for entry in archive.manifest.files.values())


def shipped_bytes(manifest: Manifest, target: TargetEntry) -> int:
    """Return bytes of what ships for a target: what it runs, and the gallery."""
    return target_bytes(manifest, target) + gallery_bytes(manifest)
