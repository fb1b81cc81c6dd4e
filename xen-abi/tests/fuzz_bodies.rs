//! Runs every fuzz target on seeded random input. `cargo fuzz` does it better where it is installed; this runs always.

#[path = "../fuzz/bodies.rs"]
mod bodies;

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    /// Bytes of which many are small, so that counts and lengths are often valid.
    fn bytes(&mut self) -> Vec<u8> {
        let length = self.next() % 400;
        let mask = [0xFF, 0x07, 0x7F, 0x01][(self.next() % 4) as usize];
        (0..length)
            .map(|_| if self.next().is_multiple_of(4) { self.next() as u8 } else { self.next() as u8 & mask })
            .collect()
    }
}

#[test]
fn ten_thousand_seeded_inputs_each() {
    for (name, body) in bodies::ALL {
        let mut random = Random(0x5EED);
        for _ in 0..10_000 {
            body(&random.bytes());
        }
        println!("{name}: 10000 inputs");
    }
}

#[test]
fn texts_that_are_nearly_right() {
    let pieces: [&[u8]; 9] = [b"a", b"/", b"\0", b"\0\0", b"12", b"0", b"OK", b"EAGAIN", b"@"];
    let mut random = Random(7);
    for _ in 0..10_000 {
        let count = random.next() % 6;
        let text: Vec<u8> = (0..count).flat_map(|_| pieces[(random.next() % 9) as usize].to_vec()).collect();
        bodies::xenstore_payload(&text);
    }
}
