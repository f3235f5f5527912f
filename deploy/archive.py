#!/usr/bin/env python3
"""Makes a docker-archive of the three programs, as the Containerfile says it: `archive.py NAME:TAG FOLDER OUT.tar`.

For machines without a builder of images. The same programs give the same bytes: all times are 0, and every file is root's. The form
is that of `docker save`, image specification 1.2 (github.com/moby/moby, image/spec).
"""

import hashlib
import io
import json
import os
import sys
import tarfile

PROGRAMS = ("tencrypt", "tencrypt-node", "tencrypt-cni")
MACHINES = {62: "amd64", 183: "arm64"}  # e_machine (elf.h): the architecture's name in images


def machine(program):
    """The architecture of a program, by its ELF header."""
    head = program[:20]
    found = MACHINES.get(int.from_bytes(head[18:20], "little")) if head[:4] == b"\x7fELF" else None
    if found is None:
        raise SystemExit("archive.py: no program of a known architecture")
    return found


def layer(programs):
    """The file system of the image, as a tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("bin")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        for name, content in programs.items():
            file = tarfile.TarInfo(f"bin/{name}")
            file.mode, file.size = 0o755, len(content)
            archive.addfile(file, io.BytesIO(content))
    return out.getvalue()


def image(name, programs):
    """The files of the archive, by their names."""
    content = layer(programs)
    digest = hashlib.sha256(content).hexdigest()
    machines = {machine(program) for program in programs.values()}
    if len(machines) != 1:
        raise SystemExit(f"archive.py: programs of several architectures: {', '.join(sorted(machines))}")
    config = json.dumps({
        "architecture": machines.pop(),
        "os": "linux",
        "config": {"Entrypoint": ["/bin/tencrypt-node"], "Cmd": ["run"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "deploy/build"}],
    }).encode()
    named = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": named, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    return {named: config, f"{digest}/layer.tar": content, "manifest.json": json.dumps(manifest).encode()}


def main(name, folder, path):
    """Writes the archive, whole or not at all."""
    programs = {}
    for program in PROGRAMS:
        with open(os.path.join(folder, program), "rb") as file:
            programs[program] = file.read()
    new = f"{path}.new"
    with tarfile.open(new, "w", format=tarfile.USTAR_FORMAT) as archive:
        for file, content in image(name, programs).items():
            info = tarfile.TarInfo(file)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    os.replace(new, path)
    print(f"{path}: {name}, {os.path.getsize(path)} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        raise SystemExit(__doc__.splitlines()[0])
    main(*sys.argv[1:])
