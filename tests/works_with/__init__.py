"""Networks of other libraries, with blocks inserted."""
