//! What the firmware of a Xen guest leaves in memory below 1 MiB: the ACPI tables that drivers look up by themselves, as
//! hvmloader writes them. There is no AML: devices come from the personality's own tree.
//! <https://uefi.org/specs/ACPI/6.5/05_ACPI_Software_Programming_Model.html>

/// Where the tables are, in the part of memory that is searched for the first of them.
pub const BASE: u64 = 0xf_0000;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

/// Makes the sum of the bytes zero.
fn seal(table: &mut [u8], at: usize) {
    table[at] = 0;
    table[at] = table.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
}

/// A table with its header around `body`.
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut out = signature.to_vec();
    out.extend((36 + body.len() as u32).to_le_bytes());
    out.extend([revision, 0]);
    out.extend(b"Xen\0\0\0");
    out.extend(b"HVM\0\0\0\0\0");
    // OEM revision, creator and its revision.
    out.extend(0_u32.to_le_bytes());
    out.extend(b"HVML");
    out.extend(0_u32.to_le_bytes());
    out.extend(body);
    seal(&mut out, 9);
    out
}

/// The multiple APIC description: processors, the I/O APIC, and the lines that differ from ISA's.
fn madt(vcpus: u32) -> Vec<u8> {
    let mut body = LOCAL_APIC.to_le_bytes().to_vec();
    // PCAT_COMPAT
    body.extend(1_u32.to_le_bytes());
    for vcpu in 0..vcpus as u8 {
        // A local APIC that is enabled; its id is twice the number, as CPUID says too.
        body.extend([0, 8, vcpu, 2 * vcpu, 1, 0, 0, 0]);
    }
    body.extend([1, 12, 1, 0]);
    body.extend(IO_APIC.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    // The timer of ISA line 0 is on line 2; PCI's lines 5, 10 and 11 are level triggered and active low.
    for (source, line, flags) in [(0_u8, 2_u32, 0_u16), (5, 5, 0xf), (9, 9, 0xd), (10, 10, 0xf), (11, 11, 0xf)] {
        body.extend([2, 10, 0, source]);
        body.extend(line.to_le_bytes());
        body.extend(flags.to_le_bytes());
    }
    table(*b"APIC", 2, &body)
}

/// The bytes from [`BASE`] on: root pointer, root tables, MADT.
pub fn tables(vcpus: u32) -> Vec<u8> {
    const RSDT: usize = 0x40;
    const XSDT: usize = 0x80;
    const MADT: usize = 0x100;
    let address = |offset: usize| BASE + offset as u64;
    let mut out = b"RSD PTR \0Xen\0\0\0\x02".to_vec();
    out.extend((address(RSDT) as u32).to_le_bytes());
    seal(&mut out, 8);
    out.extend(36_u32.to_le_bytes());
    out.extend(address(XSDT).to_le_bytes());
    out.extend([0; 4]);
    seal(&mut out, 32);
    let parts = [
        (RSDT, table(*b"RSDT", 1, &(address(MADT) as u32).to_le_bytes())),
        (XSDT, table(*b"XSDT", 1, &address(MADT).to_le_bytes())),
        (MADT, madt(vcpus)),
    ];
    for (offset, part) in parts {
        out.resize(offset, 0);
        out.extend(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_sum_to_zero() {
        let bytes = tables(8);
        let sum = |part: &[u8]| part.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(&bytes[..8], b"RSD PTR ");
        assert_eq!((sum(&bytes[..20]), sum(&bytes[..36])), (0, 0));
        for (offset, signature) in [(0x40, b"RSDT"), (0x80, b"XSDT"), (0x100, b"APIC")] {
            let length = u32::from_le_bytes(bytes[offset + 4..offset + 8].try_into().unwrap()) as usize;
            assert_eq!(&bytes[offset..offset + 4], signature);
            assert_eq!(sum(&bytes[offset..offset + length]), 0);
        }
    }
}
