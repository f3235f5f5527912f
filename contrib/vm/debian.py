"""Debian's kernels: found and fetched by an apt that has folders of its own, so that the machine's is left alone."""

import re
import subprocess
from pathlib import Path

# Where the kernels of each release are; a suite that the mirror has no longer is passed over.
SUITES = ["bullseye", "bookworm", "bookworm-backports", "trixie", "trixie-backports", "sid"]
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Archive:
    """An apt of its own below `folder`."""

    def __init__(self, folder: Path, mirror: str):
        self.folder = folder.resolve()
        for part in ["state/lists/partial", "cache/archives/partial", "packages"]:
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        (self.folder / "state/status").touch()
        sources = "".join(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n" for suite in SUITES)
        (self.folder / "sources.list").write_text(sources)
        (self.folder / "apt.conf").write_text(
            f'Dir::Etc::sourcelist "{self.folder}/sources.list";\nDir::Etc::sourceparts "-";\n'
            f'Dir::State "{self.folder}/state";\nDir::State::status "{self.folder}/state/status";\n'
            f'Dir::Cache "{self.folder}/cache";\nAPT::Sandbox::User "";\n'
            'Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";\nAcquire::Languages "none";\n'
        )

    def _run(self, *command: str) -> str:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "APT_CONFIG": f"{self.folder}/apt.conf", "LC_ALL": "C"}
        done = subprocess.run(command, env=environment, cwd=self.folder / "packages", text=True, capture_output=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def update(self):
        """Reads the lists of packages."""
        self._run("apt-get", "update", "--quiet")

    def kernel(self, series: str) -> str:
        """Returns the newest package of the kernels `series`, as `6.12`, that are built for virtual machines."""
        pattern = rf"^linux-image-{re.escape(series)}\.[0-9.]+[-+][0-9a-z.+~]*-?cloud-amd64$"
        names = [line.split()[0] for line in self._run("apt-cache", "search", "--names-only", pattern).splitlines()]
        if not names:
            raise SystemExit(f"no kernel {series} in {', '.join(SUITES)}")
        return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])

    def unpack(self, package: str) -> Path:
        """Fetches `package`, and those of a kernel that is spread over several; returns the folder of its files."""
        into = self.folder / "unpacked" / package
        if into.exists():
            return into
        depends = re.findall(r"\b(linux-(?:binary|modules)-[0-9][^\s,]*)", self._run("apt-cache", "show", package))
        partial = into.with_name(f".{package}")
        partial.mkdir(parents=True, exist_ok=True)
        for part in [package, *dict.fromkeys(depends)]:
            self._run("apt-get", "download", "--quiet", part)
            [file] = (self.folder / "packages").glob(f"{part}_*.deb")
            self._run("dpkg-deb", "-x", str(file), str(partial))
            file.unlink()
        partial.rename(into)
        return into
