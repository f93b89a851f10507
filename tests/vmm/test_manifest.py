"""The machine's description: what is taken, and the one line for everything that is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hfsched.abi.virtio import DEVICE_TYPES
from hfsched.errors import ConfigError
from hfsched.vmm.manifest import (
    MEMORY_DEFAULT,
    MachineSpec,
    VmSpec,
    expand,
    load,
    parse,
)
from hfsched.vmm.sizes import parse_size

VM = '[[vm]]\nimage = "guest.bin"\n'
NAME_RULE = "use 1 to 63 letters, digits, '.', '_' and '-', a letter or digit first"
BASE_RULE = 'a multiple of 4096 below 2^40, not 0, such as 0x40000000 or "1GiB"'
IDLE_RULE = "a time such as 500ms, 30s or 2m, 10ms to 24h"
SIZE_RULE = "a multiple of 4096 bytes up to 64GiB, such as 16MiB"
NO_VM = 'no VM: write [[vm]], and below it image = "trusty.bin"'
NULS = "it has NUL bytes: not text, or UTF-16 without a mark: save it as UTF-8"
VM_KEYS = (
    "image, name, memory, vcpus, dialect, fdt, bootargs, framing, format, ports, base, uuid, device"
)
TYPE_RULE = f"a number of virtio's, or one of {', '.join(DEVICE_TYPES)}"
DEVICE = '[[vm.device]]\ntype = 2\nsocket = "s"\n'
SUFFIX_RULE = "use K, M, G, KiB, MiB, GiB"


def parsed(text: str) -> MachineSpec:
    return parse("m.toml", text.encode())


def refusal(text: str | bytes) -> str:
    """Return why a manifest is refused, without the source that every reason begins with."""
    with pytest.raises(ConfigError) as caught:
        parse("m.toml", text.encode() if isinstance(text, str) else text)
    reason = str(caught.value)
    assert "\n" not in reason
    assert reason.startswith("manifest m.toml: ")
    return reason.removeprefix("manifest m.toml: ")


def test_devices_of_a_vm(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(f'{VM}{DEVICE}[[vm.device]]\ntype = "rng"\nsocket = "/run/r"\n')
    (vm,) = load(path).vm
    assert [(each.type_number, each.socket) for each in vm.device] == [
        (2, str(tmp_path / "s")),
        (4, "/run/r"),
    ]
    assert vm.fdt == "auto", "the guest has to find them"


def test_all_that_can_be_said() -> None:
    spec = parsed(
        """
        name = "demo"
        engine = "unicorn"
        [[vm]]
        name = "trusty"
        image = "trusty.bin"
        memory = "32MiB"
        vcpus = 2
        dialect = "ffa-1.0"
        fdt = "trusty.dtb"
        framing = "raw"
        ports = { smc = 0, text = 5 }
        base = 0x7f000000
        uuid = "01234567-89ab-cdef-0123-456789abcdef"
        """
    )
    assert (spec.name, spec.engine) == ("demo", "unicorn")
    assert spec.vm == [
        VmSpec(
            name="trusty",
            image="trusty.bin",
            memory=32 << 20,
            vcpus=2,
            dialect="ffa-1.0",
            fdt="trusty.dtb",
            framing="raw",
            ports={"smc": 0, "text": 5},
            base=0x7F000000,
            uuid="01234567-89ab-cdef-0123-456789abcdef",
        )
    ]
    assert spec.vm[0].text_port == 5
    assert spec.vm[0].memory_bytes == 32 << 20


def test_what_need_not_be_said() -> None:
    spec = parsed(VM)
    assert (spec.name, spec.engine) == (None, "auto")
    vm = spec.vm[0]
    assert (vm.name, vm.memory, vm.vcpus, vm.dialect) == ("guest", MEMORY_DEFAULT, 1, "ffa-1.0")
    assert (vm.fdt, vm.framing, vm.ports, vm.base, vm.uuid) == (None, "ports", {}, None, None)
    assert vm.text_port == 1


def test_an_address_is_written_as_a_size_is() -> None:
    for text in ('"1.5GiB"', '"0x60000000"', "0x60000000", "1610612736", '"1610612736"'):
        assert parsed(f"{VM}\nbase = {text}").vm[0].base_address == 0x6000_0000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", NO_VM),
        ("vm = []", NO_VM),
        ("vm = 3", "vm: a list, not a number"),
        ("[[vm]]", "[[vm]] number 1: missing 'image'"),
        (VM + "[[vm]]\nname = 'a'", "[[vm]] 'a': missing 'image'"),
        ("bogus = 1\n" + VM, "unknown key 'bogus': there are vm, name, engine, swap, swap_idle"),
        (VM + "bogus = 1", f"[[vm]] number 1: unknown key 'bogus': there are {VM_KEYS}"),
        (VM + "memroy = 1", "[[vm]] number 1: unknown key 'memroy': did you mean 'memory'?"),
        (VM + "Vcpus = 1", "[[vm]] number 1: unknown key 'Vcpus': did you mean 'vcpus'?"),
        (VM + "mem = 1", "[[vm]] number 1: unknown key 'mem': did you mean 'memory'?"),
        (VM + "kernel = 1", "[[vm]] number 1: unknown key 'kernel': did you mean 'image'?"),
        ("engin = 1\n" + VM, "unknown key 'engin': did you mean 'engine'?"),
        ("[[VM]]", "unknown key 'VM': did you mean 'vm'?"),
        ("[[guests]]", "unknown key 'guests': did you mean 'vm'?"),
        ("image = 'a'", "unknown key 'image': it is a VM's: write it below its [[vm]]"),
        (VM + "[ports]", "unknown key 'ports': it is a VM's: write it below its [[vm]]"),
        (
            VM + "swap = 'd'",
            "[[vm]] number 1: unknown key 'swap': it is the machine's: write it above the first [[vm]]",
        ),
        ("vm = 'a.bin'", 'vm: a list, not a text in "quotes"'),
        ("vm = ['a.bin']", '[[vm]] number 1: a table, not a text in "quotes"'),
        ("[vm]\nimage='a'\n[vm]\n", "[vm] and another VM: write [[vm]] for each"),
        ("[vm]\nimage='a'\n[[vm]]\n", "[vm] and another VM: write [[vm]] for each"),
        (VM + "[vm]\n", "[vm] and another VM: write [[vm]] for each"),
        (
            "[[vm]]\nimage = '\x1b'",
            "Found invalid character '\\x1b' (at line 2, column 10): image = '\\x1b'",
        ),
        (
            "[[vm]]\nimage = b.bin",
            'Invalid value (at line 2, column 9): image = b.bin: write it in quotes: image = "b.bin"',
        ),
        (
            "[[vm]]\r\nimage = b.bin\r\n",
            'Invalid value (at line 2, column 9): image = b.bin: write it in quotes: image = "b.bin"',
        ),
        (VM + "image = 'b'", "a key is there twice: Cannot overwrite a value (at end of document)"),
        (VM + "vcpus = 1.0", "[[vm]] number 1: vcpus: a number, not a fraction"),
        (VM + "vcpus = 'two'", '[[vm]] number 1: vcpus: a number, not a text in "quotes"'),
        (
            VM + "dialect = 'ffa1.0'",
            "vm guest: dialect 'ffa1.0': only ffa-1.0 is known",
        ),
        ("name = 1\n" + VM, 'name: a text in "quotes", not a number'),
        (VM.encode("utf-16-le"), NULS),
        (VM.encode() + b"\0", NULS),
        (VM.encode() + b"# caf\xe9", "line 3: byte 0xe9 is no text in UTF-8: save it as UTF-8"),
        (b"\xff\xfe\0", "line 1: byte 0x0 is no text in UTF-16-LE: save it as UTF-8"),
        ('engine = "x"\n' + VM, "engine 'x': one of auto, unicorn, kvm, script"),
        ('name = "a b"\n' + VM, f"machine name 'a b': {NAME_RULE}"),
        ('name = ""\n' + VM, f"machine name '': {NAME_RULE}"),
        (VM + 'name = "-a"', f"VM name '-a': {NAME_RULE}"),
        (VM + 'name = "é"', f"VM name 'é': {NAME_RULE}"),
        (VM + 'name = "a\\n"', f"VM name 'a\\n': {NAME_RULE}"),
        (VM + f'name = "{"a" * 64}"', f"VM name '{'a' * 64}': {NAME_RULE}"),
        ('[[vm]]\nname = "x"\nimage = ""', "vm x: image is empty: name a file"),
        (VM + 'dialect = "c"', "vm guest: dialect 'c': only ffa-1.0 is known"),
        (VM + "memory = 4097", f"vm guest: memory 4097: {SIZE_RULE}"),
        (VM + 'memory = "16MB"', "vm guest: memory '16MB': write 16MiB: units are powers of 2"),
        (
            VM + "memory = true",
            '[[vm]] number 1: memory: a number or a text in "quotes", not true or false',
        ),
        (VM + "vcpus = 0", "vm guest: vcpus must be 1 to 32, got 0"),
        (VM + "vcpus = 33", "vm guest: vcpus must be 1 to 32, got 33"),
        (VM + 'framing = "x"', "[[vm]] number 1: framing 'x': one of ports, raw"),
        (VM + 'uuid = "x"', "vm guest: uuid 'x': not a valid UUID"),
        (VM + "ports = { a = -1 }", "vm guest: port a = -1: 0 to 4294967295"),
        (VM + "ports = { a = 4294967296 }", "vm guest: port a = 4294967296: 0 to 4294967295"),
        (VM + 'ports = { "a b" = 1 }', f"vm guest: port name 'a b': {NAME_RULE}"),
        *(
            (VM + f"base = {base:#x}", f"vm guest: base {base:#x}: {BASE_RULE}")
            for base in (1, 0x8000_0800, 1 << 40, 1 << 70)
        ),
        (
            VM + f"base = {(1 << 40) - MEMORY_DEFAULT + 4096:#x}",
            "vm guest: base 0xffff001000: its memory of 0x1000000 bytes ends above 2^40",
        ),
        (VM + 'base = "1GB"', "vm guest: base '1GB': write 1GiB: units are powers of 2"),
        (
            VM + "base = -4096",
            f"vm guest: base -0x1000: {BASE_RULE}",
        ),
        (
            '[[vm]]\nimage="a"\nname="x"\n[[vm]]\nimage="b"\nname="x"',
            "two VMs are called 'x': rename one",
        ),
        (VM * 1025, "1025 VMs: at most 1024"),
        ('swap = ""\n' + VM, "swap is empty: name a directory, or leave it out"),
        ('swap_idle = "30s"\n' + VM, "swap_idle needs swap, a directory (--swap-dir DIR)"),
        ('swap = "d"\nswap_idle = 0\n' + VM, f"swap_idle 0: {IDLE_RULE}"),
        ('swap = "d"\nswap_idle = nan\n' + VM, f"swap_idle nan: {IDLE_RULE}"),
        *(
            (f'swap = "d"\nswap_idle = "{text}"\n' + VM, f"swap_idle '{text}': {IDLE_RULE}")
            for text in ("", "0s", "9ms", "25h", "30 s", "-1s", "1s\\n")
        ),
        *(
            (f"{VM}[[vm.device]]\n{text}", f"{where}: {why}")
            for text, where, why in (
                ('type = "block"', "[[vm]] number 1: device", "missing 'socket'"),
                (
                    'type = "block"\nsocket = "s"\nsockets = 1',
                    "[[vm]] number 1: device",
                    "unknown key 'sockets': did you mean 'socket'?",
                ),
                (
                    'type = "block"\nsocket = "s"\nqueue = 1',
                    "[[vm]] number 1: device",
                    "unknown key 'queue': there are type, socket, kind",
                ),
                ('type = "disk"\nsocket = "s"', "vm guest: device", f"type 'disk': {TYPE_RULE}"),
                (
                    'type = "blok"\nsocket = "s"',
                    "vm guest: device",
                    f"type 'blok': {TYPE_RULE}: did you mean 'block'?",
                ),
                ('type = 0\nsocket = "s"', "vm guest: device", "type 0: 1 to 65535"),
                ('type = 2\nsocket = ""', "vm guest: device", "socket '': name a socket"),
                (
                    'type = 2\nsocket = "s"\nkind = "x"',
                    "[[vm]] number 1: device",
                    "kind 'x': one of vhost-user",
                ),
            )
        ),
        (f"{VM}{DEVICE * 17}", "vm guest: 17 devices: at most 16"),
        (
            f'swap = "d"\n{VM}{DEVICE}',
            "vm guest: device 2 at s: no swap: its back-end would read zeros where memory is swapped out",
        ),
        (b"\xff", "line 1: byte 0xff is no text in UTF-8: save it as UTF-8"),
    ],
)
def test_what_is_refused_and_in_which_words(text: str | bytes, reason: str) -> None:
    assert refusal(text) == reason


@pytest.mark.parametrize("text", ["a =", "a = " + "[" * 5000, "[[vm]]\n" * 2 + "vm = 1", "\0"])
def test_what_is_no_toml(text: str) -> None:
    assert refusal(text)


def test_the_limits_themselves_are_taken() -> None:
    spec = parsed(
        VM + f"vcpus = 32\nbase = {(1 << 40) - MEMORY_DEFAULT}\nports = {{ a = 4294967295, b = 0 }}"
        f'\nname = "{"a" * 63}"'
    )
    assert spec.vm[0].vcpus == 32
    assert len(parsed(VM * 1024).vm) == 1024
    assert parsed(VM + "base = 4096").vm[0].base == 4096


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_as_editors_save_it(encoding: str, end: str) -> None:
    text = VM.replace("guest", "gäst").replace("\n", end)
    assert parse("m", text.encode(encoding)).vm[0].image == "gäst.bin"


def test_what_can_only_mean_one_thing() -> None:
    assert parsed(VM.replace("[[vm]]", "[vm]")) == parsed(VM)
    assert parsed("vm = { image = 'guest.bin' }") == parsed(VM)
    spec = parsed(VM + "vcpus = '2'\nbase = '0x40000000'\nports = { text = '7' }").vm[0]
    assert (spec.vcpus, spec.base, spec.text_port) == (2, 0x4000_0000, 7)


@pytest.mark.parametrize("text", ["1KB", "512 mb", "16MB", "1.5Gb"])
def test_a_unit_that_may_be_a_power_of_ten(text: str) -> None:
    right = re.sub(" ?([kmg])b", lambda found: f"{found[1].upper()}iB", text, flags=re.IGNORECASE)
    with pytest.raises(
        ConfigError, match=re.escape(f"{text!r}: write {right}: units are powers of 2")
    ):
        parse_size("memory", text)


def test_how_long_to_wait_before_swapping() -> None:
    assert parsed(VM).swap_idle is None
    for text, ns in (
        ("10ms", 10**7),
        ("0.5s", 5 * 10**8),
        ("2m", 120 * 10**9),
        ("24h", 864 * 10**11),
    ):
        assert parsed(f'swap = "d"\nswap_idle = "{text}"\n' + VM).swap_idle == ns
    for number in ("30", "30.0", '"30"'):
        assert parsed(f'swap = "d"\nswap_idle = {number}\n' + VM).swap_idle == 30_000_000_000


def test_unnamed_vms_are_called_after_their_images() -> None:
    images = ["a/echo.bin", "echo.elf", "echo", "echo:x", "..", ".hidden", "ä b.bin", "x" * 80]
    spec = parsed("".join(f'[[vm]]\nimage = "{image}"\n' for image in images))
    assert [vm.name for vm in spec.vm] == [
        "echo",
        "echo-2",
        "echo-3",
        "echo-4",
        "vm",
        "hidden",
        "b",
        "x" * 50,
    ]


def test_an_unnamed_vm_keeps_clear_of_a_later_name() -> None:
    spec = parsed(VM + '[[vm]]\nimage = "x"\nname = "guest"')
    assert [vm.name for vm in spec.vm] == ["guest-2", "guest"]


# Sizes.


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("4K", 4096),
        ("4KiB", 4096),
        ("16M", 16 << 20),
        (" 16 MiB ", 16 << 20),
        ("64GiB", 64 << 30),
        (64 << 30, 64 << 30),
        ("16mib", 16 << 20),
        ("16m", 16 << 20),
        ("64k", 64 << 10),
        ("1.5MiB", 3 << 19),
        ("1.5G", 3 << 29),
        ("0.25 gib", 1 << 28),
        ("4096B", 4096),
        ("0x1000000", 16 << 20),
        ("0X1000", 4096),
    ],
)
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size("memory", text) == size


@pytest.mark.parametrize(
    "text",
    [
        0,
        -4096,
        4095,
        (64 << 30) + 4096,
        "",
        "0",
        "M",
        "1",
        "-4K",
        "1.0001K",
        "1.5K",
        ".5G",
        "0x1000K",
        "+4K",
        "1e9",
        "16,5M",
        "65GiB",
        "0x1001",
        "\uff14K",
        "4K\nx",
        "9" * 13,
        "1_000K",
    ],
)
def test_what_is_no_size(text: int | str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(f'memory {text!r}: {SIZE_RULE}')}$"):
        parse_size("memory", text)


@pytest.mark.parametrize(
    ("text", "suffix"), [("4 Ki", "Ki"), ("64T", "T"), ("1 page", "page"), ("0x", "x")]
)
def test_a_suffix_that_does_not_exist(text: str, suffix: str) -> None:
    reason = f"memory {text!r}: unknown suffix {suffix!r}: {SUFFIX_RULE}"
    with pytest.raises(ConfigError, match=f"^{re.escape(reason)}$"):
        parse_size("memory", text)


# Files.


def test_files_beside_the_manifest_are_found_there(tmp_path: Path) -> None:
    for name in ("guest.bin", "guest.dtb"):
        (tmp_path / name).touch()
    manifest = tmp_path / "m.toml"
    manifest.write_text(
        '[[vm]]\nimage = "guest.bin"\nfdt = "guest.dtb"\n'
        '[[vm]]\nimage = "echo"\nfdt = "none.dtb"\n[[vm]]\nimage = "guest.bin:entry"\n'
    )
    images = [(vm.image, vm.fdt) for vm in load(manifest).vm]
    assert images == [
        (str(tmp_path / "guest.bin"), str(tmp_path / "guest.dtb")),
        ("echo", "none.dtb"),
        (str(tmp_path / "guest.bin:entry"), None),
    ]


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    manifest = tmp_path / "m.toml"
    manifest.write_text('swap = "~/swap"\n[[vm]]\nimage = "~/g.bin"\nfdt = "~/b.dtb"\n')
    spec = load(manifest)
    home = tmp_path / "home"
    assert (spec.swap, spec.vm[0].image, spec.vm[0].fdt) == tuple(
        str(home / name) for name in ("swap", "g.bin", "b.dtb")
    )
    (tmp_path / "~g.bin").touch()
    assert expand("~g.bin") == "~g.bin"
    assert expand("~nobody-is-called-so/x") == "~nobody-is-called-so/x"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('swap = "~s\\u0000w"\n[[vm]]\nimage = "g.bin"\n', "swap '~s\\x00w'"),
        ('[[vm]]\nname = "a"\nimage = "~s\\u0000w"\n', "vm a: image '~s\\x00w'"),
        ('[[vm]]\nname = "a"\nimage = "g.bin"\nfdt = "~s\\u0000w"\n', "vm a: fdt '~s\\x00w'"),
    ],
)
def test_a_file_whose_name_has_a_nul_is_refused(tmp_path: Path, text: str, where: str) -> None:
    manifest = tmp_path / "m.toml"
    manifest.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(manifest)
    assert str(refused.value) == (
        f"manifest {manifest}: {where}: has a NUL character: name another file"
    )
    assert expand("~s\0w") == "~s\0w"


def test_a_manifest_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value) == f"manifest {path}: {reason}"


def test_a_reason_names_the_file(tmp_path: Path) -> None:
    manifest = tmp_path / "m.toml"
    manifest.write_text("vm = []")
    with pytest.raises(ConfigError) as caught:
        load(manifest)
    assert str(caught.value) == f"manifest {manifest}: {NO_VM}"


# Whatever is written.


@pytest.mark.parametrize("where", ["memory = {}", "ports = {{ a = {} }}"])
def test_a_very_long_number_is_a_users_mistake(where: str) -> None:
    assert refusal(VM + where.format("0x" + "f" * 5000))


def test_a_very_long_file_name_is_a_users_mistake_or_none(tmp_path: Path) -> None:
    manifest = tmp_path / "m.toml"
    manifest.write_text(f'[[vm]]\nimage = "{"x" * 300}"')
    load(manifest)


def test_a_path_that_no_file_can_have() -> None:
    with pytest.raises(ConfigError):
        load(Path("a\0b"))


def test_an_empty_fdt_is_refused_like_an_empty_image() -> None:
    assert refusal(VM + 'fdt = ""')


scalar = (
    st.integers(-(1 << 80), 1 << 80)
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(max_size=12)
    | st.sampled_from(["16MiB", "ffa-1.0", "raw", "auto", "guest.bin", 4096, 1])
)
value = st.recursive(
    scalar,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
field = st.sampled_from([*VmSpec.__struct_fields__, "engine", "vm", "swap", "swap_idle", "bogus"])
table = st.dictionaries(field, value, max_size=6).map(lambda keys: {"image": "i", **keys})
machine = st.dictionaries(field, value, max_size=2).flatmap(
    lambda top: st.lists(table, max_size=3).map(lambda vms: {**top, "vm": vms})
)


def toml(thing: Any) -> str:
    """Write a value as inline TOML."""
    if isinstance(thing, bool):
        return str(thing).lower()
    if isinstance(thing, str):
        body = "".join(
            char if char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}"
            for char in thing
        )
        return f'"{body}"'
    if isinstance(thing, list):
        return f"[{', '.join(map(toml, thing))}]"
    if isinstance(thing, dict):
        return f"{{ {', '.join(f'{toml(key)} = {toml(item)}' for key, item in thing.items())} }}"
    return repr(thing)


def check(text: bytes) -> MachineSpec | None:
    """Parse; whatever is refused is one line, whatever is taken holds what it promises."""
    try:
        spec = parse("m", text)
    except ConfigError as exc:
        lines = str(exc).splitlines()
        assert len(lines) == 1
        return None
    names = [vm.name for vm in spec.vm]
    assert 0 < len(names) == len(set(names))
    for vm in spec.vm:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", vm.name)
        assert isinstance(vm.memory, int)
        assert vm.memory > 0
        assert vm.memory % 4096 == 0
        assert vm.image
        assert 1 <= vm.vcpus <= 32
        base = vm.base_address
        assert base is None or 0 <= base <= (1 << 40) - vm.memory
        assert all(0 <= port < 1 << 32 for port in vm.ports.values())
    return spec


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(machine)
@example({"vm": [{"image": "i"}]})
def test_any_structure_is_a_machine_or_one_line(top: dict[str, Any]) -> None:
    check("\n".join(f"{toml(key)} = {toml(item)}" for key, item in top.items()).encode())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode()))
def test_any_bytes_are_one_line(noise: bytes) -> None:
    check(noise)
    check(VM.encode() + noise)


PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.lists(PATHS, min_size=1, max_size=5))
def test_every_image_gets_a_name_of_its_own(images: list[str]) -> None:
    assert check("".join(f"[[vm]]\nimage = {toml(image)}\n" for image in images).encode())
