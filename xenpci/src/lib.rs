//! Bus driver for the Xen platform device.
#![cfg_attr(windows, no_std)]
