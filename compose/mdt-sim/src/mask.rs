//! Masks of record types, by their names in the kernel (`changelog_type2str`) and as `lctl` prints them.

/// The types' names; the position is the type's number.
pub const NAMES: [&str; 25] = [
    "MARK", "CREAT", "MKDIR", "HLINK", "SLINK", "MKNOD", "UNLNK", "RMDIR", "RENME", "RNMTO", "OPEN", "CLOSE", "LYOUT",
    "TRUNC", "SATTR", "XATTR", "HSM", "MTIME", "CTIME", "ATIME", "MIGRT", "FLRW", "RESYNC", "GXATR", "NOPEN",
];

/// Everything.
pub const ALL: u32 = (1 << NAMES.len()) - 1;
/// What a user registered without a mask gets: everything but OPEN, ATIME, GXATR and NOPEN.
pub const DEFAULT: u32 = ALL & !((1 << 10) | (1 << 19) | (1 << 23) | (1 << 24));
/// The administrator's mask before anybody sets one.
pub const MARK: u32 = 1;

/// Reads names separated by commas or blanks, or `ALL`.
///
/// # Errors
/// A text that names what is not a type.
pub fn parse(text: &str) -> Result<u32, String> {
    let mut mask = 0;
    for word in text.split([',', ' ', '+']).filter(|w| !w.is_empty()) {
        if word == "ALL" {
            mask |= ALL;
            continue;
        }
        let number = NAMES.iter().position(|n| *n == word).ok_or_else(|| {
            format!("mask `{text}`: `{word}` is no record type; the types are ALL {}", NAMES.join(" "))
        })?;
        mask |= 1 << number;
    }
    Ok(mask)
}

/// The names in a mask, joined by `separator`.
#[must_use]
pub fn names(mask: u32, separator: &str) -> String {
    let set: Vec<&str> = (0..NAMES.len()).filter(|n| mask & (1 << n) != 0).map(|n| NAMES[n]).collect();
    set.join(separator)
}

/// Whether the mask lets this type through. A type beyond the known ones is never masked.
#[must_use]
pub fn allows(mask: u32, kind: u32) -> bool {
    kind >= 32 || mask & (1 << kind) != 0 || kind as usize >= NAMES.len()
}
