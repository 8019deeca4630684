"""Tools that people use on networks, and networks of other libraries: each with itself."""
