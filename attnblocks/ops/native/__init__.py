"""CPU kernels: C++ sources, and what finds the library that was built from them."""
