//! The ticket with which a client of the DevTools protocol comes back: discovery tells it an address, and
//! it connects there without the token that it showed. Pure.
//!
//! A ticket is good for half a minute, says whose it is, and is signed with a secret that all proxies of a
//! grid have, so that any of them can take it. That it is used once only is the store's to know.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::hmac::{HMAC_SHA256, Key, sign, verify};
use std::time::Duration;

/// How long a ticket is good.
pub const LIFETIME: Duration = Duration::from_secs(30);

const NONCE: usize = 16;
const EXPIRY: usize = 8;
const OWNER: usize = 16;
const SIGNED: usize = NONCE + EXPIRY + OWNER;
const SIGNATURE: usize = 32;

/// A ticket whose signature and time are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What it goes by where it is noted that it was used.
    pub name: String,
    owner: [u8; OWNER],
}

/// What tickets are signed with.
pub struct Signer(Key);

impl Signer {
    /// With the secret that all proxies of a grid share.
    pub fn new(secret: &[u8; 32]) -> Signer {
        Signer(Key::new(HMAC_SHA256, secret))
    }

    /// A ticket for whoever has this credential, or for anybody; `now` in milliseconds since the epoch.
    pub fn issue(&self, credential: Option<&[u8; 32]>, now: u64) -> String {
        let nonce: [u8; NONCE] = rand::random();
        let expiry = now + LIFETIME.as_millis() as u64;
        let mut ticket = [&nonce[..], &expiry.to_be_bytes(), &self.owner(credential)].concat();
        let signature = sign(&self.0, &ticket);
        ticket.extend_from_slice(signature.as_ref());
        BASE64_URL_SAFE_NO_PAD.encode(ticket)
    }

    /// Reads a ticket; `None` when it is not one of ours, or too old.
    pub fn read(&self, text: &str, now: u64) -> Option<Ticket> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        if bytes.len() != SIGNED + SIGNATURE {
            return None;
        }
        let (signed, signature) = bytes.split_at(SIGNED);
        verify(&self.0, signed, signature).ok()?;
        let (nonce, rest) = signed.split_at(NONCE);
        let (expiry, owner) = rest.split_at(EXPIRY);
        let expiry = u64::from_be_bytes(expiry.try_into().ok()?);
        (now < expiry).then_some(Ticket {
            name: BASE64_URL_SAFE_NO_PAD.encode(nonce),
            owner: owner.try_into().ok()?,
        })
    }

    /// Whether a ticket was given to whoever has this credential.
    pub fn is_of(&self, ticket: &Ticket, credential: Option<&[u8; 32]>) -> bool {
        ticket.owner == self.owner(credential)
    }

    /// Stands for a credential, and tells nothing of it.
    fn owner(&self, credential: Option<&[u8; 32]>) -> [u8; OWNER] {
        let mut said = b"owner".to_vec();
        said.extend_from_slice(credential.map_or(&[], |it| &it[..]));
        let mut owner = [0; OWNER];
        owner.copy_from_slice(&sign(&self.0, &said).as_ref()[..OWNER]);
        owner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_for_its_owner_and_its_time() {
        let signer = Signer::new(&[7; 32]);
        let other = Signer::new(&[8; 32]);
        let (mine, yours) = ([1; 32], [2; 32]);
        let text = signer.issue(Some(&mine), 1_000);
        let ticket = signer.read(&text, 30_999).unwrap();
        assert!(signer.is_of(&ticket, Some(&mine)));
        assert!(!signer.is_of(&ticket, Some(&yours)) && !signer.is_of(&ticket, None));
        assert_eq!(signer.read(&text, 31_000), None, "too old");
        assert_eq!(other.read(&text, 1_000), None, "of another grid");
        assert_ne!(signer.issue(Some(&mine), 1_000), text);
        let open = signer.read(&signer.issue(None, 0), 0).unwrap();
        assert!(signer.is_of(&open, None));
    }

    #[test]
    fn nothing_of_a_ticket_can_be_changed() {
        let signer = Signer::new(&[7; 32]);
        let text = signer.issue(None, 1_000);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last digit has bits that stand for nothing.
            assert!(
                signer.read(&changed, 1_000).is_none() || at + 1 == text.len(),
                "{at}"
            );
        }
        for text in ["", "x", "////", &text[1..], &format!("{text}AA")] {
            assert_eq!(signer.read(text, 1_000), None, "{text}");
        }
    }
}
