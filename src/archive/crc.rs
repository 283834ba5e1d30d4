//! Checksum of a collection's documents (docs/format.md A.3.2).

/// CRC-64/XZ over bytes that arrive in pieces.
#[derive(Clone, Default)]
pub struct Crc64(crc64fast::Digest);

impl Crc64 {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// Returns the checksum of the bytes so far, as a signed number like in the metadata. Without any bytes it is 0.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.sum64().cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::Crc64;

    #[test]
    fn check_value_in_any_pieces() {
        let mut crc = Crc64::new();
        assert_eq!(crc.value(), 0);
        crc.update(b"1234");
        crc.update(b"");
        crc.update(b"56789");
        assert_eq!(crc.value(), 0x995D_C9BB_DF19_39FA_u64.cast_signed());
    }
}
