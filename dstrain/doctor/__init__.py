"""The proofs: what training must obey, shown on the user's own recipe before a GPU hour is spent."""
