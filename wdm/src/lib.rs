//! The one door to the Windows kernel: thin, checked wrappers over wdk-sys.
#![cfg_attr(windows, no_std)]
