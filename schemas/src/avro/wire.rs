//! Avro's primitive values as bytes, written and read. Nothing of clbridge's schema is known here.

use super::DecodeErrorKind;

/// The most bytes that a long takes.
pub(super) const LONG: usize = 10;

/// Writes values one behind the other into room that was made once: no growing and hardly a check a value.
pub(super) struct Writer<'a> {
    room: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// Fills `room` from its beginning; writing beyond its end is a bug of the caller and panics.
    #[inline]
    pub(super) fn new(room: &'a mut [u8]) -> Self {
        Self { room, at: 0 }
    }

    /// Bytes written so far.
    #[inline]
    pub(super) fn at(&self) -> usize {
        self.at
    }

    #[inline(always)]
    pub(super) fn byte(&mut self, byte: u8) {
        self.room[self.at] = byte;
        self.at += 1;
    }

    /// A long (or an int): zigzag, then seven bits a byte.
    #[inline(always)]
    pub(super) fn long(&mut self, value: i64) {
        let zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
        if zigzag < 0x80 {
            self.byte(zigzag as u8);
        } else if zigzag < 1 << 56 {
            // All bytes at once, of which only as many as the number needs are kept: no loop to mispredict.
            let length = (64 - zigzag.leading_zeros() as usize).div_ceil(7);
            let all_but_last = (1 << (8 * (length - 1))) - 1;
            let word = spread(zigzag) | 0x8080_8080_8080_8080 & all_but_last;
            self.room[self.at..self.at + 8].copy_from_slice(&word.to_le_bytes());
            self.at += length;
        } else {
            self.longest(zigzag);
        }
    }

    /// A number of nine or ten bytes.
    #[inline]
    fn longest(&mut self, zigzag: u64) {
        let word = spread(zigzag) | 0x8080_8080_8080_8080;
        let (ninth, tenth) = ((zigzag >> 56) as u8, (zigzag >> 63) as u8);
        let mut bytes = [0; LONG];
        bytes[..8].copy_from_slice(&word.to_le_bytes());
        // The ninth byte has seven bits, so the tenth is there only for the last one.
        bytes[8] = ninth & 0x7f | tenth << 7;
        bytes[9] = tenth;
        self.room[self.at..self.at + LONG].copy_from_slice(&bytes);
        self.at += 9 + usize::from(tenth);
    }

    /// The first `length` bytes of a buffer; copied whole, which is a move or two instead of a call.
    #[inline]
    pub(super) fn padded<const N: usize>(&mut self, bytes: &[u8; N], length: usize) {
        self.room[self.at..self.at + N].copy_from_slice(bytes);
        self.at += length.min(N);
    }

    /// Bytes (or a string) behind their length.
    #[inline]
    pub(super) fn bytes(&mut self, value: &[u8]) {
        // A slice is never longer than i64::MAX.
        self.long(value.len() as i64);
        self.raw(value);
    }

    /// Bytes as they are.
    #[inline(always)]
    pub(super) fn raw(&mut self, value: &[u8]) {
        let room = &mut self.room[self.at..self.at + value.len()];
        self.at += value.len();
        // Names and job ids: two moves that overlap instead of a call.
        match (value.first_chunk::<8>(), value.last_chunk::<8>()) {
            (Some(first), Some(last)) if value.len() <= 16 => ends(room, first, last),
            (Some(_), _) => match (value.first_chunk::<16>(), value.last_chunk::<16>()) {
                (Some(first), Some(last)) if value.len() <= 32 => ends(room, first, last),
                _ => room.copy_from_slice(value),
            },
            _ => {
                for (to, from) in room.iter_mut().zip(value) {
                    *to = *from;
                }
            }
        }
    }

    /// A union `["null", X]`.
    #[inline(always)]
    pub(super) fn nullable<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.byte(NULL),
            Some(value) => {
                self.byte(SOME);
                put(self, value);
            }
        }
    }
}

/// Sets both ends of `room`, which may overlap.
#[inline(always)]
fn ends<const N: usize>(room: &mut [u8], first: &[u8; N], last: &[u8; N]) {
    let tail = room.len() - N;
    room[..N].copy_from_slice(first);
    room[tail..].copy_from_slice(last);
}

/// The low 56 bits, seven in each byte.
#[inline(always)]
fn spread(value: u64) -> u64 {
    let v = value & 0x00ff_ffff_ffff_ffff;
    let v = (v & 0x0000_0000_0fff_ffff) | ((v << 4) & 0x0fff_ffff_0000_0000);
    let v = (v & 0x0000_3fff_0000_3fff) | ((v << 2) & 0x3fff_0000_3fff_0000);
    (v & 0x007f_007f_007f_007f) | ((v << 1) & 0x7f00_7f00_7f00_7f00)
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
    #[inline]
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body, at: 0 }
    }

    /// Bytes taken so far.
    #[inline]
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
            for value in [1i64 << shift, -(1i64 << (shift % 63)), (1i64 << (shift % 63)) - 1] {
                let mut room = [0; LONG + 1];
                let mut writer = Writer::new(&mut room);
                writer.long(value);
                let length = writer.at();
                let mut reader = Reader::new(&room[..length]);
                assert_eq!(reader.long(), Ok(value));
                assert!(reader.is_empty());
            }
        }
    }

    #[test]
    fn broken_numbers_and_lengths_are_errors() {
        assert_eq!(Reader::new(&[0x80]).long(), Err(DecodeErrorKind::Truncated));
        assert_eq!(Reader::new(&[0xff; 11]).long(), Err(DecodeErrorKind::Number));
        assert_eq!(Reader::new(&[0x04, 1]).bytes(), Err(DecodeErrorKind::Truncated));
        assert_eq!(Reader::new(&[0x01]).bytes(), Err(DecodeErrorKind::Number));
        assert_eq!(Reader::new(&[0x02, 0xff]).string(), Err(DecodeErrorKind::Utf8));
    }
}
