//! Xen's public ABI as data: layouts, constants, ring arithmetic, wire codecs.
#![no_std]
