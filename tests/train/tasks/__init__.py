"""Scripts that msrun starts for a test: each prints what it found as one line of JSON on every rank."""
