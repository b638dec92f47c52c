//! Pairing: how a device and an edge that have only a short code in common come to trust each other.
//!
//! Both run SPAKE2 over the code, so that whoever listens or sits in the middle gets one guess for
//! each run and nothing to try codes against afterwards. Both then prove the key over the certificate
//! that the device saw: one in the middle shows another certificate, and its proofs do not match.
//! The device proves first; an edge lets a code die after a few wrong proofs.

use crate::MAX_DEVICE_NAME;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;
use thiserror::Error;

/// SHA-256 of an edge's certificate in DER: what a paired device knows it by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateId(pub [u8; 32]);

impl CertificateId {
    /// Of a certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    /// The first bytes in hexadecimal, for people to compare.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(16).collect()
    }
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateId({self})")
    }
}

impl FromStr for CertificateId {
    type Err = PairingError;

    fn from_str(text: &str) -> Result<Self, PairingError> {
        // Some programs put colons between the bytes.
        let digits: Option<Vec<u32>> =
            text.trim().chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect();
        let digits = digits.filter(|d| d.len() == 64).ok_or(PairingError::Certificate)?;
        let mut id = [0; 32];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
        Ok(Self(id))
    }
}

/// Why a text cannot be used for pairing.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PairingError {
    /// Not a code.
    #[error(
        "this is no pairing code; it has eight letters and digits, such as ABCD-EFGH, and is shown \
         by `tandem-edge pair` on the box"
    )]
    Code,
    /// Not a link.
    #[error(
        "this is no pairing link; it begins with tandem://pair? and is shown by `tandem-edge pair` \
         on the box"
    )]
    Link,
    /// Not a fingerprint.
    #[error("this is no fingerprint of a certificate; it has 64 hexadecimal digits")]
    Certificate,
    /// What the other side sent is no part of the exchange.
    #[error("the other side does not pair as it must; update the older of device and edge")]
    Exchange,
}

/// Crockford's alphabet: nothing in it is mistaken for something else in it.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const CODE: usize = 8;

/// A one-time code of 40 bits. Whoever knows it may pair, so it is never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct PairingCode(String);

impl PairingCode {
    /// From random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 5]) -> Self {
        let bits = bytes.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let digit = |i: usize| char::from(ALPHABET[(bits >> (5 * i)) as usize & 31]);
        Self((0..CODE).rev().map(digit).collect())
    }

    /// Without the dash, as a link has it.
    #[must_use]
    pub fn plain(&self) -> &str {
        &self.0
    }
}

impl FromStr for PairingCode {
    type Err = PairingError;

    fn from_str(text: &str) -> Result<Self, PairingError> {
        let digit = |c: char| match c.to_ascii_uppercase() {
            'O' => Some('0'),
            'I' | 'L' => Some('1'),
            c => ALPHABET.contains(&u8::try_from(c).ok()?).then_some(c),
        };
        let code: Option<String> = text
            .chars()
            .filter(|c| !c.is_whitespace() && *c != '-')
            // One more than fits, so that a long text is refused without being read to its end.
            .take(CODE + 1)
            .map(digit)
            .collect();
        code.filter(|c| c.len() == CODE).map(Self).ok_or(PairingError::Code)
    }
}

impl fmt::Display for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", &self.0[..CODE / 2], &self.0[CODE / 2..])
    }
}

impl fmt::Debug for PairingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairingCode(…)")
    }
}

/// All that a device needs to pair, as in the QR code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairingLink {
    /// Name or address; an IPv6 address is in brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The edge's certificate.
    pub certificate: CertificateId,
    /// The one-time code.
    pub code: PairingCode,
}

/// What every link begins with.
const LINK: &str = "tandem://pair?";
/// Characters of a host at most, as in DNS.
const MAX_HOST: usize = 255;

impl fmt::Display for PairingLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port, fp, code) = (&self.host, self.port, self.certificate, self.code.plain());
        write!(f, "{LINK}host={host}&port={port}&fp={fp}&code={code}")
    }
}

impl FromStr for PairingLink {
    type Err = PairingError;

    fn from_str(text: &str) -> Result<Self, PairingError> {
        let text = text.trim();
        if !text.get(..LINK.len()).is_some_and(|start| start.eq_ignore_ascii_case(LINK)) {
            return Err(PairingError::Link);
        }
        let (mut host, mut port, mut certificate, mut code) = (None, None, None, None);
        for (name, value) in text[LINK.len()..].split('&').filter_map(|p| p.split_once('=')) {
            match name {
                "host" => host = Some(value.to_owned()),
                "port" => port = value.parse().ok(),
                "fp" => certificate = value.parse().ok(),
                "code" => code = value.parse().ok(),
                // A later version may say more.
                _ => {}
            }
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._[]:".contains(c);
        let host = host
            .filter(|h| !h.is_empty() && h.len() <= MAX_HOST && h.chars().all(fits))
            .ok_or(PairingError::Link)?;
        Ok(Self {
            host,
            port: port.filter(|p| *p != 0).ok_or(PairingError::Link)?,
            certificate: certificate.ok_or(PairingError::Link)?,
            code: code.ok_or(PairingError::Link)?,
        })
    }
}

/// Whose side of the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Asks for access.
    Device,
    /// Gives it.
    Edge,
}

/// One run of the exchange, for one guess at a code.
pub struct Exchange(Spake2<Ed25519Group>);

/// What each side must show to the other.
pub struct Proofs {
    /// Shown by the device, first.
    pub device: [u8; 32],
    /// Shown by the edge.
    pub edge: [u8; 32],
}

impl Exchange {
    /// Begins; the bytes are for the other side.
    #[must_use]
    pub fn start(side: Side, code: &PairingCode) -> (Self, Vec<u8>) {
        let password = Password::new(code.plain());
        let (device, edge) = (Identity::new(b"tandem device"), Identity::new(b"tandem edge"));
        let (run, share) = match side {
            Side::Device => Spake2::start_a(&password, &device, &edge),
            Side::Edge => Spake2::start_b(&password, &device, &edge),
        };
        (Self(run), share)
    }

    /// Both proofs, given the other side's bytes, the certificate of this connection and the name
    /// under which the device wants to be known.
    ///
    /// # Errors
    /// If the bytes are no part of the exchange.
    pub fn finish(
        self,
        share: &[u8],
        certificate: &CertificateId,
        device: &str,
    ) -> Result<Proofs, PairingError> {
        let key = self.0.finish(share).map_err(|_| PairingError::Exchange)?;
        let proof = |of: &[u8]| -> Result<[u8; 32], PairingError> {
            let mac = Hmac::<Sha256>::new_from_slice(&key).map_err(|_| PairingError::Exchange)?;
            // The first letter tells the sides apart and the certificate has a fixed length, so no
            // two inputs give the same bytes.
            let mac = mac.chain_update(of).chain_update(certificate.0).chain_update(device);
            Ok(mac.finalize().into_bytes().into())
        };
        Ok(Proofs { device: proof(b"device")?, edge: proof(b"edge")? })
    }
}

/// Compares secrets without telling by its time where they differ.
#[must_use]
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// A name as it may be shown in a list or a terminal: one line, no control characters, bounded.
#[must_use]
pub fn clean_name(name: &str) -> String {
    // Marks that turn the direction of writing would let a name look like another.
    let turns = |c: &char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let name: String = name.chars().filter(|c| !turns(c)).collect();
    let words = name.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(MAX_DEVICE_NAME / 4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> PairingCode {
        text.parse().expect("a code")
    }

    fn run(
        device: (&str, CertificateId, &str),
        edge: (&str, CertificateId, &str),
    ) -> (Proofs, Proofs) {
        let (a, a_share) = Exchange::start(Side::Device, &code(device.0));
        let (b, b_share) = Exchange::start(Side::Edge, &code(edge.0));
        let a = a.finish(&b_share, &device.1, device.2).expect("proofs");
        let b = b.finish(&a_share, &edge.1, edge.2).expect("proofs");
        (a, b)
    }

    #[test]
    fn proofs_match_only_for_the_same_code_certificate_and_name() {
        let (one, two) = (CertificateId([1; 32]), CertificateId([2; 32]));
        let (a, b) = run(("ABCD-EFGH", one, "phone"), ("abcd efgh", one, "phone"));
        assert_eq!((a.device, a.edge), (b.device, b.edge));
        assert_ne!(a.device, a.edge);
        for other in
            [("ABCD-EFGJ", one, "phone"), ("ABCD-EFGH", two, "phone"), ("ABCD-EFGH", one, "tablet")]
        {
            let (a, b) = run(("ABCD-EFGH", one, "phone"), other);
            assert!(a.device != b.device && a.edge != b.edge, "{other:?}");
        }
    }

    #[test]
    fn a_side_cannot_be_answered_with_its_own_bytes() {
        let (run, share) = Exchange::start(Side::Device, &code("ABCD-EFGH"));
        assert!(run.finish(&share, &CertificateId([0; 32]), "").is_err());
        for bad in [&[][..], &[0; 7], &[b'B'; 33], &[0xff; 33], &[0; 4096]] {
            let (run, _) = Exchange::start(Side::Device, &code("ABCD-EFGH"));
            assert!(run.finish(bad, &CertificateId([0; 32]), "").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn codes_are_read_as_people_write_them() {
        let made = PairingCode::from_random([0xff, 0, 0x80, 1, 2]);
        assert_eq!(made.to_string().parse(), Ok(made.clone()));
        assert_eq!(PairingCode::from_random([0; 5]).to_string(), "0000-0000");
        assert_eq!(PairingCode::from_random([0xff; 5]).to_string(), "ZZZZ-ZZZZ");
        assert_eq!(code(" o1il-00aa ").plain(), "011100AA");
        for text in ["", "ABCD", "ABCD-EFGH-J", "ABCD-EFGU", "ÄBCD-EFGH", &"A".repeat(10_000)] {
            assert!(text.parse::<PairingCode>().is_err(), "{text}");
        }
        assert!(!format!("{made:?}").contains(made.plain()));
    }

    #[test]
    fn links_survive_and_others_are_refused() {
        let link = PairingLink {
            host: "192.168.1.20".into(),
            port: 7470,
            certificate: CertificateId::of(b"a certificate"),
            code: code("ABCD-EFGH"),
        };
        let text = link.to_string();
        assert_eq!(text.parse(), Ok(link.clone()));
        assert_eq!(format!(" {text}&later=1\n").parse(), Ok(link));
        for bad in [
            text.replace("tandem", "https"),
            text.replace("port=7470", "port=0"),
            text.replace("host=192.168.1.20", "host=a b"),
            text.replace("&code=ABCDEFGH", ""),
            text.replace("fp=", "fp=0"),
            String::new(),
            "tandem://pair?".into(),
            "tandem://päir?".into(),
        ] {
            assert_eq!(bad.parse::<PairingLink>(), Err(PairingError::Link), "{bad}");
        }
    }

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let id = CertificateId::of(b"x");
        assert_eq!(id.to_string().parse(), Ok(id));
        let colons: Vec<String> = id.0.iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(colons.join(":").parse(), Ok(id));
        assert!("12".parse::<CertificateId>().is_err());
    }

    #[test]
    fn names_are_one_clean_line() {
        assert_eq!(clean_name("  Ann's\tphone\n\u{1b}[31m "), "Ann's phone [31m");
        assert_eq!(clean_name("a\u{202e}b"), "ab");
        assert!(clean_name(&"ä".repeat(1000)).len() <= MAX_DEVICE_NAME);
    }
}
