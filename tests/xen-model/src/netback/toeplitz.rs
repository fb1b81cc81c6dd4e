//! The Toeplitz hash by which a backend spreads packets over queues (netif.h; Microsoft's "RSS hashing functions").

/// The hash of `input` under `key`. Key octets beyond its end are zero.
pub fn hash(key: &[u8], input: &[u8]) -> u32 {
    let bit = |n: usize| key.get(n / 8).is_some_and(|byte| byte >> (7 - n % 8) & 1 != 0);
    let mut window = (0..32).fold(0u32, |w, n| w << 1 | u32::from(bit(n)));
    let mut value = 0;
    for (n, byte) in input.iter().enumerate() {
        for i in 0..8 {
            if byte >> (7 - i) & 1 != 0 {
                value ^= window;
            }
            window = window << 1 | u32::from(bit(n * 8 + i + 32));
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key of "Verifying the RSS Hash Calculation" in Microsoft's documentation.
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
        0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
        0xbe, 0xac, 0x01, 0xfa,
    ];

    #[test]
    fn microsofts_vectors() {
        let v4 = |source: [u8; 4], from: u16, destination: [u8; 4], to: u16| {
            [&source[..], &destination, &from.to_be_bytes(), &to.to_be_bytes()].concat()
        };
        for (input, with_ports, without) in [
            (v4([66, 9, 149, 187], 2794, [161, 142, 100, 80], 1766), 0x51cc_c178, 0x323e_8fc2),
            (v4([199, 92, 111, 2], 14230, [65, 69, 140, 83], 4739), 0xc626_b0ea, 0xd718_262a),
            (v4([24, 19, 198, 95], 12898, [12, 22, 207, 184], 38024), 0x5c2b_394a, 0xd2d0_a5de),
            (v4([38, 27, 205, 30], 48228, [209, 142, 163, 6], 2217), 0xafc7_327f, 0x8298_9176),
            (v4([153, 39, 163, 191], 44251, [202, 188, 127, 2], 1303), 0x10e8_28a2, 0x5d18_09c5),
        ] {
            assert_eq!(hash(&KEY, &input), with_ports);
            assert_eq!(hash(&KEY, &input[..8]), without);
        }
    }

    #[test]
    fn no_key_no_hash() {
        assert_eq!(hash(&[], &[0xff; 36]), 0);
    }
}
