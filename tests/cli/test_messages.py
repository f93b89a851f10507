"""What a wrong command line, manifest or environment is answered with, word by word.

A person who reads the message alone can mend it: it has the thing, its value, and what to do.
"""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hfsched.vmm.guests import RAW_HINT, bundled_images

if TYPE_CHECKING:
    from conftest import Start

BUNDLED = ", ".join(name for name in bundled_images() if name.endswith(".bin") and "/" not in name)
KNOWN = f"(bundled: {BUNDLED}, each also as aarch64/... and x86_64/...)"
NEITHER = "neither an arm64 Linux image, an x86-64 flat image nor an ELF64 file"
VM = '[[vm]]\nname = "a"\nimage = "guests.py:echo"\n'

# Words of the command line, the status, and the message.
COMMAND_LINES: list[tuple[str, int, str]] = [
    ("", 2, "the following arguments are required: COMMAND (see hfsched --help)"),
    (
        "trusty.bin",
        2,
        "no command 'trusty.bin': did you mean `hfsched run trusty.bin`? (see hfsched --help)",
    ),
    ("--verison", 2, "no option --verison: did you mean '--version'? (see hfsched --help)"),
    ("-V", 2, "no option -V (see hfsched --help)"),
    ("--verison run", 2, "no option --verison: did you mean '--version'? (see hfsched --help)"),
    ("rum", 2, "no command 'rum': did you mean `hfsched run`? (see hfsched --help)"),
    ("run", 2, "name a guest, such as trusty.bin, or a machine's manifest"),
    (
        "run trusty",
        1,
        f"vm trusty: image trusty: no such file, and no bundled guest {KNOWN}: did you mean 'trusty.bin'?",
    ),
    (
        "run absent.xyz",
        1,
        f"vm absent: image absent.xyz: no such file, and no bundled guest {KNOWN}",
    ),
    (
        "run nosuch.bin",
        1,
        f"vm nosuch: image nosuch.bin: no such file, and no bundled guest {KNOWN}",
    ),
    (
        "run away/guest.bin",
        1,
        "vm guest: away/guest.bin: cannot be read: No such file or directory",
    ),
    (
        "run trusty.bin --fdt absent.dtb",
        1,
        "vm trusty: fdt absent.dtb: cannot be read: No such file or directory",
    ),
    ("run trusty.bin --fdt .", 1, "vm trusty: fdt .: a directory: it must be a regular file"),
    ("run notes.txt", 1, "notes.txt: neither a guest image nor a machine's manifest: text"),
    (
        "run --guest notes.txt",
        1,
        f"vm notes: notes.txt: {NEITHER} (6 bytes): text",
    ),
    ("run x=notes.txt", 1, f"vm x: notes.txt: {NEITHER} (6 bytes): text"),
    (
        "run --guest odd",
        1,
        f"vm odd: odd: {NEITHER} (3 bytes): nothing known, first bytes 00 01 02; {RAW_HINT}",
    ),
    (
        "run x=good.toml",
        1,
        "vm x: good.toml: a machine's manifest, not an image: hfsched run good.toml",
    ),
    (
        "run wrong.toml",
        1,
        "vm a: good.toml: a machine's manifest, not an image: hfsched run good.toml",
    ),
    (
        "run guest.gz",
        1,
        "guest.gz: neither a guest image nor a machine's manifest: gzip data: gunzip it first",
    ),
    ("run folder", 1, "folder: a directory: name a guest image or a manifest in it"),
    ("run absent.toml", 1, "manifest absent.toml: No such file or directory"),
    (
        "run --guest good.toml",
        2,
        "--guest good.toml: a manifest: give it without --guest: hfsched run good.toml",
    ),
    (
        "run --guest binary.toml",
        1,
        f"vm binary: binary.toml: {NEITHER} (4 bytes): nothing known, first bytes ff 00 01 02; {RAW_HINT}",
    ),
    ("run --guest odd.toml", 1, f"vm odd: odd.toml: {NEITHER} (6 bytes): text"),
    (
        "run --guest absent.toml",
        1,
        f"vm absent: image absent.toml: no such file, and no bundled guest {KNOWN}",
    ),
    (
        "run --raw-image absent.toml",
        1,
        f"vm absent: image absent.toml: no such file, and no bundled guest {KNOWN}",
    ),
    (
        "run --raw-image good.toml",
        2,
        '--raw-image: write it into the manifest good.toml instead (format = "raw")',
    ),
    ("run good.toml good.toml", 2, "good.toml, good.toml: one manifest a machine"),
    (
        "run good.toml guests.py:echo",
        2,
        (
            "good.toml, guests.py:echo: either a manifest or guests:"
            " write the guest into the manifest, as another [[vm]]"
        ),
    ),
    ("run good.toml --vcpus 2", 2, "--vcpus: write it into the manifest good.toml instead"),
    ("run guests.py:eco", 1, "vm guests: script guest guests.py:eco: no function 'eco'"),
    ("run guests.py:echo --vcpus 0", 2, "--vcpus '0': a number from 1 to 32"),
    ("run guests.py:echo --vcpus -1", 2, "--vcpus '-1': a number from 1 to 32"),
    ("run guests.py:echo --vcpus 1e3", 2, "--vcpus '1e3': a number from 1 to 32"),
    ("run guests.py:echo --vcpus 999999", 2, "--vcpus '999999': a number from 1 to 32"),
    ("run guests.py:echo --memory 16MB", 2, "--memory '16MB': write 16MiB: units are powers of 2"),
    (
        "run guests.py:echo --memory 5000",
        2,
        "--memory '5000': a multiple of 4096 bytes up to 64GiB, such as 16MiB",
    ),
    (
        "run guests.py:echo --to ghests",
        2,
        "--to ghests: no such VM: there is guests: did you mean 'guests'?",
    ),
    (
        "run a=guests.py:echo a=guests.py:echo",
        2,
        "command line: two VMs are called 'a': rename one",
    ),
    (
        "run guests.py:echo --linger soon",
        2,
        "--linger 'soon': a time such as 500ms, 8s or 2m, up to 24h",
    ),
    (
        "run guests.py:echo --qiet",
        2,
        "no option --qiet: did you mean '--quiet'? (see hfsched run --help)",
    ),
    (
        "run guests.py:echo --swap-idle 30s",
        2,
        "--swap-idle needs --swap-dir DIR: where guest memory goes",
    ),
    (
        "run notes.txt --engine script",
        1,
        (
            "vm notes: notes.txt: not a Python guest, which the engine script runs:"
            " leave --engine out, or name a FILE.py:FUNCTION"
        ),
    ),
    (
        "run notes --engine script",
        1,
        (
            "vm notes: script guest notes: ImportError: no bundled program: there are echo, reader, relay, utility;"
            " yours is FILE.py:FUNCTION"
        ),
    ),
    (
        "run t:notes.txt",
        1,
        "vm t: t:notes.txt: a VM's name ends with '=': write t=notes.txt",
    ),
    (
        "run guests.py:echo --engine kvm",
        1,
        "vm guests: engine kvm cannot run a Python guest: use script",
    ),
    (
        "run --memory trusty.bin",
        2,
        "--memory 'trusty.bin': a multiple of 4096 bytes up to 64GiB, such as 16MiB",
    ),
    ("run --vcpus trusty.bin", 2, "--vcpus 'trusty.bin': a number from 1 to 32"),
    (
        "run --linger trusty.bin",
        2,
        "--linger 'trusty.bin': a time such as 500ms, 8s or 2m, up to 24h",
    ),
    ("run guests.py:echo --memory", 2, "--memory needs a value after it (see hfsched run --help)"),
    ("run guests.py:echo --json=1", 2, "--json takes no value, got '1' (see hfsched run --help)"),
    (
        "run guests.py:echo --engine scirpt",
        2,
        (
            "--engine 'scirpt': one of auto, unicorn, kvm, script: did you mean 'script'?"
            " (see hfsched run --help)"
        ),
    ),
    (
        "run guests.py:echo --swap-dir . --swap-idle 0",
        2,
        "--swap-idle '0': a time such as 500ms, 30s or 2m, 10ms to 24h",
    ),
    (
        "run guests.py:echo --unread-limit 0",
        2,
        "--unread-limit '0': a time such as 500ms, 30s or 2m, 10ms to 24h",
    ),
    (
        "swap in trusty",
        2,
        "'in': one of enable, trim, out, disable, discard, log, status (see hfsched swap --help)",
    ),
    (
        "swap enabel trusty",
        2,
        (
            "'enabel': one of enable, trim, out, disable, discard, log, status: did you mean 'enable'?"
            " (see hfsched swap --help)"
        ),
    ),
    (
        "swap status trusty --within soon",
        2,
        "--within 'soon': a time such as 500ms or 8s, 1ms to 10m",
    ),
    ("run guests.py:echo --no-sockets --name m", 2, "--name and --no-sockets: choose one"),
    ("run guests.py:echo --no-sockets --socket m", 2, "--socket and --no-sockets: choose one"),
    (
        f"run guests.py:echo --socket {'s' * 120}",
        2,
        f"--socket {'s' * 120}: 120 bytes, a socket's path has at most 106: choose a shorter path",
    ),
    ("run guests.py:echo --socket away/s", 1, "--socket away/s: no directory away"),
    (
        "run guests.py:echo --socket notes.txt",
        1,
        "--socket notes.txt: not a socket: choose another path",
    ),
    ("swap discard nothere", 2, "discard needs a range, such as 0x7fe00000+1MiB"),
    ("swap discard nothere 5", 2, "range '5': an address and a size, such as 0x7fe00000+1MiB"),
    (
        "swap discard nothere 0x1+1MiB",
        2,
        "range '0x1+1MiB': the address must be a multiple of 4096",
    ),
    (
        "run absent.part:guest",
        1,
        (
            "vm absent: script guest absent.part:guest: no module 'absent':"
            " write FILE.py:guest, or put its folder in PYTHONPATH"
        ),
    ),
    (
        "run needy.py",
        1,
        "vm needy: script guest needy.py: ModuleNotFoundError: No module named 'absent' (needy.py:1)",
    ),
    (
        "run arm64/echo.bin",
        1,
        "vm echo: image arm64/echo.bin: no such file: did you mean 'aarch64/echo.bin'?",
    ),
    (
        "run AMD64/echo.bin",
        1,
        "vm echo: image AMD64/echo.bin: no such file: did you mean 'x86_64/echo.bin'?",
    ),
    (
        "image arm64/echo.bin",
        2,
        "image arm64/echo.bin: no such file: did you mean 'aarch64/echo.bin'?",
    ),
    (
        "run guests.py:echo --no-stdin --to guests",
        2,
        "--to and --no-stdin: choose one: no line is read",
    ),
    (
        "run guests.py:echo --no-stdin --linger 5",
        2,
        "--linger and --no-stdin: choose one: there is no end of input",
    ),
    ("fuzz", 2, "the following arguments are required: SCENARIO (see hfsched fuzz --help)"),
    (
        "fuzz hello.py::guest",
        2,
        "scenario hello.py::guest: guest is a function that is no test: put @hfsched.explore.test() above it",
    ),
    (
        "fuzz hello.py::Plain",
        2,
        "scenario hello.py::Plain: Plain is not a dataclass with a method build",
    ),
    ("help", 2, "no command 'help': did you mean `hfsched --help`? (see hfsched --help)"),
    ("help run", 2, "no command 'help': did you mean `hfsched run --help`? (see hfsched --help)"),
    ("version", 2, "no command 'version': did you mean `hfsched --version`? (see hfsched --help)"),
    (
        "run guests.py:echo --dialect ffa-1.1",
        2,
        "--dialect 'ffa-1.1': only ffa-1.0 is known (see hfsched run --help)",
    ),
    ("swap out", 2, "the following arguments are required: VM (see hfsched swap --help)"),
    ("image --jsn", 2, "no option --jsn: did you mean '--json'? (see hfsched image --help)"),
    ("swap --jsn", 2, "no option --jsn: did you mean '--json'? (see hfsched swap --help)"),
    (
        "swap out --wihtin=3",
        2,
        "no option --wihtin: did you mean '--within'? (see hfsched swap --help)",
    ),
    ("swap status demo/", 1, "demo/: name a VM: demo/VM"),
    (
        "run --swap-dir trusty.bin",
        2,
        "name a guest, such as trusty.bin, or a machine's manifest: --swap-dir takes 'trusty.bin' for itself",
    ),
    (
        "run --name guests.py:echo",
        2,
        "name a guest, such as trusty.bin, or a machine's manifest: --name takes 'guests.py:echo' for itself",
    ),
    ("run --name m", 2, "name a guest, such as trusty.bin, or a machine's manifest"),
    (
        "image trusty",
        2,
        f"image trusty: no such file, and no bundled guest {KNOWN}: did you mean 'trusty.bin'?",
    ),
    ("image away/x.bin", 2, "away/x.bin: cannot be read: No such file or directory"),
    ("image", 2, "the following arguments are required: FILE (see hfsched image --help)"),
]

# Manifests and what is said of them after "manifest m.toml: ".
MANIFESTS: list[tuple[str | bytes, str]] = [
    ("", 'no VM: write [[vm]], and below it image = "trusty.bin"'),
    (VM.replace("image", "imgae"), "[[vm]] 'a': unknown key 'imgae': did you mean 'image'?"),
    (VM + "cpus = 2", "[[vm]] 'a': unknown key 'cpus': did you mean 'vcpus'?"),
    (
        VM + 'engine = "kvm"',
        "[[vm]] 'a': unknown key 'engine': it is the machine's: write it above the first [[vm]]",
    ),
    ("[[vm]]\nname = 'a'\n", "[[vm]] 'a': missing 'image'"),
    (
        "[[vm]]\nimage = guests.py",
        'Invalid value (at line 2, column 9): image = guests.py: write it in quotes: image = "guests.py"',
    ),
    (
        VM + "memory=16MiB  # enough",
        (
            "Expected newline or end of document after a statement (at line 4, column 10):"
            ' memory=16MiB  # enough: write it in quotes: memory = "16MiB"'
        ),
    ),
    (
        "name=t\n" + VM,
        'Invalid value (at line 1, column 6): name=t: write it in quotes: name = "t"',
    ),
    (
        VM + "base = 1GiB",
        (
            "Expected newline or end of document after a statement (at line 4, column 9): base = 1GiB:"
            ' write it in quotes: base = "1GiB"'
        ),
    ),
    (VM + "vcpus = two", "Invalid value (at line 4, column 9): vcpus = two"),
    (
        '[machine]\nname = "t"\n' + VM,
        "unknown table [machine]: name, engine, swap, swap_idle are written above the first [[vm]]",
    ),
    ('[vms]\nimage = "x"\n', "unknown key 'vms': did you mean 'vm'?"),
    (
        VM + 'base = "1.5Gib/2"',
        "vm a: base '1.5Gib/2': a multiple of 4096 below 2^40, not 0, such as 0x40000000 or \"1GiB\"",
    ),
    (
        VM + "base = 1",
        'vm a: base 0x1: a multiple of 4096 below 2^40, not 0, such as 0x40000000 or "1GiB"',
    ),
    (
        VM + "base = 0",
        'vm a: base 0x0: a multiple of 4096 below 2^40, not 0, such as 0x40000000 or "1GiB"',
    ),
    (
        VM + 'ports = { "5" = 7 }',
        "vm a: port name '5': it would be taken for the port's number: use another",
    ),
    (
        VM + "ports = { 0x10 = 7 }",
        "vm a: port name '0x10': it would be taken for the port's number: use another",
    ),
    (
        VM + 'base = "1023GiB"\nmemory = "2GiB"',
        "vm a: base 0xffc0000000: its memory of 0x80000000 bytes ends above 2^40",
    ),
    (
        VM + 'ports = { smc = 0, text = "one" }',
        "[[vm]] 'a': ports: text = 'one': a number, such as 1",
    ),
    (VM + "ports = { text = true }", "[[vm]] 'a': ports: text = True: a number, such as 1"),
    (
        'swap = "/tmp"\nswap_idle = 0\n' + VM,
        "swap_idle 0: a time such as 500ms, 30s or 2m, 10ms to 24h",
    ),
    (
        'swap = "/tmp"\nswap_idle = true\n' + VM,
        'swap_idle: a number or a text in "quotes", not true or false',
    ),
    (
        VM + "ports = { txt = 1 }",
        "vm a: port 'txt': did you mean 'text', which gets lines of stdin? (if not, add text = 1)",
    ),
    (VM + "vcpus = 0", "vm a: vcpus must be 1 to 32, got 0"),
    (VM + 'memory = "16MB"', "vm a: memory '16MB': write 16MiB: units are powers of 2"),
    (VM + "memory = 1.5", "[[vm]] 'a': memory: a number or a text in \"quotes\", not a fraction"),
    (
        VM.encode("utf-16-le"),
        "it has NUL bytes: not text, or UTF-16 without a mark: save it as UTF-8",
    ),
    (VM.replace("[[vm]]", "[vm]") + VM, "[vm] and another VM: write [[vm]] for each"),
    (VM + VM, "two VMs are called 'a': rename one"),
]

REMEDY = "raise it, or run fewer VMs or vCPUs"
# Environments: a limit, its amount, further words.
ENVIRONMENTS: list[tuple[int, int, str]] = [
    (
        resource.RLIMIT_NOFILE,
        11,
        f"a hard limit of 11 open files (ulimit -Hn): at least 30 are needed: {REMEDY}",
    ),
    (
        resource.RLIMIT_AS,
        200_000 << 10,
        "a limit of 200000 KiB of addresses (ulimit -v): at least 229376 KiB are needed",
    ),
    (
        resource.RLIMIT_FSIZE,
        1024,
        "a limit of 1 KiB for a file (ulimit -f), which guest memory is: at least 16384 KiB are needed",
    ),
]


@pytest.fixture(autouse=True)
def _files(hfsched: Start) -> None:
    Path("notes.txt").write_text("hello\n")
    Path("guest.gz").write_bytes(b"\x1f\x8b\x08\x00")
    Path("folder").mkdir()
    Path("good.toml").write_text(VM)
    Path("wrong.toml").write_text(VM.replace("guests.py:echo", "good.toml"))
    Path("odd").write_bytes(b"\0\1\2")
    Path("hello.py").write_text("def guest(cpu): yield\nclass Plain: ...\n")
    Path("needy.py").write_text("import absent\n")
    Path("odd.toml").write_text("hello\n")
    Path("binary.toml").write_bytes(b"\xff\0\1\2")


def said(hfsched: Start, words: list[str], status: int, **options: Callable[[], None]) -> str:
    """Return the one line of error."""
    refused = hfsched(*words, **options)
    assert refused.wait() == status, refused.err
    assert refused.out == ""
    (line,) = re.findall(r"^hfsched: error: (.*)\n", refused.err, re.MULTILINE)
    assert len(refused.err.splitlines()) == 1 + refused.err.count("hfsched: engine")
    assert line.isprintable()
    return str(line)


@pytest.mark.parametrize(("words", "status", "message"), COMMAND_LINES)
def test_a_wrong_command_line(hfsched: Start, words: str, status: int, message: str) -> None:
    if not BUNDLED and (KNOWN in message or "echo.bin'" in message):
        pytest.skip("the bundled guests are not built: script/guests")
    assert said(hfsched, words.split(), status) == message


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("run nothere/x.bin --json", 1),
        ("run wrong.toml --json", 1),
        ("run guests.py:eco --json", 1),
        ("run guests.py:echo --vcpus 0 --json", 2),
        ("run guests.py:echo --qiet --json", 2),
        ("run --json", 2),
        ("image nothere/x.bin --json", 2),
        ("image --json", 2),
        ("swap status nothere --json", 1),
        ("swap discard nothere --json", 2),
        ("doctor more --json", 2),
    ],
)
def test_an_error_is_a_record_too(hfsched: Start, words: str, status: int) -> None:
    refused = hfsched(*words.split())
    assert refused.wait() == status
    record = json.loads(refused.out)
    text = record["text"] if words.startswith("run") else record["error"]
    assert record in ({"event": "error", "text": text}, {"error": text})
    assert refused.err == f"hfsched: error: {text}\n"


@pytest.mark.parametrize(("text", "message"), MANIFESTS)
def test_a_wrong_manifest(hfsched: Start, text: str | bytes, message: str) -> None:
    Path("m.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert said(hfsched, ["run", "m.toml"], 1) == f"manifest m.toml: {message}"


@pytest.mark.parametrize(("limit", "amount", "message"), ENVIRONMENTS)
def test_a_wrong_environment(hfsched: Start, limit: int, amount: int, message: str) -> None:
    found = said(
        hfsched,
        ["run", "guests.py:echo"],
        1,
        preexec_fn=lambda: resource.setrlimit(limit, (amount, amount)),
    )
    assert found == message


def test_a_directory_for_sockets_that_others_write(hfsched: Start) -> None:
    Path("shared").mkdir()
    Path("shared").chmod(0o700)
    Path("shared/hfsched").mkdir()
    Path("shared/hfsched").chmod(0o777)
    where = Path("shared/hfsched").absolute()
    refused = hfsched(
        *("run", "guests.py:echo", "--name", "x", "--quiet"),
        environment={"XDG_RUNTIME_DIR": str(where.parent)},
    )
    assert refused.wait() == 1
    assert refused.err == (
        f"hfsched: error: {where} can be written by others:"
        " remove it, or set XDG_RUNTIME_DIR to a directory of your own,"
        " such as one made by `mkdir -m 700 ~/.hfsched`\n"
    )


def test_there_are_enough() -> None:
    assert len(COMMAND_LINES) + len(MANIFESTS) + len(ENVIRONMENTS) >= 40
