//! Avro's primitive values as bytes, written and read. Nothing of clbridge's schema is known here.

use super::DecodeErrorKind;

/// Appends a long (or an int): zigzag, then seven bits a byte.
#[inline]
pub(super) fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    if rest < 0x80 {
        out.push(rest as u8);
        return;
    }
    let mut bytes = [0u8; 10];
    let mut length = 0;
    for byte in &mut bytes {
        length += 1;
        *byte = rest as u8 | 0x80;
        rest >>= 7;
        if rest == 0 {
            *byte &= 0x7f;
            break;
        }
    }
    out.extend_from_slice(&bytes[..length]);
}

/// Appends bytes (or a string) with their length.
#[inline]
pub(super) fn put_bytes(value: &[u8], out: &mut Vec<u8>) {
    // A slice is never longer than i64::MAX.
    put_long(value.len() as i64, out);
    out.extend_from_slice(value);
}

/// The branch of a union `["null", X]` for null.
pub(super) const NULL: u8 = 0;
/// The branch of a union `["null", X]` for X.
pub(super) const SOME: u8 = 2;

/// Takes values from the front of a body.
pub(super) struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at >= self.body.len()
    }

    pub(super) fn long(&mut self) -> Result<i64, DecodeErrorKind> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.body.get(self.at).ok_or(DecodeErrorKind::Truncated)?;
            self.at += 1;
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                return Err(DecodeErrorKind::Number);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(DecodeErrorKind::Number)
    }

    /// A long that must fit in what is wanted: an int, or a narrower number of the record.
    pub(super) fn number<T: TryFrom<i64>>(&mut self) -> Result<T, DecodeErrorKind> {
        T::try_from(self.long()?).map_err(|_| DecodeErrorKind::Number)
    }

    /// An int whose bits are an unsigned number.
    pub(super) fn int_bits(&mut self) -> Result<u32, DecodeErrorKind> {
        self.number::<i32>().map(i32::cast_unsigned)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], DecodeErrorKind> {
        let length: usize = self.number()?;
        let end = self.at.checked_add(length);
        let taken = end.and_then(|end| self.body.get(self.at..end));
        let taken = taken.ok_or(DecodeErrorKind::Truncated)?;
        self.at += length;
        Ok(taken)
    }

    pub(super) fn string(&mut self) -> Result<&'a str, DecodeErrorKind> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeErrorKind::Utf8)
    }

    /// A union `["null", X]`.
    pub(super) fn nullable<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeErrorKind>,
    ) -> Result<Option<T>, DecodeErrorKind> {
        match self.long()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(DecodeErrorKind::Branch),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn longs_of_every_length_read_back() {
        for shift in 0..64 {
            for value in [
                1i64 << shift,
                -(1i64 << (shift % 63)),
                (1i64 << (shift % 63)) - 1,
            ] {
                let mut out = Vec::new();
                put_long(value, &mut out);
                let mut reader = Reader::new(&out);
                assert_eq!(reader.long(), Ok(value));
                assert!(reader.is_empty());
            }
        }
    }

    #[test]
    fn broken_numbers_and_lengths_are_errors() {
        assert_eq!(Reader::new(&[0x80]).long(), Err(DecodeErrorKind::Truncated));
        assert_eq!(
            Reader::new(&[0xff; 11]).long(),
            Err(DecodeErrorKind::Number)
        );
        assert_eq!(
            Reader::new(&[0x04, 1]).bytes(),
            Err(DecodeErrorKind::Truncated)
        );
        assert_eq!(Reader::new(&[0x01]).bytes(), Err(DecodeErrorKind::Number));
        assert_eq!(
            Reader::new(&[0x02, 0xff]).string(),
            Err(DecodeErrorKind::Utf8)
        );
    }
}
