//! Network identifiers of clients, in both byte layouts and as text.

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::layout;

/// How a network type writes its addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Ip,
    Number,
}

/// LNet's network types by number (`nidstr.c`).
const NETWORKS: [(u16, &str, Form); 7] = [
    (2, "tcp", Form::Ip),
    (5, "o2ib", Form::Ip),
    (9, "lo", Form::Number),
    (13, "gni", Form::Number),
    (14, "gip", Form::Ip),
    (15, "ptlf", Form::Number),
    (16, "kfi", Form::Number),
];

/// An LNet network identifier: a network (type and number) and an address of 4 to 16 bytes in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Nid {
    net_type: u16,
    net_number: u16,
    /// Bytes of address beyond the first 4, 0 to 12.
    size: u8,
    /// In network order; zero behind `4 + size`.
    addr: [u8; 16],
}

impl Nid {
    /// The NID of a node's own loopback, `0@lo`.
    pub const LO: Self = Self { net_type: 9, net_number: 0, size: 0, addr: [0; 16] };

    /// An IP address on network `number` of `net_type` (2 tcp, 5 o2ib, ...).
    #[must_use]
    pub fn ip(net_type: u16, number: u16, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => Self::short(net_type, number, v4.to_bits()),
            IpAddr::V6(v6) => Self { net_type, net_number: number, size: 12, addr: v6.octets() },
        }
    }

    /// A 4-byte address given as a number, as gni, ptlf and kfi have it.
    #[must_use]
    #[inline]
    pub fn short(net_type: u16, number: u16, addr: u32) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&addr.to_be_bytes());
        Self { net_type, net_number: number, size: 0, addr: bytes }
    }

    /// True for the NID of records that a server made by itself, all zero (the tools print `0@<0:0>`).
    #[must_use]
    #[inline]
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// True if only the big-endian layout can hold it.
    #[must_use]
    #[inline]
    pub fn is_large(&self) -> bool {
        self.size > 0
    }

    /// From the old layout, a little-endian `net << 32 | address` and bytes that mean nothing.
    #[must_use]
    #[inline]
    pub fn from_le(raw: &[u8; layout::NID]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *raw;
        Self::short(u16::from_le_bytes([g, h]), u16::from_le_bytes([e, f]), u32::from_le_bytes([a, b, c, d]))
    }

    /// From the big-endian layout; the error is a size that no address has.
    #[inline]
    pub fn from_be(raw: &[u8; layout::NID]) -> Result<Self, u8> {
        let [size, net_type, high, low, ..] = *raw;
        if size > 12 {
            return Err(size);
        }
        let mut addr = [0; 16];
        addr.copy_from_slice(&raw[4..20]);
        // Only the first `4 + size` bytes are address.
        let unused = 8 * (12 - u32::from(size));
        let addr = (u128::from_be_bytes(addr) >> unused << unused).to_be_bytes();
        Ok(Self { net_type: u16::from(net_type), net_number: u16::from_be_bytes([high, low]), size, addr })
    }

    /// The old layout; all zero for a large NID, as the kernel has it.
    #[must_use]
    pub fn to_le(self) -> [u8; layout::NID] {
        let mut raw = [0; layout::NID];
        if !self.is_large() {
            raw[..4].copy_from_slice(&self.addr32().to_le_bytes());
            raw[4..6].copy_from_slice(&self.net_number.to_le_bytes());
            raw[6..8].copy_from_slice(&self.net_type.to_le_bytes());
        }
        raw
    }

    /// The big-endian layout; `None` for a network type that does not fit in its one byte.
    #[must_use]
    pub fn to_be(self) -> Option<[u8; layout::NID]> {
        let mut raw = [0; layout::NID];
        raw[0] = self.size;
        raw[1] = u8::try_from(self.net_type).ok()?;
        raw[2..4].copy_from_slice(&self.net_number.to_be_bytes());
        raw[4..20].copy_from_slice(&self.addr);
        Some(raw)
    }

    fn addr32(&self) -> u32 {
        let [a, b, c, d, ..] = self.addr;
        u32::from_be_bytes([a, b, c, d])
    }

    fn word(&self, n: usize) -> u32 {
        (u128::from_be_bytes(self.addr) >> (96 - 32 * n)) as u32
    }

    /// The most bytes that the text form takes: an IPv6 address, `@` and a network.
    pub const MAX_TEXT: usize = 64;

    /// Appends the text form.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        let mut room = [0; Self::MAX_TEXT];
        let length = self.text_in(&mut room);
        out.extend_from_slice(&room[..length]);
    }

    /// Puts the text form into `room` and says how long it is; by hand for IPv4, which nearly every record has.
    #[inline]
    pub(crate) fn text_in(&self, room: &mut [u8; Self::MAX_TEXT]) -> usize {
        let mut at = 0;
        if let (Some((name, Form::Ip)), 0) = (self.network(), self.size) {
            let [a, b, c, d, ..] = self.addr;
            for octet in [a, b, c, d] {
                let (digits, length) = OCTETS[usize::from(octet)];
                room[at..at + 4].copy_from_slice(&digits);
                at += usize::from(length);
            }
            room[at - 1] = b'@';
            room[at..at + name.len()].copy_from_slice(name.as_bytes());
            at += name.len();
            if self.net_number == 0 {
                return at;
            }
            let mut rest = &mut room[at..];
            // Five digits fit.
            let _ = write!(rest, "{}", self.net_number);
            return Self::MAX_TEXT - rest.len();
        }
        let mut rest = &mut room[..];
        // The longest, 39 bytes of address, @ and 15 of network, fits.
        let _ = write!(rest, "{self}");
        Self::MAX_TEXT - rest.len()
    }

    #[inline]
    fn network(&self) -> Option<(&'static str, Form)> {
        NETWORKS.iter().find(|(number, ..)| *number == self.net_type).map(|(_, name, form)| (*name, *form))
    }
}

/// An octet's decimal digits and a dot, and how many bytes that is.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([0; 4], 0); 256];
    let mut n = 0;
    while n < 256 {
        let [h, t, o] = [b'0' + (n / 100) as u8, b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
        octets[n] = match n {
            0..10 => ([o, b'.', 0, 0], 2),
            10..100 => ([t, o, b'.', 0], 3),
            _ => ([h, t, o, b'.'], 4),
        };
        n += 1;
    }
    octets
};

impl fmt::Display for Nid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let network = self.network();
        match (network.map(|(_, form)| form), self.size) {
            (Some(Form::Ip), 0) => write!(f, "{}", Ipv4Addr::from_bits(self.addr32()))?,
            (Some(Form::Ip), 12) => write!(f, "{}", Ipv6Addr::from(self.addr))?,
            (Some(Form::Number), 0) => write!(f, "{}", self.addr32())?,
            (_, size) => {
                write!(f, "{:x}", self.addr32())?;
                for n in 1..=usize::from(size).div_ceil(4) {
                    write!(f, ":{:x}", self.word(n))?;
                }
            }
        }
        match network {
            Some((name, _)) if self.net_number == 0 => write!(f, "@{name}"),
            Some((name, _)) => write!(f, "@{name}{}", self.net_number),
            None => write!(f, "@<{}:{}>", self.net_type, self.net_number),
        }
    }
}

/// A text that is not a NID.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("\"{0}\" is not a NID: expected ADDRESS@NETWORK, for instance 10.1.2.3@tcp or 10.1.2.3@o2ib1")]
pub struct NidError(String);

impl FromStr for Nid {
    type Err = NidError;

    /// Reads the text form of IPv4, IPv6 and plain number addresses.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        parse(s).ok_or_else(|| NidError(s.to_owned()))
    }
}

fn parse(s: &str) -> Option<Nid> {
    let (addr, net) = s.split_once('@')?;
    if let Some(numbers) = net.strip_prefix('<').and_then(|n| n.strip_suffix('>')) {
        let (net_type, number) = numbers.split_once(':')?;
        let addr = u32::from_str_radix(addr, 16).ok()?;
        return Some(Nid::short(net_type.parse().ok()?, number.parse().ok()?, addr));
    }
    // Longest name first is not needed: no name is the beginning of another.
    let (net_type, rest, form) =
        NETWORKS.iter().find_map(|(number, name, form)| net.strip_prefix(name).map(|rest| (*number, rest, *form)))?;
    let number = if rest.is_empty() { 0 } else { rest.parse().ok()? };
    match form {
        Form::Ip => Some(Nid::ip(net_type, number, addr.parse().ok()?)),
        Form::Number => Some(Nid::short(net_type, number, addr.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Given the bytes that the captures' README shows, then the text is the tools'.
    #[test]
    fn both_layouts_of_seen_nids_read_as_the_tools_print_them() {
        fn raw(start: &[u8]) -> [u8; 24] {
            let mut raw = [0; 24];
            raw[..start.len()].copy_from_slice(start);
            raw
        }
        let le = |start: &[u8]| Nid::from_le(&raw(start)).to_string();
        let be = |start: &[u8]| Nid::from_be(&raw(start)).unwrap().to_string();
        assert_eq!(le(&[0, 0, 0, 0, 0, 0, 9]), "0@lo");
        assert_eq!(le(&[2, 9, 168, 192, 0, 0, 2]), "192.168.9.2@tcp");
        assert_eq!(le(&[]), "0@<0:0>");
        assert_eq!(be(&[0, 9]), "0@lo");
        assert_eq!(be(&[0, 2, 0, 0, 192, 168, 9, 2]), "192.168.9.2@tcp");
        let v6 = [12, 2, 0, 9, 0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        assert_eq!(be(&v6), "fd00:9::2@tcp9");
        assert_eq!(be(&[]), "0@<0:0>");
        assert_eq!(Nid::from_be(&raw(&[13, 2])), Err(13));
    }

    #[test]
    fn every_network_type_prints_reads_and_survives_both_layouts() {
        for text in [
            "10.1.2.3@tcp",
            "10.1.2.3@tcp65535",
            "255.255.255.255@o2ib1",
            "0@lo",
            "4711@gni",
            "10.0.0.1@gip3",
            "17@ptlf",
            "4294967295@kfi2",
            "fd00:9::2@tcp9",
            "fd00:9::2@o2ib",
            "2a@<77:5>",
            "0@<0:0>",
        ] {
            let nid: Nid = text.parse().unwrap();
            assert_eq!(nid.to_string(), text);
            let mut out = Vec::new();
            nid.write_text(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
            assert_eq!(Nid::from_be(&nid.to_be().unwrap()), Ok(nid));
            let le = Nid::from_le(&nid.to_le());
            assert_eq!(le, if nid.is_large() { Nid::default() } else { nid });
        }
    }

    #[test]
    fn what_is_not_a_nid_is_refused() {
        for bad in ["", "10.1.2.3", "10.1.2@tcp", "x@lo", "1.2.3.4@tcpx", "1.2.3.4@foo", "1@<2>"] {
            assert!(bad.parse::<Nid>().is_err(), "{bad}");
        }
    }
}
