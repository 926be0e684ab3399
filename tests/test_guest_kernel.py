"""A bzImage is unpacked to its kernel, or refused in a line."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import struct
from collections.abc import Callable
from typing import Final

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.linux import kernel
from guest.linux.elf import PT_NOTE, BadElf, Elf
from guest.linux.image import GuestImage
from guest.linux.kernel import BadKernel
from tests.guest_rig import RELEASE, bzimage, elf, note, packed_xz, small_vmlinux
from tests.packers import packed_lz4, packed_lzo, packed_zstd, packed_zstd_in_frames, sized

PACKERS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "xz": packed_xz,
    "xz-bcj": lambda data: sized(
        lzma.compress(
            data,
            check=lzma.CHECK_CRC32,
            filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2}],
        ),
        data,
    ),
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": lambda data: sized(bz2.compress(data), data),
    "lzma": lambda data: sized(lzma.compress(data, lzma.FORMAT_ALONE), data),
    "zstd": packed_zstd,
    "zstd-in-frames": packed_zstd_in_frames,
    "lz4": packed_lz4,
    "lzo": packed_lzo,
}


@pytest.mark.parametrize("packer", PACKERS)
def test_a_kernel_comes_out_as_it_went_in(packer: str) -> None:
    vmlinux = small_vmlinux()
    made = bzimage(PACKERS[packer](vmlinux))
    assert kernel.vmlinux(made) == vmlinux
    assert kernel.release(made) == RELEASE


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (b"", "no bzImage: there is no boot sector"),
        (bytes(4096), "no bzImage: there is no boot sector"),
        (bzimage(b"")[:0x1FE] + b"\x55\xaa" + bytes(999), "no bzImage: there is no setup header"),
        (bzimage(b"x", version=0x207), r"boot protocol 2\.07"),
        (bzimage(b"\x28\xb5\x2f\xfd rest"), "damaged: "),
        (
            bzimage(b"\x02\x21\x4c\x18 rest"),
            "damaged: lz4: a block of 1936028192 octets, 1 are left",
        ),
        (bzimage(packed_zstd(small_vmlinux())[:-9] + bytes(9)), "damaged: "),
        (bzimage(packed_zstd(small_vmlinux())[:-4] + b"\1\0\0\0"), "damaged: .* 1 went in"),
        (bzimage(packed_lz4(small_vmlinux())[:-4] + b"\1\0\0\0"), "damaged: .* 1 went in"),
        (bzimage(packed_lzo(small_vmlinux())[:-4] + b"\1\0\0\0"), "damaged: .* 1 went in"),
        (bzimage(packed_lzo(small_vmlinux())[:60] + bytes(99)), "damaged: lzo: a block"),
        (bzimage(b"plain text"), "unknown way: it begins 70 6c 61 69 6e 20"),
        (bzimage(packed_xz(small_vmlinux()))[:-200], "cut short: its payload is octets 1040 to"),
        (bzimage(packed_xz(small_vmlinux())[:-4] + b"\1\0\0\0"), "damaged: .* 1 went in"),
        (bzimage(packed_xz(small_vmlinux())[:-4] + b"\xff" * 4), "has 4294967295 octets"),
        (bzimage(packed_xz(b"no ELF file")), "no kernel: this is no ELF file"),
        (bzimage(packed_xz(small_vmlinux(kind=17))), "no PVH entry"),
        (bzimage(packed_xz(small_vmlinux(machine=183))), "machine 183, not for x86-64"),
    ],
)
def test_what_is_no_such_kernel_is_told_in_a_line(made: bytes, told: str) -> None:
    with pytest.raises(BadKernel, match=told) as caught:
        kernel.vmlinux(made)
    assert "\n" not in str(caught.value)


@given(st.sampled_from(sorted(PACKERS)), st.integers(0), st.binary(min_size=1, max_size=8))
@settings(max_examples=300)
def test_a_damaged_bzimage_gives_its_kernel_or_a_typed_error(
    packer: str, where: int, damage: bytes
) -> None:
    vmlinux = small_vmlinux()
    whole = bzimage(PACKERS[packer](vmlinux))
    at = where % len(whole)
    damaged = whole[:at] + damage + whole[at + len(damage) :]
    with contextlib.suppress(BadKernel):  # anything else fails here
        found = kernel.vmlinux(damaged)
        # All carry a checksum but plain lzma and lz4.
        assert packer in ("lzma", "lz4") or found == vmlinux


@given(st.binary(max_size=200), st.integers(0), st.booleans())
@settings(max_examples=300)
def test_a_damaged_elf_file_is_read_or_refused(damage: bytes, where: int, cut: bool) -> None:
    whole = elf(((PT_NOTE, note(b"Xen", 18, b"12345678")),), ((b".modinfo", b"depends=a\0"),))
    at = where % len(whole)
    damaged = whole[:at] + damage + (b"" if cut else whole[at + len(damage) :])
    with contextlib.suppress(BadElf):
        file = Elf(damaged)
        file.section(b".modinfo")
        list(file.notes())


def test_the_real_kernel_is_the_one_in_the_real_bzimage(real_image: GuestImage) -> None:
    packed = real_image.kernel.with_name("vmlinuz").read_bytes()
    vmlinux = real_image.kernel.read_bytes()
    assert kernel.vmlinux(packed) == vmlinux
    assert kernel.release(packed) == real_image.release
    # Another reader of ELF files finds the entry where QEMU will look for it.
    found = ELFFile(io.BytesIO(vmlinux))
    notes = next(s for s in found.iter_segments() if s["p_type"] == "PT_NOTE").data()
    at = notes.index(struct.pack("<III", 4, 8, 18) + b"Xen\0")
    assert kernel.pvh_entry(vmlinux) == int.from_bytes(notes[at + 16 : at + 24], "little")
    loaded = [s for s in found.iter_segments() if s["p_type"] == "PT_LOAD"]
    entry = kernel.pvh_entry(vmlinux)
    assert any(s["p_paddr"] <= entry < s["p_paddr"] + s["p_filesz"] for s in loaded)


@pytest.mark.parametrize("part", [0.2, 0.999])
def test_one_bit_in_the_real_bzimage_is_noticed(real_image: GuestImage, part: float) -> None:
    packed = bytearray(real_image.kernel.with_name("vmlinuz").read_bytes())
    offset, length = struct.unpack_from("<II", packed, 0x248)
    packed[(packed[0x1F1] + 1) * 512 + offset + int(length * part)] ^= 0x10
    with pytest.raises(BadKernel, match="damaged: xz"):
        kernel.vmlinux(bytes(packed))
