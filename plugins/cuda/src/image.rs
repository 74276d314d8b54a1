//! Whether a module's file is all there. The driver is told where it begins and not where it ends, and follows its headers: of a
//! file that is cut off it would read what is behind it.

/// Zeros that belong behind it.
pub const PADDING: usize = 4096;

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// Of 64 bits, little-endian.
const ELF_KIND: &[u8] = &[2, 1];
const ELF_HEADER_BYTES: usize = 64;
/// Sections of this kind have no bytes in the file; and of those from the other on only who makes them knows.
const ELF_NOBITS: u64 = 8;
const ELF_PROCESSOR: u64 = 0x7000_0000;
const FATBIN_MAGIC: u64 = 0xBA55_ED50;

/// A little-endian number of so many bytes.
fn number(code: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let found = code.get(at..at.checked_add(bytes)?)?;
    Some(found.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// Whether `count` things of `size` bytes from `at` on are within the file.
fn is_within(code: &[u8], at: u64, count: u64, size: u64) -> bool {
    let end = count.checked_mul(size).and_then(|bytes| bytes.checked_add(at));
    end.is_some_and(|end| end <= code.len() as u64)
}

/// What is wrong with a cubin or a fatbin. Anything else is PTX, which ends at the first NUL.
pub fn check(code: &[u8]) -> Result<(), String> {
    let checked = match () {
        () if code.starts_with(ELF_MAGIC) => ("cubin", elf(code)),
        () if number(code, 0, 4) == Some(FATBIN_MAGIC) => ("fatbin", fatbin(code)),
        () => return Ok(()),
    };
    match checked {
        (_, Some(())) => Ok(()),
        (what, None) => {
            Err(format!("a {what} that is cut off, damaged, or not of 64 bits: it has {} bytes", code.len()))
        }
    }
}

/// Follows the tables of sections and of segments; `None`: they lead out of the file.
fn elf(code: &[u8]) -> Option<()> {
    if code.len() < ELF_HEADER_BYTES || code.get(4..6) != Some(ELF_KIND) {
        return None;
    }
    let (segments, sections) = (number(code, 32, 8)?, number(code, 40, 8)?);
    let (segment_bytes, segment_count) = (number(code, 54, 2)?, number(code, 56, 2)?);
    let (section_bytes, section_count) = (number(code, 58, 2)?, number(code, 60, 2)?);
    if !is_within(code, segments, segment_count, segment_bytes)
        || !is_within(code, sections, section_count, section_bytes)
    {
        return None;
    }
    for index in 0..segment_count {
        let at = (segments + index * segment_bytes) as usize;
        let (offset, bytes) = (number(code, at + 8, 8)?, number(code, at + 32, 8)?);
        is_within(code, offset, 1, bytes).then_some(())?;
    }
    for index in 0..section_count {
        let at = (sections + index * section_bytes) as usize;
        let (kind, offset, bytes) =
            (number(code, at + 4, 4)?, number(code, at + 24, 8)?, number(code, at + 32, 8)?);
        (kind == ELF_NOBITS || kind >= ELF_PROCESSOR || is_within(code, offset, 1, bytes)).then_some(())?;
    }
    Some(())
}

/// Its header says how long it and what follows is.
fn fatbin(code: &[u8]) -> Option<()> {
    let (header, content) = (number(code, 6, 2)?, number(code, 8, 8)?);
    is_within(code, header, 1, content).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, a section of 16 bytes, one without bytes in the file, a segment, and the tables of both at the end.
    fn cubin() -> Vec<u8> {
        let mut code = vec![0u8; 80 + 2 * 64 + 56];
        let mut put = |at: usize, bytes: usize, value: u64| {
            code[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        };
        put(0, 4, u64::from(u32::from_le_bytes(*b"\x7fELF")));
        put(4, 2, 0x0102);
        put(40, 8, 80); // sections
        put(58, 2, 64);
        put(60, 2, 2);
        put(80 + 24, 8, 64);
        put(80 + 32, 8, 16);
        put(144 + 4, 4, ELF_NOBITS);
        put(144 + 24, 8, 1 << 40);
        put(144 + 32, 8, 1 << 40);
        put(32, 8, 208); // segments
        put(54, 2, 56);
        put(56, 2, 1);
        put(208 + 8, 8, 64);
        put(208 + 32, 8, 16);
        code
    }

    #[test]
    fn a_cubin_is_all_there_or_refused() {
        let whole = cubin();
        assert_eq!(check(&whole), Ok(()));
        for length in 4..whole.len() {
            assert!(check(&whole[..length]).is_err(), "{length}");
        }
        // The offsets and sizes of tables, a section, and a segment; and an ELF file of 32 bits.
        for (at, value) in
            [(32, 0xFF), (47, 0xFF), (57, 0x7F), (61, 0x7F), (80 + 33, 0x7F), (208 + 15, 0xFF), (4, 1)]
        {
            let mut wrong = whole.clone();
            wrong[at] = value;
            assert!(check(&wrong).is_err(), "{at}");
        }
    }

    #[test]
    fn a_fatbin_is_as_long_as_its_header_says() {
        let mut code = FATBIN_MAGIC.to_le_bytes()[..4].to_vec();
        code.extend([1, 0, 16, 0, 100, 0, 0, 0, 0, 0, 0, 0]);
        code.resize(116, 7);
        assert_eq!(check(&code), Ok(()));
        for length in 4..116 {
            assert!(check(&code[..length]).is_err(), "{length}");
        }
        code[15] = 0xFF;
        assert!(check(&code).is_err());
    }

    #[test]
    fn anything_else_is_text() {
        for code in [&b""[..], b"\x7f", b".version 9.0\n", b"{}"] {
            assert_eq!(check(code), Ok(()));
        }
    }
}
