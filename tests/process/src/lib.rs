//! The bench Platform of a Linux process: loads driver images and runs them deterministically.

