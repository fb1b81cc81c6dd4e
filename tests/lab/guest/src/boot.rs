//! From QEMU's multiboot loader to Rust: the header, the way into long mode, and what the loader tells.
//! <https://www.gnu.org/software/grub/manual/multiboot/multiboot.html>

use core::arch::global_asm;

// The header carries the addresses of the image (bit 16): QEMU takes a 64-bit ELF image only so. The tables made here
// map the first GiB twice, at 0 and at the direct map's place; `memory` replaces them.
global_asm!(
    r#"
    .section .boot, "ax"
    .code32
    .balign 4
multiboot_header:
    .long 0x1badb002
    .long 0x00010003
    .long -(0x1badb002 + 0x00010003)
    .long multiboot_header
    .long image_start
    .long data_end
    .long image_end
    .long multiboot_entry

    .global multiboot_entry
multiboot_entry:
    cli
    cld
    mov esp, offset boot_stack_top
    mov edi, eax
    mov esi, ebx

    mov eax, offset boot_directories
    or eax, 3
    mov dword ptr [boot_root], eax
    mov dword ptr [boot_root + 256 * 8], eax
    mov eax, offset boot_tables
    or eax, 3
    mov dword ptr [boot_directories], eax
    mov ecx, 0
    mov eax, 0x83
2:  mov dword ptr [boot_tables + ecx * 8], eax
    add eax, 0x200000
    inc ecx
    cmp ecx, 512
    jb 2b

    mov eax, cr4
    or eax, (1 << 5) | (1 << 7) | (1 << 9) | (1 << 10)
    mov cr4, eax
    mov eax, offset boot_root
    mov cr3, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, (1 << 8) | (1 << 11)
    wrmsr
    mov eax, cr0
    and eax, ~((1 << 2) | (1 << 3) | (1 << 29) | (1 << 30))
    or eax, (1 << 31) | (1 << 16) | (1 << 5) | (1 << 1) | 1
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset boot_long
    push eax
    retf

    .code64
boot_long:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov edi, edi
    mov esi, esi
    xor ebp, ebp
    mov rsp, offset boot_stack_top
    call {start}
    ud2

    .balign 8
boot_gdt:
    .quad 0, 0x00af9b000000ffff
boot_gdt_pointer:
    .word 15
    .long boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_root: .skip 4096
boot_directories: .skip 4096
boot_tables: .skip 4096
boot_stack: .skip 65536
boot_stack_top:
    .text
"#,
    start = sym start,
);

/// What a multiboot loader leaves in EAX.
const LOADER_MAGIC: u32 = 0x2bad_b002;

/// The part of the loader's information that is used. Addresses are physical.
#[repr(C)]
struct Information {
    flags: u32,
    memory: [u32; 2],
    boot_device: u32,
    command_line: u32,
    module_count: u32,
    modules: u32,
    symbols: [u32; 4],
    map_bytes: u32,
    map: u32,
}

/// A module: first byte, behind its last, its arguments.
#[repr(C)]
struct Module {
    start: u32,
    end: u32,
    text: u32,
    reserved: u32,
}

/// What was booted with, copied out of the loader's memory.
pub struct Loaded {
    /// RAM of type 1: first byte and number of bytes, ascending.
    pub ram: [(u64, u64); 16],
    /// How many of `ram` are used.
    pub ram_count: usize,
    /// The archive's place in physical memory: first byte, behind the last.
    pub archive: (u64, u64),
    /// The command line.
    pub command_line: [u8; 256],
}

/// `archive=START-END` of the command line, in hexadecimal: dom0 has put it there. Otherwise it is a module.
fn archive(line: &[u8]) -> Option<(u64, u64)> {
    let line = core::str::from_utf8(line.split(|byte| *byte == 0).next()?).ok()?;
    let (start, end) = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("archive="))?.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// Copies what the loader says.
///
/// # Safety
/// The loader's structures are still in memory, which is mapped at its physical addresses.
unsafe fn read(information: *const Information) -> Loaded {
    let mut loaded = Loaded { ram: [(0, 0); 16], ram_count: 0, archive: (0, 0), command_line: [0; 256] };
    // SAFETY: the caller's promise; the flags say what is there.
    unsafe {
        let info = information.read_unaligned();
        if info.flags & 1 << 2 != 0 {
            let text = info.command_line as usize as *const u8;
            for (index, byte) in loaded.command_line.iter_mut().take(255).enumerate() {
                *byte = text.add(index).read();
                if *byte == 0 {
                    break;
                }
            }
        }
        if let Some(archive) = archive(&loaded.command_line) {
            loaded.archive = archive;
        } else if info.flags & 1 << 3 != 0 && info.module_count > 0 {
            let module = (info.modules as usize as *const Module).read_unaligned();
            loaded.archive = (u64::from(module.start), u64::from(module.end));
        }
        if info.flags & 1 << 6 != 0 {
            let mut at = info.map as usize;
            let end = at + info.map_bytes as usize;
            while at + 24 <= end && loaded.ram_count < loaded.ram.len() {
                let size = (at as *const u32).read_unaligned() as usize;
                let base = ((at + 4) as *const u64).read_unaligned();
                let bytes = ((at + 12) as *const u64).read_unaligned();
                if ((at + 20) as *const u32).read_unaligned() == 1 {
                    loaded.ram[loaded.ram_count] = (base, bytes);
                    loaded.ram_count += 1;
                }
                at += size + 4;
            }
        }
    }
    loaded
}

/// The first Rust code, on the boot stack, with interrupts off.
unsafe extern "sysv64" fn start(magic: u32, information: *const Information) -> ! {
    if magic != LOADER_MAGIC {
        crate::console::print(format_args!("lab: the loader is no multiboot loader: {magic:#x}"));
        crate::console::end(crate::console::Verdict::Panic);
    }
    // SAFETY: the boot tables map the first GiB as it is; nothing was overwritten yet.
    let loaded = unsafe { read(information) };
    // SAFETY: once, before anything else uses memory.
    unsafe { crate::memory::start(&loaded) };
    crate::run::start(&loaded)
}
