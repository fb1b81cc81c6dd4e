//! Storport miniport: the Xen block frontend.
#![cfg_attr(windows, no_std)]
