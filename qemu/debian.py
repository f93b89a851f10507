"""Packages of Debian for one architecture, fetched by apt with a private state and unpacked without chroot.

The mirror and the keys are the machine's own: whichever entry of its apt configuration serves
Debian. apt verifies what it downloads against the mirror's signed index.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import MachineError
from .cache import Cache

__all__ = ["Mirror", "Packages", "configuration", "find_mirror", "newest", "sources", "unpack"]

SUITES = ("bookworm", "bookworm-backports")
# A mirror of any of these has the others too.
_DEBIAN = (
    *SUITES,
    "trixie",
    "forky",
    "sid",
    "oldoldstable",
    "oldstable",
    "stable",
    "testing",
    "unstable",
)
_INDEX_AGE = 3600  # seconds that a downloaded index is taken for current
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Mirror:
    """Where Debian comes from: the address and, where the entry names one, the keyring."""

    address: str
    signed_by: str = ""


def find_mirror(directory: Path = Path("/etc/apt")) -> Mirror:
    """Return the first mirror of Debian that apt is configured with, bookworm's if there is one.

    $HFSCHED_DEBIAN_MIRROR, an address, goes before. Raises :class:`MachineError`.
    """
    if address := os.environ.get("HFSCHED_DEBIAN_MIRROR"):
        return Mirror(address, str(_KEYRING) if _KEYRING.is_file() else "")
    files = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    found: dict[str, Mirror] = {}
    for path in files:
        reader = {".list": _one_line, ".sources": _deb822}.get(path.suffix)
        if reader is not None and path.is_file():
            for suite, mirror in reader(path.read_text()):
                found.setdefault(suite, mirror)
    for suite in _DEBIAN:
        if suite in found:
            return found[suite]
    raise MachineError(
        f"no mirror of Debian in {directory}; name one: HFSCHED_DEBIAN_MIRROR=ADDRESS"
    )


def _one_line(text: str) -> Iterator[tuple[str, Mirror]]:
    """Entries like ``deb [signed-by=KEYRING] ADDRESS SUITE COMPONENT...``."""
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)", line.strip())
        if match and "main" in match[4].split():
            signed = re.search(r"signed-by=(\S+)", match[1] or "")
            yield match[3], Mirror(match[2], signed[1] if signed else "")


def _deb822(text: str) -> Iterator[tuple[str, Mirror]]:
    """Paragraphs of fields; a field goes on where lines begin with a blank."""
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        for match in re.finditer(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", paragraph, re.MULTILINE):
            fields[match[1].lower()] = match[2].strip()
        if (
            "deb" in fields.get("types", "").split()
            and "main" in fields.get("components", "").split()
            and fields.get("enabled", "yes").lower() not in ("no", "false")
        ):
            for address in fields.get("uris", "").split()[:1]:
                for suite in fields.get("suites", "").split():
                    yield suite, Mirror(address, fields.get("signed-by", ""))


def sources(mirror: Mirror, architecture: str = "arm64", suites: Sequence[str] = SUITES) -> str:
    """Return the source list: nothing but what is needed, or the resolver breaks."""
    fields = {
        "Types": "deb",
        "URIs": mirror.address,
        "Suites": " ".join(suites),
        "Components": "main",
        "Architectures": architecture,
        "Targets": "Packages",
        "Languages": "none",
        "PDiffs": "no",
        "Signed-By": mirror.signed_by,
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items() if value)


def configuration(state: Path, architecture: str = "arm64") -> str:
    """Return the apt configuration that keeps everything under `state`.

    It is read after the machine's own, whose proxies and certificates stay in force.
    """
    return f"""\
APT::Architecture "{architecture}";
#clear APT::Architectures;
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
APT::Default-Release "";
Dir::State "{state}/";
Dir::State::lists "{state}/lists/";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache/";
Dir::Etc::sourcelist "{state}/debian.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""


def newest(names: Sequence[str]) -> str:
    """Return the name with the highest numbers in it, apart from the last, which is the architecture's."""
    return max(names, key=lambda name: [int(part) for part in re.findall(r"\d+", name)[:-1]])


def unpack(package: Path, directory: Path) -> None:
    """Unpack a .deb; none of its scripts runs."""
    _run(["dpkg", "-x", str(package), str(directory)])


class Packages:
    """The packages of a mirror for one architecture; without another, those of Debian 12 for arm64."""

    def __init__(
        self, cache: Cache, architecture: str = "arm64", suites: Sequence[str] = SUITES
    ) -> None:
        self._cache = cache
        self._architecture = architecture
        self._suites = suites
        # Each has its own index, for an index is of one architecture and of these suites.
        self._name = "apt" if architecture == "arm64" else f"apt-{architecture}"
        self._state = cache.directory / self._name

    def names(self, pattern: str) -> list[str]:
        """Return the names of packages that the regular expression matches whole."""
        with self._cache.lock(self._name):
            self._update()
            listed = self._apt("apt-cache", "pkgnames", pattern.partition("\\")[0])
        return sorted(name for name in set(listed.split()) if re.fullmatch(pattern, name))

    def download(self, names: Sequence[str], directory: Path) -> list[Path]:
        """Fetch the newest version of each, or that of a suite (``NAME/SUITE``), into a directory."""
        with self._cache.lock(self._name):
            self._update()
            self._apt("apt-get", "download", *names, directory=directory)
        return sorted(directory.glob("*.deb"))

    def _update(self) -> None:
        stamp = self._state / "updated"
        if stamp.is_file() and 0 <= time.time() - stamp.stat().st_mtime < _INDEX_AGE:
            return
        mirror = find_mirror()
        stamp.unlink(missing_ok=True)
        for part in ("lists/partial", "cache/archives/partial"):
            (self._state / part).mkdir(parents=True, exist_ok=True)
        (self._state / "status").write_text("")
        (self._state / "debian.sources").write_text(
            sources(mirror, self._architecture, self._suites)
        )
        (self._state / "apt.conf").write_text(configuration(self._state, self._architecture))
        self._cache.report(f"fetching the index of Debian's {self._architecture} packages ...")
        self._apt("apt-get", "update", "--error-on=any")
        stamp.touch()

    def _apt(self, program: str, *arguments: str, directory: Path | None = None) -> str:
        configured = [program, "-q", "-c", str(self._state / "apt.conf")]
        return _run([*configured, *arguments], {**os.environ, "LC_ALL": "C"}, directory)


def _run(
    command: list[str], environment: dict[str, str] | None = None, directory: Path | None = None
) -> str:
    if shutil.which(command[0]) is None:
        raise MachineError(f"missing: {command[0]}, which Debian and Ubuntu have")
    result = subprocess.run(
        command, env=environment, cwd=directory, check=False, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()]
        raise MachineError(f"{command[0]} failed: " + "; ".join(said[-3:]))
    return result.stdout
