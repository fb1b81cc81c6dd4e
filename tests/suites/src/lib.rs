//! What is tested: written once, run on every platform of the bench.

