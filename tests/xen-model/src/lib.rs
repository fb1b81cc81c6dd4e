//! A Xen hypervisor, xenstored and block backend as a library.

